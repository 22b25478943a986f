//! One account: its state machine, the streams of its sessions, its timer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard, mpsc, watch};
use tracing::{error, warn};
use warren_coord::policy::Report;
use warren_coord::{
    Account, AccountRecord, BrokerSettings, Bucket, By, CheckedPolicy, Ctx, Directory, LeaseEpoch,
    Prepared, Refused, SessionId, Snapshot, UnixTime,
};
use warren_proto::{AccountId, DeviceId, ErrorCode, InstanceId, MapVersion, SessionEvent};
use warren_store::{Store, StoreError};

use super::latest::Latest;
use super::session::Session;
use super::turns::Turns;
use super::{Lease, News, fresh_ctx, uninterrupted, unix_millis};
use crate::api::problem::{ApiResult, Failure};
use crate::outbox::{Sender, Sent, outbox};
use crate::server::Flow;

/// How long the timer rests after a bug of ours, so that it doesn't spin.
const AFTER_PANIC: Duration = Duration::from_secs(1);
/// Requests of one device at once: as many as one HTTP/2 connection has streams.
const REQUESTS: usize = 16;
/// Policies that are saved: as many at once, one more in that time. Each leaves an entry of Activity.
const SAVES: (u32, Duration) = (60, Duration::from_secs(60));
/// When to look again while nothing is due.
const FAR: Duration = Duration::from_secs(3600);

/// One account, shared by all who serve it.
pub(crate) struct AccountHandle {
    id: AccountId,
    state: Mutex<State>,
    /// Durable changes take turns: what is prepared is right only until the next one.
    turn: Arc<AsyncMutex<()>>,
    timer: Notify,
    store: Store,
    directory: Arc<RwLock<Directory>>,
    lost: mpsc::Sender<Lease>,
    news: News,
    /// The account's revision, for those who wait for it to grow.
    changes: watch::Sender<u64>,
    /// One text is checked at a time.
    checking: Arc<AsyncMutex<()>>,
    /// How often a policy may still be saved.
    saves: Mutex<Bucket>,
    /// Whose turn it is to be sent a whole map.
    pub(crate) turns: Turns,
    /// Requests under way, until they are answered ...
    pub(crate) requests: Arc<Latest>,
    /// ... sessions that wait for their turn ...
    pub(crate) opening: Arc<Latest>,
    /// ... sessions that have begun ...
    sessions: Arc<Latest>,
    /// ... and maps that were asked for.
    pub(crate) fetching: Arc<Latest>,
}

struct State {
    account: Account,
    streams: BTreeMap<SessionId, Sender>,
    /// When the timer task wakes up next.
    armed: Option<Instant>,
    /// Up to where relay servers were told that there may be news.
    announced: u64,
    service: Service,
}

/// Whether the account is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    Open,
    /// Durable changes and new sessions are refused while the account is being removed.
    Removing,
    /// By this process no more.
    Closed,
}

impl State {
    /// Hands all events to their streams.
    fn pump(&mut self) {
        while let Some((session, event)) = self.account.poll_event() {
            let ends = matches!(event, SessionEvent::Revoked);
            let Some(stream) = self.streams.get(&session) else { continue };
            match stream.send(event) {
                Sent::Queued => {}
                Sent::Overflow => self.account.handle_overflow(session),
            }
            if ends {
                self.streams.remove(&session);
            }
        }
    }
}

impl AccountHandle {
    /// Begins to drive an account.
    pub(super) fn start(
        snapshot: Snapshot,
        epoch: LeaseEpoch,
        settings: &BrokerSettings,
        store: Store,
        directory: Arc<RwLock<Directory>>,
        lost: mpsc::Sender<Lease>,
        news: News,
    ) -> Arc<Self> {
        let ctx = fresh_ctx();
        let account = Account::new(snapshot, epoch, settings, ctx.now, ctx.unix);
        let handle = Arc::new(Self {
            id: account.id(),
            state: Mutex::new(State {
                account,
                streams: BTreeMap::new(),
                armed: None,
                announced: 0,
                service: Service::Open,
            }),
            turn: Arc::default(),
            timer: Notify::new(),
            store,
            directory,
            lost,
            news,
            changes: watch::Sender::new(0),
            checking: Arc::default(),
            saves: Mutex::new(Bucket::full()),
            turns: Turns::default(),
            requests: Latest::new(REQUESTS),
            opening: Latest::new(1),
            sessions: Latest::new(1),
            fetching: Latest::new(1),
        });
        tokio::spawn(drive(handle.clone()));
        handle
    }

