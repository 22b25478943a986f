//! The running broker: everything that `warren serve` starts, and how it ends.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures_util::future::OptionFuture;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};
use warren_coord::{BrokerSettings, By, Entry, NewJoinKey};
use warren_proto::{AccountId, JoinLink, PROTOCOL, Pin, RelayInit};
use warren_store::Store;

use crate::accounts::{AccountHandle, Accounts, Lease, fresh_ctx, unix_millis};
use crate::admin::routes::no_pins;
use crate::admin::server::AdminServer;
use crate::admin::{BrokerStatus, JoinKeyCreated, Pins, Time};
use crate::api::problem::{ApiResult, Failure};
use crate::backup::{Manifest, Unpacked};
use crate::config::{Limits, PublicUrl, ServeConfig, SetLogFilter, TlsMode};
use crate::data_dir::DataDir;
use crate::embedded::{RelayPlan, RelayRuntime, RunningRelay};
use crate::first_start::FirstStart;
use crate::join_requests::JoinRequests;
use crate::mail::{self, Post, Postman};
use crate::members;
use crate::oidc::{self, Oidc};
use crate::people::PeopleHandle;
use crate::portal;
use crate::problems::problems;
use crate::prune;
use crate::relays::{Relays, own, probe};
use crate::server::Server;
use crate::stun::Stun;
use crate::tls::{Authority, Tls};
use crate::webhooks::Targets;
use crate::{addresses, api, backup, server, webhooks};

/// File descriptors kept for database, sockets and the rest.
const OTHER_FILES: usize = 64;
const USUAL_FILE_LIMIT: usize = 1024;
const DNS_SUFFIX: &str = "warren.internal";
/// How long connections get to end at shutdown.
const GRACE: Duration = Duration::from_secs(3);

/// What the admin API works on.
pub(crate) struct Broker {
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) relays: Arc<Relays>,
    pub(crate) people: Arc<PeopleHandle>,
    pub(crate) store: Store,
    pub(crate) data: Arc<DataDir>,
    authority: Option<Arc<Authority>>,
    pub(crate) url: PublicUrl,
    listen: SocketAddr,
    stun: Vec<SocketAddr>,
    problems: Vec<String>,
    started: Time,
    /// Devices that ask to be let in.
    pub(crate) join_requests: Arc<JoinRequests>,
    pub(crate) set_log_filter: Option<SetLogFilter>,
    /// What messages to webhooks are sent with.
    pub(crate) webhooks: webhooks::Sender,
    /// Who vouches for people besides their passwords.
    pub(crate) oidc: Option<Arc<Oidc>>,
    /// What takes mails, where any are sent.
    pub(crate) mail: Option<Arc<Post>>,
}

impl Broker {
    /// Makes a join key and the link that carries it.
    pub(crate) async fn create_join_key(
        &self,
        by: By,
        account: &Arc<AccountHandle>,
        new: NewJoinKey,
    ) -> ApiResult<JoinKeyCreated> {
        let created =
            account.durable(by, move |account, ctx| account.prepare_join_key(new, ctx)).await?;
        let pin = self.authority.as_ref().map(|authority| authority.pin());
        let link = JoinLink { url: self.url.to_string(), key: created.secret, pin };
        Ok(JoinKeyCreated {
            link: link.to_string(),
            key_id: created.id,
            expires: created.expires.map(|at| Time(at.0)),
        })
    }

    /// Where the broker is reached, and the key by which it is known.
    pub(crate) fn reached_by(&self) -> (String, Option<Pin>) {
        (self.url.to_string(), self.authority.as_ref().map(|authority| authority.pin()))
    }

