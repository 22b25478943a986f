//! All accounts in memory, each a state machine behind a lock, and the one way to change what is
//! durable: decide, commit, apply.

mod handle;
mod latest;
mod session;
mod turns;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use futures_util::FutureExt as _;
use ipnet::Ipv4Net;
use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc};
use tracing::error;
use warren_coord::{Actor, BrokerSettings, By, Ctx, Directory, Gatekeeper, account_activity};
use warren_proto::{
    AccountId, BrokerIdentity, DeviceId, DeviceName, ErrorCode, Register, Registered, RelayId,
};
use warren_store::Store;

use crate::api::problem::{ApiResult, Failure};
use crate::relays::NewsDesk;
pub(crate) use handle::AccountHandle;
pub(crate) use latest::Place;
pub(crate) use session::Session;
pub(crate) use turns::Turn;

/// The time and fresh randomness for one decision.
pub(crate) fn fresh_ctx() -> Ctx {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ctx { now: Instant::now(), unix, entropy: rand::random() }
}

/// What one process owns at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lease {
    /// An account.
    Account(AccountId),
    /// The people.
    People,
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(id) => write!(f, "account {id}"),
            Self::People => f.write_str("the people"),
        }
    }
}

/// The wall clock, in milliseconds since the Unix epoch.
pub(crate) fn unix_millis() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)
}

/// The broker's accounts.
pub(crate) struct Accounts {
    store: Store,
    directory: Arc<RwLock<Directory>>,
    handles: RwLock<BTreeMap<AccountId, Arc<AccountHandle>>>,
    settings: RwLock<BrokerSettings>,
    /// Creating and removing accounts takes turns.
    turn: AsyncMutex<()>,
    gatekeeper: Gatekeeper,
    /// Says that this process may no longer serve an account: another one has taken it over.
    lost: mpsc::Sender<Lease>,
    news: News,
}

/// Whom an account tells that there is something to hand on.
#[derive(Clone, Default)]
pub(crate) struct News {
    /// Relay servers may have to hear something.
    relays: NewsDesk,
    /// Wakes whoever hands news over to webhooks.
    webhooks: Arc<Notify>,
}

impl Accounts {
    /// Takes all accounts over. `lost` hears of an account that another process took away.
    pub(crate) async fn load(
        store: Store,
        settings: BrokerSettings,
        lost: mpsc::Sender<Lease>,
    ) -> Result<Arc<Self>> {
        let accounts = Arc::new(Self {
            store: store.clone(),
            directory: Arc::default(),
            handles: RwLock::default(),
            settings: RwLock::new(settings),
            turn: AsyncMutex::default(),
            gatekeeper: Gatekeeper::new(rand::random(), Instant::now()),
            lost,
            news: News::default(),
        });
        accounts.load_all().await?;
        Ok(accounts)
    }

    async fn load_all(&self) -> Result<()> {
        for stored in self.store.load_all().await.context("can't list the accounts")? {
            self.take_over(stored.account.id).await?;
        }
        Ok(())
    }

    /// Replaces everything by what a backup of the database holds. All streams end; if the backup
    /// can't be used, all goes on as before.
    pub(crate) async fn restore(self: &Arc<Self>, database: PathBuf) -> ApiResult<()> {
        let this = self.clone();
        uninterrupted(
            async move {
                let _turn = this.turn.lock().await;
                for handle in this.all() {
                    handle.retire().await;
                }
                this.write_handles().clear();
                *this.write_directory() = Directory::new();
                let restored = this.store.restore_from(&database).await;
                let loaded = this.load_all().await;
                restored.context("can't restore the database").and(loaded)
            }
            .map(|outcome| outcome.map_err(|error| Failure::unavailable(&error))),
        )
        .await
    }

    /// Takes the lease first: what is loaded then, nobody else changes any more.
    async fn take_over(&self, id: AccountId) -> Result<Arc<AccountHandle>> {
        let failed = || format!("can't take account {id} over");
        let epoch = self.store.take_lease(id).await.with_context(failed)?;
        let snapshot = self.store.load(id).await.with_context(failed)?.with_context(failed)?;
        self.write_directory().insert(&snapshot);
        let settings = self.settings();
        let handle = AccountHandle::start(
            snapshot,
            epoch,
            &settings,
            self.store.clone(),
            self.directory.clone(),
            self.lost.clone(),
            self.news.clone(),
        );
        self.write_handles().insert(id, handle.clone());
        Ok(handle)
    }

    /// Creates an account.
    pub(crate) async fn create(
        self: &Arc<Self>,
        by: By,
        name: DeviceName,
        range: Option<Ipv4Net>,
    ) -> ApiResult<Arc<AccountHandle>> {
        let this = self.clone();
        uninterrupted(async move {
            let _turn = this.turn.lock().await;
            let record = this.read_directory().prepare_account(name, range, &fresh_ctx())?;
            let id = record.id;
            let entry = account_activity(None, Some(&record), &by, unix_millis());
            this.store
                .create_account(&record, entry.as_slice())
                .await
                .context("can't store the new account")
                .map_err(|error| Failure::unavailable(&error))?;
            this.take_over(id).await.map_err(|error| Failure::unavailable(&error))
        })
        .await
    }

