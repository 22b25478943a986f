use std::fmt;
use std::net::IpAddr;

use thiserror::Error;

/// A broker's URL can't be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BrokerUrlError {
    /// It isn't of the form `https://HOST[:PORT]`.
    #[error("'{0}' is no broker's URL; it looks like https://HOST:PORT")]
    Shape(String),
    /// Plain HTTP to another machine.
    #[error("http:// is for a broker on this machine only; ask for an https:// link")]
    PlainRemote,
}

/// Where a broker's API is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// Whether over TLS.
    pub tls: bool,
    /// Its host.
    pub host: Host,
    /// Its TCP port.
    pub port: u16,
}

/// The host of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name, in lower case.
    Name(String),
    /// An address.
    Ip(IpAddr),
}

impl BrokerUrl {
    /// Reads `https://HOST[:PORT]`, or `http://` for a loopback host.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Self, BrokerUrlError> {
        let shape = || BrokerUrlError::Shape(text.chars().take(200).collect());
        let uri: http::Uri = text.parse().map_err(|_| shape())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(shape()),
        };
        let authority = uri.authority().ok_or_else(shape)?;
        if authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") {
            return Err(shape());
        }
        let name = authority.host();
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let host = match bare.parse() {
            Ok(ip) => Host::Ip(ip),
            Err(_) if name.is_empty() || name.starts_with('[') => return Err(shape()),
            Err(_) => Host::Name(name.to_ascii_lowercase()),
        };
        if !tls && !host.is_loopback() {
            return Err(BrokerUrlError::PlainRemote);
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { tls, host, port })
    }

    /// `HOST:PORT`, as in a Host header.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, port) = if self.tls { ("https", 443) } else { ("http", 80) };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port == port { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

impl Host {
    /// As it is resolved or connected to: an IPv6 address without brackets.
    pub fn bare(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::Ip(ip) => ip.to_string(),
        }
    }

    fn is_loopback(&self) -> bool {
        match self {
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
            Self::Ip(ip) => ip.to_canonical().is_loopback(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::*;

    #[test]
    fn urls_are_read_as_people_write_them() {
        for (text, printed) in [
            ("https://broker.example", "https://broker.example"),
            ("https://Broker.Example:8443/", "https://broker.example:8443"),
            ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://[::1]", "http://[::1]"),
            ("http://localhost:1", "http://localhost:1"),
        ] {
            assert_eq!(BrokerUrl::parse(text).unwrap().to_string(), printed);
        }
    }

    #[test]
    fn plain_http_is_for_this_machine_only() {
        for text in ["http://broker.example", "http://192.168.1.2:80", "http://localhost.evil"] {
            assert_eq!(BrokerUrl::parse(text), Err(BrokerUrlError::PlainRemote), "{text}");
        }
        for text in ["ftp://x", "broker", "https://a@b", "https://x/y", "", "https://[zz]"] {
            assert!(matches!(BrokerUrl::parse(text), Err(BrokerUrlError::Shape(_))), "{text}");
        }
    }
}
