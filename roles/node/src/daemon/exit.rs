//! The exit node: by whom this device's traffic to the internet goes, if its user has chosen one.
//!
//! Three things follow from the choice, and from its end: the mesh takes packets to and from the
//! internet ([`warren_mesh::Mesh::handle_exit`]), the host's routes lead everything there or nowhere
//! ([`warren_net::ExitRoutes`]), and names are asked of the exit node alone.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use warren_net::{ExitRoutes, HostNetwork, Spare};
use warren_proto::{DeviceName, Netmap, Peer};

use super::Daemon;
use super::orders::{Failure, unsaved};
use crate::control::{BrokerUrl, Host};
use crate::local::{
    ExitNode, ExitNodeChange, ExitNodeStatus, ExitNodes, ExitState, FailureCode, HealthCode,
    PathKind,
};
use crate::names::Exit;
use crate::state::ExitChoice;

/// The port at which an exit node's resolver listens.
const PORT: u16 = 53;

impl Daemon {
    /// Shows or changes by whom traffic to the internet goes.
    pub(super) async fn exit_node(
        &mut self,
        change: Option<ExitNodeChange>,
    ) -> Result<ExitNodes, Failure> {
        match change {
            None => {}
            Some(ExitNodeChange::Off) => self.set_exit(None).await?,
            Some(ExitNodeChange::Use { name, lan }) => {
                let choice = self.find_exit(&name, lan)?;
                self.set_exit(Some(choice)).await?;
            }
        }
        let offered = self.map.as_ref().map(|map| offered(&map.netmap)).unwrap_or_default();
        Ok(ExitNodes { chosen: self.exit_status().await, offered })
    }

    fn find_exit(&self, name: &str, lan: bool) -> Result<ExitChoice, Failure> {
        let unknown = |text: String| Failure::new(FailureCode::UnknownPeer, text);
        let Some(map) = &self.map else {
            return Err(Failure::new(
                FailureCode::NotJoined,
                "there is no map of the mesh yet, and so no exit node: join an account first, or wait \
                 for the broker",
            ));
        };
        let domain = &map.netmap.dns.domain;
        let is_it = |peer: &&Peer| {
            peer.name.as_str() == name
                || name.trim_end_matches('.') == format!("{}.{domain}", peer.name)
                || name.parse() == Ok(peer.ipv4)
        };
        let Some(peer) = map.netmap.peers.iter().find(is_it) else {
            return Err(unknown(format!(
                "no device that this one may see is called '{name}'; `warren exit-node list` shows the \
                 exit nodes"
            )));
        };
        if peer.edge.as_ref().is_none_or(|offer| offer.internet.is_none()) {
            return Err(unknown(format!(
                "{name} is no exit node, or not for this device: on it, `warren edge gateways add \
                 --internet` makes it one, and the account's policy says who may use it"
            )));
        }
        Ok(ExitChoice { device: peer.id, name: peer.name.clone(), lan })
    }

    async fn set_exit(&mut self, choice: Option<ExitChoice>) -> Result<(), Failure> {
        let ended = self.identity.exit.is_some() && choice.is_none();
        let before = std::mem::replace(&mut self.identity.exit, choice);
        if let Err(error) = self.try_save_identity() {
            self.identity.exit = before;
            return Err(unsaved(error));
        }
        // While the mesh is up its own interface undoes it.
        if ended && self.mesh.is_none() {
            let _ = HostNetwork::clean_up(Spare::Nothing);
        }
        self.tell_exit().await;
        Ok(())
    }

    /// The account's exit node means nothing outside of the account.
    pub(super) fn forget_exit(&mut self) {
        self.identity.exit = None;
        self.healths.clear(HealthCode::ExitNodeAway);
    }

    /// Brings the mesh, the host's routes and the names in line with the choice.
    pub(super) async fn tell_exit(&mut self) {
        self.tell_mesh_exit().await;
        self.configure_host();
        self.update_name_sources().await;
        self.judge_exit().await;
    }

    /// Tells the mesh of the choice.
    pub(super) async fn tell_mesh_exit(&self) {
        if let Some(mesh) = &self.mesh {
            mesh.client().exit(self.identity.exit.as_ref().map(|exit| exit.device)).await;
        }
    }

    /// The routes that the choice wants.
    pub(super) fn exit_routes(&self) -> Option<ExitRoutes> {
        let names = self.wants_names();
        self.identity.exit.as_ref().map(|exit| ExitRoutes { lan: exit.lan, names })
    }

    /// Who is asked for names beside the mesh's, while an exit node is chosen.
    pub(super) fn exit_names(&self) -> Option<Exit> {
        let choice = self.identity.exit.as_ref()?;
        let netmap = self.map.as_ref().map(|map| &map.netmap);
        let peers = netmap.iter().flat_map(|netmap| &netmap.peers);
        let mut exits: Vec<(bool, bool, SocketAddr)> = peers
            .filter_map(|peer| {
                let internet = peer.edge.as_ref()?.internet?;
                let is_chosen = peer.id == choice.device;
                let is_used = is_chosen || internet.standby_for == Some(choice.device);
                let address = SocketAddr::new(peer.ipv4.into(), PORT);
                is_used.then_some((!peer.online, !is_chosen, address))
            })
            .collect();
        exits.sort_unstable();
        let servers = exits.into_iter().map(|(.., address)| address).collect();
        Some(Exit { servers, besides: self.names_of_the_tunnel() })
    }

