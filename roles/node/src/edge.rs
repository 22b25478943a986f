//! The seam between this node and the edge role, which opens the LAN: the node says what is to be
//! open, the role says how that goes. Whoever runs both makes a pair by [`edge_link`], gives one end to
//! [`crate::NodeConfig`] and the other to the role.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use warren_net::{Diverted, Diverter, diversion};
use warren_proto::{
    DeviceId, DeviceName, EdgeChange, EdgeChanged, EdgeDuty, EdgeSpec, EdgeState, Filter, LanCap,
    Peer,
};

use crate::daemon::Failure;
use crate::local::{EdgeFound, EdgeReply, EdgeRequest, EdgeWork, FailureCode};

/// How many questions may wait.
const QUEUE: usize = 16;
/// How many tasks may wait.
const TASKS: usize = 16;

/// What the edge role needs of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeOrders {
    /// The mesh's network interface.
    pub interface: String,
    /// This device's name.
    pub name: DeviceName,
    /// This device's own mesh address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 mesh address.
    pub ipv6: Ipv6Addr,
    /// The account's range: whoever asks has an address of it.
    pub range: Ipv4Net,
    /// The account's domain, without a trailing dot.
    pub domain: String,
    /// What is to be open. It is good while the broker is out of reach, too.
    pub duty: EdgeDuty,
    /// The devices that this one sees: who asks is known by his mesh address.
    pub peers: Vec<Peer>,
    /// What this device lets in; `None`: everything.
    pub filter: Option<Filter>,
    /// Whether the broker is connected: without it what is open can't be changed.
    pub is_connected: bool,
    /// Whether the user has chosen the userspace proxy, whatever the kernel could do.
    pub userspace: bool,
    /// What the device's owner lets it open.
    pub cap: LanCap,
}

/// The node's end.
#[derive(Debug)]
pub struct EdgeLink {
    pub(crate) orders: watch::Sender<Option<EdgeOrders>>,
    pub(crate) state: watch::Receiver<EdgeState>,
    pub(crate) asked: mpsc::Receiver<EdgeQuestion>,
    pub(crate) tasks: mpsc::Sender<EdgeTask>,
    pub(crate) opens: watch::Receiver<bool>,
    pub(crate) diverted: Diverted,
}

/// Something that the role asks the node, for somebody who has asked the role.
#[derive(Debug)]
pub(crate) struct EdgeQuestion {
    pub(crate) request: EdgeRequest,
    pub(crate) from: Option<DeviceId>,
    pub(crate) answer: oneshot::Sender<Result<EdgeReply, Failure>>,
}

/// Why the account's word on an edge couldn't be had or changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text}")]
pub struct EdgeRefusal {
    /// Whether that is because the broker is out of reach.
    pub broker_away: bool,
    /// The reason, for people.
    pub text: String,
}

/// Asks the broker, by the node, for what is set of this edge. Clones ask the same node.
#[derive(Debug, Clone)]
pub struct EdgeDesk(mpsc::Sender<EdgeQuestion>);

impl EdgeDesk {
    /// All that is set.
    ///
    /// # Errors
    /// The broker is out of reach, or refuses.
    pub async fn spec(&self) -> Result<EdgeSpec, EdgeRefusal> {
        match self.ask(EdgeRequest::Spec, None).await? {
            EdgeReply::Spec(spec) => Ok(spec),
            EdgeReply::Status(_) | EdgeReply::Changed(_) | EdgeReply::Found(_) => Err(gone()),
        }
    }

    /// Has something changed by somebody who asks from another device: it is written down as his.
    ///
    /// # Errors
    /// As [`Self::spec`]; also if he may not.
    pub async fn change(
        &self,
        change: EdgeChange,
        from: DeviceId,
    ) -> Result<EdgeChanged, EdgeRefusal> {
        match self.ask(EdgeRequest::Change(change), Some(from)).await? {
            EdgeReply::Changed(changed) => Ok(changed),
            EdgeReply::Status(_) | EdgeReply::Spec(_) | EdgeReply::Found(_) => Err(gone()),
        }
    }

    async fn ask(
        &self,
        request: EdgeRequest,
        from: Option<DeviceId>,
    ) -> Result<EdgeReply, EdgeRefusal> {
        let (answer, answered) = oneshot::channel();
        let question = EdgeQuestion { request, from, answer };
        self.0.send(question).await.map_err(|_| gone())?;
        let reply = answered.await.map_err(|_| gone())?;
        reply.map_err(|failure| EdgeRefusal {
            broker_away: failure.code == FailureCode::BrokerAway,
            text: failure.text,
        })
    }
}

fn gone() -> EdgeRefusal {
    EdgeRefusal { broker_away: true, text: "the node on this device is about to end".to_owned() }
}

/// Something that somebody on this device wants of the edge role.
#[derive(Debug)]
pub struct EdgeTask {
    /// What.
    pub work: EdgeWork,
    /// Who waits for the answer; a refusal says why, and what to do, for people.
    pub answer: oneshot::Sender<Result<EdgeFound, String>>,
}

/// The edge role's end.
#[derive(Debug)]
pub struct EdgeRole {
    /// What is to be open; `None`: nothing, because this device is no edge or the mesh is down.
    pub orders: watch::Receiver<Option<EdgeOrders>>,
    /// How that goes: told to the broker at once when it has changed.
    pub state: watch::Sender<EdgeState>,
    /// What is set of it, and changes of that.
    pub desk: EdgeDesk,
    /// What people on this device want of it.
    pub tasks: mpsc::Receiver<EdgeTask>,
    /// Whether it has anything open, or may be about to: said before it looks at its orders, and taken
    /// back when all is closed. The node waits for that before the mesh's interface goes.
    pub opens: watch::Sender<bool>,
    /// To answer, in the host's place, for what is open: packets that the filter has let in come by it.
    pub diverter: Diverter,
}

/// Makes both ends.
pub fn edge_link() -> (EdgeLink, EdgeRole) {
    let (orders, orders_receiver) = watch::channel(None);
    let (state_sender, state) = watch::channel(EdgeState::default());
    let (questions, asked) = mpsc::channel(QUEUE);
    let (task_sender, tasks) = mpsc::channel(TASKS);
    let (opens_sender, opens) = watch::channel(false);
    let (diverter, diverted) = diversion();
    let role = EdgeRole {
        orders: orders_receiver,
        state: state_sender,
        desk: EdgeDesk(questions),
        tasks,
        opens: opens_sender,
        diverter,
    };
    (EdgeLink { orders, state, asked, tasks: task_sender, opens, diverted }, role)
}