    /// The broker as a whole.
    pub(crate) fn status(&self) -> BrokerStatus {
        let accounts = self.accounts.all();
        let count = |of: fn(&warren_coord::Account) -> usize| -> usize {
            accounts.iter().map(|handle| handle.read(of)).sum()
        };
        BrokerStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL,
            url: self.url.to_string(),
            listen: self.listen,
            stun: self.stun.clone(),
            stun_public: self.accounts.settings().stun,
            data: self.data.path().to_owned(),
            started: self.started,
            accounts: accounts.len(),
            devices: count(warren_coord::Account::device_count),
            online: count(warren_coord::Account::session_count),
            pins: self.pins(),
            problems: self.problems(),
        }
    }

    /// What is wrong, for the operator.
    fn problems(&self) -> Vec<String> {
        let oidc = self.oidc.as_ref().and_then(|oidc| oidc.problem());
        let mail = self.mail.as_ref().and_then(|post| post.problem());
        self.problems.iter().cloned().chain(oidc).chain(mail).collect()
    }

    /// The pins of the own CA.
    pub(crate) fn pins(&self) -> Option<Pins> {
        let authority = self.authority.as_ref()?;
        Some(Pins { current: authority.pin(), next: authority.next_pin() })
    }

    /// A one-time link to a page; the secret is in its fragment, which reaches no log.
    pub(crate) fn link(&self, page: &str, secret: &str) -> String {
        format!("{}/{page}#{secret}", self.url)
    }

    /// Tells Activity of what changes nothing in the database.
    pub(crate) async fn note(&self, action: &str, by: &By) -> ApiResult<()> {
        let entry = Entry::broker(action, by, unix_millis());
        let noted = self.store.append_activity(&[entry]).await;
        noted.map_err(|error| Failure::unavailable(&error.into()))
    }

    /// Makes the next CA and announces it.
    pub(crate) async fn prepare_pin(&self, by: &By) -> ApiResult<Pins> {
        self.note("broker.pin-prepared", by).await?;
        self.change_pin(Authority::prepare_next).await
    }

    /// Puts the next CA to use.
    pub(crate) async fn activate_pin(&self, by: &By) -> ApiResult<Pins> {
        let authority = self.authority.as_ref().ok_or_else(no_pins)?;
        if authority.next_pin().is_none() {
            return Err(Failure::new(
                warren_proto::ErrorCode::Conflict,
                "no next pin is prepared: `warren admin pins prepare` makes one; then give the \
                 devices time to hear of it",
            ));
        }
        self.note("broker.pin-activated", by).await?;
        self.change_pin(Authority::activate_next).await
    }

    /// Replaces everything by what an archive holds.
    pub(crate) async fn restore(
        self: &Arc<Self>,
        by: &By,
        archive: std::fs::File,
    ) -> ApiResult<Manifest> {
        let unpacked = Unpacked::new(&self.data, archive)
            .await
            .map_err(|error| Failure::invalid(format!("{error:#}")))?;
        let paused = self.people.pause().await;
        let restored = self.accounts.restore(unpacked.database()).await;
        let reloaded = self.people.reload(&paused).await;
        drop(paused);
        restored?;
        reloaded.map_err(|error| Failure::unavailable(&error))?;
        members::tell(&self.accounts, &self.people);
        self.relays.reload().await.map_err(|error| Failure::unavailable(&error))?;
        let this = self.clone();
        let manifest = tokio::task::spawn_blocking(move || {
            unpacked.place_small_files(&this.data)?;
            if let Some(authority) = &this.authority {
                authority.reload()?;
            }
            Ok(unpacked.manifest.clone())
        })
        .await
        .map_err(anyhow::Error::new)
        .and_then(|placed| placed)
        .map_err(|error| Failure::unavailable(&error))?;
        let next_pin = self.authority.as_ref().and_then(|authority| authority.next_pin());
        self.accounts.change_settings(|settings| settings.next_pin = next_pin);
        if let Some(authority) = &self.authority {
            self.relays.change_own_pin(authority.pin());
        }
        self.note("broker.restored", by).await?;
        info!(from = %manifest.created, "restored a backup");
        Ok(manifest)
    }

    async fn change_pin<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Authority) -> Result<T> + Send + 'static,
    ) -> ApiResult<Pins> {
        let authority = self.authority.clone().ok_or_else(no_pins)?;
        let changing = authority.clone();
        tokio::task::spawn_blocking(move || change(&changing))
            .await
            .map_err(anyhow::Error::new)
            .and_then(|changed| changed)
            .map_err(|error| Failure::unavailable(&error))?;
        let next_pin = authority.next_pin();
        self.accounts.change_settings(|settings| settings.next_pin = next_pin);
        self.relays.change_own_pin(authority.pin());
        self.pins().ok_or_else(no_pins)
    }
}

/// A broker that is up; it serves once it is [run](Running::run).
pub struct Running {
    broker: Arc<Broker>,
    first: FirstStart,
    guessed_url: bool,
    server: Server,
    admin: AdminServer,
    tls: Tls,
    stun: Option<JoinSet<()>>,
    relay: Option<Embedded>,
    postman: Option<Postman>,
    lost: mpsc::Receiver<Lease>,
    stop: watch::Sender<bool>,
}

/// The relay inside the process, and what it was told last.
struct Embedded {
    running: Arc<dyn RunningRelay>,
    told: RelayInit,
}

