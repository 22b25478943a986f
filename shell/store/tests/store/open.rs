use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use warren_coord::Snapshot;
use warren_proto::ErrorCode;
use warren_store::{Store, StoreError};

use crate::script::{ACCOUNT, account, changes, snapshot};

pub(crate) async fn filled(path: &Path, commits: u32) -> Store {
    let store = Store::open(path).await.unwrap();
    store.create_account(&account(ACCOUNT, "home"), &[]).await.unwrap();
    let lease = store.take_lease(ACCOUNT).await.unwrap();
    for n in 1..=commits {
        store.commit(ACCOUNT, lease, &changes(n), &[]).await.unwrap();
    }
    store
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("warren.db");
    filled(&path, 50).await.close().await;
    let store = Store::open(&path).await.unwrap();
    assert_eq!(store.load(ACCOUNT).await.unwrap(), Some(snapshot(50)));
    assert_eq!(store.setting("colour").await.unwrap(), None);
    store.set_setting("colour", "red").await.unwrap();
    store.set_setting("colour", "blue").await.unwrap();
    drop(store);
    let store = Store::open(&path).await.unwrap();
    assert_eq!(store.setting("colour").await.unwrap().as_deref(), Some("blue"));
}

#[tokio::test]
async fn nobody_else_can_read_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let _store = filled(&folder.path().join("warren.db"), 1).await;
    let mut files = 0;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?} has mode {mode:o}", entry.path());
        files += 1;
    }
    assert_eq!(files, 3, "database, log and index");
}

#[tokio::test]
async fn a_lease_never_repeats_even_after_an_older_database_was_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("warren.db");
    filled(&path, 1).await.close().await;
    std::fs::copy(&path, folder.path().join("old.db")).unwrap();
    let store = Store::open(&path).await.unwrap();
    let used = store.take_lease(ACCOUNT).await.unwrap();
    store.close().await;
    std::fs::rename(folder.path().join("old.db"), &path).unwrap();
    let store = Store::open(&path).await.unwrap();
    assert!(store.take_lease(ACCOUNT).await.unwrap() > used);
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("warren.db");
    filled(&path, 1).await.close().await;
    let options = SqliteConnectOptions::new().filename(&path);
    let mut raw = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("INSERT INTO schema_version (version) VALUES (99)")
        .execute(&mut raw)
        .await
        .unwrap();
    raw.close().await.unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = Store::open(&path).await.unwrap_err();
    assert!(matches!(error, StoreError::NewerSchema { found: 99, .. }), "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_database_of_the_first_schema_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("warren.db");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut raw = SqliteConnection::connect_with(&options).await.unwrap();
    let home = account(ACCOUNT, "home");
    let statements = [
        include_str!("../../migrations/0001_initial.sql").to_owned(),
        "CREATE TABLE schema_version (version BIGINT NOT NULL)".to_owned(),
        "INSERT INTO schema_version (version) VALUES (1)".to_owned(),
        format!(
            "INSERT INTO accounts (id, name, ipv4_range, ipv6_range, next_host, created) \
             VALUES ('{}', 'home', '{}', '{}', 0, {})",
            home.id, home.ipv4_range, home.ipv6_range, home.created.0
        ),
    ];
    for statement in statements {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut raw).await.unwrap();
    }
    raw.close().await.unwrap();
    let store = Store::open(&path).await.unwrap();
    assert_eq!(store.load(ACCOUNT).await.unwrap(), Some(Snapshot::empty(home)));
    let lease = store.take_lease(ACCOUNT).await.unwrap();
    for n in 1..=50 {
        store.commit(ACCOUNT, lease, &changes(n), &[]).await.unwrap();
    }
    assert_eq!(store.load(ACCOUNT).await.unwrap(), Some(snapshot(50)));
}

#[tokio::test]
async fn a_damaged_file_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("warren.db");
    let assert_damaged = |error: StoreError| {
        assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
        assert_eq!(error.code(), ErrorCode::Unavailable);
        let text = error.to_string();
        assert!(text.contains(path.to_str().unwrap()) && text.contains("restore"), "{text}");
    };
    std::fs::write(&path, "this is a shopping list, not a database\n".repeat(100)).unwrap();
    assert_damaged(Store::open(&path).await.unwrap_err());

    std::fs::remove_file(&path).unwrap();
    filled(&path, 100).await.close().await;
    let sound = std::fs::read(&path).unwrap();
    std::fs::write(&path, &sound[..sound.len() / 2]).unwrap();
    assert_damaged(Store::open(&path).await.unwrap_err());

    std::fs::write(&path, &sound).unwrap();
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(4096 * 8)).unwrap();
    file.write_all(&[0xff; 4096 * 4]).unwrap();
    drop(file);
    assert_damaged(Store::open(&path).await.unwrap_err());
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_said() {
    let error = Store::open(Path::new("/nonexistent/warren.db")).await.unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }));
    assert!(error.to_string().starts_with("/nonexistent/warren.db: "), "{error}");
}

#[tokio::test]
async fn two_processes_on_one_file_do_not_overwrite_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("warren.db");
    let first = filled(&path, 10).await;
    let old = first.take_lease(ACCOUNT).await.unwrap();
    let second = Store::open(&path).await.unwrap();
    let new = second.take_lease(ACCOUNT).await.unwrap();
    let fenced = first.commit(ACCOUNT, old, &changes(11), &[]).await;
    assert!(matches!(fenced, Err(StoreError::Fenced)));
    second.commit(ACCOUNT, new, &changes(11), &[]).await.unwrap();
    assert_eq!(first.load(ACCOUNT).await.unwrap(), Some(snapshot(11)));
}
