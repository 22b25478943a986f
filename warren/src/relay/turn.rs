//! `warren relay`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use tokio::sync::mpsc;
use warren_proto::RelayTls;
use warren_relay::turn::{
    AcmeConfig, BrokerConfig, BrokerUrl, CertificateSource, Master, Mint, Pins, Quotas,
    RelayLinkConfig, ServerConfig, Settings, TlsConfig, TurnConfig, User, interface_addresses,
    pin_of, relayed_address,
};

use super::{control, stops};
use crate::cli::{Global, RelayServe};
use crate::folder;
use crate::logging::SetFilter;
use crate::output::Usage;

const DEFAULT_PORT: u16 = 3478;

/// How often files are looked at that may have changed.
const CHECK: Duration = Duration::from_secs(2);

pub(crate) async fn serve(
    global: &Global,
    args: RelayServe,
    set_filter: SetFilter,
) -> anyhow::Result<()> {
    check(&args)?;
    let (config, master) = match &args.broker {
        Some(url) => {
            let broker = broker(&args, url)?;
            (config(global, &args, Settings::default())?, Master::Broker(Box::new(broker)))
        }
        None => {
            let sources = Sources::new(&args);
            let config = config(global, &args, sources.read()?)?;
            let (tell, told) = mpsc::channel(1);
            tokio::spawn(sources.watch(tell));
            (config, Master::Nobody(told))
        }
    };
    let _control = control::open(global, "relay", set_filter);
    warren_relay::turn::run(config, master, stops()?).await
}

/// What belongs together; the command line has checked its own part, but not what a file says.
fn check(args: &RelayServe) -> anyhow::Result<()> {
    let has_certificate = args.cert.is_some() || args.acme.is_some();
    for (is_wrong, complaint) in [
        (args.broker.is_some() && args.standalone, "--broker and --standalone exclude each other"),
        (args.broker.is_none() && !args.standalone, "give --broker URL, or --standalone"),
        (!args.tls.is_empty() && !has_certificate, "--tls needs --cert and --key, or --acme NAME"),
        (args.tls.is_empty() && has_certificate, "a certificate is for --tls ADDR:PORT"),
        (args.cert.is_some() != args.key.is_some(), "--cert and --key belong together"),
        (args.cert.is_some() && args.acme.is_some(), "--cert and --acme exclude each other"),
        (
            args.metrics.is_none() && (args.mint_token.is_some() || args.mint_token_file.is_some()),
            "credentials are made at --metrics ADDR:PORT: give that too",
        ),
    ] {
        if is_wrong {
            return Err(Usage(complaint.to_owned()).into());
        }
    }
    Ok(())
}

fn broker(args: &RelayServe, url: &str) -> anyhow::Result<BrokerConfig> {
    let url = BrokerUrl::parse(url).map_err(|error| Usage(format!("--broker: {error}")))?;
    let path = args.token_file.as_ref().context("give --token-file too")?;
    let token = read(path)?.trim().to_owned();
    ensure!(!token.is_empty(), "{} holds no token", path.display());
    let listen = listen(args);
    let reached: Vec<SocketAddr> = listen
        .iter()
        .map(|address| {
            let public = args.public_ip.iter().find(|ip| ip.is_ipv4() == address.is_ipv4());
            SocketAddr::new(public.copied().unwrap_or(address.ip()), address.port())
        })
        .collect();
    let mut ports: Vec<u16> = args.tls.iter().map(SocketAddr::port).collect();
    ports.dedup();
    let name = args.tls_name.as_ref().or(args.acme.as_ref());
    let pin = match (&args.cert, name) {
        (Some(path), None) => Some(pin_of(path)?),
        (Some(_) | None, _) => None,
    };
    let tls = ports.into_iter().map(|port| RelayTls {
        host: name.cloned().unwrap_or_default(),
        port,
        server_name: None,
        pin,
    });
    Ok(BrokerConfig {
        link: RelayLinkConfig { url, pins: Pins(args.pin.into_iter().collect()), token },
        account: args.account.clone(),
        udp: reached.clone(),
        tcp: reached,
        tls: tls.collect(),
    })
}

fn listen(args: &RelayServe) -> Vec<SocketAddr> {
    if args.listen.is_empty() { everywhere() } else { args.listen.clone() }
}

