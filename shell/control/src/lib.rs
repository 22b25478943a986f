//! Connections to the broker: what nodes and relay servers have in common.
//!
//! [`Http`] is one HTTP/2 connection over whichever of the broker's addresses answers first, to a
//! broker that is believed by its pin or by the system's authorities ([`Tls`]); [`sse`] cuts an
//! event stream into events. HTTP proxies that the environment names are honoured ([`dial_tcp`]). [`RelayLink`] is a relay server's whole session.

mod connect;
mod error;
mod http;
mod proxy;
mod relay;
pub mod sse;
mod tls;
mod url;

pub use self::connect::{Transport, dial_tcp};
pub use self::error::ControlError;
pub use self::http::{Answer, Http, REQUEST_TIMEOUT};
pub use self::relay::{RelayLink, RelayLinkConfig, RelayNews};
pub use self::tls::{Pins, Tls};
pub use self::url::{BrokerUrl, BrokerUrlError, Host};

#[cfg(test)]
mod tests;
