//! Who is in the mesh, as an operator handles it: the real broker, `warren admin`, and devices that
//! hold what a node holds.

#![cfg(feature = "broker")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::process::Command;

use common::{Device, admin, serve};
use serde_json::Value;
use warren_proto::Admission;

/// What a device knows of its place, and how many peers it has.
async fn place(device: &Device) -> (Admission, usize) {
    let map = device.map().await;
    (map.this.admission, map.peers.len())
}

/// What a check that must fail prints.
fn verify(mut warren: Command, data: &Path, file: &str) -> String {
    let done = warren.args(["admin", "--data"]).arg(data).args(["audit", "verify", file]).output();
    let done = done.unwrap();
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

#[tokio::test]
async fn an_admin_approves_expires_and_renews_and_the_operator_suspends_and_limits() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let _broker = serve(data, &["--stun", "127.0.0.1:0"]);
    let run = |args: &[&str]| admin(data, args);
    let left = Device::join(data, "left").await;
    run(&["accounts", "set", "home", "--device-approval", "on", "--key-expiry", "30"]);
    let shown: Value = serde_json::from_str(&run(&["accounts", "show", "home", "--json"])).unwrap();
    assert_eq!((&shown["device_approval"], &shown["key_expiry_days"]), (&true.into(), &30.into()));

    let right = Device::join(data, "right").await;
    assert_eq!(place(&right).await, (Admission::Waiting, 0));
    assert_eq!(place(&left).await, (Admission::Member, 0), "nobody gets its key");
    assert!(run(&["devices", "list"]).contains("waits for approval"));
    run(&["devices", "approve", "right"]);
    assert_eq!(place(&right).await, (Admission::Member, 1));
    assert_eq!(place(&left).await, (Admission::Member, 1));
    assert!(right.map().await.this.expires_unix.is_some());
    run(&["devices", "set", "right", "--expiry", "never"]);
    assert_eq!(right.map().await.this.expires_unix, None);

    assert!(run(&["devices", "expire", "right"]).contains("until it is renewed"));
    assert_eq!(place(&right).await, (Admission::Expired, 0));
    assert_eq!(place(&left).await, (Admission::Member, 0));
    run(&["devices", "renew", "right"]);
    assert_eq!(place(&right).await, (Admission::Member, 1));

    let third = Device::join(data, "third").await;
    assert!(run(&["devices", "refuse", "third"]).contains("turned away"));
    assert!(
        third
            .http
            .json::<Value>(
                http::Method::GET,
                "/v1/node/netmap",
                None::<&()>,
                warren_control::REQUEST_TIMEOUT
            )
            .await
            .is_err_and(|error| error.is_revoked())
    );

    run(&["accounts", "suspend", "home"]);
    for device in [&left, &right] {
        assert_eq!(place(device).await, (Admission::Suspended, 0));
    }
    let refused = Device::try_join(data, "late").await.err().unwrap().to_string();
    assert!(refused.contains("suspended") && refused.contains("operator"), "{refused}");
    run(&["accounts", "resume", "home"]);
    assert_eq!(place(&left).await, (Admission::Member, 1));

    run(&["accounts", "set", "home", "--max-devices", "2"]);
    let refused = Device::try_join(data, "late").await.err().unwrap().to_string();
    assert!(refused.contains("as many devices as it may have"), "{refused}");
    run(&["accounts", "set", "home", "--max-devices", "default"]);
    Device::join(data, "late").await;
    let actions = run(&["audit", "list"]);
    let file = folder.path().join("activity.jsonl");
    let exported = run(&["audit", "export", "--account", "home"]);
    std::fs::write(&file, &exported).unwrap();
    let file = file.to_str().unwrap();
    assert!(run(&["audit", "verify", file]).contains("whole"));
    let forged = exported.replacen("device.approved", "device.renewed", 1);
    std::fs::write(file, forged).unwrap();
    let found = Command::new(env!("CARGO_BIN_EXE_warren"));
    assert!(verify(found, data, file).contains("broken at"));
    let table = run(&["audit", "export", "--format", "csv"]);
    assert!(table.starts_with("time,actor_kind") && table.contains("\"device.approved\""));
    for action in [
        "device.waiting",
        "device.approved",
        "device.expired",
        "device.renewed",
        "device.refused",
        "account.suspended",
        "account.resumed",
    ] {
        assert!(actions.contains(action), "{action} in {actions}");
    }
}
