//! The people in memory, behind a lock, and the one way to change what is durable: decide, commit,
//! apply, as with accounts.
//!
//! What signs somebody in goes through [`PeopleHandle::check_password`], [`PeopleHandle::check_code`]
//! and [`PeopleHandle::sign_in`], which count attempts and take as long for strangers as for users.
//! Everything else is a decision of [`People`] by [`PeopleHandle::durable`], or a look by
//! [`PeopleHandle::read`]. Who may decide what is the caller's to ask: [`Grant`].

mod grant;
mod hasher;
mod sign_in;
mod single_sign_on;

use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context as _, Result};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, mpsc, watch};
use tracing::{error, warn};
use warren_coord::{
    By, Ctx, HOUSEKEEPING_INTERVAL, People, PeopleChange, Prepared, Refused, SignInThrottle,
    SsoVisits,
};
use warren_proto::AccountId;
use warren_store::{Store, StoreError};

use crate::accounts::{Lease, fresh_ctx, uninterrupted, unix_millis};
use crate::api::problem::{ApiResult, Failure};
use hasher::Hasher;

pub(crate) use grant::{Grant, Holder};

/// All people of the broker.
pub(crate) struct PeopleHandle {
    state: Mutex<People>,
    throttle: Mutex<SignInThrottle>,
    visits: Mutex<SsoVisits>,
    hasher: Hasher,
    /// Durable changes take turns.
    turn: Arc<AsyncMutex<()>>,
    store: Store,
    /// Counts the changes of who is what in which account.
    memberships: watch::Sender<u64>,
    /// Says that another process has taken the people over.
    lost: mpsc::Sender<Lease>,
}

