//! Relays as the broker serves them: the operator's, which are offered to all accounts, and what
//! every relay server is told and says.
//!
//! An account's own relays are part of its state machine. The operator's are here, and every
//! account hears of them by its settings. A relay server follows one stream; what it is told is
//! worked out anew from what is stored whenever something may have changed ([`News`]), so no word
//! to it can get lost.

pub(crate) mod own;
pub(crate) mod probe;
mod report;
mod stream;
mod url;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Instant;

use anyhow::{Context as _, Result};
use tokio::sync::{Mutex as AsyncMutex, watch};
use warren_coord::{
    Account, By, RelayCreated, RelayFace, RelayKind, RelayPool, RelayProbe, RelayRecord,
    SecretHash, UnixTime, relay_activity, relay_init,
};
use warren_proto::{AccountId, DeviceId, DeviceName, RelayId, RelayInit, RelayReport, RelayScope};
use warren_store::Store;

use crate::accounts::{AccountHandle, Accounts, fresh_ctx, uninterrupted, unix_millis};
use crate::api::problem::{ApiResult, Failure};
use crate::embedded::RunningRelay;

pub(crate) use self::stream::events;
pub(crate) use self::url::TurnUrl;

/// Counts what relay servers may have to hear of; the last word is that the broker ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct News {
    count: u64,
    ending: bool,
}

/// Where news for relay servers goes.
#[derive(Debug, Clone)]
pub(crate) struct NewsDesk(Arc<watch::Sender<News>>);

impl Default for NewsDesk {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(News::default())))
    }
}

impl NewsDesk {
    /// Something may have changed.
    pub(crate) fn announce(&self) {
        self.0.send_modify(|news| news.count += 1);
    }

    /// All streams are to end.
    pub(crate) fn end(&self) {
        self.0.send_modify(|news| news.ending = true);
    }

    fn subscribe(&self) -> watch::Receiver<News> {
        self.0.subscribe()
    }
}

/// A relay server that has shown its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    Of(AccountId, RelayId),
    Operators(RelayId),
}

impl Server {
    pub(crate) fn id(self) -> RelayId {
        match self {
            Self::Of(_, id) | Self::Operators(id) => id,
        }
    }
}

/// The operator's relays, and the servers that are connected.
pub(crate) struct Relays {
    store: Store,
    accounts: Arc<Accounts>,
    state: Mutex<State>,
    /// The broker's own, while it runs.
    running: OnceLock<Weak<dyn RunningRelay>>,
    /// Durable changes take turns.
    turn: AsyncMutex<()>,
}

#[derive(Default)]
struct State {
    pool: RelayPool,
    /// The broker's own.
    own: Option<RelayRecord>,
    live: BTreeMap<RelayId, Live>,
    /// Devices of accounts that are gone, to be refused.
    orphans: Vec<DeviceId>,
    /// Which stream of a relay server is its newest; older ones end.
    stream_by_relay: BTreeMap<RelayId, u64>,
    /// When a relay last said that it is reached elsewhere.
    moved: BTreeMap<RelayId, Instant>,
}

/// What is known of one of the operator's relays besides what is stored.
#[derive(Default)]
pub(crate) struct Live {
    pub(crate) report: Option<(Instant, RelayReport)>,
    pub(crate) probes: Vec<RelayProbe>,
}

impl Relays {
    /// Loads the operator's relays and tells all accounts.
    pub(crate) async fn load(
        store: Store,
        accounts: Arc<Accounts>,
        own: Option<RelayRecord>,
    ) -> Result<Arc<Self>> {
        let relays = Arc::new(Self {
            store,
            accounts,
            state: Mutex::new(State { own, ..State::default() }),
            running: OnceLock::new(),
            turn: AsyncMutex::default(),
        });
        relays.reload().await?;
        Ok(relays)
    }