fn config(global: &Global, args: &RelayServe, settings: Settings) -> anyhow::Result<TurnConfig> {
    let listen = listen(args);
    let public = public_addresses(args)?;
    let ipv4 = public.iter().find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    });
    let ipv6 = public.iter().find_map(|ip| match ip {
        IpAddr::V6(ip) => Some(*ip),
        IpAddr::V4(_) => None,
    });
    // CHANGE-REQUEST needs addresses that clients can be told.
    let is_named = listen.iter().all(|address| !address.ip().is_unspecified());
    let mint = mint(args, &settings, &listen, &public)?;
    Ok(TurnConfig {
        udp: listen.clone(),
        tcp: listen.clone(),
        tls: certificate(global, args)?
            .map(|certificate| TlsConfig { listen: args.tls.clone(), certificate }),
        server: ServerConfig {
            relayed_ipv4: ipv4,
            relayed_ipv6: ipv6,
            ports: args.ports.clone(),
            own: interface_addresses(),
            allow_peers: args.allow_peer.clone(),
            quotas: Quotas {
                allocations: args.user_allocations,
                total_allocations: args.max_allocations,
                bandwidth: args.user_bandwidth,
                total_bandwidth: args.max_bandwidth,
                max_lifetime: args.max_lifetime,
                ..Quotas::default()
            },
            stun: if is_named { listen } else { Vec::new() },
            ..ServerConfig::private(settings)
        },
        metrics: args.metrics,
        mint,
        drain_timeout: args.drain_timeout,
    })
}

fn certificate(global: &Global, args: &RelayServe) -> anyhow::Result<Option<CertificateSource>> {
    if let (Some(chain), Some(key)) = (&args.cert, &args.key) {
        return Ok(Some(CertificateSource::Files { chain: chain.clone(), key: key.clone() }));
    }
    let Some(name) = args.acme.clone() else { return Ok(None) };
    let folder = global.state.clone().or_else(|| folder::of("relay"));
    let folder = folder.context("there is no home folder for the certificate: give --state DIR")?;
    let mut config = AcmeConfig {
        root: args.acme_root.clone(),
        email: args.acme_email.clone(),
        ..AcmeConfig::default()
    };
    if let Some(directory) = &args.acme_directory {
        config.directory.clone_from(directory);
    }
    Ok(Some(CertificateSource::Acme { name, folder: folder.join("acme"), config }))
}

