//! This device as an edge: its owner's consent, the broker's duty, the role that carries it out.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use warren_proto::{DeviceId, EdgeState, LanCap, MacAddr, MapVersion};

use super::orders::unsaved;
use super::{Daemon, Wake};
use crate::control::{Command, EdgeAsk, broker_away};
use crate::daemon::Failure;
use crate::edge::EdgeLink;
use crate::local::{
    EdgeKind, EdgeReply, EdgeRequest, EdgeStatus, EdgeWork, Enabling, FailureCode, HealthCode,
};
use crate::{EdgeOrders, EdgeTask};

/// How long the edge role may take to close what it opened.
const CLOSING: Duration = Duration::from_secs(5);

/// So many calls for the broker, each so often.
const WAKES: (u32, Duration) = (10, Duration::from_secs(2));

/// What the orders were made of last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Basis {
    version: MapVersion,
    interface: u32,
    is_connected: bool,
    userspace: bool,
    cap: LanCap,
}

/// Waits until the edge role says something else of itself, or asks.
pub(super) async fn changed(link: &mut Option<EdgeLink>) -> Wake {
    let Some(link) = link else { return std::future::pending().await };
    tokio::select! {
        Ok(()) = link.state.changed() => Wake::Edge,
        Some(question) = link.asked.recv() => Wake::EdgeAsks(question),
        else => std::future::pending().await,
    }
}

impl Daemon {
    pub(super) async fn obey_edge(
        &mut self,
        request: EdgeRequest,
        from: Option<DeviceId>,
        answer: oneshot::Sender<Result<EdgeReply, Failure>>,
    ) {
        let change = match request {
            EdgeRequest::Enable(enabling) => {
                let result = self.enable_edge(enabling).await;
                let _ = answer.send(result.map(|()| EdgeReply::Status(self.edge_status())));
                return;
            }
            EdgeRequest::Disable => {
                let result = self.set_edge(None, None).await;
                let _ = answer.send(result.map(|()| EdgeReply::Status(self.edge_status())));
                return;
            }
            EdgeRequest::Status => {
                let _ = answer.send(Ok(EdgeReply::Status(self.edge_status())));
                return;
            }
            EdgeRequest::Work(work) => {
                self.give_edge(work, answer);
                return;
            }
            EdgeRequest::Spec => None,
            EdgeRequest::Change(change) => Some(change),
        };
        let failure = if self.identity.joined.is_none() {
            Some(Failure::new(FailureCode::NotJoined, "this device has not joined an account yet"))
        } else {
            (!self.broker.connected).then(broker_away)
        };
        match failure {
            Some(failure) => {
                let _ = answer.send(Err(failure));
            }
            None => self.tell_broker(Command::Edge(EdgeAsk { change, from, answer })),
        }
    }

    /// The broker passes on that somebody wants a device of the LAN awake. What comes too fast is none of
    /// an honest broker's.
    pub(super) fn wake_for_broker(&mut self, mac: MacAddr) {
        let now = Instant::now();
        let (begun, calls) =
            self.edge_woke.filter(|(begun, _)| now < *begun + WAKES.1).unwrap_or((now, 0));
        if calls == WAKES.0 {
            tracing::warn!(%mac, "the broker calls too often");
            return;
        }
        self.edge_woke = Some((begun, calls + 1));
        let (answer, answered) = oneshot::channel();
        self.give_edge(EdgeWork::Wake(mac.to_string()), answer);
        tokio::spawn(async move {
            match answered.await {
                Ok(Ok(_)) => {
                    tracing::info!(%mac, "called a device of the LAN, as the broker asked");
                }
                Ok(Err(failure)) => tracing::warn!(%mac, reason = failure.text, "called nobody"),
                Err(_) => {}
            }
        });
    }

    /// Has the edge role do something; it answers by itself.
    fn give_edge(&self, work: EdgeWork, answer: oneshot::Sender<Result<EdgeReply, Failure>>) {
        let refused = |text: &str| Err(Failure::new(FailureCode::Other, text));
        let Some(link) = self.config.edge.as_ref().filter(|_| self.is_edge()) else {
            let _ =
                answer.send(refused("this device is no edge: `warren edge enable` makes it one"));
            return;
        };
        let (found, finding) = oneshot::channel();
        let is_taken = link.tasks.try_send(EdgeTask { work, answer: found }).is_ok();
        tokio::spawn(async move {
            let found = if is_taken { finding.await.ok() } else { None };
            let reply = match found {
                Some(Ok(found)) => Ok(EdgeReply::Found(found)),
                Some(Err(text)) => refused(&text),
                None => refused("the edge is too busy; try again"),
            };
            // Whoever has asked and gone needs no answer.
            let _ = answer.send(reply);
        });
    }

    /// Has the edge role close everything, and waits for that: the mesh's interface is about to go.
    pub(super) async fn close_edge(&mut self) {
        let Some(link) = &mut self.config.edge else { return };
        self.edge_basis = None;
        link.orders.send_if_modified(|orders| orders.take().is_some());
        let closed = link.opens.wait_for(|opens| !opens);
        if tokio::time::timeout(CLOSING, closed).await.is_err() {
            tracing::warn!("the edge role is slow to close what it opened");
        }
    }

