//! What `warren serve` can be told, checked before anything is touched.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::embedded::RelayRuntime;
use crate::mail::SmtpConfig;
use crate::oidc::OidcConfig;
use anyhow::{Context, Result, bail, ensure};
use http::Uri;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use warren_coord::DeviceLimit;
use warren_tls::AcmeConfig;

/// The first port tried for HTTPS, and the one that ACME needs.
pub const HTTPS_PORT: u16 = 443;
/// The port for HTTPS where 443 isn't permitted.
pub const FALLBACK_HTTPS_PORT: u16 = 8443;
/// STUN's port (RFC 8489 §18.6).
pub const STUN_PORT: u16 = 3478;

/// Domains that resolvers treat in ways of their own (RFC 6761, RFC 6762, RFC 7686, RFC 9476).
const SPECIAL_DOMAINS: [&str; 6] = ["alt", "arpa", "invalid", "local", "localhost", "onion"];

/// Changes what is logged, in `tracing`'s filter syntax.
#[derive(Clone)]
pub struct SetLogFilter(pub Arc<SetFilter>);

/// Its error says what is wrong with a filter.
type SetFilter = dyn Fn(&str) -> Result<(), String> + Send + Sync;

impl std::fmt::Debug for SetLogFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SetLogFilter")
    }
}

/// All that [`crate::serve`] needs to know.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// The data folder: database, CA, secrets, admin socket. Created 0700.
    pub data: PathBuf,
    /// Where HTTPS is served. `None`: `[::]:443` where permitted, else `[::]:8443`; `0.0.0.0`
    /// where there is no IPv6.
    pub listen: Option<SocketAddr>,
    /// The URL that devices reach the broker by. `None`: guessed from the host's addresses.
    pub public_url: Option<String>,
    /// How the HTTPS certificate comes about.
    pub tls: TlsMode,
    /// Proxies whose `X-Forwarded-For` is believed. Empty: this host's, where plain HTTP is served
    /// on loopback: everybody comes through one then.
    pub trusted_proxies: Vec<IpNet>,
    /// Where STUN is served; each with the next port beside it. Empty: `[::]:3478`.
    pub stun: Vec<SocketAddr>,
    /// Whether STUN is served at all.
    pub stun_enabled: bool,
    /// What netmaps name as STUN servers. Empty: the bound addresses that are public.
    pub stun_public: Vec<SocketAddr>,
    /// The domain under which accounts have theirs. `None`: `warren.internal`.
    pub dns_suffix: Option<String>,
    /// The admin socket's path. `None`: `admin.sock` in the data folder.
    pub admin_socket: Option<PathBuf>,
    /// Whether a join link is made at each start while nobody has joined: for who reads it at once.
    pub first_link: bool,
    /// How many devices an account may have.
    pub max_devices: DeviceLimit,
    /// Where webhooks may lead besides the internet, also without TLS.
    pub webhook_targets: Vec<IpNet>,
    /// Who vouches for people besides their passwords. `None`: nobody.
    pub oidc: Option<OidcConfig>,
    /// How mail is sent. `None`: none is.
    pub smtp: Option<SmtpConfig>,
    /// What relays for accounts that have named no relay of their own. `None`: nothing.
    pub relay: Option<Arc<dyn RelayRuntime>>,
    /// Changes what is logged, as the admin socket asks. `None`: it can't be changed.
    pub set_log_filter: Option<SetLogFilter>,
    /// Bounds on what strangers can make the broker hold.
    pub limits: Limits,
}

