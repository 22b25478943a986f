//! One story, told to each backend: SQLite, and a model in memory that says what is meant.

use std::collections::BTreeMap;
use std::sync::Mutex;

use warren_coord::{AccountRecord, Change, LeaseEpoch, Snapshot, UnixTime};
use warren_proto::{AccountId, DeviceId, ErrorCode};
use warren_store::{Store, StoreError};

use crate::script::{ACCOUNT, account, changes, device, join_key, snapshot};

trait Backend {
    async fn create_account(&self, account: &AccountRecord) -> Result<(), StoreError>;
    async fn remove_account(
        &self,
        id: AccountId,
        lease: LeaseEpoch,
        until: UnixTime,
    ) -> Result<(), StoreError>;
    async fn take_lease(&self, id: AccountId) -> Result<LeaseEpoch, StoreError>;
    async fn load(&self, id: AccountId) -> Result<Option<Snapshot>, StoreError>;
    async fn load_all(&self) -> Result<Vec<Snapshot>, StoreError>;
    async fn commit(
        &self,
        id: AccountId,
        lease: LeaseEpoch,
        changes: &[Change],
    ) -> Result<(), StoreError>;
}

async fn story(store: &impl Backend) {
    let (home, office) = (account(ACCOUNT, "home"), account(AccountId(2), "office"));
    store.create_account(&home).await.unwrap();
    store.create_account(&office).await.unwrap();
    let namesake = AccountRecord { id: AccountId(3), ..account(AccountId(3), "home") };
    let refused = store.create_account(&namesake).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict(_)), "{refused}");
    assert_eq!(store.load(ACCOUNT).await.unwrap(), Some(Snapshot::empty(home.clone())));
    assert_eq!(store.load(AccountId(77)).await.unwrap(), None);

    let lease = store.take_lease(ACCOUNT).await.unwrap();
    for n in 1..=200 {
        store.commit(ACCOUNT, lease, &changes(n)).await.unwrap();
        if n.is_multiple_of(20) {
            assert_eq!(store.load(ACCOUNT).await.unwrap().unwrap(), snapshot(n), "after {n}");
        }
    }
    assert_eq!(store.load(AccountId(2)).await.unwrap(), Some(Snapshot::empty(office.clone())));

    // All of a commit or nothing: the second device wants the name of the first.
    let before = store.load(ACCOUNT).await.unwrap().unwrap();
    let mut first = device(38, 1);
    first.tags = ["kept-back".parse().unwrap()].into();
    let mut second = device(37, 1);
    second.name = first.name.clone();
    let refused = store
        .commit(ACCOUNT, lease, &[Change::Device(first), Change::Device(second)])
        .await
        .unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Conflict, "{refused}");
    assert_eq!(store.load(ACCOUNT).await.unwrap().unwrap(), before);

    // The same ids, keys and names in another account are other devices.
    let other = store.take_lease(AccountId(2)).await.unwrap();
    let mut guest = device(38, 1);
    guest.token = None;
    store.commit(AccountId(2), other, &[Change::Device(guest.clone())]).await.unwrap();
    assert_eq!(store.load(ACCOUNT).await.unwrap().unwrap(), before);

    // Who has lost the lease writes nothing more.
    let newer = store.take_lease(ACCOUNT).await.unwrap();
    assert!(newer > lease);
    let fenced = store.commit(ACCOUNT, lease, &changes(201)).await.unwrap_err();
    assert!(matches!(fenced, StoreError::Fenced));
    assert_eq!(fenced.code(), ErrorCode::Unavailable);
    assert!(matches!(
        store.remove_account(ACCOUNT, lease, UnixTime(7)).await,
        Err(StoreError::Fenced)
    ));
    assert_eq!(store.load(ACCOUNT).await.unwrap().unwrap(), before);
    store.commit(ACCOUNT, newer, &changes(201)).await.unwrap();
    let unknown = store.commit(AccountId(77), newer, &changes(1)).await;
    assert!(matches!(unknown, Err(StoreError::NoAccount)));
    assert!(matches!(store.take_lease(AccountId(77)).await, Err(StoreError::NoAccount)));
    store.commit(ACCOUNT, lease, &[]).await.unwrap();

    // An account goes with all that it has, and leaves the others alone.
    let key = Change::JoinKey(join_key(39, 3));
    store.commit(AccountId(2), other, &[key]).await.unwrap_err();
    let mut again = Snapshot::empty(home.clone());
    again.revoked = store.load(ACCOUNT).await.unwrap().unwrap().revoked;
    for device in store.load(ACCOUNT).await.unwrap().unwrap().devices {
        again.revoked.insert(device.id, UnixTime(7));
    }
    store.remove_account(ACCOUNT, newer, UnixTime(7)).await.unwrap();
    let mut left = Snapshot::empty(office);
    left.apply(&[Change::Device(guest)]);
    assert_eq!(store.load_all().await.unwrap(), [left]);
    store.create_account(&home).await.unwrap();
    // But for what relays are to refuse: its devices.
    assert_eq!(store.load(ACCOUNT).await.unwrap(), Some(again));
}