    /// Loads them anew: the database was replaced, or an account is gone.
    pub(crate) async fn reload(&self) -> Result<()> {
        let now = UnixTime(fresh_ctx().unix.as_secs());
        self.store.end_orphaned_revocations(now).await.context("can't tidy revocations up")?;
        let records = self.store.operator_relays().await.context("can't load the relays")?;
        let orphans = self.store.orphaned_revocations().await.context("can't load the relays")?;
        {
            let mut state = self.lock();
            state.pool = RelayPool::new(records);
            state.orphans = orphans;
        }
        self.publish();
        Ok(())
    }

    /// Tells all accounts which relays are offered, and relay servers that there may be news.
    fn publish(&self) {
        let offered: Vec<RelayRecord> = {
            let state = self.lock();
            let draining = |id| state.live.get(&id).is_some_and(Live::is_draining);
            let records = state.pool.records().filter(|record| !draining(record.id));
            records.chain(&state.own).cloned().collect()
        };
        self.accounts.change_settings(|settings| settings.relays = offered);
        self.accounts.relay_news().announce();
    }

    /// Whose token it is.
    pub(crate) fn authenticate(&self, token: &str) -> ApiResult<Server> {
        if let Some((account, relay)) = self.accounts.relay_by_token(token) {
            return Ok(Server::Of(account, relay));
        }
        let found = self.lock().pool.with_token(SecretHash::of(token));
        found.map(Server::Operators).ok_or_else(|| {
            Failure::new(
                warren_proto::ErrorCode::Revoked,
                "the broker doesn't know this relay token, or it was revoked; make a new one: \
                 warren admin relays create",
            )
        })
    }

    /// What a relay server is to know; `None`: its token is void.
    pub(crate) fn init(&self, server: Server) -> Option<RelayInit> {
        let unix = fresh_ctx().unix;
        match server {
            Server::Of(account, relay) => {
                self.accounts.get(account)?.read(|account| account.relay_init(relay, unix))
            }
            Server::Operators(relay) => {
                let (record, mut revoked) = {
                    let state = self.lock();
                    (state.pool.get(relay)?.clone(), state.orphans.clone())
                };
                for account in self.accounts.all() {
                    revoked.extend(account.read(Account::revoked_devices));
                }
                revoked.sort_unstable();
                revoked.dedup();
                Some(relay_init(&record, RelayScope::Operator, revoked, unix))
            }
        }
    }

    /// Looks at one of the operator's relays.
    pub(crate) fn find(&self, text: &str) -> ApiResult<RelayRecord> {
        let found = self.lock().pool.find(text).cloned();
        found.ok_or_else(|| {
            Failure::new(
                warren_proto::ErrorCode::NotFound,
                format!(
                    "there is no relay '{text}' that is offered to all accounts; \
                     `warren admin relays list --operator` shows them"
                ),
            )
        })
    }

    /// Everything that is offered to all accounts, with what is known of it besides.
    pub(crate) fn look<R>(
        &self,
        look: impl FnOnce(&mut dyn Iterator<Item = (&RelayRecord, Option<&Live>)>) -> R,
    ) -> R {
        let state = self.lock();
        let records = state.pool.records().chain(&state.own);
        look(&mut records.map(|record| (record, state.live.get(&record.id))))
    }

    /// Makes a relay server that is offered to all accounts.
    pub(crate) async fn create(
        self: &Arc<Self>,
        by: By,
        name: DeviceName,
    ) -> ApiResult<RelayCreated> {
        let this = self.clone();
        uninterrupted(async move {
            let _turn = this.turn.lock().await;
            let (record, created) = this.lock().pool.prepare_server(name, &fresh_ctx())?;
            this.put(record, &by).await?;
            Ok(created)
        })
        .await
    }