impl ServeConfig {
    /// The defaults of `warren serve` for a data folder.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            listen: None,
            public_url: None,
            tls: TlsMode::SelfSigned,
            trusted_proxies: Vec::new(),
            stun: Vec::new(),
            stun_enabled: true,
            stun_public: Vec::new(),
            dns_suffix: None,
            admin_socket: None,
            first_link: true,
            max_devices: DeviceLimit::DEFAULT,
            webhook_targets: Vec::new(),
            oidc: None,
            smtp: None,
            relay: None,
            set_log_filter: None,
            limits: Limits::default(),
        }
    }

    /// The admin socket's path.
    pub fn admin_socket(&self) -> PathBuf {
        self.admin_socket.clone().unwrap_or_else(|| crate::admin::socket_path(&self.data))
    }

    /// The proxies named, or those on this host if there must be one.
    pub(crate) fn trusted_proxies(&self) -> Vec<IpNet> {
        if self.trusted_proxies.is_empty() && self.is_behind_a_local_proxy() {
            return vec![
                IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
                IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
            ];
        }
        self.trusted_proxies.clone()
    }

    fn is_behind_a_local_proxy(&self) -> bool {
        matches!(self.tls, TlsMode::Off)
            && self.listen.is_some_and(|addr| addr.ip().to_canonical().is_loopback())
    }

    /// The STUN listeners asked for, or the default one.
    pub(crate) fn stun_listeners(&self) -> Vec<SocketAddr> {
        if !self.stun_enabled {
            return Vec::new();
        }
        if self.stun.is_empty() {
            return vec![SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), STUN_PORT)];
        }
        self.stun.clone()
    }

    /// Refuses combinations that would be unsafe or can't work.
    ///
    /// # Errors
    /// What is wrong and what to give instead.
    pub fn check(&self) -> Result<()> {
        if let Some(url) = &self.public_url {
            self.check_public_url(url)?;
        }
        match &self.tls {
            TlsMode::SelfSigned => {}
            TlsMode::Off => {
                ensure!(
                    self.is_behind_a_local_proxy() || !self.trusted_proxies.is_empty(),
                    "--tls off would carry join keys and tokens in the clear. It is for a reverse \
                     proxy: listen on loopback (--listen 127.0.0.1:8080), or name the proxy with \
                     --trusted-proxy ADDR"
                );
            }
            TlsMode::Acme(_) => {
                let Some(url) = &self.public_url else {
                    bail!(
                        "--tls acme needs --public-url https://YOUR.DOMAIN: the certificate is for that name"
                    );
                };
                let host = PublicUrl::parse(url)?.host;
                ensure!(
                    host.parse::<IpAddr>().is_err() && host.contains('.'),
                    "--tls acme needs a domain in --public-url, not '{host}'"
                );
            }
        }
        if let Some(oidc) = &self.oidc {
            oidc.check()?;
        }
        if let Some(smtp) = &self.smtp {
            smtp.check()?;
        }
        if let Some(suffix) = &self.dns_suffix {
            let label = |label: &str| label.parse::<warren_proto::DeviceName>().is_ok();
            ensure!(
                suffix.len() <= 100 && suffix.split('.').all(label),
                "the DNS suffix '{suffix}' isn't a domain (lower case, no dot at the end)"
            );
            let last = suffix.rsplit('.').next().unwrap_or(suffix);
            ensure!(
                !SPECIAL_DOMAINS.contains(&last),
                "names below '.{last}' have a meaning of their own, so that devices couldn't be \
                 looked up there; take a domain of yours, or leave --suffix out"
            );
        }
        for addr in &self.stun {
            ensure!(
                addr.port() == 0 || addr.port() < u16::MAX,
                "--stun {addr} leaves no next port for the second STUN listener"
            );
        }
        Ok(())
    }

    fn check_public_url(&self, url: &str) -> Result<()> {
        let parsed = PublicUrl::parse(url)?;
        let loopback_http = matches!(self.tls, TlsMode::Off) && is_loopback_host(&parsed.host);
        ensure!(
            parsed.https || loopback_http,
            "--public-url {url} must begin with https://; plain http is for loopback with --tls off alone"
        );
        Ok(())
    }
}

fn is_loopback_host(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// How the HTTPS certificate comes about.
#[derive(Debug, Clone)]
pub enum TlsMode {
    /// The broker's own long-lived CA, pinned by the join links.
    SelfSigned,
    /// From an ACME authority (RFC 8555), by TLS-ALPN-01 on port 443.
    Acme(AcmeConfig),
    /// None: plain HTTP, on loopback or behind a trusted proxy.
    Off,
}

/// Bounds on what strangers can make the broker hold or do.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections in total.
    pub connections: usize,
    /// Connections on which no token has been shown yet, in total: when there are more, the oldest
    /// ones are closed. At most a quarter of [`Limits::connections`].
    pub strangers: usize,
    /// Connections per source: an IPv4 address, an IPv6 /64 or /56; a /48 has four times as many.
    /// Trusted proxies are exempt.
    pub connections_per_source: usize,
    /// Connections per source on which no token has been shown yet.
    pub strangers_per_source: usize,
    /// Bodies of devices that want to join, under way at once.
    pub joining: usize,
    /// Bytes of a node request's body.
    pub body: usize,
    /// Time for the TLS handshake.
    pub handshake_timeout: Duration,
    /// Time for the request's header, and for its body.
    pub request_timeout: Duration,
    /// Time in which a token must have been shown, whatever is under way.
    pub stranger_lifetime: Duration,
    /// Time after which a connection without a request under way is closed: strangers' ...
    pub stranger_idle: Duration,
    /// ... and nodes'.
    pub idle: Duration,
    /// A comment goes out on a control session's stream when nothing else has for this long; nodes
    /// give a silent stream up after 60 s.
    pub heartbeat: Duration,
    /// Time without progress after which a client that doesn't read is given up: a response of
    /// which it takes nothing ends, and a connection that it doesn't read from.
    pub write_stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            strangers: 4_096,
            connections_per_source: 4_096,
            strangers_per_source: 256,
            joining: 4_096,
            body: 64 * 1024,
            handshake_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            stranger_lifetime: Duration::from_secs(60),
            stranger_idle: Duration::from_secs(20),
            idle: Duration::from_secs(180),
            heartbeat: Duration::from_secs(25),
            write_stall: Duration::from_secs(30),
        }
    }
}