#[tokio::test]
async fn the_story_as_sqlite_tells_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("warren.db")).await.unwrap();
    story(&store).await;
    store.close().await;
}

#[tokio::test]
async fn the_story_as_it_is_meant() {
    story(&Memory::default()).await;
}

impl Backend for Store {
    async fn create_account(&self, account: &AccountRecord) -> Result<(), StoreError> {
        self.create_account(account, &[]).await
    }

    async fn remove_account(
        &self,
        id: AccountId,
        lease: LeaseEpoch,
        until: UnixTime,
    ) -> Result<(), StoreError> {
        self.remove_account(id, lease, until, &[]).await
    }

    async fn take_lease(&self, id: AccountId) -> Result<LeaseEpoch, StoreError> {
        self.take_lease(id).await
    }

    async fn load(&self, id: AccountId) -> Result<Option<Snapshot>, StoreError> {
        self.load(id).await
    }

    async fn load_all(&self) -> Result<Vec<Snapshot>, StoreError> {
        self.load_all().await
    }

    async fn commit(
        &self,
        id: AccountId,
        lease: LeaseEpoch,
        changes: &[Change],
    ) -> Result<(), StoreError> {
        self.commit(id, lease, changes, &[]).await
    }
}

/// What the words mean, without a database.
#[derive(Default)]
struct Memory {
    accounts: Mutex<BTreeMap<AccountId, (Snapshot, u64)>>,
    revoked: Mutex<BTreeMap<AccountId, BTreeMap<DeviceId, UnixTime>>>,
}

impl Memory {
    fn fenced(&self, id: AccountId, lease: LeaseEpoch) -> Result<(), StoreError> {
        let accounts = self.accounts.lock().unwrap();
        let (_, newest) = accounts.get(&id).ok_or(StoreError::NoAccount)?;
        if *newest == lease.0 { Ok(()) } else { Err(StoreError::Fenced) }
    }
}

fn conflict<T: Ord>(things: impl IntoIterator<Item = T>) -> bool {
    let mut all: Vec<T> = things.into_iter().collect();
    all.sort();
    all.windows(2).any(|pair| pair[0] == pair[1])
}

impl Backend for Memory {
    async fn create_account(&self, account: &AccountRecord) -> Result<(), StoreError> {
        let mut accounts = self.accounts.lock().unwrap();
        if accounts.values().any(|(other, _)| other.account.name == account.name) {
            return Err(StoreError::Conflict("name".to_owned()));
        }
        let mut snapshot = Snapshot::empty(account.clone());
        snapshot.revoked =
            self.revoked.lock().unwrap().get(&account.id).cloned().unwrap_or_default();
        accounts.insert(account.id, (snapshot, 0));
        Ok(())
    }

    async fn remove_account(
        &self,
        id: AccountId,
        lease: LeaseEpoch,
        until: UnixTime,
    ) -> Result<(), StoreError> {
        self.fenced(id, lease)?;
        let Some((snapshot, _)) = self.accounts.lock().unwrap().remove(&id) else { return Ok(()) };
        let mut revoked = snapshot.revoked;
        revoked.extend(snapshot.devices.iter().map(|device| (device.id, until)));
        self.revoked.lock().unwrap().insert(id, revoked);
        Ok(())
    }

    async fn take_lease(&self, id: AccountId) -> Result<LeaseEpoch, StoreError> {
        let mut accounts = self.accounts.lock().unwrap();
        let (_, lease) = accounts.get_mut(&id).ok_or(StoreError::NoAccount)?;
        *lease += 1;
        Ok(LeaseEpoch(*lease))
    }

    async fn load(&self, id: AccountId) -> Result<Option<Snapshot>, StoreError> {
        Ok(self.accounts.lock().unwrap().get(&id).map(|(snapshot, _)| snapshot.clone()))
    }

    async fn load_all(&self) -> Result<Vec<Snapshot>, StoreError> {
        Ok(self.accounts.lock().unwrap().values().map(|(snapshot, _)| snapshot.clone()).collect())
    }

    async fn commit(
        &self,
        id: AccountId,
        lease: LeaseEpoch,
        changes: &[Change],
    ) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.fenced(id, lease)?;
        let mut accounts = self.accounts.lock().unwrap();
        let mut after = accounts[&id].0.clone();
        after.apply(changes);
        let others = accounts.iter().filter(|(other, _)| **other != id).map(|(_, (it, _))| it);
        let everywhere: Vec<&Snapshot> = others.chain([&after]).collect();
        let devices = || everywhere.iter().flat_map(|it| &it.devices);
        let keys = everywhere.iter().flat_map(|it| &it.join_keys).map(|key| key.hash);
        if conflict(after.devices.iter().map(|device| &device.name))
            || conflict(after.devices.iter().map(|device| device.key))
            || conflict(after.devices.iter().map(|device| device.ipv4))
            || conflict(devices().filter_map(|device| device.token))
            || conflict(keys)
        {
            return Err(StoreError::Conflict("taken".to_owned()));
        }
        accounts.entry(id).and_modify(|(snapshot, _)| *snapshot = after);
        Ok(())
    }
}