    /// Offers somebody's TURN server to all accounts.
    pub(crate) async fn add_turn(
        self: &Arc<Self>,
        by: By,
        new: warren_coord::NewTurn,
    ) -> ApiResult<RelayId> {
        let this = self.clone();
        uninterrupted(async move {
            let _turn = this.turn.lock().await;
            let record = this.lock().pool.prepare_turn(new, &fresh_ctx())?;
            let id = record.id;
            this.put(record, &by).await?;
            Ok(id)
        })
        .await
    }

    /// Gives one of the operator's relays a new secret.
    pub(crate) async fn rotate(self: &Arc<Self>, by: By, id: RelayId) -> ApiResult<()> {
        let this = self.clone();
        uninterrupted(async move {
            let _turn = this.turn.lock().await;
            let record = this.lock().pool.prepare_rotate(id, &fresh_ctx())?;
            this.put(record, &by).await
        })
        .await
    }

    /// Removes one of the operator's relays; its token is void.
    pub(crate) async fn remove(self: &Arc<Self>, by: By, id: RelayId) -> ApiResult<()> {
        let this = self.clone();
        uninterrupted(async move {
            let _turn = this.turn.lock().await;
            let old = this.lock().pool.get(id).cloned();
            let entry = relay_activity(old.as_ref(), None, &by, unix_millis());
            this.store
                .remove_operator_relay(id, entry.as_slice())
                .await
                .map_err(|error| Failure::unchanged(&error.into()))?;
            {
                let mut state = this.lock();
                state.pool.remove(id);
                state.live.remove(&id);
            }
            this.publish();
            Ok(())
        })
        .await
    }

    async fn set_face(self: &Arc<Self>, id: RelayId, face: RelayFace) -> ApiResult<()> {
        let this = self.clone();
        uninterrupted(async move {
            let _turn = this.turn.lock().await;
            let changed = this.lock().pool.prepare_face(id, &face);
            match changed {
                Some(record) => this.put(record, &By::BROKER).await,
                None => Ok(()),
            }
        })
        .await
    }

    /// Only while holding the turn.
    async fn put(&self, record: RelayRecord, by: &By) -> ApiResult<()> {
        let old = self.lock().pool.get(record.id).cloned();
        let entry = relay_activity(old.as_ref(), Some(&record), by, unix_millis());
        self.store
            .put_operator_relay(&record, entry.as_slice())
            .await
            .map_err(|error| Failure::unchanged(&error.into()))?;
        self.lock().pool.put(record);
        self.publish();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Live {
    fn is_draining(&self) -> bool {
        self.report.as_ref().is_some_and(|(_, report)| report.draining)
    }
}

/// TURN servers' URLs, which may lead elsewhere by now.
fn turn_url(record: &RelayRecord) -> Option<TurnUrl> {
    match &record.kind {
        RelayKind::Turn { url, .. } => url.parse().ok(),
        RelayKind::Device(_) | RelayKind::Server { .. } | RelayKind::Own => None,
    }
}

/// Looks the names of all TURN servers up again.
pub(crate) async fn resolve_again(relays: &Arc<Relays>) {
    let shared: Vec<RelayRecord> =
        relays.look(|records| records.map(|(record, _)| record.clone()).collect());
    for record in shared {
        if let Some(face) = resolved(&record).await
            && let Err(failure) = relays.set_face(record.id, face).await
        {
            tracing::warn!(?failure, "can't store where a TURN server is");
        }
    }
    for account in relays.accounts.all() {
        resolve_of(&account).await;
    }
}

async fn resolve_of(account: &Arc<AccountHandle>) {
    let records = account.read(Account::relay_records);
    for record in records {
        let Some(face) = resolved(&record).await else { continue };
        let changed = account
            .durable(By::BROKER, move |account, _| account.prepare_relay_face(record.id, &face))
            .await;
        if let Err(failure) = changed {
            tracing::warn!(?failure, "can't store where a TURN server is");
        }
    }
}

/// `None` where there is nothing to look up, or the name server doesn't answer.
async fn resolved(record: &RelayRecord) -> Option<RelayFace> {
    turn_url(record)?.resolve().await.ok()
}
