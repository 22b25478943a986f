use warren_store::{Store, StoreError};

use crate::open::filled;
use crate::script::{ACCOUNT, changes, snapshot};

#[tokio::test]
async fn a_backup_taken_in_the_midst_of_commits_is_one_moment_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(&folder.path().join("warren.db"), 100).await;
    let lease = store.take_lease(ACCOUNT).await.unwrap();
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 101..=400 {
                store.commit(ACCOUNT, lease, &changes(n), &[]).await.unwrap();
            }
        }
    });
    let mut moments = Vec::new();
    for n in 0..5 {
        let path = folder.path().join(format!("backup-{n}.db"));
        store.backup_to(&path).await.unwrap();
        let backup = Store::open(&path).await.unwrap();
        let loaded = backup.load(ACCOUNT).await.unwrap().unwrap();
        moments.push(loaded.account.next_host);
        assert_eq!(loaded, snapshot(loaded.account.next_host));
        backup.close().await;
    }
    writer.await.unwrap();
    assert!(moments.is_sorted() && moments[0] >= 100, "{moments:?}");
    assert_eq!(store.load(ACCOUNT).await.unwrap(), Some(snapshot(400)));
}

#[tokio::test]
async fn a_backup_overwrites_nothing_and_leaves_no_half_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(&folder.path().join("warren.db"), 10).await;
    let taken = store.backup_to(store.path()).await.unwrap_err();
    assert!(matches!(taken, StoreError::Exists(_)), "{taken}");
    store.backup_to(&folder.path().join("no/such/folder.db")).await.unwrap_err();
    let path = folder.path().join("backup.db");
    store.backup_to(&path).await.unwrap();
    let mut names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["backup.db", "warren.db", "warren.db-shm", "warren.db-wal"]);
}

#[tokio::test]
async fn a_restore_brings_the_backup_back_while_the_store_is_open_and_voids_the_leases() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(&folder.path().join("warren.db"), 30).await;
    let backup = folder.path().join("backup.db");
    store.backup_to(&backup).await.unwrap();
    let bytes = std::fs::read(&backup).unwrap();
    let lease = store.take_lease(ACCOUNT).await.unwrap();
    for n in 31..=90 {
        store.commit(ACCOUNT, lease, &changes(n), &[]).await.unwrap();
    }
    store.restore_from(&backup).await.unwrap();
    assert_eq!(store.load_all().await.unwrap(), [snapshot(30)]);
    let stale = store.commit(ACCOUNT, lease, &changes(91), &[]).await;
    assert!(matches!(stale, Err(StoreError::Fenced)));
    let newer = store.take_lease(ACCOUNT).await.unwrap();
    assert!(newer > lease);
    for n in 31..=60 {
        store.commit(ACCOUNT, newer, &changes(n), &[]).await.unwrap();
    }
    assert_eq!(store.load_all().await.unwrap(), [snapshot(60)]);
    assert_eq!(std::fs::read(&backup).unwrap(), bytes, "the backup itself isn't touched");
    store.close().await;
    let mut names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["backup.db", "warren.db"]);
}

#[tokio::test]
async fn a_backup_restores_into_an_empty_database() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(&folder.path().join("warren.db"), 30).await;
    let backup = folder.path().join("backup.db");
    store.backup_to(&backup).await.unwrap();
    let fresh = Store::open(&folder.path().join("fresh.db")).await.unwrap();
    fresh.restore_from(&backup).await.unwrap();
    assert_eq!(fresh.load_all().await.unwrap(), [snapshot(30)]);
}

#[tokio::test]
async fn a_damaged_backup_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(&folder.path().join("warren.db"), 30).await;
    let backup = folder.path().join("backup.db");
    for contents in [b"no backup at all, just text\n".repeat(200), Vec::from([0; 10_000])] {
        std::fs::write(&backup, contents).unwrap();
        let error = store.restore_from(&backup).await.unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("backup.db"), "{error}");
    }
    let missing = store.restore_from(&folder.path().join("nothing")).await.unwrap_err();
    assert!(matches!(missing, StoreError::Io { .. }));
    let lease = store.take_lease(ACCOUNT).await.unwrap();
    store.commit(ACCOUNT, lease, &changes(31), &[]).await.unwrap();
    assert_eq!(store.load_all().await.unwrap(), [snapshot(31)]);
}
