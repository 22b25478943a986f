//! The broker killed in the midst of changes: nothing acknowledged is lost.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::time::Duration;

use warren_coord::{DeviceEdit, NewJoinKey, Prepared, Refused, Snapshot};
use warren_proto::{DeviceId, DeviceName};
use warren_sim::replay::for_seeds;
use warren_sim::{Nat, World};

/// Where the broker's process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crash {
    Never,
    /// The decision is made, nothing is written.
    BeforeCommit,
    /// Written, and the disk may or may not have it.
    WhileCommitting,
    /// On the disk, not yet acknowledged.
    AfterCommit,
    /// Acknowledged.
    AfterReply,
}

struct Story {
    world: World,
    /// What the clients were told, as the snapshot that it amounts to.
    acknowledged: Snapshot,
    join_keys: Vec<String>,
    /// The token that each device holds.
    tokens: BTreeMap<DeviceId, String>,
    crashes: u32,
    operations: u32,
}

impl Story {
    fn pick(&mut self) -> Crash {
        match self.world.chance(20) {
            0 => Crash::BeforeCommit,
            1 => Crash::WhileCommitting,
            2 => Crash::AfterCommit,
            3 => Crash::AfterReply,
            _ => Crash::Never,
        }
    }

    /// Takes a decision through commit and reply, dying somewhere on the way. The reply, if the
    /// client got one.
    fn decide<R>(&mut self, prepared: Result<Prepared<R>, Refused>) -> Option<R> {
        let prepared = prepared.ok()?;
        self.operations += 1;
        let crash = self.pick();
        let mut after = self.acknowledged.clone();
        after.apply(&prepared.changes);
        if crash == Crash::BeforeCommit {
            self.crash(vec![self.acknowledged.clone()]);
            return None;
        }
        if crash == Crash::WhileCommitting {
            if self.world.chance(2) == 0 {
                self.world.broker.commit(&prepared.changes);
            }
            self.crash(vec![self.acknowledged.clone(), after]);
            return None;
        }
        self.world.broker.commit(&prepared.changes);
        if crash == Crash::AfterCommit {
            self.crash(vec![after]);
            return None;
        }
        let now = self.world.now();
        let reply = self.world.broker.apply(prepared, now);
        self.world.settle_broker();
        self.acknowledged = after;
        if crash == Crash::AfterReply {
            self.crash(vec![self.acknowledged.clone()]);
        }
        Some(reply)
    }

    /// Kills the broker, starts it again, and checks that the account is one of `expected`.
    fn crash(&mut self, expected: Vec<Snapshot>) {
        self.crashes += 1;
        self.world.kill_broker();
        let pause = Duration::from_millis(self.world.chance(3000));
        self.world.run_for(pause);
        self.world.restart_broker();
        let snapshot = self.world.broker.account().unwrap().snapshot();
        let found = expected.into_iter().find(|expected| durable(expected) == durable(&snapshot));
        assert!(found.is_some(), "after crash {}: {snapshot:?}", self.crashes);
        self.acknowledged = snapshot;
        self.check_tokens();
    }

    /// Whoever was given a token is still known by it, unless he was removed or got another one.
    fn check_tokens(&mut self) {
        let devices = &self.acknowledged.devices;
        self.tokens.retain(|id, _| devices.iter().any(|device| device.id == *id));
        for (device, token) in &self.tokens {
            assert_eq!(self.world.broker.authenticate(token), Some(*device));
        }
    }