/// Takes the data folder, the ports and the accounts; creates what a first start needs.
///
/// # Errors
/// Says what is in the way and what to do about it.
pub async fn start(config: &ServeConfig) -> Result<Running> {
    config.check()?;
    let room = room_for_connections();
    let data = Arc::new(DataDir::open(&config.data)?);
    backup::sweep(data.path());
    let listener = server::bind(config.listen, &config.tls)?;
    let listen = listener.local_addr()?;
    let stun = Stun::bind(&config.stun_listeners())?;
    let stun_bound = stun.bound();
    let url = match &config.public_url {
        Some(url) => PublicUrl::parse(url)?,
        None => addresses::guess_public_url(listen, !matches!(config.tls, TlsMode::Off)),
    };
    let store =
        Store::open(&data.join(backup::DATABASE)).await.context("can't open the database")?;
    let tls = Tls::start(data.clone(), &config.tls, &url)?;
    let named = named_stun(config, &stun_bound, &url);
    let problems = problems(config, &stun_bound, &named);
    let pin = tls.authority().map(|authority| authority.pin());
    let own_face = own::face(&named, &url, pin);
    let settings = BrokerSettings {
        stun: named,
        next_pin: tls.authority().and_then(|authority| authority.next_pin()),
        dns_suffix: config.dns_suffix.clone().unwrap_or_else(|| DNS_SUFFIX.to_owned()),
        device_limit: config.max_devices,
        relays: Vec::new(),
    };
    let (lost_sender, lost) = mpsc::channel(1);
    let accounts = Accounts::load(store.clone(), settings, lost_sender.clone()).await?;
    let people = PeopleHandle::load(store.clone(), lost_sender).await?;
    let held: Vec<AccountId> = accounts.all().iter().map(|account| account.id()).collect();
    people.forget_accounts_but(&held).await.map_err(|it| failed(&it))?;
    members::tell(&accounts, &people);
    let own_relay = match &config.relay {
        Some(_) => Some(own::record(&store, own_face).await?),
        None => None,
    };
    let relays = Relays::load(store.clone(), accounts.clone(), own_relay).await?;
    let (stun, relay) = match (&config.relay, relays.own_init()) {
        (Some(runtime), Some(init)) => (None, Some(embed(&**runtime, stun, init).await?)),
        (Some(_) | None, _) => (Some(stun.spawn()?), None),
    };
    if let Some(relay) = &relay {
        relays.set_running(&relay.running);
    }
    let admin = AdminServer::bind(&config.admin_socket())?;
    let identity = tls.identity(&url);
    let oidc = config.oidc.clone().map(|config| Oidc::new(config, &url)).transpose()?;
    let mail = config.smtp.as_ref().map(|smtp| mail::open(smtp, &url)).transpose()?;
    let (mail, postman) = mail.unzip();
    let broker = Arc::new(Broker {
        accounts: accounts.clone(),
        relays: relays.clone(),
        people,
        store,
        data,
        authority: tls.authority(),
        url,
        listen,
        stun: stun_bound,
        problems,
        started: Time(fresh_ctx().unix.as_secs()),
        join_requests: Arc::default(),
        set_log_filter: config.set_log_filter.clone(),
        webhooks: webhooks::Sender::new(Targets(config.webhook_targets.clone()))?,
        oidc: oidc.map(Arc::new),
        mail,
    });
    let first = FirstStart::prepare(&broker, config.first_link).await?;
    let connections = config.limits.connections.min(room);
    let strangers = config.limits.strangers.min(connections / 4).max(1);
    let limits = Arc::new(Limits { connections, strangers, ..config.limits.clone() });
    let trusted: Arc<[ipnet::IpNet]> = config.trusted_proxies().into();
    let join_requests = broker.join_requests.clone();
    let router =
        api::router(accounts, relays, identity, join_requests, limits.clone(), trusted.clone())
            .merge(crate::admin::https::router(broker.clone(), trusted.clone()))
            .merge(portal::router(broker.clone(), limits.clone(), trusted.clone(), &broker.url));
    Ok(Running {
        broker,
        first,
        guessed_url: config.public_url.is_none(),
        server: Server {
            listener,
            acceptor: match relay {
                Some(_) => tls.acceptor().with_turn(),
                None => tls.acceptor(),
            },
            router,
            limits,
            trusted_proxies: trusted,
            relay: relay.as_ref().map(|relay| relay.running.clone()),
        },
        admin,
        tls,
        stun,
        relay,
        postman,
        lost,
        stop: watch::Sender::new(false),
    })
}

impl Running {
    /// Where HTTPS is bound.
    pub fn listen(&self) -> SocketAddr {
        self.broker.listen
    }

    /// Where devices reach the broker.
    pub fn url(&self) -> String {
        self.broker.url.to_string()
    }

    /// Whether the URL is a guess.
    pub fn url_is_guessed(&self) -> bool {
        self.guessed_url
    }

    /// Where STUN is bound: the asked-for ports, then the next ones.
    pub fn stun(&self) -> &[SocketAddr] {
        &self.broker.stun
    }

