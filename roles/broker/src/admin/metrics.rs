//! The broker's metrics in Prometheus' text format.

use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;
use warren_coord::Right;

use super::operation::Operation;
use crate::accounts::fresh_ctx;
use crate::broker::Broker;

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// They.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::get("/metrics", "getMetrics", "Metrics in Prometheus' text format", metrics)
            .needs(Right::ReadBroker)
            .gives_media("text/plain"),
    ]
}

async fn metrics(State(broker): State<Arc<Broker>>) -> Response {
    ([(CONTENT_TYPE, TEXT)], page(&broker)).into_response()
}

fn page(broker: &Broker) -> String {
    let (now, unix) = (Instant::now(), fresh_ctx().unix);
    let mut devices = Vec::new();
    let mut online = Vec::new();
    let mut relays = Vec::new();
    let mut traffic = Vec::new();
    for handle in broker.accounts.all() {
        let name = format!("account=\"{}\"", handle.record().name);
        handle.read(|account| {
            devices.push((name.clone(), account.device_count() as u64));
            online.push((name.clone(), account.session_count() as u64));
            let used = account.relays(now, unix).iter().filter(|it| it.rank.is_some()).count();
            relays.push((name.clone(), used as u64));
            traffic.push((name, account.revision()));
        });
    }
    let users = broker.people.read(|people| people.users().count());
    let status = broker.status();
    let mut page = Page::default();
    let version = format!("version=\"{}\"", status.version);
    page.metric("warren_build_info", "gauge", "Which software runs", [(version, 1)]);
    let started = [(String::new(), status.started.0)];
    page.metric("process_start_time_seconds", "gauge", "When it was started", started);
    if let Some(bytes) = resident_bytes() {
        let resident = [(String::new(), bytes)];
        page.metric("process_resident_memory_bytes", "gauge", "Memory in use", resident);
    }
    let accounts = [(String::new(), status.accounts as u64)];
    page.metric("warren_accounts", "gauge", "Accounts", accounts);
    page.metric("warren_users", "gauge", "Users", [(String::new(), users as u64)]);
    page.metric("warren_devices", "gauge", "Devices", devices);
    page.metric("warren_devices_online", "gauge", "Devices with a control session", online);
    page.metric("warren_relays_used", "gauge", "Relays that devices use", relays);
    let help = "Changes that the account's pages have to show";
    page.metric("warren_changes_total", "counter", help, traffic);
    let problems = [(String::new(), status.problems.len() as u64)];
    page.metric("warren_problems", "gauge", "What keeps devices from each other", problems);
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    /// A metric with its samples; labels are of our own making and hold no quotes.
    fn metric(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl IntoIterator<Item = (String, impl Display)>,
    ) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = match labels.is_empty() {
                true => writeln!(self.0, "{name} {value}"),
                false => writeln!(self.0, "{name}{{{labels}}} {value}"),
            };
        }
    }
}

/// Memory of this process that is in use, as the system counts it.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(size).ok()?)
}
