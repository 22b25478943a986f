//! URLs of TURN servers (RFC 7065): `turn:HOST[:PORT][?transport=udp|tcp]`, `turns:HOST[:PORT]`.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use anyhow::{Context as _, Result, bail, ensure};
use warren_coord::RelayFace;
use warren_proto::RelayTls;

const TURN_PORT: u16 = 3478;
const TURNS_PORT: u16 = 5349;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
    Tls,
}

/// A TURN server's URL, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TurnUrl {
    /// Without brackets where it is an IPv6 address.
    host: String,
    port: u16,
    transport: Transport,
}

impl FromStr for TurnUrl {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let example = "give it as turn:turn.example.org:3478, turn:203.0.113.9?transport=tcp or \
                       turns:turn.example.org:443";
        let (scheme, rest) = text.split_once(':').unwrap_or(("", text));
        let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
        let transport = match (scheme, query) {
            ("turn", "" | "transport=udp") => Transport::Udp,
            ("turn", "transport=tcp") => Transport::Tcp,
            ("turns", "" | "transport=tcp") => Transport::Tls,
            ("turns", "transport=udp") => bail!("TURN over DTLS isn't offered; {example}"),
            _ => bail!("'{text}' is no URL of a TURN server; {example}"),
        };
        let default = if transport == Transport::Tls { TURNS_PORT } else { TURN_PORT };
        let (host, port) = split_port(authority, default)
            .with_context(|| format!("'{text}' has no host or a bad port; {example}"))?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let is_host = host.parse::<IpAddr>().is_ok() || host.chars().all(fits);
        ensure!(
            is_host && (1..=253).contains(&host.len()) && port != 0,
            "'{text}' has no host or a bad port; {example}"
        );
        Ok(Self { host: host.to_owned(), port, transport })
    }
}

/// `None`: a bad port, or a bracket that isn't closed.
fn split_port(authority: &str, default: u16) -> Option<(&str, u16)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        let port = if port.is_empty() { default } else { port.strip_prefix(':')?.parse().ok()? };
        return Some((host, port));
    }
    match authority.split_once(':') {
        Some((host, port)) => Some((host, port.parse().ok()?)),
        None => Some((authority, default)),
    }
}

impl TurnUrl {
    /// The host, for a name that the server has none of.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Where it leads now.
    ///
    /// # Errors
    /// The name doesn't resolve.
    pub(crate) async fn resolve(&self) -> Result<RelayFace> {
        if self.transport == Transport::Tls {
            let tls =
                RelayTls { host: self.host.clone(), port: self.port, server_name: None, pin: None };
            return Ok(RelayFace { tls: vec![tls], ..RelayFace::default() });
        }
        let found: Vec<SocketAddr> = tokio::net::lookup_host((self.host.as_str(), self.port))
            .await
            .with_context(|| format!("the name {} doesn't resolve", self.host))?
            .collect();
        Ok(match self.transport {
            Transport::Udp => RelayFace { udp: found, ..RelayFace::default() },
            Transport::Tcp | Transport::Tls => RelayFace { tcp: found, ..RelayFace::default() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_read_as_other_programs_write_them() {
        for (text, host, port, transport) in [
            ("turn:turn.example.org", "turn.example.org", 3478, Transport::Udp),
            ("turn:203.0.113.9:3479?transport=udp", "203.0.113.9", 3479, Transport::Udp),
            ("turn:[2001:db8::1]?transport=tcp", "2001:db8::1", 3478, Transport::Tcp),
            ("turn:[2001:db8::1]:99", "2001:db8::1", 99, Transport::Udp),
            ("turns:turn.example.org:443", "turn.example.org", 443, Transport::Tls),
            ("turns:turn.example.org", "turn.example.org", 5349, Transport::Tls),
        ] {
            let url: TurnUrl = text.parse().unwrap();
            assert_eq!((url.host(), url.port, url.transport), (host, port, transport), "{text}");
        }
    }

    #[test]
    fn other_urls_are_refused_with_an_example() {
        for text in [
            "",
            "turn:",
            "turn::3478",
            "turn:host:0",
            "turn:host:x",
            "stun:host",
            "https://host",
            "turn://host",
            "turn:[2001:db8::1",
            "turn:ho st",
            "turns:host?transport=udp",
            "turn:host?transport=dccp",
            "host:3478",
        ] {
            let why = text.parse::<TurnUrl>().unwrap_err().to_string();
            assert!(why.contains("turn:turn.example.org:3478"), "{text}: {why}");
        }
    }

    #[tokio::test]
    async fn an_address_needs_no_name_server() {
        let face = "turn:203.0.113.9".parse::<TurnUrl>().unwrap().resolve().await.unwrap();
        assert_eq!(face.udp, ["203.0.113.9:3478".parse().unwrap()]);
        assert!(face.tcp.is_empty() && face.tls.is_empty());
        let face = "turns:turn.invalid".parse::<TurnUrl>().unwrap().resolve().await.unwrap();
        assert_eq!(face.tls[0].host, "turn.invalid", "nodes look it up themselves");
    }
}
