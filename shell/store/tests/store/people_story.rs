//! People and Activity, as SQLite keeps them.

use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use warren_coord::{
    By, CHAIN_START, Chain, ChainedEntry, Entry, FieldChange, Named, PeopleChange, PeopleSnapshot,
};
use warren_proto::ErrorCode;
use warren_store::{ActivityFilter, Store, StoreError};

use crate::people_script::{changes, entries, snapshot, user};
use crate::script::{self, ACCOUNT, account};

async fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("warren.db")).await.unwrap();
    (folder, store)
}

type Fits = fn(&Entry) -> bool;

/// The chain that so many commits make.
fn chain(commits: u32) -> Vec<ChainedEntry> {
    let mut chain: Vec<ChainedEntry> = Vec::new();
    for entry in (1..=commits).flat_map(entries) {
        let (last, hash) = chain.last().map_or((0, CHAIN_START), |it| (it.sequence, it.hash));
        chain.push(ChainedEntry::append(Chain::Broker, last, hash, entry));
    }
    chain
}

async fn all(store: &Store, filter: &ActivityFilter, limit: u32) -> Vec<ChainedEntry> {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = store.activity(filter, after.as_ref(), limit).await.unwrap();
        assert!(page.entries.len() <= limit as usize);
        found.extend(page.entries);
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
}

#[tokio::test]
async fn people_are_kept_as_they_are_meant() {
    let (_folder, store) = store().await;
    assert_eq!(store.load_people().await.unwrap(), PeopleSnapshot::default());
    let lease = store.take_people_lease().await.unwrap();
    for n in 1..=120 {
        store.commit_people(lease, &changes(n), &entries(n)).await.unwrap();
        if n.is_multiple_of(20) {
            assert_eq!(store.load_people().await.unwrap(), snapshot(n), "after {n}");
        }
    }

    // All of a commit or nothing: the second user wants the address of the first.
    let mut namesake = user(3, 1);
    namesake.email = user(4, 1).email;
    let refused = store
        .commit_people(
            lease,
            &[PeopleChange::User(user(5, 200)), PeopleChange::User(namesake)],
            &entries(2),
        )
        .await
        .unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Conflict, "{refused}");
    assert_eq!(store.load_people().await.unwrap(), snapshot(120));

    // Who has lost the lease writes nothing more, and no entry either.
    let newer = store.take_people_lease().await.unwrap();
    assert!(newer > lease);
    let fenced = store.commit_people(lease, &changes(121), &entries(121)).await.unwrap_err();
    assert!(matches!(fenced, StoreError::Fenced));
    assert_eq!(store.load_people().await.unwrap(), snapshot(120));
    let mut expected = chain(120);
    expected.reverse();
    let mut found = all(&store, &ActivityFilter::default(), 7).await;
    found.sort_by_key(|entry| std::cmp::Reverse(entry.sequence));
    assert_eq!(found, expected);
    store.commit_people(newer, &changes(121), &entries(121)).await.unwrap();
    store.commit_people(lease, &[], &[]).await.unwrap();
}