/// No durable change is made while this is held.
pub(crate) struct Paused(#[expect(dead_code, reason = "held, not looked at")] OwnedMutexGuard<()>);

impl PeopleHandle {
    /// Takes the people over.
    pub(crate) async fn load(store: Store, lost: mpsc::Sender<Lease>) -> Result<Arc<Self>> {
        let hasher = Hasher::start().await.context("can't hash passwords")?;
        let people = take_over(&store).await?;
        Ok(Arc::new(Self {
            state: Mutex::new(people),
            throttle: Mutex::default(),
            visits: Mutex::default(),
            hasher,
            turn: Arc::default(),
            store,
            memberships: watch::Sender::default(),
            lost,
        }))
    }

    /// Keeps changes away while the database is replaced.
    pub(crate) async fn pause(&self) -> Paused {
        Paused(self.turn.clone().lock_owned().await)
    }

    /// Takes the people of another database over.
    pub(crate) async fn reload(&self, _paused: &Paused) -> Result<()> {
        let people = take_over(&self.store).await?;
        *self.lock() = people;
        self.memberships.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Tells of changes of who is what in which account.
    pub(crate) fn membership_changes(&self) -> watch::Receiver<u64> {
        self.memberships.subscribe()
    }

    /// Looks at the people.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&People) -> R) -> R {
        look(&self.lock())
    }

    /// Changes what is soft.
    pub(crate) fn soft<R>(&self, change: impl FnOnce(&mut People) -> R) -> R {
        change(&mut self.lock())
    }

    /// Changes what is durable: decides, commits with what Activity says of it, applies. The reply
    /// is there only once the change is safe.
    ///
    /// # Errors
    /// The decision's refusal, or that the store can't; then nothing has changed.
    pub(crate) async fn durable<R: Send + 'static>(
        self: &Arc<Self>,
        by: By,
        decide: impl FnOnce(&People, &Ctx) -> Result<Prepared<R, PeopleChange>, Refused>
        + Send
        + 'static,
    ) -> ApiResult<R> {
        let this = self.clone();
        uninterrupted(async move {
            let _turn = this.turn.lock().await;
            let prepared = this.read(|people| decide(people, &fresh_ctx()))?;
            this.commit(prepared, &by).await
        })
        .await
    }

    /// Only while holding the turn.
    async fn commit<R>(&self, prepared: Prepared<R, PeopleChange>, by: &By) -> ApiResult<R> {
        let changes = &prepared.changes;
        if !changes.is_empty() {
            let at = unix_millis();
            let (lease, entries) =
                self.read(|people| (people.epoch(), people.activity(changes, by, at)));
            if let Err(error) = self.store.commit_people(lease, changes, &entries).await {
                if matches!(error, StoreError::Fenced) {
                    // The receiver has room or is told already.
                    let _ = self.lost.try_send(Lease::People);
                }
                return Err(Failure::unchanged(&error.into()));
            }
        }
        let is_about_members = prepared.changes.iter().any(is_about_members);
        let reply = self.soft(|people| people.apply(prepared));
        if is_about_members {
            self.memberships.send_modify(|count| *count += 1);
        }
        Ok(reply)
    }

    /// Forgets memberships of accounts that are gone: a crash may have come between.
    ///
    /// # Errors
    /// As [`PeopleHandle::durable`].
    pub(crate) async fn forget_accounts_but(self: &Arc<Self>, kept: &[AccountId]) -> ApiResult<()> {
        let gone = self.read(|people| {
            let mut all: Vec<AccountId> =
                people.snapshot().memberships.iter().map(|it| it.account).collect();
            all.sort_unstable();
            all.dedup();
            all.retain(|account| !kept.contains(account));
            all
        });
        for account in gone {
            let forget =
                move |people: &People, _: &Ctx| Ok(people.prepare_account_removed(account));
            self.durable(By::BROKER, forget).await?;
        }
        Ok(())
    }

    /// Sweeps away what has expired and writes when sessions were used, now and then until
    /// `shutdown` turns true, and once more then.
    pub(crate) async fn keep_house(self: Arc<Self>, mut shutdown: watch::Receiver<bool>) {
        loop {
            let ends = tokio::select! {
                () = tokio::time::sleep(HOUSEKEEPING_INTERVAL) => false,
                _ = shutdown.wait_for(|stop| *stop) => true,
            };
            let tidy = |people: &People, ctx: &Ctx| Ok(people.prepare_housekeeping(ctx));
            match self.durable(By::BROKER, tidy).await {
                Ok(()) => {}
                Err(failure) if ends => error!(?failure, "can't write when sessions were used"),
                Err(failure) => warn!(?failure, "housekeeping of the people is put off"),
            }
            if ends {
                return;
            }
        }
    }

    fn throttle(&self) -> MutexGuard<'_, SignInThrottle> {
        self.throttle.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn lock(&self) -> MutexGuard<'_, People> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Whether a change says who somebody is, or what in which account.
fn is_about_members(change: &PeopleChange) -> bool {
    match change {
        PeopleChange::User(_)
        | PeopleChange::UserRemoved(_)
        | PeopleChange::Membership(_)
        | PeopleChange::MembershipRemoved { .. } => true,
        PeopleChange::Seen { .. }
        | PeopleChange::Invitation(_)
        | PeopleChange::InvitationRemoved(_)
        | PeopleChange::Session(_)
        | PeopleChange::SessionRemoved(_)
        | PeopleChange::SessionUsed { .. }
        | PeopleChange::Token(_)
        | PeopleChange::TokenRemoved(_)
        | PeopleChange::TokenUsed { .. }
        | PeopleChange::Link(_)
        | PeopleChange::LinkRemoved(_) => false,
    }
}

/// The lease first: what is loaded then, nobody else changes any more.
async fn take_over(store: &Store) -> Result<People> {
    let epoch = store.take_people_lease().await.context("can't take the people over")?;
    let snapshot = store.load_people().await.context("can't load the people")?;
    Ok(People::new(snapshot, epoch))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use warren_coord::{Actor, Asker, ClientInfo, NewUser, SignInStep, UserEdit};
    use warren_proto::{ErrorCode, UserId};
    use warren_store::ActivityFilter;

    use super::*;

    async fn people() -> (tempfile::TempDir, Store, Arc<PeopleHandle>) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("warren.db")).await.unwrap();
        let (lost, _) = mpsc::channel(1);
        let people = PeopleHandle::load(store.clone(), lost).await.unwrap();
        (folder, store, people)
    }

    fn client(n: u8) -> ClientInfo {
        let address: IpAddr = [198, 51, 100, n].into();
        ClientInfo { address, user_agent: "Browser/1.0".to_owned() }
    }

    async fn create(people: &Arc<PeopleHandle>, email: &str, password: &str) -> UserId {
        let password = Some(people.hash(password.to_owned()).await.unwrap());
        let email = email.parse().unwrap();
        let new = NewUser { email, name: String::new(), password, operator: false };
        let create = move |people: &People, ctx: &Ctx| people.prepare_user(new, ctx);
        people.durable(By::local(0), create).await.unwrap()
    }

    async fn try_in(
        people: &Arc<PeopleHandle>,
        email: &str,
        password: &str,
        n: u8,
    ) -> ApiResult<String> {
        match people.check_password(email, password.to_owned(), &client(n)).await? {
            SignInStep::Done(proof) => Ok(people.sign_in(proof, None, client(n)).await?.secret),
            SignInStep::SecondFactor { .. } => panic!("no second factor"),
        }
    }

    const PASSWORD: &str = "correct horse battery";

    #[tokio::test]
    async fn who_signs_in_stays_so_over_a_restart_and_activity_says_it() {
        let (_folder, store, people) = people().await;
        let bob = create(&people, "bob@example.org", PASSWORD).await;
        let secret = try_in(&people, " Bob@Example.org ", PASSWORD, 1).await.unwrap();
        let (lost, _) = mpsc::channel(1);
        let next = PeopleHandle::load(store.clone(), lost).await.unwrap();
        let (session, user) = next.session(&secret).unwrap();
        assert_eq!((session.user, user.id), (bob, bob));
        assert!(next.session("nonsense").is_none());

        let edit = UserEdit { name: Some("Bob".to_owned()), ..UserEdit::default() };
        let rename = move |people: &People, _: &Ctx| people.prepare_edit_user(bob, edit);
        let fenced = people.durable(By::local(0), rename).await.unwrap_err();
        assert_eq!(fenced.code(), ErrorCode::Unavailable, "the next process owns the people");

        let page = store.activity(&ActivityFilter::default(), None, 10).await.unwrap();
        let told: Vec<(&str, &str)> = page
            .entries
            .iter()
            .map(|it| (it.entry.action.as_str(), it.entry.actor.name.as_str()))
            .collect();
        let by_socket = "operator (local socket, uid 0)";
        let expected = [("user.signed-in", "bob@example.org"), ("user.created", by_socket)];
        assert_eq!(told, expected);
        assert_eq!(page.entries[0].entry.source, Some(client(1).address));
    }

    #[tokio::test]
    async fn strangers_are_answered_as_users_are() {
        let (_folder, _store, people) = people().await;
        create(&people, "bob@example.org", PASSWORD).await;
        for n in [1, 2] {
            let mut answers = Vec::new();
            for email in ["bob@example.org", "nobody@example.org"] {
                let mut codes = Vec::new();
                for _ in 0..7 {
                    let failure = try_in(&people, email, "wrong password", n).await.unwrap_err();
                    codes.push((failure.code(), failure.operator_text().to_owned()));
                }
                answers.push(codes);
            }
            assert_eq!(answers[0], answers[1]);
            assert_eq!(answers[0][0].0, ErrorCode::SignInFailed);
            assert_eq!(answers[0][6].0, ErrorCode::RateLimited);
        }
        assert!(try_in(&people, "bob@example.org", PASSWORD, 3).await.is_ok(), "from elsewhere");
        let garbage = try_in(&people, "no address", PASSWORD, 4).await.unwrap_err();
        assert_eq!(garbage.code(), ErrorCode::SignInFailed);
    }

    #[tokio::test]
    async fn a_password_is_asked_for_again_before_what_matters() {
        let (_folder, _store, people) = people().await;
        let bob = create(&people, "bob@example.org", PASSWORD).await;
        let address = client(1).address;
        assert!(people.confirm_password(bob, PASSWORD.to_owned(), address).await.is_ok());
        let wrong = people.confirm_password(bob, "wrong".to_owned(), address).await.unwrap_err();
        assert_eq!(wrong.code(), ErrorCode::SignInFailed);
    }

    #[tokio::test]
    async fn what_somebody_may_follows_from_who_he_is() {
        use warren_coord::{Right, Role};
        let (_folder, _store, people) = people().await;
        let bob = create(&people, "bob@example.org", PASSWORD).await;
        let home = AccountId(1);
        let join = move |people: &People, ctx: &Ctx| {
            people.prepare_role(&Asker::Operator, bob, home, Some(Role::Admin), ctx)
        };
        people.durable(By::local(0), join).await.unwrap();
        let email = "bob@example.org".parse().unwrap();
        let grant = Grant { holder: Holder::User { id: bob, email }, source: None };
        let ask = |grant: &Grant, right, account| {
            let answer = people.read(|people| grant.require(people, right, account));
            answer.err().map(|failure| failure.code())
        };
        assert_eq!(ask(&grant, Right::ManageDevices, Some(home)), None);
        assert_eq!(ask(&grant, Right::ManageOwners, Some(home)), Some(ErrorCode::Forbidden));
        let office = Some(AccountId(2));
        assert_eq!(ask(&grant, Right::ReadAccount, office), Some(ErrorCode::NotFound));
        assert_eq!(ask(&grant, Right::ReadBroker, None), Some(ErrorCode::Forbidden));
        let local = Grant::local(0);
        assert_eq!(ask(&local, Right::ManageBroker, None), None);
        assert_eq!(local.by().actor, Actor::Local { uid: 0 });
    }

    #[tokio::test]
    async fn memberships_of_accounts_that_are_gone_are_forgotten() {
        use warren_coord::Role;
        let (_folder, _store, people) = people().await;
        let bob = create(&people, "bob@example.org", PASSWORD).await;
        for account in [AccountId(1), AccountId(2)] {
            let join = move |people: &People, ctx: &Ctx| {
                people.prepare_role(&Asker::Operator, bob, account, Some(Role::Owner), ctx)
            };
            people.durable(By::local(0), join).await.unwrap();
        }
        people.forget_accounts_but(&[AccountId(2)]).await.unwrap();
        assert_eq!(people.read(|people| people.role(bob, AccountId(1))), None);
        assert_eq!(people.read(|people| people.role(bob, AccountId(2))), Some(Role::Owner));
    }
}
