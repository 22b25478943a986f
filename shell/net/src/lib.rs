//! TUN, batched UDP, interface and route changes, port mapping, DNS wiring.