/// A broker's base URL, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicUrl {
    pub(crate) https: bool,
    /// Without brackets where it is an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl PublicUrl {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let example = "give it as https://broker.example.org or https://203.0.113.7:8443";
        let uri: Uri = text
            .trim_end_matches('/')
            .parse()
            .with_context(|| format!("the public URL '{text}' can't be read; {example}"))?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => bail!("the public URL '{text}' has no https://; {example}"),
        };
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let plain = uri.path() == "/" || uri.path().is_empty();
        let user_info = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        ensure!(
            !host.is_empty() && plain && uri.query().is_none() && !user_info,
            "the public URL '{text}' must be a host and a port, nothing more; {example}"
        );
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        Ok(Self { https, host: host.to_owned(), port })
    }
}

impl std::fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (scheme, default_port) = if self.https { ("https", 443) } else { ("http", 80) };
        let bracketed = self.host.contains(':');
        let (open, close) = if bracketed { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}://{open}{}{close}", self.host)?;
        if self.port == default_port { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut ServeConfig)) -> String {
        let mut config = ServeConfig::new("/nowhere");
        change(&mut config);
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn plain_http_is_refused_without_loopback_or_proxy() {
        let why = refused(|config| config.tls = TlsMode::Off);
        assert!(why.contains("--trusted-proxy"), "{why}");
        let why = refused(|config| {
            config.tls = TlsMode::Off;
            config.listen = Some("0.0.0.0:80".parse().unwrap());
        });
        assert!(why.contains("--listen"), "{why}");

        for allow in [
            (|config: &mut ServeConfig| config.listen = Some("[::1]:80".parse().unwrap()))
                as fn(&mut _),
            |config| config.trusted_proxies = vec!["10.0.0.1/32".parse().unwrap()],
        ] {
            let mut config = ServeConfig::new("/nowhere");
            config.tls = TlsMode::Off;
            allow(&mut config);
            config.check().unwrap();
        }
    }

    #[test]
    fn a_plain_loopback_listener_believes_the_proxy_that_must_be_there_and_nobody_else_does() {
        let trusted = |listen: &str, tls: TlsMode, named: &[&str]| {
            let mut config = ServeConfig::new("/nowhere");
            config.listen = Some(listen.parse().unwrap());
            config.tls = tls;
            config.trusted_proxies = named.iter().map(|net| net.parse().unwrap()).collect();
            config.trusted_proxies().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(trusted("127.0.0.1:80", TlsMode::Off, &[]), ["127.0.0.0/8", "::1/128"]);
        assert_eq!(trusted("127.0.0.1:80", TlsMode::Off, &["10.0.0.1/32"]), ["10.0.0.1/32"]);
        assert!(trusted("127.0.0.1:443", TlsMode::SelfSigned, &[]).is_empty());
        assert_eq!(trusted("0.0.0.0:80", TlsMode::Off, &["10.0.0.1/32"]), ["10.0.0.1/32"]);
    }

    #[test]
    fn the_suffix_is_a_domain_that_resolvers_ask_for() {
        for suffix in ["local", "home.local", "onion", "Home.example", "a..b", ".example"] {
            let why = refused(|config| config.dns_suffix = Some(suffix.to_owned()));
            assert!(why.contains(suffix.rsplit('.').next().unwrap()), "{why}");
        }
        let mut config = ServeConfig::new("/nowhere");
        config.dns_suffix = Some("mesh.example.org".to_owned());
        config.check().unwrap();
    }

    #[test]
    fn acme_wants_a_domain() {
        let acme = || TlsMode::Acme(AcmeConfig::default());
        assert!(refused(|config| config.tls = acme()).contains("--public-url"));
        let why = refused(|config| {
            config.tls = acme();
            config.public_url = Some("https://203.0.113.7".to_owned());
        });
        assert!(why.contains("domain"), "{why}");
    }

    #[test]
    fn a_public_url_survives_reading_and_printing() {
        for (text, printed) in [
            ("https://broker.example.org/", "https://broker.example.org"),
            ("https://broker.example.org:443", "https://broker.example.org"),
            ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ] {
            assert_eq!(PublicUrl::parse(text).unwrap().to_string(), printed);
        }
        for text in
            ["broker", "ftp://x", "https://", "https://h/path", "https://u@h", "https://h?q"]
        {
            assert!(PublicUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_public_url_without_tls_is_refused() {
        let why =
            refused(|config| config.public_url = Some("http://broker.example.org".to_owned()));
        assert!(why.contains("https://"), "{why}");
    }
}
