//! The mesh's names on this host.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use warren_net::{NameConfig, NameError, NameMethod, NameWiring, Undone, name_servers};

use super::Daemon;
use crate::local::HealthCode;
use crate::names::{Resolver, Sources, Zone};

/// DNS's port, and the only one that `/etc/resolv.conf` can name.
const PORT: u16 = 53;
/// Between two looks whether somebody has undone the wiring.
const LOOK: std::time::Duration = std::time::Duration::from_secs(15);

/// A running resolver and how the host's programs get to it.
#[derive(Debug)]
pub(super) struct NamesUp {
    sources: watch::Sender<Sources>,
    resolver: Resolver,
    wiring: Option<NameWiring>,
    domain: String,
    next_look: Instant,
}

fn resolv_conf() -> PathBuf {
    PathBuf::from("/etc/resolv.conf")
}

/// Undoes what a crash has left in the host's configuration.
pub(super) fn clean_up(state: &Path) {
    let config = NameConfig {
        interface: 0,
        server: (Ipv4Addr::UNSPECIFIED, PORT).into(),
        domain: String::new(),
        zones: Vec::new(),
        all: false,
        state_dir: state.to_owned(),
        resolv_conf: resolv_conf(),
    };
    match NameWiring::clean_up(&config) {
        Ok(Undone::Restored) => tracing::info!("resolv.conf was restored after a crash"),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "resolv.conf was not restored"),
    }
}

impl Daemon {
    /// Serves the map's names and tells the host's resolver; what goes wrong is health.
    pub(super) async fn start_names(&mut self) {
        if !self.wants_names() && self.exit_guests().is_empty() {
            return;
        }
        let Some(map) = &self.map else { return };
        let domain = map.netmap.dns.domain.clone();
        let own = IpAddr::V4(map.netmap.this.ipv4);
        let Some(zone) = Zone::new(&map.netmap).map(Arc::new) else {
            let text = format!("names do not resolve: {domain:?} is no DNS domain");
            self.healths.set(HealthCode::DnsNotWired, text);
            return;
        };
        let (sources, receiver) =
            watch::channel(Sources { zone: Some(zone), ..Sources::default() });
        let at = |port| Resolver::start(SocketAddr::new(own, port), receiver.clone());
        let resolver = match at(PORT).await {
            Ok(resolver) => Ok(resolver),
            Err(taken) => {
                tracing::info!(error = %taken, "port 53 can't be had, trying another");
                at(0).await
            }
        };
        match resolver {
            Ok(resolver) => {
                let next_look = Instant::now() + LOOK;
                self.names = Some(NamesUp { sources, resolver, wiring: None, domain, next_look });
                self.wire_names().await;
                self.update_name_sources().await;
            }
            Err(error) => self.healths.set(
                HealthCode::DnsNotWired,
                format!("names do not resolve: the resolver can't listen at {own}: {error}"),
            ),
        }
    }

    async fn wire_names(&mut self) {
        if !self.wants_names() {
            return;
        }
        let (Some(names), Some(mesh), Some(map)) = (&mut self.names, &self.mesh, &self.map) else {
            return;
        };
        let config = NameConfig {
            interface: mesh.index,
            server: names.resolver.address(),
            domain: names.domain.clone(),
            zones: Zone::reverse_zones(&map.netmap),
            all: self.identity.exit.is_some(),
            state_dir: self.folder.path().to_owned(),
            resolv_conf: resolv_conf(),
        };
        match NameWiring::wire(config).await {
            Ok(wiring) => {
                names.take_upstreams(&wiring);
                names.wiring = Some(wiring);
                self.healths.clear(HealthCode::DnsPortTaken);
                self.healths.clear(HealthCode::DnsNotWired);
            }
            Err(error) => self.note_name_error(&error),
        }
    }

    fn note_name_error(&mut self, error: &NameError) {
        let code = match error {
            NameError::NotPort53 { .. } => HealthCode::DnsPortTaken,
            NameError::OtherNode { .. } | NameError::File { .. } | NameError::Resolved(_) => {
                HealthCode::DnsNotWired
            }
        };
        self.healths.set(code, format!("names do not resolve on this machine: {error}"));
    }

