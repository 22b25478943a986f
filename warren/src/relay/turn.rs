//! `warren relay`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use tokio::sync::mpsc;
use warren_proto::RelayTls;
use warren_relay::turn::{
    AcmeConfig, BrokerConfig, BrokerUrl, CertificateSource, Master, Mint, Pins, Quotas,
    RelayLinkConfig, ServerConfig, Settings, TlsConfig, TurnConfig, User, is_public, pin_of,
    relayed_address,
};

use super::{control, stops};
use crate::cli::{Global, RelayServe};
use crate::folder;
use crate::logging::SetFilter;
use crate::output::Usage;

const DEFAULT_PORT: u16 = 3478;
const SECRET_VARIABLE: &str = "WARREN_SECRET";

/// A shorter secret is found by trying, from one message that it has signed.
const SHORT_SECRET: usize = 16;

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
            let public = public_addresses(&args)?;
            let broker = broker(&args, url, &public)?;
            let config = config(global, &args, Settings::default(), &public)?;
            (config, Master::Broker(Box::new(broker)))
        }
        None => {
            let sources = Sources::new(&args);
            let settings = sources.read()?;
            let config = config(global, &args, settings, &public_addresses(&args)?)?;
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
    let has_broker = args.broker.is_some();
    let has_mint = args.mint_token.is_some() || args.mint_token_file.is_some();
    for (is_wrong, complaint) in [
        (has_broker && args.standalone, "--broker and --standalone exclude each other"),
        (!has_broker && !args.standalone, "give --broker URL, or --standalone"),
        (
            has_broker
                && (!args.secret.is_empty() || args.secret_file.is_some() || args.users.is_some()),
            "--secret, --secret-file and --users are for --standalone: it is the broker that says \
             whom to serve",
        ),
        (
            has_broker && has_mint,
            "--mint-token is for --standalone: the broker's secret makes credentials for devices \
             alone",
        ),
        (!args.tls.is_empty() && !has_certificate, "--tls needs --cert and --key, or --acme NAME"),
        (args.tls.is_empty() && has_certificate, "a certificate is for --tls ADDR:PORT"),
        (args.cert.is_some() != args.key.is_some(), "--cert and --key belong together"),
        (args.cert.is_some() && args.acme.is_some(), "--cert and --acme exclude each other"),
        (
            args.metrics.is_none() && has_mint,
            "credentials are made at --metrics ADDR:PORT: give that too",
        ),
    ] {
        if is_wrong {
            return Err(Usage(complaint.to_owned()).into());
        }
    }
    Ok(())
}

