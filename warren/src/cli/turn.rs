//! The flags of `warren relay`.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use ipnet::IpNet;
use warren_proto::{DeviceName, Pin};

use crate::output::parse_short_duration;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Credentials are made as TURN REST has it: user name EXPIRY:ID, password \
    base64(HMAC-SHA1(secret, user name)).\nSIGTERM drains: no new allocations, ends with the last \
    one or after --drain-timeout. SIGINT ends at once.")]
pub(crate) struct Relay {
    #[command(subcommand)]
    pub(crate) command: Option<RelayCommand>,
    #[command(flatten)]
    pub(crate) serve: RelayServe,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RelayCommand {
    /// Change what the running relay logs, until it restarts
    Log(RelayLog),
}

/// Of `warren relay` and `warren pair-relay`.
#[derive(Debug, Args)]
pub(crate) struct RelayLog {
    /// What to log: error, warn, info, debug, trace, or e.g. info,warren_relay=trace
    #[arg(value_name = "LEVEL", value_parser = crate::logging::valid)]
    pub(crate) filter: String,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("mode").args(["broker", "standalone"]).required(true))]
#[command(group = ArgGroup::new("credentials").args(["secret", "secret_file", "users"])
    .multiple(true))]
#[command(group = ArgGroup::new("certificate").args(["cert", "acme"]))]
pub(crate) struct RelayServe {
    /// Serve the warren of this broker, which says whom
    #[arg(
        long,
        env = "WARREN_BROKER",
        value_name = "URL",
        conflicts_with = "standalone",
        requires = "token_file"
    )]
    pub(crate) broker: Option<String>,
    /// File with the token that `warren admin relays create` has printed
    #[arg(long, env = "WARREN_TOKEN_FILE", value_name = "FILE", requires = "broker")]
    pub(crate) token_file: Option<PathBuf>,
    /// Key of the broker's certificate, as `warren admin relays create` has printed it
    // One of 64 pins begins with a hyphen.
    #[arg(long, env = "WARREN_PIN", value_name = "PIN", requires = "broker", value_parser = parse_pin,
          allow_hyphen_values = true)]
    pub(crate) pin: Option<Pin>,
    /// End if the token is for another account than this
    #[arg(long, env = "WARREN_ACCOUNT", value_name = "NAME", requires = "broker")]
    pub(crate) account: Option<DeviceName>,
    /// Serve by itself, without a broker
    #[arg(long, env = "WARREN_STANDALONE", requires = "credentials")]
    pub(crate) standalone: bool,
    /// Secret that credentials are made with; twice while it is being changed, the new one first (in the
    /// environment with a comma between them)
    #[arg(long, env = "WARREN_SECRET", value_name = "SECRET", hide_env_values = true)]
    pub(crate) secret: Vec<String>,
    /// The same from a file, one or two lines; read again when it changes
    #[arg(long, env = "WARREN_SECRET_FILE", value_name = "FILE", conflicts_with = "secret")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Users with fixed passwords, lines of name:password or name:password:realm; read again when it changes
    #[arg(long, env = "WARREN_USERS", value_name = "FILE")]
    pub(crate) users: Option<PathBuf>,
    /// Realm of the credentials
    #[arg(long, env = "WARREN_REALM", value_name = "REALM", default_value = "warren")]
    pub(crate) realm: String,
    /// Where to serve STUN and TURN over UDP and TCP; by default port 3478 of all addresses
    #[arg(long, env = "WARREN_LISTEN", value_name = "ADDR:PORT", value_delimiter = ',',
          value_parser = parse_address)]
    pub(crate) listen: Vec<SocketAddr>,
    /// Where to serve TURN over TLS
    #[arg(
        long,
        env = "WARREN_TLS",
        value_name = "ADDR:PORT",
        value_delimiter = ',',
        requires = "certificate",
        value_parser = parse_address
    )]
    pub(crate) tls: Vec<SocketAddr>,
    /// Certificate chain for --tls, PEM; read again when it changes
    #[arg(long, env = "WARREN_CERT", value_name = "FILE", requires_all = ["tls", "key"])]
    pub(crate) cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, env = "WARREN_KEY", value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// Name of the certificate [default: that of --acme]; without one, nodes are told its key instead
    #[arg(long, env = "WARREN_TLS_NAME", value_name = "NAME", requires = "tls")]
    pub(crate) tls_name: Option<String>,
    /// Order the certificate for --tls, for this name, whose TCP port 443 leads there (Let's Encrypt or
    /// another ACME server); kept in the folder of --state
    #[arg(long, env = "WARREN_ACME", value_name = "NAME", requires = "tls", conflicts_with = "cert",
          value_parser = parse_name)]
    pub(crate) acme: Option<String>,
    /// ACME directory [default: Let's Encrypt]
    #[arg(long, env = "WARREN_ACME_DIRECTORY", value_name = "URL", requires = "acme")]
    pub(crate) acme_directory: Option<String>,
    /// PEM file of an authority that the ACME directory's own certificate comes from
    #[arg(long, env = "WARREN_ACME_ROOT", value_name = "FILE", requires = "acme")]
    pub(crate) acme_root: Option<PathBuf>,
    /// E-mail address for the ACME account
    #[arg(long, env = "WARREN_ACME_EMAIL", value_name = "ADDRESS", requires = "acme")]
    pub(crate) acme_email: Option<String>,
    /// Address of this relay as others see it, one of each family [default: this host's own]
    #[arg(long, env = "WARREN_PUBLIC_IP", value_name = "IP", value_delimiter = ',',
          value_parser = parse_public_ip)]
    pub(crate) public_ip: Vec<IpAddr>,
    /// Relayed ports
    #[arg(long, env = "WARREN_PORTS", value_name = "FIRST-LAST", default_value = "49152-65535",
          value_parser = parse_ports)]
    pub(crate) ports: RangeInclusive<u16>,
    /// Relay to these addresses although they are private or reserved; a single address may be this host's own
    #[arg(long, env = "WARREN_ALLOW_PEER", value_name = "CIDR", value_delimiter = ',',
          value_parser = parse_net)]
    pub(crate) allow_peer: Vec<IpNet>,
    /// The most allocations at once
    #[arg(long, env = "WARREN_MAX_ALLOCATIONS", value_name = "N", default_value = "1000000")]
    pub(crate) max_allocations: u32,
    /// The most allocations of one credential
    #[arg(long, env = "WARREN_USER_ALLOCATIONS", value_name = "N", default_value = "100")]
    pub(crate) user_allocations: u32,
    /// The most bytes a second of all together [default: any number]
    #[arg(long, env = "WARREN_MAX_BANDWIDTH", value_name = "BYTES")]
    pub(crate) max_bandwidth: Option<NonZeroU64>,
    /// The most bytes a second of one credential [default: any number]
    #[arg(long, env = "WARREN_USER_BANDWIDTH", value_name = "BYTES")]
    pub(crate) user_bandwidth: Option<NonZeroU64>,
    /// The longest time between two refreshes of an allocation; 10m at least
    #[arg(long, env = "WARREN_MAX_LIFETIME", value_name = "DURATION", default_value = "1h",
          value_parser = parse_lifetime)]
    pub(crate) max_lifetime: Duration,
    /// How long a drain may take
    #[arg(long, env = "WARREN_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "10m",
          value_parser = parse_short_duration)]
    pub(crate) drain_timeout: Duration,
    /// Serve Prometheus metrics, /healthz and /readyz there, by HTTP
    #[arg(long, env = "WARREN_METRICS", value_name = "ADDR:PORT", value_parser = parse_address)]
    pub(crate) metrics: Option<SocketAddr>,
    /// Make credentials for who says this token: POST /credentials?id=ID&ttl=SECONDS at --metrics
    #[arg(
        long,
        env = "WARREN_MINT_TOKEN",
        value_name = "TOKEN",
        requires = "metrics",
        hide_env_values = true
    )]
    pub(crate) mint_token: Option<String>,
    /// The same from a file
    #[arg(
        long,
        env = "WARREN_MINT_TOKEN_FILE",
        value_name = "FILE",
        requires = "metrics",
        conflicts_with = "mint_token"
    )]
    pub(crate) mint_token_file: Option<PathBuf>,
    /// The longest lifetime of such credentials
    #[arg(long, env = "WARREN_MINT_LIFETIME", value_name = "DURATION", default_value = "1d",
          value_parser = parse_short_duration)]
    pub(crate) mint_lifetime: Duration,
}

fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let bounds = text.split_once('-').and_then(|(first, last)| {
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first > 0 && first <= last).then_some(first..=last)
    });
    bounds.ok_or_else(|| format!("'{text}' is no range of ports: use e.g. 49152-65535"))
}

fn parse_pin(text: &str) -> Result<Pin, String> {
    text.trim().parse().map_err(|_| {
        format!(
            "'{text}' is no pin: copy the whole one that `warren admin relays create` has printed"
        )
    })
}

pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("'{text}' is no address with a port: use e.g. 0.0.0.0:3478 or [::]:3478")
    })
}

fn parse_public_ip(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text.parse().map_err(|_| format!("'{text}' is no IP address"))?;
    if ip.is_unspecified() || ip.is_multicast() {
        return Err(format!("nobody can send to {ip}: give the address that others see"));
    }
    Ok(ip)
}

/// Clients that ask for less get so much (RFC 8656 §7.2).
const LEAST_LIFETIME: Duration = Duration::from_secs(600);

fn parse_lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = parse_short_duration(text)?;
    if lifetime < LEAST_LIFETIME {
        return Err("every client may have 10 minutes (RFC 8656): give 10m or more".to_owned());
    }
    Ok(lifetime)
}

fn parse_name(text: &str) -> Result<String, String> {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_name = text.contains('.') && text.split('.').all(is_label);
    if is_name && text.parse::<IpAddr>().is_err() {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!("'{text}' is no domain name: use e.g. relay.example.org"))
}