    /// Removes an account; all its devices are cut off.
    pub(crate) async fn remove(self: &Arc<Self>, by: By, id: AccountId) -> ApiResult<()> {
        let this = self.clone();
        uninterrupted(async move {
            let _turn = this.turn.lock().await;
            let handle = this.get(id).ok_or_else(|| Failure::not_found("account"))?;
            let closing = handle.close_for_removal().await;
            let entry = account_activity(Some(&handle.record()), None, &by, unix_millis());
            this.store
                .remove_account(id, closing.epoch(), closing.revoked_until(), entry.as_slice())
                .await
                .context("can't remove the account")
                .map_err(|error| Failure::unavailable(&error))?;
            this.write_directory().remove(id);
            this.write_handles().remove(&id);
            closing.revoke_all();
            Ok(())
        })
        .await
    }

    /// An account by id.
    pub(crate) fn get(&self, id: AccountId) -> Option<Arc<AccountHandle>> {
        self.read_handles().get(&id).cloned()
    }

    /// An account by name or id.
    pub(crate) fn find(&self, text: &str) -> ApiResult<Arc<AccountHandle>> {
        // The id first: nobody hides another's account by a name like its id.
        let by_id = text.parse().ok().and_then(|id| self.get(id));
        let by_name = || {
            let name = text.parse().ok()?;
            let id = self.read_directory().account_named(&name);
            id.and_then(|id| self.get(id))
        };
        by_id.or_else(by_name).ok_or_else(|| {
            Failure::new(
                ErrorCode::NotFound,
                format!("there is no account '{text}'; `warren admin accounts list` shows them"),
            )
        })
    }

    /// All accounts, by name.
    pub(crate) fn all(&self) -> Vec<Arc<AccountHandle>> {
        let mut all: Vec<_> = self.read_handles().values().cloned().collect();
        all.sort_by_key(|handle| handle.record().name);
        all
    }

    /// Whose token it is.
    pub(crate) fn authenticate(&self, token: &str) -> ApiResult<(Arc<AccountHandle>, DeviceId)> {
        let found = self.read_directory().authenticate(token);
        found
            .and_then(|(account, device)| Some((self.get(account)?, device)))
            .ok_or_else(|| warren_coord::Refused::Revoked.into())
    }

    /// The relay server of an account that a token belongs to.
    pub(crate) fn relay_by_token(&self, token: &str) -> Option<(AccountId, RelayId)> {
        self.read_directory().relay(token)
    }

    /// Where they are stored.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Where it is announced that relay servers may have to hear something.
    pub(crate) fn relay_news(&self) -> &NewsDesk {
        &self.news.relays
    }

    /// Waits until there may be something to tell webhooks.
    pub(crate) async fn webhook_news(&self) {
        self.news.webhooks.notified().await;
    }

    /// There may be.
    pub(crate) fn announce_webhook_news(&self) {
        self.news.webhooks.notify_one();
    }

    /// Something to answer, for a device that wants to join.
    pub(crate) fn challenge(&self) -> warren_proto::Challenge {
        self.gatekeeper.challenge(rand::random(), Instant::now())
    }

    /// Lets a device join the account that its join key belongs to; `own` is what devices verify
    /// of this broker.
    pub(crate) async fn register(
        &self,
        register: Register,
        own: &BrokerIdentity,
        source: IpAddr,
    ) -> ApiResult<Registered> {
        let proven = self.gatekeeper.verify(register, own, Instant::now())?;
        let found = self.read_directory().join_key(&proven.register().join_key);
        let handle = found
            .and_then(|(account, _)| self.get(account))
            .ok_or(warren_coord::Refused::JoinKeyUnknown)?;
        let by = By { actor: Actor::JoinKey, source: Some(source) };
        handle.durable(by, move |account, ctx| account.prepare_register(&proven, ctx)).await
    }

    /// The settings that all accounts have.
    pub(crate) fn settings(&self) -> BrokerSettings {
        self.settings.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Changes the settings and tells every session.
    pub(crate) fn change_settings(&self, change: impl FnOnce(&mut BrokerSettings)) {
        let settings = {
            let mut settings =
                self.settings.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            change(&mut settings);
            settings.clone()
        };
        for handle in self.all() {
            handle.change_settings(&settings);
        }
    }

    /// Writes what is not urgent and ends all streams.
    pub(crate) async fn shut_down(&self) {
        self.news.relays.end();
        for handle in self.all() {
            if let Err(failure) = handle.shut_down().await {
                error!(?failure, "can't write when devices were last seen");
            }
        }
    }

    fn read_directory(&self) -> RwLockReadGuard<'_, Directory> {
        self.directory.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write_directory(&self) -> RwLockWriteGuard<'_, Directory> {
        self.directory.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn read_handles(&self) -> RwLockReadGuard<'_, BTreeMap<AccountId, Arc<AccountHandle>>> {
        self.handles.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write_handles(&self) -> RwLockWriteGuard<'_, BTreeMap<AccountId, Arc<AccountHandle>>> {
        self.handles.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Runs to the end even if the client that asked for it goes away: between a commit and what
/// follows from it nothing may be lost.
pub(crate) async fn uninterrupted<T: Send + 'static>(
    work: impl Future<Output = ApiResult<T>> + Send + 'static,
) -> ApiResult<T> {
    match tokio::spawn(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Failure::unavailable(&anyhow::Error::new(error))),
    }
}
