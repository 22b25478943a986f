//! The broker: HTTPS API, control sessions, STUN, admin socket.
