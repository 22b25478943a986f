//! The stream that tells of an account's devices as they change.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::Stream;
use futures_util::stream::unfold;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::sleep;
use warren_coord::{DeviceView, Right};
use warren_proto::DeviceId;

use super::devices::device_view;
use super::guard::{Granted, require};
use super::operation::Operation;
use super::types::Device;
use crate::accounts::{AccountHandle, fresh_ctx};
use crate::api::problem::ApiResult;
use crate::broker::Broker;
use crate::people::Grant;

/// Changes that come sooner after one are told together.
const TOGETHER: Duration = Duration::from_millis(250);
/// A silent connection is closed by many a proxy after a minute.
const SILENCE: Duration = Duration::from_secs(20);
/// How often it is checked that its listener still may listen.
const CHECK: Duration = Duration::from_secs(5);

/// They.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::get(
            "/accounts/{account}/events",
            "listenToEvents",
            "Server-sent events: 'devices' with all of them at first, then 'device.added', \
             'device.online', 'device.offline', 'device.changed', 'device.removed', each with the \
             device",
            listen,
        )
        .needs(Right::ReadAccount)
        .gives_media("text/event-stream"),
    ]
}

struct Listening {
    broker: Arc<Broker>,
    account: Arc<AccountHandle>,
    grant: Grant,
    changes: watch::Receiver<u64>,
    known: BTreeMap<DeviceId, Device>,
    ready: std::collections::VecDeque<Event>,
}

async fn listen(
    State(broker): State<Arc<Broker>>,
    Granted(grant): Granted,
    Path(account): Path<String>,
) -> ApiResult<Response> {
    let account = broker.accounts.find(&account)?;
    let changes = account.changes();
    let known = devices(&broker, &account);
    let all: Vec<&Device> = known.values().collect();
    let ready = event("devices", &all).into_iter().collect();
    let listening = Listening { broker, account, grant, changes, known, ready };
    let stream = Sse::new(events(listening)).keep_alive(KeepAlive::new().interval(SILENCE));
    Ok(stream.into_response())
}

fn events(listening: Listening) -> impl Stream<Item = Result<Event, Infallible>> {
    unfold(listening, |mut this| async move {
        loop {
            if let Some(event) = this.ready.pop_front() {
                return Some((Ok(event), this));
            }
            let changed = tokio::select! {
                changed = this.changes.changed() => changed.map(|()| true),
                () = sleep(CHECK) => Ok(false),
            };
            if !this.may_listen() {
                return None;
            }
            if changed.ok()? {
                sleep(TOGETHER).await;
                this.changes.mark_unchanged();
                this.compare();
            }
        }
    })
}

impl Listening {
    fn may_listen(&self) -> bool {
        let id = self.account.id();
        let is_good = self.broker.people.read(|people| self.grant.is_good(people));
        let is_open =
            self.broker.people.read(|people| self.grant.check_open(people, &self.account).is_ok());
        is_good
            && is_open
            && self.broker.accounts.get(id).is_some()
            && require(&self.broker, &self.grant, Right::ReadAccount, Some(id)).is_ok()
    }

    /// Notes what has become of the devices since the last time.
    fn compare(&mut self) {
        let now = devices(&self.broker, &self.account);
        for (id, device) in &now {
            let name = match self.known.get(id) {
                None => "device.added",
                Some(before) if before == device => continue,
                Some(before) if before.online != device.online => match device.online {
                    true => "device.online",
                    false => "device.offline",
                },
                Some(_) => "device.changed",
            };
            self.ready.extend(event(name, device));
        }
        let gone = self.known.values().filter(|device| !now.contains_key(&device.id));
        self.ready.extend(gone.filter_map(|device| event("device.removed", device)));
        self.known = now;
    }
}

fn event(name: &str, data: &impl Serialize) -> Option<Event> {
    Event::default().event(name).json_data(data).ok()
}

/// The devices, without what changes all the time.
fn devices(broker: &Broker, account: &AccountHandle) -> BTreeMap<DeviceId, Device> {
    let (now, unix) = (Instant::now(), fresh_ctx().unix);
    let devices: Vec<DeviceView> = account.read(|account| account.devices(now, unix).collect());
    let view = |view| Device { last_seen: None, ..device_view(broker, view) };
    devices.into_iter().map(view).map(|device| (device.id, device)).collect()
}
