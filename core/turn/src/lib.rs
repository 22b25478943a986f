//! STUN/TURN wire codec and Binding.