    /// What netmaps name as STUN servers.
    pub fn stun_public(&self) -> Vec<SocketAddr> {
        self.broker.accounts.settings().stun
    }

    /// What keeps devices from finding each other, for the operator; each with what to do.
    pub fn problems(&self) -> &[String] {
        &self.broker.problems
    }

    /// What a first start offers.
    pub fn first(&self) -> &FirstStart {
        &self.first
    }

    /// Where the provider of single sign-on is to send people back to, if there is one.
    pub fn sso_redirect(&self) -> Option<&str> {
        self.broker.oidc.as_ref().map(|oidc| oidc.redirect())
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.broker.data.path().to_owned()
    }

    /// Serves until `shutdown`, then ends streams and connections and writes what is left.
    ///
    /// # Errors
    /// Another process has taken over an account of this broker's database, or the relay inside has
    /// failed.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let admin = tokio::spawn(self.admin.run(self.broker.clone(), self.stop.subscribe()));
        let serving = tokio::spawn(self.server.run(self.stop.subscribe(), GRACE));
        let tidying = tokio::spawn(self.broker.people.clone().keep_house(self.stop.subscribe()));
        let members =
            tokio::spawn(members::keep_telling(self.broker.clone(), self.stop.subscribe()));
        let pruning = tokio::spawn(prune::keep_pruning(self.broker.clone(), self.stop.subscribe()));
        let webhooks =
            tokio::spawn(webhooks::keep_sending(self.broker.clone(), self.stop.subscribe()));
        let provider =
            tokio::spawn(oidc::keep_ready(self.broker.oidc.clone(), self.stop.subscribe()));
        let mailing = tokio::spawn(mail::keep_sending(
            self.postman.take(),
            self.broker.clone(),
            self.stop.subscribe(),
        ));
        let asking =
            tokio::spawn(probe::keep_asking(self.broker.relays.clone(), self.stop.subscribe()));
        let failed = self.relay.as_ref().map(|relay| relay.running.failed());
        let telling = self.relay.take().map(|Embedded { running, told }| {
            let relays = self.broker.relays.clone();
            tokio::spawn(own::keep_telling(relays, running, told, self.stop.subscribe()))
        });
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            Some(lease) = self.lost.recv() => Err(anyhow!(
                "another broker has taken over {lease}: two brokers use one database"
            )),
            // STUN goes with it; who supervises the process starts it again.
            Some(()) = OptionFuture::from(failed) => {
                Err(anyhow!("the relay inside this broker has failed"))
            }
        };
        info!("shutting down");
        self.stop.send_replace(true);
        self.broker.accounts.shut_down().await;
        drop(self.stun.take());
        let _ = serving.await;
        let _ = admin.await;
        let _ = asking.await;
        let _ = tidying.await;
        let _ = members.await;
        let _ = pruning.await;
        let _ = webhooks.await;
        let _ = provider.await;
        let _ = mailing.await;
        if let Some(telling) = telling {
            let _ = telling.await;
        }
        drop(self.tls);
        self.broker.store.clone().close().await;
        ended
    }
}

pub(crate) fn failed(failure: &Failure) -> anyhow::Error {
    anyhow::anyhow!("{}", failure.operator_text())
}

/// Hands the STUN sockets' addresses over to a relay.
async fn embed(runtime: &dyn RelayRuntime, stun: Stun, init: RelayInit) -> Result<Embedded> {
    let (udp, seen, told) = (stun.bound(), stun.seen(), init.clone());
    // They were bound to see whether they can be; now they are the relay's.
    drop(stun);
    let running = runtime.start(RelayPlan { udp, seen, init }).await?;
    Ok(Embedded { running, told })
}

/// What the operator says; else this machine's own public addresses; else, where it has none, the
/// address that the operator gave the broker's URL (docs/adr/0007).
fn named_stun(config: &ServeConfig, bound: &[SocketAddr], url: &PublicUrl) -> Vec<SocketAddr> {
    if !config.stun_public.is_empty() {
        return config.stun_public.clone();
    }
    let named = addresses::public_stun(bound, &addresses::own_addresses());
    match url.host.parse() {
        Ok(ip) if named.is_empty() && config.public_url.is_some() => {
            addresses::public_stun(bound, &[ip])
        }
        Ok(_) | Err(_) => named,
    }
}

/// Each connection is a file descriptor, and the usual limit is 1,024: raises it as far as it goes
/// and says how many connections that allows.
fn room_for_connections() -> usize {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(hard)
    });
    match raised {
        Ok(limit) => usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(OTHER_FILES),
        Err(error) => {
            warn!(%error, "can't raise the limit of open files");
            USUAL_FILE_LIMIT - OTHER_FILES
        }
    }
}