/// Both families, as far as the host has them.
fn everywhere() -> Vec<SocketAddr> {
    let has_ipv6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
    let ipv4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let ipv6 = has_ipv6.then_some(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    [Some(ipv4), ipv6].into_iter().flatten().map(|ip| (ip, DEFAULT_PORT).into()).collect()
}

fn public_addresses(args: &RelayServe) -> anyhow::Result<Vec<IpAddr>> {
    if args.public_ip.is_empty() {
        let own = [false, true].into_iter().filter_map(relayed_address);
        let named = || {
            let ips = args.listen.iter().map(SocketAddr::ip);
            ips.filter(|ip| !ip.is_unspecified()).collect::<Vec<_>>()
        };
        let found: Vec<IpAddr> = own.filter(|ip| !ip.is_loopback()).collect();
        let found = if found.is_empty() { named() } else { found };
        ensure!(
            !found.is_empty(),
            "this host has no address that peers could send to: name one with --public-ip"
        );
        for ip in &found {
            tracing::info!(%ip, "relayed addresses (--public-ip to say another one)");
        }
        return Ok(found);
    }
    for ipv4 in [true, false] {
        let of_family = args.public_ip.iter().filter(|ip| ip.is_ipv4() == ipv4);
        ensure!(of_family.count() <= 1, "--public-ip is given once for each family");
    }
    Ok(args.public_ip.clone())
}

fn mint(
    args: &RelayServe,
    settings: &Settings,
    listen: &[SocketAddr],
    public: &[IpAddr],
) -> anyhow::Result<Option<Mint>> {
    let token = match (&args.mint_token, &args.mint_token_file) {
        (Some(token), _) => token.trim().to_owned(),
        (None, Some(path)) => read(path)?.trim().to_owned(),
        (None, None) => return Ok(None),
    };
    ensure!(!token.is_empty(), "the token to make credentials with is empty");
    let has_secret = !settings.secrets.is_empty();
    ensure!(has_secret, "credentials are made with a secret: give --secret too");
    let mut uris = Vec::new();
    let reached = |address: &SocketAddr| -> Vec<SocketAddr> {
        let family = public.iter().filter(|ip| ip.is_ipv4() == address.is_ipv4());
        match address.ip().is_unspecified() {
            true => family.map(|ip| SocketAddr::new(*ip, address.port())).collect(),
            false => vec![*address],
        }
    };
    for address in listen.iter().flat_map(reached) {
        uris.extend(
            ["udp", "tcp"].map(|transport| format!("turn:{address}?transport={transport}")),
        );
    }
    // A name is what a certificate vouches for.
    match args.tls_name.as_ref().or(args.acme.as_ref()) {
        Some(name) => {
            let mut ports: Vec<u16> = args.tls.iter().map(SocketAddr::port).collect();
            ports.dedup();
            uris.extend(ports.iter().map(|port| format!("turns:{name}:{port}?transport=tcp")));
        }
        None => {
            let addresses = args.tls.iter().flat_map(reached);
            uris.extend(addresses.map(|address| format!("turns:{address}?transport=tcp")));
        }
    }
    Ok(Some(Mint { token, lifetime: args.mint_lifetime, uris }))
}

/// Where credentials come from.
#[derive(Debug)]
struct Sources {
    realm: String,
    secrets: Vec<String>,
    secret_file: Option<PathBuf>,
    users: Option<PathBuf>,
}

impl Sources {
    fn new(args: &RelayServe) -> Self {
        Self {
            realm: args.realm.clone(),
            secrets: args.secret.clone(),
            secret_file: args.secret_file.clone(),
            users: args.users.clone(),
        }
    }

    fn read(&self) -> anyhow::Result<Settings> {
        let mut secrets = self.secrets.clone();
        if let Some(path) = &self.secret_file {
            secrets.extend(lines(&read(path)?).map(str::to_owned));
        }
        ensure!(secrets.len() <= 2, "there are at most two secrets: the old one and the new one");
        ensure!(secrets.iter().all(|secret| !secret.is_empty()), "a secret is empty");
        let users = match &self.users {
            Some(path) => users(&read(path)?)
                .with_context(|| format!("{} isn't as it should be", path.display()))?,
            None => Vec::new(),
        };
        ensure!(
            !secrets.is_empty() || !users.is_empty(),
            "nobody may use this relay: give --secret SECRET or --users FILE"
        );
        Ok(Settings {
            realm: self.realm.clone(),
            secrets: secrets.into_iter().map(String::into_bytes).collect(),
            users,
            revoked: Vec::new(),
        })
    }

    fn stamps(&self) -> Vec<Option<SystemTime>> {
        let files = [&self.secret_file, &self.users].into_iter().flatten();
        files.map(|path| path.metadata().and_then(|found| found.modified()).ok()).collect()
    }

    /// Tells new settings when a file changes; what can't be read leaves the old ones in place.
    async fn watch(self, tell: mpsc::Sender<Settings>) {
        let mut seen = self.stamps();
        while !seen.is_empty() {
            tokio::time::sleep(CHECK).await;
            let stamps = self.stamps();
            if stamps == seen {
                continue;
            }
            seen = stamps;
            match self.read() {
                Ok(settings) => {
                    tracing::info!(
                        secrets = settings.secrets.len(),
                        users = settings.users.len(),
                        "credentials were read again"
                    );
                    if tell.send(settings).await.is_err() {
                        return;
                    }
                }
                Err(error) => tracing::warn!("the old credentials stay: {error:#}"),
            }
        }
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn users(text: &str) -> anyhow::Result<Vec<User>> {
    lines(text)
        .map(|line| {
            let mut parts = line.split(':');
            let (name, password) = (parts.next().unwrap_or_default(), parts.next());
            let (realm, rest) = (parts.next(), parts.next());
            match password {
                Some(password) if !name.is_empty() && !password.is_empty() && rest.is_none() => {
                    Ok(User {
                        name: name.to_owned(),
                        password: password.to_owned(),
                        realm: realm.filter(|realm| !realm.is_empty()).map(str::to_owned),
                    })
                }
                // Never the line itself: it may hold a password.
                Some(_) | None => bail!("a line isn't name:password[:realm]"),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_read_line_by_line() {
        let found = users("# comment\n\nalice:wonder\n bob:build:site \n").unwrap();
        let texts: Vec<_> = found
            .iter()
            .map(|user| (&*user.name, &*user.password, user.realm.as_deref()))
            .collect();
        assert_eq!(texts, [("alice", "wonder", None), ("bob", "build", Some("site"))]);
        for text in ["alice", ":wonder", "alice:", "a:b:c:d"] {
            let error = users(text).unwrap_err().to_string();
            assert!(!error.contains("wonder"), "{error}");
        }
    }

    #[test]
    fn credentials_come_from_flags_and_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let sources = |secrets: &[&str], secret_file, users| Sources {
            realm: "here".to_owned(),
            secrets: secrets.iter().map(|secret| (*secret).to_owned()).collect(),
            secret_file,
            users,
        };
        let both = sources(&[], file("s", "new\nold\n"), file("u", "alice:wonder\n")).read();
        let both = both.unwrap();
        assert_eq!(both.secrets, [b"new".to_vec(), b"old".to_vec()]);
        assert_eq!((both.users.len(), both.realm.as_str()), (1, "here"));
        assert!(sources(&["a", "b", "c"], None, None).read().is_err());
        assert!(sources(&[], file("e", "\n"), None).read().is_err());
        assert!(sources(&[], Some(folder.path().join("missing")), None).read().is_err());
    }
}