    /// The account's id.
    pub(crate) fn id(&self) -> AccountId {
        self.id
    }

    /// The account as it is stored.
    pub(crate) fn record(&self) -> AccountRecord {
        self.read(|account| account.record().clone())
    }

    /// Looks at the account.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&Account) -> R) -> R {
        look(&self.lock().account)
    }

    /// The account's revision, which grows whenever something changes that people may be shown.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Changes what is soft, and sends out what follows from it.
    pub(crate) fn soft<R>(&self, change: impl FnOnce(&mut Account, Instant) -> R) -> R {
        let mut state = self.lock();
        let reply = change(&mut state.account, Instant::now());
        self.settle(state);
        reply
    }

    /// Changes what is durable: decides, commits, applies; then sends out what follows from it.
    /// The reply is there only once the change is safe. Activity says that it was `by`.
    ///
    /// # Errors
    /// The decision's refusal, or that the store can't; then nothing has changed.
    pub(crate) async fn durable<R: Send + 'static>(
        self: &Arc<Self>,
        by: By,
        decide: impl FnOnce(&Account, &Ctx) -> Result<Prepared<R>, Refused> + Send + 'static,
    ) -> ApiResult<R> {
        let this = self.clone();
        uninterrupted(async move {
            let _turn = this.turn.lock().await;
            let prepared = this.decide(decide)?;
            this.commit(prepared, &by).await
        })
        .await
    }

    fn decide<R>(
        &self,
        decide: impl FnOnce(&Account, &Ctx) -> Result<Prepared<R>, Refused>,
    ) -> ApiResult<Prepared<R>> {
        let state = self.lock();
        if state.service != Service::Open {
            return Err(closed());
        }
        Ok(decide(&state.account, &fresh_ctx())?)
    }

    /// Only while holding the turn.
    async fn commit<R>(&self, prepared: Prepared<R>, by: &By) -> ApiResult<R> {
        let changes = &prepared.changes;
        if !changes.is_empty() {
            let at = unix_millis();
            let (epoch, entries) =
                self.read(|account| (account.epoch(), account.activity(changes, by, at)));
            if let Err(error) = self.store.commit(self.id, epoch, changes, &entries).await {
                if matches!(error, StoreError::Fenced) {
                    // The receiver has room or is told already.
                    let _ = self.lost.try_send(Lease::Account(self.id));
                }
                return Err(Failure::unchanged(&error.into()));
            }
            self.directory
                .write()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .apply(self.id, changes);
            self.news.webhooks.notify_one();
        }
        Ok(self.soft(|account, now| account.apply(prepared, now)))
    }

    /// Says what is wrong with a policy's text and what it would change. Pairs of devices are
    /// compared: beside the account's lock, not on the runtime's threads, and one text at a time.
    ///
    /// # Errors
    /// It was cut short.
    pub(crate) async fn check_policy(&self, text: String) -> ApiResult<CheckedPolicy> {
        let turn = self.checking.clone().lock_owned().await;
        let case = self.read(Account::policy_case);
        let check = move || {
            let checked = case.check(text);
            drop(turn);
            checked
        };
        let checked = tokio::task::spawn_blocking(check).await;
        checked.map_err(|error| Failure::unavailable(&error.into()))
    }

    /// Checks a policy's text and puts it in force, in place of the version `base` if that is given.
    ///
    /// # Errors
    /// As [`Account::prepare_checked_policy`], that the store can't, or too many of them lately.
    pub(crate) async fn save_policy(
        self: &Arc<Self>,
        by: By,
        text: String,
        base: Option<u64>,
    ) -> ApiResult<(u64, Report)> {
        let checked = self.check_policy(text).await?;
        if checked.report.is_good() && !self.saves().take(SAVES.0, SAVES.1, Instant::now()) {
            return Err(Refused::RateLimited.into());
        }
        self.durable(by, move |account, _| account.prepare_checked_policy(checked, base)).await
    }

    fn saves(&self) -> MutexGuard<'_, Bucket> {
        self.saves.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether the broker's operator has suspended it.
    pub(crate) fn is_suspended(&self) -> bool {
        self.read(|account| account.record().settings.suspended)
    }

    /// Begins a device's control session, whose stream has this flow; the device's older one ends,
    /// whether it is read or not.
    pub(crate) fn open_session(
        self: &Arc<Self>,
        device: DeviceId,
        instance: Option<InstanceId>,
        last_event_id: Option<MapVersion>,
        flow: &Arc<Flow>,
    ) -> ApiResult<Session> {
        let mut state = self.lock();
        if state.service != Service::Open {
            return Err(closed());
        }
        let opened = state.account.open_session(device, instance, last_event_id, Instant::now())?;
        let (sender, receiver) = outbox();
        if let Some(old) = opened.replaced.and_then(|old| state.streams.remove(&old)) {
            old.abandon();
        }
        state.streams.insert(opened.session, sender);
        let place = self.sessions.enter(device, flow);
        self.settle(state);
        Ok(Session::new(self.clone(), opened.session, receiver, place))
    }

    pub(super) fn close_session(&self, session: SessionId) {
        let mut state = self.lock();
        state.streams.remove(&session);
        state.account.close_session(session, Instant::now());
        self.settle(state);
    }

    /// Takes new broker-wide settings over.
    pub(super) fn change_settings(&self, settings: &BrokerSettings) {
        self.soft(|account, now| account.handle_settings(settings, now));
    }

    /// Writes what is not urgent and ends the streams: nodes come back to the next process.
    pub(super) async fn shut_down(self: &Arc<Self>) -> ApiResult<()> {
        let written =
            self.durable(By::BROKER, |account, ctx| Ok(account.prepare_housekeeping(ctx))).await;
        self.retire().await;
        written
    }

    /// Ends the streams and refuses every further change, once what is under way is done.
    pub(super) async fn retire(&self) {
        let _turn = self.turn.lock().await;
        let mut state = self.lock();
        state.service = Service::Closed;
        state.streams.clear();
        drop(state);
        self.timer.notify_one();
    }

    /// Keeps durable changes away from an account that is about to be removed.
    pub(super) async fn close_for_removal(self: &Arc<Self>) -> Closing {
        let turn = self.turn.clone().lock_owned().await;
        self.lock().service = Service::Removing;
        Closing { handle: self.clone(), removed: false, _turn: turn }
    }

    /// Sends events out and makes sure that the timer wakes up in time.
    fn settle(&self, mut state: MutexGuard<'_, State>) {
        state.pump();
        self.tell_watchers(&state);
        let news = state.account.relay_news();
        if std::mem::replace(&mut state.announced, news) != news {
            self.news.relays.announce();
        }
        if state.account.has_presences() {
            self.news.webhooks.notify_one();
        }
        let due = state.account.poll_timeout().map(|(at, _)| at);
        let sooner = match (due, state.armed) {
            (Some(due), Some(armed)) => due < armed,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if sooner {
            self.timer.notify_one();
        }
    }

    fn tell_watchers(&self, state: &State) {
        let revision = state.account.revision();
        self.changes.send_if_modified(|told| std::mem::replace(told, revision) != revision);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Handles what is due. Returns whether housekeeping is; `None`: the account is closed.
    fn handle_timeout(&self) -> Option<bool> {
        let mut state = self.lock();
        if state.service == Service::Closed {
            return None;
        }
        let ctx = fresh_ctx();
        state.account.handle_clock(ctx.unix, ctx.now);
        if state.account.poll_timeout().is_some_and(|(due, _)| due <= ctx.now) {
            state.account.handle_timeout(ctx.now);
        }
        state.pump();
        self.tell_watchers(&state);
        if state.account.has_presences() {
            self.news.webhooks.notify_one();
        }
        Some(state.account.poll_housekeeping(&ctx).is_some())
    }

    /// Handles what is due. Returns when to come back; `None`: the account is closed.
    async fn tick(self: &Arc<Self>) -> Option<Instant> {
        // On a thread of its own: a delta for each of a thousand sessions takes a while to make,
        // and what it is made of stays away from the memory of the workers' connections.
        let this = self.clone();
        let ticking = tokio::task::spawn_blocking(move || this.handle_timeout());
        let housekeeping = match ticking.await {
            Ok(outcome) => outcome?,
            Err(error) if error.is_panic() => {
                error!(account = %self.id, "the account's timer panicked; it goes on");
                return Some(Instant::now() + AFTER_PANIC);
            }
            // The runtime is ending.
            Err(_) => return None,
        };
        if housekeeping
            && let Err(failure) =
                self.durable(By::BROKER, |account, ctx| Ok(account.prepare_housekeeping(ctx))).await
        {
            warn!(?failure, "housekeeping is put off");
        }
        let mut state = self.lock();
        let due = state.account.poll_timeout().map_or_else(|| Instant::now() + FAR, |(at, _)| at);
        state.armed = Some(due);
        Some(due)
    }
}

fn closed() -> Failure {
    Failure::new(
        ErrorCode::Unavailable,
        "the broker is shutting down or being restored; try again in a moment",
    )
}

/// The timer of an account, until it is closed.
async fn drive(handle: Arc<AccountHandle>) {
    while let Some(due) = handle.tick().await {
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => {}
            () = handle.timer.notified() => {}
        }
    }
}