    /// Repairs what another program has undone, and tries again what went wrong.
    pub(super) async fn refresh_names(&mut self) {
        let Some(names) = &mut self.names else { return };
        if Instant::now() < names.next_look {
            return;
        }
        names.next_look = Instant::now() + LOOK;
        let Some(wiring) = &mut names.wiring else {
            self.wire_names().await;
            return;
        };
        match wiring.refresh().await {
            Ok(is_repaired) => {
                // Another network has other servers, also where nothing had to be repaired.
                if let Some(wiring) = names.wiring.take() {
                    names.take_upstreams(&wiring);
                    names.wiring = Some(wiring);
                }
                if is_repaired {
                    tracing::info!("the wiring of names was repaired");
                    self.healths.clear(HealthCode::DnsNotWired);
                }
            }
            Err(error) => self.note_name_error(&error),
        }
    }

    /// Undoes the wiring and ends the resolver.
    pub(super) async fn stop_names(&mut self) {
        if let Some(names) = self.names.take()
            && let Some(wiring) = names.wiring
            && let Err(error) = wiring.unwire().await
        {
            tracing::warn!(%error, "the wiring of names was not undone");
        }
        self.healths.clear(HealthCode::DnsPortTaken);
        self.healths.clear(HealthCode::DnsNotWired);
    }

    /// Brings the names in line with the map.
    pub(super) async fn update_zone(&mut self) {
        let (Some(names), Some(map)) = (&mut self.names, &self.map) else { return };
        let zone = Zone::new(&map.netmap).map(Arc::new);
        names.sources.send_if_modified(|sources| {
            let changed = sources.zone != zone;
            sources.zone = zone;
            changed
        });
        if names.domain != map.netmap.dns.domain {
            self.stop_names().await;
            self.start_names().await;
        }
        self.update_name_sources().await;
    }

    /// Brings who is asked for other names, and who may ask, in line with exit nodes.
    pub(super) async fn update_name_sources(&mut self) {
        let (exit, guests) = (self.exit_names(), self.exit_guests());
        if self.names.is_none() && self.mesh.is_some() && !guests.is_empty() {
            // It comes back here.
            return Box::pin(self.start_names()).await;
        }
        let Some(names) = &mut self.names else { return };
        let all = exit.is_some();
        if let Some(wiring) = &mut names.wiring
            && wiring.is_for_all() != all
            && let Err(error) = wiring.answer_for_all(all).await
        {
            self.note_name_error(&error);
        }
        let Some(names) = &self.names else { return };
        let own = names.resolver.address();
        names.sources.send_if_modified(|sources| {
            if names.wiring.is_none() {
                sources.uplinks = at_port_53(&name_servers(&resolv_conf()), own);
            }
            let is_new = (&sources.exit, &sources.guests) != (&exit, &guests);
            (sources.exit, sources.guests) = (exit, guests);
            is_new
        });
    }
}

impl NamesUp {
    /// The next look at the wiring is due.
    pub(super) fn look_now(&mut self) {
        self.next_look = Instant::now();
    }

    fn take_upstreams(&self, wiring: &NameWiring) {
        let uplinks = at_port_53(&wiring.upstreams(), self.resolver.address());
        let servers = match wiring.method() {
            NameMethod::Resolved => Vec::new(),
            NameMethod::ResolvConf => uplinks.clone(),
        };
        self.sources.send_if_modified(|sources| {
            let is_news = sources.servers != servers || sources.uplinks != uplinks;
            (sources.servers, sources.uplinks) = (servers, uplinks);
            is_news
        });
    }
}

/// Servers at DNS's port, but for our own: a loop would answer nothing and never end.
fn at_port_53(servers: &[IpAddr], own: SocketAddr) -> Vec<SocketAddr> {
    let servers = servers.iter().map(|ip| SocketAddr::new(*ip, PORT));
    servers.filter(|server| *server != own).collect()
}
