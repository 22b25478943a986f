//! How long a change of policy takes in an account of 1,000 devices, all of them connected.
//!
//! `cargo run --release -p warren-coord --example policy_change`
//!
//! For each change: what a check costs (errors, tests, who gains and who loses), and the time from
//! the decision to the last of the deltas that tell devices whom they see and what they let in.

#![expect(clippy::disallowed_methods, reason = "it measures")]

use std::time::{Duration, Instant};

use warren_coord::policy::{DEFAULT_TEXT, Members};
use warren_coord::{
    Account, BrokerSettings, COALESCE_WINDOW, Ctx, DeviceRecord, Directory, LeaseEpoch, Role,
    SecretHash, Snapshot, UnixTime,
};
use warren_proto::{Change, DeviceId, PublicKey, SessionEvent, UserId};

const DEVICES: u64 = 1_000;
const UNIX: Duration = Duration::from_secs(1_800_000_000);

const TAGS: &str = "[[rules]]\nfrom = 'tag:t1'\nto = 'tag:t2'\nports = ['tcp:22', 'tcp:443']\n\
                    [[rules]]\nfrom = '*'\nto = 'tag:t3'\nports = ['tcp:80']\n\
                    [[rules]]\nfrom = 'role:member'\nto = 'own'\n";
const OWN: &str = "[[rules]]\nfrom = '*'\nto = 'own'\n";
const PORTS: &str = "[[rules]]\nfrom = ['role:member', 'tag:t1', 'tag:t2']\nto = '*'\n\
                     ports = ['tcp:1-1023', 'icmp']\n";

fn device(number: u64, people: u64, directory_id: u64) -> DeviceRecord {
    let [high, low] = u16::try_from(number + 2).expect("few devices").to_be_bytes();
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.to_be_bytes());
    // Every tenth device is a server.
    let is_server = number.is_multiple_of(10);
    let tag = format!("t{}", number / 10 % 4).parse().expect("a tag");
    DeviceRecord {
        id: DeviceId(number + directory_id),
        key: PublicKey(key),
        name: format!("device-{number}").parse().expect("a name"),
        ipv4: [100, 81, high, low].into(),
        ipv6: [0xfd00, 0, 0, 0, 0, 0, 0, u16::from_be_bytes([high, low])].into(),
        token: Some(SecretHash([1; 32])),
        joined_by: None,
        ephemeral: false,
        tags: if is_server { [tag].into() } else { [].into() },
        owner: (!is_server).then_some(UserId(number % people)),
        static_endpoint: None,
        approved: true,
        expires: None,
        never_expires: false,
        os: "linux".to_owned(),
        software: "0.1.0".to_owned(),
        created: UnixTime(1),
        last_seen: None,
    }
}

/// An account whose devices belong to so many people, all of them connected.
fn account(people: u64, now: Instant) -> Account {
    let ctx = Ctx { now, unix: UNIX, entropy: [1; 32] };
    let range = Some("100.81.0.0/16".parse().expect("a range"));
    let record = Directory::new().prepare_account("home".parse().expect("a name"), range, &ctx);
    let mut snapshot = Snapshot::empty(record.expect("an account"));
    snapshot.devices = (0..DEVICES).map(|number| device(number, people, 1)).collect();
    let settings = BrokerSettings::default();
    let mut account = Account::new(snapshot, LeaseEpoch(1), &settings, now, UNIX);
    let person = |id| {
        let email = format!("user-{id}@example.org").parse().expect("an address");
        (UserId(id), email, Role::Member)
    };
    account.handle_members((0..people).map(person).collect::<Members>(), now);
    for number in 0..DEVICES {
        account.open_session(DeviceId(number + 1), None, None, now).expect("a session");
    }
    while account.poll_event().is_some() {}
    account
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn main() {
    println!("people | change | check ms | in force ms | deltas | filters");
    for people in [10, 100, 900] {
        let mut now = Instant::now();
        let mut account = account(people, now);
        for (name, text) in [
            ("everything to own devices", OWN),
            ("own devices to tags", TAGS),
            ("tags to ports for all", PORTS),
            ("ports to nothing", ""),
            ("nothing to everything", DEFAULT_TEXT),
        ] {
            now += 2 * COALESCE_WINDOW;
            let begun = Instant::now();
            let report = account.check_policy(text);
            let checked = begun.elapsed();
            assert!(report.is_good(), "{report:?}");
            let prepared = account.prepare_policy(text, None).expect("a good text");
            let begun = Instant::now();
            account.apply(prepared, now);
            now += COALESCE_WINDOW;
            account.handle_timeout(now);
            let (mut deltas, mut filters) = (0, 0);
            while let Some((_, event)) = account.poll_event() {
                if let SessionEvent::Delta(delta) = event {
                    deltas += 1;
                    let is_filter = |change: &&Change| matches!(change, Change::Filter { .. });
                    filters += delta.changes.iter().filter(is_filter).count();
                }
            }
            let (checked, told) = (millis(checked), millis(begun.elapsed()));
            println!("{people} | {name} | {checked:.1} | {told:.1} | {deltas} | {filters}");
        }
    }
}
