//! The edge's own pages, served beside its engine.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use warren_edge::{EdgeReport, EdgeTools};
use warren_edge_web::{Answer, Desk, PORT, Pages, Place, Refusal, Sources, Why};
use warren_node::{EdgeDesk, EdgeOrders, EdgeRefusal};
use warren_proto::{
    DeviceId, EdgeChange, EdgeChanged, EdgeSpec, EdgeState, MAX_EDGE_PROBLEM, MAX_EDGE_PROBLEMS,
};

/// How soon it is tried again to listen.
const AGAIN: Duration = Duration::from_secs(5);

/// The pages of a running edge. Dropped, they are gone.
pub(super) struct Served {
    place: watch::Sender<Place>,
    problem: watch::Receiver<Option<String>>,
    _task: JoinSet<()>,
}

impl Served {
    pub(super) fn start(
        orders: &EdgeOrders,
        desk: EdgeDesk,
        tools: EdgeTools,
        report: watch::Receiver<EdgeReport>,
    ) -> Self {
        let (place, receiver) = watch::channel(place(orders));
        let sources = Sources { place: receiver, tools, report, desk: Arc::new(AtNode(desk)) };
        let addresses = [IpAddr::V4(orders.ipv4), IpAddr::V6(orders.ipv6)];
        let (told, problem) = watch::channel(None);
        let mut task = JoinSet::new();
        task.spawn(serve(sources, addresses, orders.interface.clone(), told));
        Self { place, problem, _task: task }
    }

    /// Takes news of where the edge stands.
    pub(super) fn follow(&self, orders: &EdgeOrders) {
        let news = place(orders);
        self.place.send_if_modified(|place| {
            let is_news = *place != news;
            *place = news;
            is_news
        });
    }

    /// Waits until something else is wrong with them, or nothing any more.
    pub(super) async fn changed(&mut self) -> bool {
        self.problem.changed().await.is_ok()
    }

    /// Adds what is wrong with them to what the broker is told.
    pub(super) fn tell(&self, state: &mut EdgeState) {
        if let Some(mut text) = self.problem.borrow().clone() {
            text.truncate(text.floor_char_boundary(MAX_EDGE_PROBLEM));
            state.problems.truncate(MAX_EDGE_PROBLEMS - 1);
            state.problems.push(text);
        }
    }
}

/// Serves them as soon as the port is to be had.
async fn serve(
    sources: Sources,
    addresses: [IpAddr; 2],
    interface: String,
    problem: watch::Sender<Option<String>>,
) {
    loop {
        match Pages::start(sources.clone(), &addresses, &interface) {
            Ok(_pages) => {
                problem.send_replace(None);
                return std::future::pending().await;
            }
            Err(error) => {
                let text = format!(
                    "the edge's own pages can't be shown at port {PORT} of its mesh address: \
                     {error:#}; if another program has that port, have it listen elsewhere"
                );
                problem.send_if_modified(|said| {
                    let is_new = said.as_ref() != Some(&text);
                    if is_new {
                        tracing::warn!("{text}");
                        *said = Some(text);
                    }
                    is_new
                });
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn place(orders: &EdgeOrders) -> Place {
    Place {
        name: orders.name.clone(),
        domain: orders.domain.clone(),
        ipv4: orders.ipv4,
        ipv6: orders.ipv6,
        duty: orders.duty.clone(),
        peers: orders.peers.clone(),
        is_connected: orders.is_connected,
    }
}

/// The broker, by the node.
struct AtNode(EdgeDesk);

impl Desk for AtNode {
    fn spec(&self) -> Answer<'_, EdgeSpec> {
        Box::pin(async { self.0.spec().await.map_err(refusal) })
    }

    fn change(&self, change: EdgeChange, from: DeviceId) -> Answer<'_, EdgeChanged> {
        Box::pin(async move { self.0.change(change, from).await.map_err(refusal) })
    }
}

fn refusal(EdgeRefusal { broker_away, text }: EdgeRefusal) -> Refusal {
    Refusal { why: if broker_away { Why::BrokerAway } else { Why::Invalid }, text }
}
