//! How the values of flags are read: what is wrong with one is said before anything is begun.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::output::parse_duration;

/// Reads what environment variables and configuration files call true or false.
///
/// # Errors
/// For anything else.
pub(crate) fn parse_switch(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" | "y" | "t" => Ok(true),
        "" | "0" | "false" | "no" | "off" | "n" | "f" => Ok(false),
        _ => Err(format!("'{text}' is neither true nor false")),
    }
}

/// Reads a network, or an address as the network of that address alone.
///
/// # Errors
/// What a network looks like.
pub(crate) fn parse_network(text: &str) -> Result<ipnet::IpNet, String> {
    text.parse::<IpAddr>().map(ipnet::IpNet::from).or_else(|_| text.parse()).map_err(|_| {
        format!("'{text}' is no network: use e.g. 10.0.0.0/8, 127.0.0.1 or 2001:db8::/32")
    })
}

/// Reads what tells one of several services from the others: a part of names of units and folders.
///
/// # Errors
/// What it may consist of.
pub(crate) fn parse_instance(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !text.is_empty() && text.chars().all(is_plain) {
        return Ok(text.to_owned());
    }
    Err(format!("'{text}' has more in it than letters, digits, - and _"))
}

/// How long a join key is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// For ever.
    Never,
    /// For this long.
    After(Duration),
}

/// Reads a duration, or `never`.
///
/// # Errors
/// What a duration looks like.
pub(crate) fn parse_expiry(text: &str) -> Result<Expiry, String> {
    match text {
        "never" => Ok(Expiry::Never),
        text => match parse_duration(text) {
            Ok(duration) => Ok(Expiry::After(duration)),
            Err(error) => Err(format!("{error}, or `never`")),
        },
    }
}

/// A number, or a word for none.
#[cfg(feature = "broker")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number<T>(pub(crate) Option<T>);

#[cfg(feature = "broker")]
fn parse_number<T: std::str::FromStr>(text: &str, none: &str) -> Result<Number<T>, String> {
    if text == none {
        return Ok(Number(None));
    }
    let number = text.parse().map_err(|_| format!("a whole number, or `{none}`"))?;
    Ok(Number(Some(number)))
}

/// Reads a number of days, or `never`.
///
/// # Errors
/// For anything else.
#[cfg(feature = "broker")]
pub(crate) fn parse_days(text: &str) -> Result<Number<u16>, String> {
    parse_number(text, "never")
}

/// Reads a number of days, or `forever`.
///
/// # Errors
/// For anything else.
#[cfg(feature = "broker")]
pub(crate) fn parse_kept(text: &str) -> Result<Number<u16>, String> {
    parse_number(text, "forever")
}

/// Reads how many devices there may be, or `default`.
///
/// # Errors
/// For anything else.
#[cfg(feature = "broker")]
pub(crate) fn parse_device_limit(text: &str) -> Result<Number<u32>, String> {
    parse_number(text, "default")
}

/// Reads how many people there may be, or `any`.
///
/// # Errors
/// For anything else.
#[cfg(feature = "broker")]
pub(crate) fn parse_user_limit(text: &str) -> Result<Number<u32>, String> {
    parse_number(text, "any")
}

/// Reads a role, or `none`.
///
/// # Errors
/// Which roles there are.
#[cfg(feature = "broker")]
pub(crate) fn parse_role_change(text: &str) -> Result<super::RoleChange, String> {
    match text {
        "none" => Ok(super::RoleChange::Leave),
        text => text
            .parse()
            .map(super::RoleChange::To)
            .map_err(|_| "a role is member, admin, owner or none".to_owned()),
    }
}

/// What becomes of a device's static endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StaticEndpoint {
    /// There is none any more.
    Cleared,
    /// It is this one.
    At(SocketAddr),
}

/// Reads an address with its port, or `none`.
///
/// # Errors
/// What an endpoint looks like.
pub(crate) fn parse_static_endpoint(text: &str) -> Result<StaticEndpoint, String> {
    if text == "none" {
        return Ok(StaticEndpoint::Cleared);
    }
    text.parse().map(StaticEndpoint::At).map_err(|_| {
        format!("'{text}' isn't ADDR:PORT (203.0.113.7:51820, [2001:db8::7]:51820) or `none`")
    })
}

/// Reads free text that makes a name: `Kitchen Pi` becomes `kitchen-pi`.
///
/// # Errors
/// If nothing of it is usable.
#[cfg(feature = "broker")]
pub(crate) fn parse_name(text: &str) -> Result<warren_proto::DeviceName, String> {
    let is_usable = text.chars().any(|c| c.is_ascii_alphanumeric());
    if is_usable {
        return Ok(warren_proto::DeviceName::from_free_text(text));
    }
    Err(format!("'{text}' makes no name: give it letters a to z or digits"))
}

/// Reads a join key's id.
///
/// # Errors
/// What an id looks like, and where to find it.
#[cfg(feature = "broker")]
pub(crate) fn parse_join_key_id(text: &str) -> Result<warren_proto::JoinKeyId, String> {
    text.parse().map_err(|_| {
        format!("'{text}' isn't 16 hexadecimal digits; `warren admin join-keys list` shows the ids")
    })
}

/// Reads an API token's id.
///
/// # Errors
/// It is none.
pub(crate) fn parse_token_id(text: &str) -> Result<warren_proto::ApiTokenId, String> {
    text.parse().map_err(|_| {
        format!("'{text}' isn't 16 hexadecimal digits; `warren admin tokens list` shows the ids")
    })
}

/// Reads a listen port, or `auto`.
///
/// # Errors
/// What a port looks like.
#[cfg(feature = "node")]
pub(crate) fn parse_listen_port(text: &str) -> Result<warren_node::local::ListenPort, String> {
    use warren_node::local::ListenPort;
    if text == "auto" {
        return Ok(ListenPort::Auto);
    }
    match text.parse() {
        Ok(0) | Err(_) => {
            Err(format!("'{text}' isn't a port: give a number from 1 to 65535, or `auto`"))
        }
        Ok(port) => Ok(ListenPort::Fixed(port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_alone_is_a_network_of_one() {
        for (text, network) in [
            ("127.0.0.1", "127.0.0.1/32"),
            ("::1", "::1/128"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("2001:db8::/32", "2001:db8::/32"),
        ] {
            assert_eq!(parse_network(text), Ok(network.parse().unwrap()), "{text}");
        }
        for text in ["", "localhost", "10.0.0.0/33", "10.0.0.1:80"] {
            assert!(parse_network(text).is_err(), "{text}");
        }
    }

    #[cfg(feature = "broker")]
    #[test]
    fn a_name_needs_something_usable() {
        assert_eq!(parse_name("Kitchen Pi").unwrap().as_str(), "kitchen-pi");
        assert!(parse_name("💥").is_err());
        assert!(parse_name(" - ").is_err());
    }
}
