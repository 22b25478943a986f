//! WireGuard: handshake, sessions, replay window, cookies, timers.
