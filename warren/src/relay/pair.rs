//! `warren pair-relay`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use anyhow::{Context as _, bail};
use serde_json::json;
use warren_relay::pair::{
    Authenticator, Key, KeyError, Limits, PairRelayConfig, ProbeConfig, WELL_KNOWN_KEY,
};

use super::{control, stops};
use crate::cli::{Global, PairProbe, PairRelayServe, PairSecret};
use crate::logging::SetFilter;
use crate::output::{self, say};

const DEFAULT_PORT: u16 = 6060;
const KEY_VARIABLE: &str = "UDP_RELAY_SECRET_KEY";
const MAKE_A_KEY: &str = "make one with `head -c 32 /dev/urandom | base64` and give it to the relay \
     and its clients as UDP_RELAY_SECRET_KEY or by --key-file";

pub(crate) async fn serve(
    global: &Global,
    args: PairRelayServe,
    set_filter: SetFilter,
) -> anyhow::Result<()> {
    let defaults = Limits::default();
    let config = PairRelayConfig {
        listen: listen(&args),
        authenticator: authenticator(&args.secret, Side::Relay)?,
        relay: Limits {
            max_pairs: args.max_pairs,
            max_seats_per_source: args.max_per_source,
            idle_timeout: args.idle_timeout,
            sweep_interval: args.sweep_interval,
            silent_rate: (args.silent_rate > 0).then_some(args.silent_rate),
            ..defaults
        },
        receive_buffer: args.recv_buffer,
        send_buffer: args.send_buffer,
        workers: args.workers.map_or_else(cores, usize::from),
        metrics: args.metrics,
    };
    let _control = control::open(global, "pair-relay", set_filter);
    warren_relay::pair::run(config, stops()?).await
}

pub(crate) async fn probe(global: &Global, args: PairProbe) -> anyhow::Result<()> {
    let config = ProbeConfig {
        relay: resolve(&args.relay).await?,
        authenticator: authenticator(&args.secret, Side::Client)?,
        timeout: args.timeout,
    };
    let report = warren_relay::pair::probe(&config).await?;
    let round_trip_ms = report.round_trip.as_secs_f64() * 1e3;
    if global.json {
        return output::json(&json!({
            "relay": config.relay,
            "joined_ms": report.joined.as_secs_f64() * 1e3,
            "round_trip_ms": round_trip_ms,
        }));
    }
    say!("{} works: {round_trip_ms:.2} ms there and back", config.relay);
    Ok(())
}

fn listen(args: &PairRelayServe) -> Vec<SocketAddr> {
    let mut addresses = args.listen.clone();
    if addresses.is_empty() {
        addresses.push(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    }
    if args.ipv6 && addresses.iter().all(IpAddr::is_ipv4) {
        addresses.push(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    }
    addresses.into_iter().map(|address| SocketAddr::new(address, args.port)).collect()
}

fn cores() -> usize {
    available_parallelism().map_or(1, NonZeroUsize::get).min(8)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Relay,
    Client,
}

fn authenticator(secret: &PairSecret, side: Side) -> anyhow::Result<Authenticator> {
    let key = if secret.no_mac {
        if side == Side::Relay {
            tracing::warn!("handshakes are not checked (--no-mac): anybody may use this relay");
        }
        None
    } else {
        Some(key(secret)?)
    };
    if side == Side::Relay && key.as_ref().is_some_and(Key::is_well_known) {
        tracing::warn!("the key is the well-known one: anybody may use this relay");
    }
    Ok(Authenticator::new(key).with_magic(secret.magic))
}

fn key(secret: &PairSecret) -> anyhow::Result<Key> {
    let (text, origin) = match &secret.key_file {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("can't read the key file {}", path.display()))?;
            (Some(text), path.display().to_string())
        }
        None => (std::env::var(KEY_VARIABLE).ok(), KEY_VARIABLE.to_owned()),
    };
    let text = match text {
        Some(text) if !text.trim().is_empty() => text,
        Some(_) | None if secret.allow_default_key => WELL_KNOWN_KEY.to_owned(),
        Some(_) => bail!("the key of {origin} is empty: {MAKE_A_KEY}"),
        None => bail!("there is no key: {MAKE_A_KEY}"),
    };
    match Key::from_base64(&text) {
        Ok(key) if key.is_well_known() && !secret.allow_default_key => bail!(
            "the key of {origin} is the well-known one of the original's examples: {MAKE_A_KEY} \
             (or say --allow-default-key)"
        ),
        Ok(key) => Ok(key),
        Err(KeyError::Empty) => bail!("the key of {origin} is empty: {MAKE_A_KEY}"),
        Err(KeyError::NotBase64) => bail!("the key of {origin} isn't base64: {MAKE_A_KEY}"),
    }
}

async fn resolve(relay: &str) -> anyhow::Result<SocketAddr> {
    if let Ok(ip) = relay.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, DEFAULT_PORT));
    }
    let has_port = relay.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let name = if has_port { relay.to_owned() } else { format!("{relay}:{DEFAULT_PORT}") };
    let mut addresses = tokio::net::lookup_host(&name)
        .await
        .with_context(|| format!("can't find {relay}: use HOST or HOST:PORT"))?;
    addresses.next().with_context(|| format!("{relay} has no address"))
}
