//! On a real file system that has no room left, in a mount namespace of its own.

use std::path::Path;
use std::process::Command;

use warren_proto::ErrorCode;
use warren_store::{Store, StoreError};

use crate::open::filled;
use crate::script::{ACCOUNT, changes, snapshot};

const FOLDER: &str = "WARREN_STORE_TEST_FOLDER";

#[test]
fn a_full_disk_is_said_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let test = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg(
            "mount -t tmpfs -o size=6m warren-store-test \"$1\" && exec \"$2\" --ignored --exact \
              disk_full::on_a_small_disk --nocapture",
        )
        .arg("sh")
        .args([folder.path(), &test])
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "(does the system allow user namespaces?) {text}");
    assert!(text.contains("1 passed"), "{text}");
}

#[tokio::test]
#[ignore = "runs on a small disk, as the child of a_full_disk_is_said_and_loses_nothing"]
async fn on_a_small_disk() {
    let folder = std::env::var(FOLDER).unwrap();
    let folder = Path::new(&folder);
    let path = folder.join("warren.db");
    let store = filled(&path, 20).await;
    let lease = store.take_lease(ACCOUNT).await.unwrap();
    let ballast = folder.join("ballast");
    let full = std::fs::write(&ballast, vec![1; 8 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);

    let mut done = 20;
    let refused = loop {
        match store.commit(ACCOUNT, lease, &changes(done + 1), &[]).await {
            Ok(()) => done += 1,
            Err(error) => break error,
        }
        assert!(done < 20_000, "the disk never fills up");
    };
    assert!(matches!(refused, StoreError::DiskFull { .. }), "{refused:?}");
    assert_eq!(refused.code(), ErrorCode::Unavailable);
    let text = refused.to_string();
    assert!(text.contains("free space on") && text.contains(folder.to_str().unwrap()), "{text}");
    for _ in 0..3 {
        let again = store.commit(ACCOUNT, lease, &changes(done + 1), &[]).await.unwrap_err();
        assert!(matches!(again, StoreError::DiskFull { .. }), "{again:?}");
        assert_eq!(store.load(ACCOUNT).await.unwrap(), Some(snapshot(done)), "reading goes on");
    }
    let backup = store.backup_to(&folder.join("backup.db")).await.unwrap_err();
    assert!(matches!(backup, StoreError::DiskFull { .. }), "{backup:?}");
    assert!(!folder.join("backup.db").exists() && !folder.join("backup.db.partial").exists());
    let fresh = Store::open(&folder.join("fresh.db")).await.unwrap_err();
    assert!(matches!(fresh, StoreError::DiskFull { .. }), "{fresh:?}");

    // A broker that is restarted on the full disk comes up, with all that was acknowledged.
    store.close().await;
    let store = Store::open(&path).await.unwrap();
    assert_eq!(store.load(ACCOUNT).await.unwrap(), Some(snapshot(done)));

    std::fs::remove_file(&ballast).unwrap();
    let lease = store.take_lease(ACCOUNT).await.unwrap();
    for n in done + 1..done + 20 {
        store.commit(ACCOUNT, lease, &changes(n), &[]).await.unwrap();
    }
    store.close().await;
    let store = Store::open(&path).await.unwrap();
    assert_eq!(store.load(ACCOUNT).await.unwrap(), Some(snapshot(done + 19)));
}