#[tokio::test]
async fn activity_is_found_by_each_filter_and_page_by_page() {
    let (_folder, store) = store().await;
    let lease = store.take_people_lease().await.unwrap();
    store.create_account(&account(ACCOUNT, "home"), &[]).await.unwrap();
    let account_lease = store.take_lease(ACCOUNT).await.unwrap();
    for n in 1..=60 {
        store.commit_people(lease, &changes(n), &entries(n)).await.unwrap();
        let named = Named { kind: "device".into(), id: n.to_string(), name: "pi".into() };
        let by = By::local(7);
        let entry = Entry::new("device.renamed", named, Some(ACCOUNT), &by, u64::from(n) * 500);
        store.commit(ACCOUNT, account_lease, &script::changes(n), &[entry]).await.unwrap();
    }
    let everything = all(&store, &ActivityFilter::default(), 1_000).await;
    assert_eq!(everything.len(), chain(60).len() + 60);
    let order = |entry: &ChainedEntry| (entry.entry.at, entry.chain.to_string(), entry.sequence);
    assert!(everything.is_sorted_by(|a, b| order(a) > order(b)));
    for limit in [1, 7, 60] {
        assert_eq!(all(&store, &ActivityFilter::default(), limit).await, everything);
    }
    let filters: [(ActivityFilter, Fits); 7] = [
        (ActivityFilter { account: Some(ACCOUNT), ..Default::default() }, |it| {
            it.account == Some(ACCOUNT)
        }),
        (ActivityFilter { actor: Some("7".into()), ..Default::default() }, |it| it.actor.id == "7"),
        (
            ActivityFilter {
                actor: Some("operator (local socket, uid 2)".into()),
                ..Default::default()
            },
            |it| it.actor.id == "2",
        ),
        (ActivityFilter { action: Some("device".into()), ..Default::default() }, |it| {
            it.action.starts_with("device")
        }),
        (ActivityFilter { subject: Some("pi".into()), ..Default::default() }, |it| {
            it.subject.name == "pi"
        }),
        (ActivityFilter { since: Some(3_000), until: Some(9_000), ..Default::default() }, |it| {
            (3_000..9_000).contains(&it.at)
        }),
        (ActivityFilter { action: Some("%' OR 1=1 --".into()), ..Default::default() }, |_| false),
    ];
    for (filter, fits) in filters {
        let expected: Vec<ChainedEntry> =
            everything.iter().filter(|it| fits(&it.entry)).cloned().collect();
        assert_eq!(all(&store, &filter, 5).await, expected, "{filter:?}");
    }
}

#[tokio::test]
async fn entries_that_say_much_are_read_a_few_at_a_time() {
    let (_folder, store) = store().await;
    let lease = store.take_people_lease().await.unwrap();
    for n in 0..30 {
        let named = Named { kind: "policy".into(), id: n.to_string(), name: "policy".into() };
        let entry = Entry::new("policy.changed", named, Some(ACCOUNT), &By::local(7), n);
        let field =
            FieldChange { field: "text".into(), before: None, after: Some("x".repeat(100 * 1024)) };
        let entry = Entry { fields: vec![field], ..entry };
        store.commit_people(lease, &[], &[entry]).await.unwrap();
    }
    let page = store.activity(&ActivityFilter::default(), None, 1_000).await.unwrap();
    assert_eq!(page.entries.len(), 11, "1 MiB and the one that passes it");
    assert!(page.next.is_some());
    assert_eq!(all(&store, &ActivityFilter::default(), 1_000).await.len(), 30);
    let batch = store.activity_in_order(&ActivityFilter::default(), None).await.unwrap();
    assert_eq!(batch.len(), 11);
}

#[tokio::test]
async fn whoever_tampers_with_activity_is_noticed() {
    let (folder, store) = store().await;
    let lease = store.take_people_lease().await.unwrap();
    for n in 1..=30 {
        store.commit_people(lease, &changes(n), &entries(n)).await.unwrap();
    }
    let reports = store.verify_activity().await.unwrap();
    let [report] = &reports[..] else { panic!("one chain: {reports:?}") };
    let last = chain(30).pop().unwrap();
    assert_eq!((report.chain, report.broken), (Chain::Broker, None));
    assert_eq!(report.head, Some((last.sequence, last.hash)));
    assert_eq!(report.entries, last.sequence);

    let options = SqliteConnectOptions::new().filename(folder.path().join("warren.db"));
    let mut editor = SqliteConnection::connect_with(&options).await.unwrap();
    for (statement, first) in [
        ("UPDATE activity SET actor_name = 'nobody' WHERE sequence = 9", 9),
        ("UPDATE activity SET fields = 'nonsense' WHERE sequence = 8", 8),
        ("DELETE FROM activity WHERE sequence = 5", 6),
    ] {
        sqlx::query(statement).execute(&mut editor).await.unwrap();
        let report = store.verify_activity().await.unwrap().remove(0);
        assert_eq!(report.broken.unwrap().sequence, first, "{statement}");
        assert_eq!(report.head, None);
    }
}