/// `public` is what others see of this host.
fn broker(args: &RelayServe, url: &str, public: &[IpAddr]) -> anyhow::Result<BrokerConfig> {
    let url = BrokerUrl::parse(url).map_err(|error| Usage(format!("--broker: {error}")))?;
    let path = args.token_file.as_ref().context("give --token-file too")?;
    let token = read(path)?.trim().to_owned();
    ensure!(!token.is_empty(), "{} holds no token", path.display());
    // An unspecified one stands for where the broker sees this relay, of its family.
    let seen = |address: &SocketAddr| {
        let of_family = |ip: &&IpAddr| ip.is_ipv4() == address.is_ipv4();
        let named = args.public_ip.iter().find(of_family);
        let own = || public.iter().filter(|ip| is_public(ip)).find(of_family);
        let ip = match (named, address.ip().is_unspecified()) {
            (Some(ip), _) => *ip,
            (None, true) => own().copied().unwrap_or(address.ip()),
            (None, false) => address.ip(),
        };
        SocketAddr::new(ip, address.port())
    };
    let reached: Vec<SocketAddr> = listen(args).iter().map(seen).collect();
    let name = args.tls_name.as_ref().or(args.acme.as_ref());
    let pin = match (&args.cert, name) {
        (Some(path), None) => Some(pin_of(path)?),
        (Some(_) | None, _) => None,
    };
    let places: BTreeSet<(String, u16)> = args
        .tls
        .iter()
        .map(|address| {
            let seen = seen(address);
            let host = match (name, seen.ip().is_unspecified()) {
                (Some(name), _) => name.clone(),
                (None, true) => String::new(),
                (None, false) => seen.ip().to_string(),
            };
            (host, seen.port())
        })
        .collect();
    let tls =
        places.into_iter().map(|(host, port)| RelayTls { host, port, server_name: None, pin });
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

fn config(
    global: &Global,
    args: &RelayServe,
    settings: Settings,
    public: &[IpAddr],
) -> anyhow::Result<TurnConfig> {
    let listen = listen(args);
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
    let mint = mint(args, &settings, &listen, public)?;
    Ok(TurnConfig {
        udp: listen.clone(),
        tcp: listen.clone(),
        tls: certificate(global, args)?
            .map(|certificate| TlsConfig { listen: args.tls.clone(), certificate }),
        server: ServerConfig {
            relayed_ipv4: ipv4,
            relayed_ipv6: ipv6,
            ports: args.ports.clone(),
            own: Vec::new(),
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

/// What others see of this host, as far as it can tell.
fn public_addresses(args: &RelayServe) -> anyhow::Result<Vec<IpAddr>> {
    for ipv4 in [true, false] {
        let of_family = args.public_ip.iter().filter(|ip| ip.is_ipv4() == ipv4);
        if of_family.count() > 1 {
            return Err(Usage("--public-ip is given once for each family".to_owned()).into());
        }
    }
    let found =
        if args.public_ip.is_empty() { own_addresses(args)? } else { args.public_ip.clone() };
    for ip in &found {
        if is_public(ip) {
            tracing::info!(%ip, "relayed addresses (--public-ip to say another one)");
        } else {
            tracing::warn!(
                %ip,
                "peers on the internet can't send to relayed ports at this private address: give the \
                 one that they see by --public-ip"
            );
        }
    }
    Ok(found)
}

fn own_addresses(args: &RelayServe) -> anyhow::Result<Vec<IpAddr>> {
    let own = [false, true].into_iter().filter_map(relayed_address);
    let own: Vec<IpAddr> = own.filter(|ip| !ip.is_loopback()).collect();
    if !own.is_empty() {
        return Ok(own);
    }
    let named = args.listen.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified());
    let named: Vec<IpAddr> = named.collect();
    ensure!(
        !named.is_empty(),
        "this host has no address that peers could send to: name one with --public-ip"
    );
    Ok(named)
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
            let ports: BTreeSet<u16> = args.tls.iter().map(SocketAddr::port).collect();
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
            secrets: secrets(&args.secret, std::env::var(SECRET_VARIABLE).ok().as_deref()),
            secret_file: args.secret_file.clone(),
            users: args.users.clone(),
        }
    }

    fn read(&self) -> anyhow::Result<Settings> {
        let mut secrets = self.secrets.clone();
        if let Some(path) = &self.secret_file {
            secrets.extend(lines(&read(path)?).map(|(_, line)| line.to_owned()));
        }
        ensure!(secrets.len() <= 2, "there are at most two secrets: the old one and the new one");
        if secrets.iter().any(String::is_empty) {
            let text = "a secret is empty: give --secret SECRET, or unset WARREN_SECRET and give \
                        --secret-file FILE or --users FILE";
            return Err(Usage(text.to_owned()).into());
        }
        if secrets.iter().any(|secret| secret.len() < SHORT_SECRET) {
            tracing::warn!(
                "a secret of less than {SHORT_SECRET} characters can be guessed by whoever sees one \
                 message: `openssl rand -hex 16` makes a good one"
            );
        }
        let users = match &self.users {
            Some(path) => users(&read(path)?)
                .with_context(|| format!("{} isn't as it should be", path.display()))?,
            None => Vec::new(),
        };
        ensure!(
            !secrets.is_empty() || !users.is_empty(),
            "nobody may use this relay: give --secret SECRET or --users FILE"
        );
        let is_elsewhere = |user: &&User| user.realm.as_ref().is_some_and(|it| *it != self.realm);
        let elsewhere = users.iter().filter(is_elsewhere).count();
        if elsewhere > 0 {
            tracing::warn!(
                users = elsewhere,
                "users have a realm that isn't the relay's (--realm), which clients are told; is it \
                 the rest of a password that holds a colon?"
            );
        }
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

/// In the environment two secrets have a comma between them; elsewhere a comma is a character.
fn secrets(given: &[String], variable: Option<&str>) -> Vec<String> {
    match (given, variable) {
        ([only], Some(text)) if only == text => text.split(',').map(str::to_owned).collect(),
        (given, _) => given.to_vec(),
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))
}

/// With their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = (1..).zip(text.lines().map(str::trim));
    numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn users(text: &str) -> anyhow::Result<Vec<User>> {
    lines(text)
        .map(|(number, line)| {
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
                Some(_) | None => bail!("line {number} isn't name:password[:realm]"),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        serve: RelayServe,
    }

    fn args(more: &[&str]) -> RelayServe {
        let all = ["relay", "--broker", "https://broker.example", "--token-file"];
        Only::try_parse_from(all.iter().chain(more)).unwrap().serve
    }

    #[test]
    fn a_broker_hears_of_every_address_and_of_tls_where_it_is_reached() {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["relay.example.org".to_owned()]).unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (token, cert) = (file("token", "token"), file("cert", &made.cert.pem()));
        let public: [IpAddr; 2] = ["8.8.4.4".parse().unwrap(), "2606:4700::1".parse().unwrap()];
        let private: [IpAddr; 1] = ["10.1.2.3".parse().unwrap()];
        let told = |more: &[&str], public: &[IpAddr]| {
            let common = [&*token, "--cert", &*cert, "--key", "key", "--tls", "0.0.0.0:443"];
            let args = args(&[&common[..], more].concat());
            let told = broker(&args, "https://broker.example", public).unwrap();
            let udp: Vec<String> = told.udp.iter().map(ToString::to_string).collect();
            let tls: Vec<String> =
                told.tls.iter().map(|tls| format!("{}:{}", tls.host, tls.port)).collect();
            (udp.join(" "), tls.join(" "))
        };
        let both = ["--listen", "0.0.0.0:3478,[::]:3478"];
        let (udp, tls) = told(&both, &public);
        assert_eq!((&*udp, &*tls), ("8.8.4.4:3478 [2606:4700::1]:3478", "8.8.4.4:443"));
        // Behind a router only the broker knows.
        let (udp, tls) = told(&both, &private);
        assert_eq!((&*udp, &*tls), ("0.0.0.0:3478 [::]:3478", ":443"));
        let named = [&both[..], &["--public-ip", "198.51.100.9"][..]].concat();
        let (udp, tls) = told(&named, &private);
        assert_eq!((&*udp, &*tls), ("198.51.100.9:3478 [::]:3478", "198.51.100.9:443"));
        // Ports that are given twice, not one after the other.
        let more =
            ["--tls", "0.0.0.0:8443", "--tls", "[::]:443", "--tls-name", "relay.example.org"];
        let (_, tls) = told(&more, &public);
        assert_eq!(tls, "relay.example.org:443 relay.example.org:8443");
    }

    #[test]
    fn a_comma_is_a_character_of_a_secret_but_in_the_environment() {
        let given =
            |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(secrets(&given(&["a,b"]), None), ["a,b"]);
        assert_eq!(secrets(&given(&["a,b"]), Some("c")), ["a,b"]);
        assert_eq!(secrets(&given(&["new,old"]), Some("new,old")), ["new", "old"]);
        assert_eq!(secrets(&given(&["new", "old"]), Some("x")), ["new", "old"]);
    }

    #[test]
    fn users_are_read_line_by_line() {
        let found = users("# comment\n\nalice:wonder\n bob:build:site \n").unwrap();
        let texts: Vec<_> = found
            .iter()
            .map(|user| (&*user.name, &*user.password, user.realm.as_deref()))
            .collect();
        assert_eq!(texts, [("alice", "wonder", None), ("bob", "build", Some("site"))]);
        for text in ["alice", ":wonder", "alice:", "a:b:c:d"] {
            let error = users(&format!("# comment\n{text}")).unwrap_err().to_string();
            assert!(!error.contains("wonder") && error.contains("line 2"), "{error}");
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
        assert!(sources(&[""], None, None).read().unwrap_err().is::<Usage>());
        assert!(sources(&[], file("e", "\n"), None).read().is_err());
        assert!(sources(&[], Some(folder.path().join("missing")), None).read().is_err());
    }
}
