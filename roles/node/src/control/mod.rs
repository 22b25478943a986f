//! The control session: one HTTP/2 connection to the broker, kept for as long as the mesh is up.
//!
//! [`register`] joins; [`Session`] follows the stream of events, checks in each minute and on every
//! change, and comes back with full jitter whenever the connection breaks or falls silent. The
//! connection itself is `warren-control`'s.

mod edge;
mod error;
mod leave;
mod register;
mod requests;
mod session;

pub(crate) use edge::{EdgeAsk, broker_away};
pub(crate) use error::Named;
pub(crate) use leave::leave;
pub(crate) use register::register;
pub(crate) use session::{Command, Event, Session, SessionConfig};
pub(crate) use warren_control::{BrokerUrl, ControlError, Host, Pins};
