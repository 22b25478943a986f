//! The standalone relays' flags.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::turn::RelayLog;
use crate::output::parse_short_duration;

/// What a pair relay and its clients have to agree on.
#[derive(Debug, Args)]
pub(crate) struct PairSecret {
    /// First four bytes of every handshake
    #[arg(long, env = "WARREN_MAGIC", value_name = "NUMBER", default_value = "0x04B28000",
          value_parser = parse_magic)]
    pub(crate) magic: u32,
    /// File with the key in base64 [default: the key is in UDP_RELAY_SECRET_KEY]
    #[arg(long, env = "WARREN_KEY_FILE", value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Accept the well-known key of the original's examples, and use it where none is set
    #[arg(long, env = "WARREN_ALLOW_DEFAULT_KEY")]
    pub(crate) allow_default_key: bool,
    /// Check no handshakes: anybody may use the relay
    #[arg(long, env = "WARREN_NO_MAC", conflicts_with = "key_file")]
    pub(crate) no_mac: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(
    after_help = "The key is 32 random bytes in base64, the same at the relay and at all its \
    clients:\n  export UDP_RELAY_SECRET_KEY=$(head -c 32 /dev/urandom | base64)\n\
    SIGTERM drains: no new pairs, ends with the last one. SIGINT ends at once."
)]
pub(crate) struct PairRelay {
    #[command(subcommand)]
    pub(crate) command: Option<PairRelayCommand>,
    #[command(flatten)]
    pub(crate) serve: PairRelayServe,
}

#[derive(Debug, Args)]
pub(crate) struct PairRelayServe {
    /// Address to listen at, one of each family [default: 0.0.0.0]
    #[arg(long, env = "WARREN_LISTEN", value_name = "ADDR", value_delimiter = ',')]
    pub(crate) listen: Vec<IpAddr>,
    /// UDP port
    #[arg(long, env = "WARREN_PORT", value_name = "PORT", default_value = "6060")]
    pub(crate) port: u16,
    #[command(flatten)]
    pub(crate) secret: PairSecret,
    /// Listen on IPv6 too
    #[arg(long, env = "WARREN_IPV6")]
    pub(crate) ipv6: bool,
    /// The most pairs at once, those that wait for their second client included
    #[arg(long, env = "WARREN_MAX_PAIRS", value_name = "N", default_value = "100000")]
    pub(crate) max_pairs: usize,
    /// The most seats of pairs that one IPv4 address or IPv6 /64 holds at once
    #[arg(long, env = "WARREN_MAX_PER_SOURCE", value_name = "N", default_value = "10000")]
    pub(crate) max_per_source: u32,
    /// A pair in which neither says anything for longer ends
    #[arg(long, env = "WARREN_IDLE_TIMEOUT", value_name = "DURATION", default_value = "30s",
          value_parser = parse_short_duration)]
    pub(crate) idle_timeout: Duration,
    /// How often idle pairs are looked for
    #[arg(long, env = "WARREN_SWEEP_INTERVAL", value_name = "DURATION", default_value = "1800ms",
          value_parser = parse_short_duration)]
    pub(crate) sweep_interval: Duration,
    /// Bytes a second to a client that has said only one thing in 10 s; 0 for any number
    #[arg(long, env = "WARREN_SILENT_RATE", value_name = "BYTES", default_value = "125000")]
    pub(crate) silent_rate: u32,
    /// Kernel buffer to receive, of each socket
    #[arg(long, env = "WARREN_RECV_BUFFER", value_name = "BYTES", default_value = "8388608")]
    pub(crate) recv_buffer: usize,
    /// Kernel buffer to send, of each socket
    #[arg(long, env = "WARREN_SEND_BUFFER", value_name = "BYTES", default_value = "8388608")]
    pub(crate) send_buffer: usize,
    /// Threads that forward [default: one for each core, at most 8]
    #[arg(long, env = "WARREN_WORKERS", value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) workers: Option<u16>,
    /// Serve Prometheus metrics, /healthz and /readyz there, by HTTP
    #[arg(long, env = "WARREN_METRICS", value_name = "ADDR:PORT", value_parser = super::turn::parse_address)]
    pub(crate) metrics: Option<SocketAddr>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PairRelayCommand {
    /// Check that a pair relay joins clients and forwards; for health checks
    Probe(PairProbe),
    /// Change what the running pair relay logs, until it restarts
    Log(RelayLog),
}

#[derive(Debug, Args)]
pub(crate) struct PairProbe {
    /// The relay, as HOST or HOST:PORT
    #[arg(value_name = "HOST[:PORT]", default_value = "127.0.0.1")]
    pub(crate) relay: String,
    #[command(flatten)]
    pub(crate) secret: PairSecret,
    /// How long it may take
    #[arg(long, env = "WARREN_TIMEOUT", value_name = "DURATION", default_value = "3s",
          value_parser = parse_short_duration)]
    pub(crate) timeout: Duration,
}

fn parse_magic(text: &str) -> Result<u32, String> {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    }
    .map_err(|_| format!("'{text}' isn't a number of 32 bits: use e.g. 0x04B28000"))
}