fn parse_net(text: &str) -> Result<IpNet, String> {
    let ip = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>()
        .map(|net| net.trunc())
        .or_else(|_| ip())
        .map_err(|_| format!("'{text}' is no range of addresses: use e.g. 10.0.0.0/8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_may_begin_with_a_hyphen() {
        use clap::Parser as _;
        let pin = Pin([0xfb; 32]).to_string();
        assert!(pin.starts_with('-'), "{pin}");
        let words = [
            "warren",
            "relay",
            "--broker",
            "https://broker",
            "--token-file",
            "token",
            "--pin",
            &pin,
        ];
        crate::cli::Cli::try_parse_from(words).unwrap();
    }

    #[test]
    fn ports_are_a_range() {
        assert_eq!(parse_ports("50000-50010"), Ok(50_000..=50_010));
        assert_eq!(parse_ports("5-5"), Ok(5..=5));
        for text in ["", "1", "0-5", "9-5", "1-65536", "a-b"] {
            assert!(parse_ports(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_refused_says_what_to_give() {
        let pin = parse_pin("abc").unwrap_err();
        assert!(pin.contains("relays create") && !pin.contains("join link"), "{pin}");
        assert!(parse_address("127.0.0.1").unwrap_err().contains("0.0.0.0:3478"));
        assert!(parse_address("1").is_err() && parse_address("[::1]:1").is_ok());
        for ip in ["0.0.0.0", "::", "224.0.0.1", "me"] {
            assert!(parse_public_ip(ip).is_err(), "{ip}");
        }
        assert_eq!(parse_public_ip("10.1.2.3"), Ok(IpAddr::from([10, 1, 2, 3])));
        assert!(parse_lifetime("5").is_err() && parse_lifetime("599s").is_err());
        assert_eq!(parse_lifetime("10m"), Ok(LEAST_LIFETIME));
    }

    #[test]
    fn a_certificate_is_for_a_domain() {
        assert_eq!(parse_name("Relay.example.org").as_deref(), Ok("relay.example.org"));
        for text in ["", "localhost", "203.0.113.7", "relay..org", "https://relay.example.org"] {
            assert!(parse_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_peer_to_allow_is_a_range_or_one_address() {
        assert_eq!(parse_net("203.0.113.9/24").unwrap().to_string(), "203.0.113.0/24");
        assert_eq!(parse_net("203.0.113.9").unwrap().to_string(), "203.0.113.9/32");
        assert_eq!(parse_net("fd00::1").unwrap().to_string(), "fd00::1/128");
        assert!(parse_net("everybody").is_err());
    }
}