    fn step(&mut self) {
        let now = self.world.now();
        let devices = self.acknowledged.devices.clone();
        let pick = self.world.chance(devices.len().max(1) as u64);
        let device = devices.get(usize::try_from(pick).unwrap());
        match self.world.chance(6) {
            0 => {
                let new =
                    NewJoinKey { reusable: self.world.chance(2) == 0, ..NewJoinKey::default() };
                let ctx = self.world.broker.ctx(now);
                let prepared = self.world.broker.account().unwrap().prepare_join_key(new, &ctx);
                let created = self.decide(prepared);
                self.join_keys.extend(created.map(|created| created.secret));
            }
            1 | 2 => self.join(),
            3 => {
                let Some(device) = device else { return };
                let name = DeviceName::from_free_text(&format!("device {}", self.operations));
                let ctx = self.world.broker.ctx(now);
                let account = self.world.broker.account().unwrap();
                let prepared = account.prepare_change(device.id, DeviceEdit::rename(name), &ctx);
                self.decide(prepared);
            }
            4 => {
                let Some(device) = device.filter(|_| devices.len() > 10) else { return };
                let prepared = self.world.broker.account().unwrap().prepare_remove(device.id);
                self.decide(prepared);
            }
            _ => {
                let Some(device) = device else { return };
                let addr = format!("203.0.113.77:{}", 1 + self.world.chance(60_000));
                let ctx = self.world.broker.ctx(now);
                let account = self.world.broker.account().unwrap();
                let edit = DeviceEdit::static_endpoint(Some(addr.parse().unwrap()));
                let prepared = account.prepare_change(device.id, edit, &ctx);
                self.decide(prepared);
            }
        }
        let pause = Duration::from_millis(self.world.chance(200));
        self.world.run_for(pause);
    }

    /// A device joins; when it gets no reply it asks again with the same key, as often as it takes,
    /// and is one device all the while.
    fn join(&mut self) {
        let pick = self.world.chance(self.join_keys.len() as u64);
        let Some(key) = self.join_keys.get(usize::try_from(pick).unwrap()).cloned() else { return };
        let private_key = [0; 32].map(|_: u8| self.world.chance(256) as u8);
        let before = self.acknowledged.devices.len();
        for _ in 0..20 {
            let now = self.world.now();
            let prepared = self.world.broker.prepare_register(&private_key, "new", &key, now);
            if prepared.is_err() {
                return; // a one-time key that another device has used
            }
            if let Some(registered) = self.decide(prepared) {
                self.tokens.insert(registered.device, registered.token);
                self.check_tokens();
                assert_eq!(self.acknowledged.devices.len(), before + 1);
                return;
            }
        }
        panic!("twenty crashes in a row");
    }
}

/// When a device was last seen is written in batches and not acknowledged to anybody.
fn durable(snapshot: &Snapshot) -> Snapshot {
    let mut snapshot = snapshot.clone();
    snapshot.devices.iter_mut().for_each(|device| device.last_seen = None);
    snapshot
}

fn run(seed: u64, crashes: u32) {
    let mut world = World::new(seed);
    let nodes: Vec<_> =
        (0..4).map(|n| world.add_home(&format!("node {n}"), Nat::EimApdf)).collect();
    world.run_for(Duration::from_secs(5));
    let acknowledged = world.broker.account().unwrap().snapshot();
    let mut story = Story {
        world,
        acknowledged,
        join_keys: Vec::new(),
        tokens: BTreeMap::new(),
        crashes: 0,
        operations: 0,
    };
    while story.crashes < crashes {
        story.step();
    }
    // The nodes that are still members are back, and every address belongs to one device.
    let Story { mut world, acknowledged, .. } = story;
    let members = nodes.iter().filter(|node| {
        acknowledged.devices.iter().any(|device| device.id == world.node(**node).device())
    });
    let members = members.count();
    let back = world.run_until(Duration::from_secs(120), |world| world.sessions() == members);
    assert!(back.is_some(), "{} of {members} are back", world.sessions());
    let mut addresses: Vec<_> = acknowledged.devices.iter().map(|device| device.ipv4).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), acknowledged.devices.len());
}

#[test]
fn nothing_acknowledged_is_lost_when_the_broker_is_killed_again_and_again() {
    for_seeds("nothing_acknowledged_is_lost", 0..10, |seed| run(seed, 100));
}