#[tokio::test]
async fn accounts_come_and_go_in_the_brokers_chain() {
    let (_folder, store) = store().await;
    let named = || Named { kind: "account".into(), id: ACCOUNT.to_string(), name: "home".into() };
    let entry = |action| Entry::new(action, named(), Some(ACCOUNT), &By::local(0), 1);
    store.create_account(&account(ACCOUNT, "home"), &[entry("account.created")]).await.unwrap();
    let again = store.create_account(&account(ACCOUNT, "home"), &[entry("account.created")]).await;
    assert!(matches!(again, Err(StoreError::Conflict(_))));
    let lease = store.take_lease(ACCOUNT).await.unwrap();
    let until = warren_coord::UnixTime(7);
    let entries = [entry("account.removed")];
    store.remove_account(ACCOUNT, lease, until, &entries).await.unwrap();
    store.append_activity(&[Entry::broker("broker.backup", &By::BROKER, 2)]).await.unwrap();
    let actions: Vec<String> = all(&store, &ActivityFilter::default(), 10)
        .await
        .into_iter()
        .map(|it| it.entry.action)
        .collect();
    assert_eq!(actions, ["broker.backup", "account.removed", "account.created"]);
    assert_eq!(store.verify_activity().await.unwrap()[0].broken, None);
}

#[tokio::test]
async fn a_backup_brings_people_and_activity_back() {
    let (folder, store) = store().await;
    let lease = store.take_people_lease().await.unwrap();
    for n in 1..=20 {
        store.commit_people(lease, &changes(n), &entries(n)).await.unwrap();
    }
    let backup = folder.path().join("backup.db");
    store.backup_to(&backup).await.unwrap();
    for n in 21..=40 {
        store.commit_people(lease, &changes(n), &entries(n)).await.unwrap();
    }
    store.restore_from(&backup).await.unwrap();
    assert_eq!(store.load_people().await.unwrap(), snapshot(20));
    assert_eq!(all(&store, &ActivityFilter::default(), 100).await.len(), chain(20).len());
    let void = store.commit_people(lease, &changes(41), &[]).await.unwrap_err();
    assert!(matches!(void, StoreError::Fenced), "all leases are void");
    assert!(store.take_people_lease().await.unwrap() > lease);
}

#[tokio::test]
async fn old_activity_is_pruned_from_its_beginning_and_the_rest_stays_whole() {
    let (_folder, store) = store().await;
    store.create_account(&account(ACCOUNT, "home"), &[]).await.unwrap();
    let lease = store.take_lease(ACCOUNT).await.unwrap();
    for n in 1..=20 {
        let named = Named { kind: "x".to_owned(), id: String::new(), name: n.to_string() };
        let entry = Entry::new("x.y", named, Some(ACCOUNT), &By::BROKER, u64::from(n) * 1_000);
        store.commit(ACCOUNT, lease, &script::changes(n), &[entry]).await.unwrap();
    }
    let in_order = async |after| {
        let found = store.activity_in_order(&ActivityFilter::default(), after).await.unwrap();
        found.iter().map(|it| it.sequence).collect::<Vec<_>>()
    };
    assert_eq!(store.prune_activity(ACCOUNT, lease, 11_000).await.unwrap(), 10);
    assert_eq!(store.prune_activity(ACCOUNT, lease, 11_000).await.unwrap(), 0, "once");
    assert_eq!(in_order(None).await, (11..=20).collect::<Vec<_>>());
    assert_eq!(in_order(Some((Chain::Account(ACCOUNT), 18))).await, [19, 20]);
    let whole = async || {
        let reports = store.verify_activity().await.unwrap();
        reports.iter().all(|report| report.broken.is_none())
    };
    assert!(whole().await);
    assert_eq!(store.prune_activity(ACCOUNT, lease, u64::MAX).await.unwrap(), 9);
    assert_eq!(in_order(None).await, [20], "the newest stays");
    store
        .commit(
            ACCOUNT,
            lease,
            &script::changes(21),
            &[Entry::new(
                "x.y",
                Named { kind: "x".to_owned(), id: String::new(), name: "21".to_owned() },
                Some(ACCOUNT),
                &By::BROKER,
                21_000,
            )],
        )
        .await
        .unwrap();
    assert_eq!(in_order(None).await, [20, 21], "and the chain goes on from it");
    assert!(whole().await);
    let newer = store.take_lease(ACCOUNT).await.unwrap();
    assert!(newer > lease);
    let fenced = store.prune_activity(ACCOUNT, lease, u64::MAX).await.unwrap_err();
    assert!(matches!(fenced, StoreError::Fenced));
}
