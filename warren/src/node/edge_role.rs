//! Runs the edge role beside the node: what the node is told to open goes to the engine, and how that
//! goes comes back.

mod pages;
mod work;

use std::path::{Path, PathBuf};
use std::time::Duration;

use pages::Served;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use warren_edge::{Edge, EdgeConfig, EdgeReport, EdgeTools, ScanStatus};
use warren_node::{EdgeOrders, EdgeRole, EdgeTask};
use warren_proto::EdgeDuty;

/// How long after the start orders are waited for: connections through a killed edge go on if it opens
/// the same again.
const LEFTOVERS: Duration = Duration::from_secs(10);

/// An engine, and where it stands.
struct Running {
    edge: Edge,
    config: EdgeConfig,
    duty: watch::Sender<Option<EdgeDuty>>,
    tools: EdgeTools,
    report: watch::Receiver<EdgeReport>,
    scanning: watch::Receiver<ScanStatus>,
    pages: Served,
}

impl Running {
    fn start(state: &Path, orders: &EdgeOrders, role: &EdgeRole) -> Self {
        let config = EdgeConfig {
            mesh_interface: orders.interface.clone(),
            mesh_ipv4: orders.ipv4,
            state: state.to_owned(),
            diverter: Some(role.diverter.clone()),
            userspace: orders.userspace,
            cap: orders.cap.clone(),
        };
        let (duty, receiver) = watch::channel(Some(orders.duty.clone()));
        let edge = Edge::start(config.clone(), receiver);
        let (report, tools) = (edge.report(), edge.tools());
        let scanning = tools.scanning();
        let pages = Served::start(orders, role.desk.clone(), tools.clone(), report.clone());
        Self { edge, config, duty, tools, report, scanning, pages }
    }

    fn stands_at(&self, orders: &EdgeOrders) -> bool {
        let EdgeConfig { mesh_interface, mesh_ipv4, userspace, cap, .. } = &self.config;
        (mesh_interface, *mesh_ipv4, *userspace, cap)
            == (&orders.interface, orders.ipv4, orders.userspace, &orders.cap)
    }
}

/// Undoes what a killed edge has left on this host.
pub(super) fn clean_up(state: &Path) {
    if let Err(error) = warren_edge::clean_up(state) {
        tracing::warn!(error = format!("{error:#}"), "not all that the edge opened is closed");
    }
}

/// Opens what the node says until the node ends, and leaves the host as it was.
pub(super) async fn run(mut role: EdgeRole, state: PathBuf) {
    let mut running: Option<Running> = None;
    // What a killed process has left goes when an engine starts; if none does, then all the same.
    let mut leftovers = Some(Instant::now() + LEFTOVERS);
    role.orders.mark_changed();
    loop {
        tokio::select! {
            changed = role.orders.changed() => {
                if changed.is_err() {
                    break;
                }
                role.opens.send_replace(true);
                let orders = role.orders.borrow_and_update().clone();
                running = follow(running, orders, &state, &role).await;
                role.opens.send_replace(running.is_some());
            }
            Some(EdgeTask { work, answer }) = role.tasks.recv() => match &running {
                Some(running) => work::start(running.tools.clone(), work, answer),
                None => {
                    let text = "the mesh is down, or the broker hasn't taken note of this edge yet";
                    let _ = answer.send(Err(text.to_owned()));
                }
            },
            () = told(&mut running) => {}
            () = sleep_until(leftovers.unwrap_or_else(Instant::now)), if leftovers.is_some() => {
                leftovers = None;
                if running.is_none() {
                    let state = state.clone();
                    let _ = tokio::task::spawn_blocking(move || clean_up(&state)).await;
                }
            }
        }
        let news = running.as_ref().map(|running| {
            let mut state = running.edge.state();
            running.pages.tell(&mut state);
            state
        });
        let news = news.unwrap_or_default();
        role.state.send_if_modified(|state| {
            let is_news = *state != news;
            *state = news;
            is_news
        });
    }
    if let Some(running) = running {
        running.edge.stop().await;
    }
    role.opens.send_replace(false);
}

/// Waits until the engine or a scan, if there is one, has something to tell.
async fn told(running: &mut Option<Running>) {
    let lives = match running {
        Some(running) => tokio::select! {
            changed = running.report.changed() => changed.is_ok(),
            changed = running.scanning.changed() => changed.is_ok(),
            lives = running.pages.changed() => lives,
        },
        None => false,
    };
    if !lives {
        std::future::pending::<()>().await;
    }
}

/// The engine that these orders want: the present one, a new one, or none.
async fn follow(
    running: Option<Running>,
    orders: Option<EdgeOrders>,
    state: &Path,
    role: &EdgeRole,
) -> Option<Running> {
    match (running, orders) {
        (Some(running), Some(orders)) if running.stands_at(&orders) => {
            running.pages.follow(&orders);
            running.duty.send_if_modified(|duty| {
                let is_news = duty.as_ref() != Some(&orders.duty);
                *duty = Some(orders.duty);
                is_news
            });
            Some(running)
        }
        (running, orders) => {
            if let Some(running) = running {
                running.edge.stop().await;
            }
            orders.map(|orders| Running::start(state, &orders, role))
        }
    }
}