/// An account that is being removed: unless the removal succeeds, it opens again.
pub(super) struct Closing {
    handle: Arc<AccountHandle>,
    removed: bool,
    _turn: OwnedMutexGuard<()>,
}

impl Closing {
    pub(super) fn epoch(&self) -> LeaseEpoch {
        self.handle.read(Account::epoch)
    }

    /// Until when relays are to refuse the account's devices.
    pub(super) fn revoked_until(&self) -> UnixTime {
        self.handle.read(Account::credentials_end)
    }

    /// Cuts every device off.
    pub(super) fn revoke_all(mut self) {
        self.removed = true;
        self.handle.soft(Account::revoke_all);
        self.handle.lock().service = Service::Closed;
        self.handle.timer.notify_one();
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if !self.removed {
            self.handle.lock().service = Service::Open;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Accounts;
    use super::*;

    #[tokio::test]
    async fn an_account_that_could_not_be_removed_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("warren.db")).await.unwrap();
        let (lost, _) = mpsc::channel(1);
        let accounts = Accounts::load(store, BrokerSettings::default(), lost).await.unwrap();
        let handle = accounts.create(By::BROKER, "home".parse().unwrap(), None).await.unwrap();

        let closing = handle.close_for_removal().await;
        let open = || handle.open_session(DeviceId(1), None, None, &Arc::default());
        let code = |outcome: ApiResult<Session>| outcome.err().map(|failure| failure.code());
        assert_eq!(code(open()), Some(ErrorCode::Unavailable));
        assert!(handle.handle_timeout().is_some(), "its timer doesn't end meanwhile");
        drop(closing);
        assert_eq!(
            code(open()),
            Some(ErrorCode::Revoked),
            "there is no such device, but a service"
        );
        handle
            .durable(By::BROKER, |account, ctx| Ok(account.prepare_housekeeping(ctx)))
            .await
            .unwrap();

        handle.close_for_removal().await.revoke_all();
        assert_eq!(code(open()), Some(ErrorCode::Unavailable));
        assert!(handle.handle_timeout().is_none());
    }
}