    /// The names without which there is no tunnel: the broker's, and relays'.
    fn names_of_the_tunnel(&self) -> BTreeSet<String> {
        let joined = self.identity.joined.as_ref();
        let broker = joined.and_then(|joined| BrokerUrl::parse(&joined.url).ok());
        let broker = broker.and_then(|url| match url.host {
            Host::Name(name) => Some(name),
            Host::Ip(_) => None,
        });
        let netmap = self.map.as_ref().map(|map| &map.netmap);
        let relays = netmap.iter().flat_map(|netmap| &netmap.relays);
        let relays = relays.flat_map(|relay| &relay.tls).map(|tls| tls.host.clone());
        broker.into_iter().chain(relays).map(|name| name.to_ascii_lowercase()).collect()
    }

    /// Those that may ask this device for names, because it is an exit node and they may use it.
    pub(super) fn exit_guests(&self) -> BTreeSet<IpAddr> {
        let Some(netmap) = self.map.as_ref().map(|map| &map.netmap) else { return BTreeSet::new() };
        let duty = netmap.edge.as_ref().filter(|_| self.is_edge());
        if !duty.is_some_and(|duty| duty.believed(netmap.ipv4_range).leads_to_the_internet()) {
            return BTreeSet::new();
        }
        let may = |peer: &&Peer| {
            netmap.filter.as_ref().is_none_or(|filter| filter.opens_the_internet_to(peer.id))
        };
        let guests = netmap.peers.iter().filter(may);
        guests.flat_map(|peer| [IpAddr::V4(peer.ipv4), peer.ipv6.into()]).collect()
    }

    /// What has become of traffic to the internet; `None`: no exit node is chosen.
    pub(super) async fn exit_status(&self) -> Option<ExitNodeStatus> {
        let choice = self.identity.exit.as_ref()?;
        let data = self.mesh.as_ref().map(|mesh| mesh.client().clone());
        let snapshot = match &data {
            Some(data) => data.snapshot().await.ok(),
            None => None,
        };
        Some(status(choice, data.is_some(), snapshot.and_then(|it| it.exit).as_ref()))
    }

    /// Says so where traffic to the internet is held back.
    pub(super) async fn judge_exit(&mut self) {
        let text = match self.exit_status().await {
            None => None,
            Some(status) => held_back(&status),
        };
        self.healths.put(HealthCode::ExitNodeAway, text);
    }
}

fn held_back(status: &ExitNodeStatus) -> Option<String> {
    let why = match status.state {
        ExitState::Away => "can't be reached",
        ExitState::NotOffered => "is no exit node any more, or not for this device",
        ExitState::InUse | ExitState::Down | ExitState::Other => return None,
    };
    Some(format!(
        "traffic to the internet is held back: the exit node {} {why}; `warren exit-node off` lets it \
         out by this device's own network",
        status.name
    ))
}

/// What has become of traffic to the internet, by whom it goes or would.
pub(super) fn status(
    choice: &ExitChoice,
    is_up: bool,
    exit: Option<&warren_mesh::PeerStatus>,
) -> ExitNodeStatus {
    let reachable = |exit: &warren_mesh::PeerStatus| {
        let (path, _) = super::view::path_kind(&exit.path);
        match path {
            PathKind::Direct | PathKind::Relayed => true,
            PathKind::Connecting | PathKind::Idle => exit.online,
            PathKind::Unreachable => false,
        }
    };
    let state = match exit {
        _ if !is_up => ExitState::Down,
        None => ExitState::NotOffered,
        Some(exit) if reachable(exit) => ExitState::InUse,
        Some(_) => ExitState::Away,
    };
    let chosen = exit.filter(|exit| exit.id == choice.device);
    let name = chosen.map_or(&choice.name, |exit| &exit.name);
    let other = exit.filter(|exit| exit.id != choice.device && state == ExitState::InUse);
    ExitNodeStatus {
        name: name.to_string(),
        state,
        by: other.map(|exit| exit.name.to_string()),
        lan: choice.lan,
    }
}

fn offered(netmap: &Netmap) -> Vec<ExitNode> {
    let name = |id| netmap.peers.iter().find(|peer| peer.id == id).map(|peer| &peer.name);
    let mut offered: Vec<ExitNode> = netmap
        .peers
        .iter()
        .filter_map(|peer| {
            let internet = peer.edge.as_ref()?.internet?;
            Some(ExitNode {
                name: peer.name.to_string(),
                ipv4: peer.ipv4,
                online: peer.online,
                standby_for: internet.standby_for.and_then(name).map(DeviceName::to_string),
            })
        })
        .collect();
    offered.sort_by(|a, b| a.name.cmp(&b.name));
    offered
}