    async fn enable_edge(&mut self, Enabling { kind, only }: Enabling) -> Result<(), Failure> {
        if self.config.edge.is_none() {
            let text = "this program can't open a LAN: it was built without the edge role";
            return Err(Failure::new(FailureCode::Other, text));
        }
        let before = match (self.identity.edge_when_asked, self.identity.edge_userspace) {
            (true, _) => EdgeKind::WhenAsked,
            (false, true) => EdgeKind::Userspace,
            (false, false) => EdgeKind::Plain,
        };
        self.set_edge(Some(kind.unwrap_or(before)), only).await
    }

    /// An edge of this kind, or none. What it may open holds until it is said otherwise.
    async fn set_edge(
        &mut self,
        kind: Option<EdgeKind>,
        only: Option<LanCap>,
    ) -> Result<(), Failure> {
        let before = self.identity.clone();
        let identity = &mut self.identity;
        identity.edge = kind.is_some();
        identity.edge_when_asked = kind == Some(EdgeKind::WhenAsked);
        identity.edge_userspace = kind == Some(EdgeKind::Userspace);
        if let Some(only) = only {
            identity.edge_cap = only;
        }
        if let Err(error) = self.try_save_identity() {
            self.identity = before;
            return Err(unsaved(error));
        }
        self.tell_mesh_edge().await;
        Ok(())
    }

    /// Whether this device is an edge: by its owner's word, and, if he leaves it to the account, by that's.
    pub(super) fn is_edge(&self) -> bool {
        self.identity.edge && (!self.identity.edge_when_asked || self.is_asked_to_be_edge())
    }

    fn is_asked_to_be_edge(&self) -> bool {
        self.map.as_ref().is_some_and(|map| map.netmap.edge_asked)
    }

    /// Becomes an edge, or ceases to be one, where the account's word has changed that; says so where the
    /// owner's is missing.
    pub(super) async fn settle_edge(&mut self) {
        if self.edge_told != self.is_edge() {
            self.tell_mesh_edge().await;
        }
        let waits = self.is_asked_to_be_edge() && !self.identity.edge && self.config.edge.is_some();
        let text = waits.then(|| {
            "the account asks this device to open its LAN: `warren edge enable` lets it, and `warren edge \
             enable --when-asked` leaves that to the account from now on; nothing is open meanwhile"
                .to_owned()
        });
        self.healths.put(HealthCode::EdgeAsked, text);
    }

    /// Tells the mesh whether this device is an edge, and how that goes.
    pub(super) async fn tell_mesh_edge(&mut self) {
        self.edge_told = self.is_edge();
        let state = self.edge_state();
        if let Some(mesh) = &self.mesh {
            mesh.client().edge(state).await;
        }
    }

    /// What the edge role says of itself, if this device is an edge.
    fn edge_state(&mut self) -> Option<EdgeState> {
        let is_edge = self.is_edge();
        let link = self.config.edge.as_mut().filter(|_| is_edge)?;
        Some(link.state.borrow_and_update().clone())
    }

    fn edge_status(&self) -> EdgeStatus {
        let link = self.config.edge.as_ref().filter(|_| self.is_edge());
        let netmap = self.map.as_ref().map(|map| &map.netmap);
        let duty = netmap.and_then(|netmap| netmap.edge.as_ref()).filter(|_| link.is_some());
        EdgeStatus {
            enabled: self.is_edge(),
            when_asked: self.identity.edge_when_asked,
            asked: self.is_asked_to_be_edge(),
            only: self.identity.edge_cap.clone(),
            accepted: duty.is_some(),
            broker_connected: self.broker.connected,
            forwards: duty.map_or(0, |duty| duty.forwards.len()),
            virtual_devices: duty.map_or(0, |duty| duty.virtual_devices.len()),
            gateways: duty.map_or(0, |duty| duty.gateways.len()),
            state: link.map(|link| link.state.borrow().clone()).unwrap_or_default(),
        }
    }

    /// Tells the edge role what is to be open, if that has changed.
    pub(super) fn publish_edge(&mut self) {
        let Some(link) = &self.config.edge else { return };
        let sources = self.mesh.as_ref().zip(self.map.as_ref()).filter(|_| self.is_edge());
        let basis = sources.map(|(mesh, map)| Basis {
            version: map.netmap.version,
            interface: mesh.index,
            is_connected: self.broker.connected,
            userspace: self.identity.edge_userspace,
            cap: self.identity.edge_cap.clone(),
        });
        if self.edge_basis == basis {
            return;
        }
        self.edge_basis = basis;
        let orders = sources.and_then(|(mesh, map)| {
            let netmap = &map.netmap;
            Some(EdgeOrders {
                interface: mesh.interface.clone(),
                name: netmap.this.name.clone(),
                ipv4: netmap.this.ipv4,
                ipv6: netmap.this.ipv6,
                range: netmap.ipv4_range,
                domain: netmap.dns.domain.clone(),
                duty: netmap.edge.as_ref()?.believed(netmap.ipv4_range),
                peers: netmap.peers.clone(),
                filter: netmap.filter.clone(),
                is_connected: self.broker.connected,
                userspace: self.identity.edge_userspace,
                cap: self.identity.edge_cap.clone(),
            })
        });
        link.orders.send_if_modified(|present| {
            let is_new = *present != orders;
            *present = orders;
            is_new
        });
    }
}
