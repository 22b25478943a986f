//! Whether a device is in the mesh: approval, expiry, suspension, limits.

use std::collections::BTreeSet;
use std::time::Duration;

use warren_coord::policy::Members;
use warren_coord::{
    Actor, By, DeviceEdit, DeviceLimit, NewJoinKey, Refused, Role, SessionId, SettingsEdit,
};
use warren_proto::{
    Admission, Change, ConnectRequest, DeviceId, NatReport, Netmap, SessionEvent, UserId,
};

use crate::world::World;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn approval(on: bool) -> SettingsEdit {
    SettingsEdit { device_approval: Some(on), ..SettingsEdit::default() }
}

fn expiry(days: Option<u16>) -> SettingsEdit {
    SettingsEdit { key_expiry_days: Some(days), ..SettingsEdit::default() }
}

fn suspension(on: bool) -> SettingsEdit {
    SettingsEdit { suspended: Some(on), ..SettingsEdit::default() }
}

fn map(world: &World, session: SessionId) -> &Netmap {
    world.clients[&session].map.as_ref().unwrap()
}

/// Two devices that see each other, and their sessions.
fn pair(world: &mut World) -> ([DeviceId; 2], [SessionId; 2]) {
    let devices = [world.join(101, "left"), world.join(102, "right")];
    let sessions = devices.map(|device| world.open(device));
    world.settle();
    (devices, sessions)
}

#[test]
fn a_device_waits_unseen_until_it_is_approved() {
    let mut world = World::new("home");
    let ([left, _], [on_left, on_right]) = pair(&mut world);
    world.set(approval(true));
    let people = [(1, "ann", Role::Owner), (2, "bob", Role::Member), (3, "eve", Role::Admin)];
    let people = people
        .map(|(id, name, role)| (UserId(id), format!("{name}@example.org").parse().unwrap(), role));
    world.account.handle_members(people.into_iter().collect::<Members>(), world.now);
    let waiting = world.join(1, "pi");
    let events = world.event_count;
    let session = world.open(waiting);
    world.check_in(waiting, &["198.51.100.7:1"]).unwrap();
    world.settle();
    assert_eq!(world.event_count, events + 1, "only it itself is told something");
    let own = map(&world, session);
    assert_eq!((own.this.name.as_str(), own.this.admission), ("pi", Admission::Waiting));
    assert_eq!(own.this.approvers, ["ann@example.org", "eve@example.org"]);
    assert!(own.peers.is_empty() && own.relays.is_empty());
    let request = |peer| {
        let nat = NatReport::default();
        ConnectRequest { peer, endpoints: Vec::new(), nat, relay: None }
    };
    for (from, to) in [(waiting, left), (left, waiting)] {
        let refused = world.account.handle_connect(from, &request(to), world.now);
        assert_eq!(refused, Err(Refused::NotFound("peer")));
    }
    assert_eq!(world.account.waiting_count(), 1);

    let ctx = world.ctx();
    let approved = world.account.prepare_approve(waiting, &ctx).unwrap();
    world.commit(approved);
    world.settle();
    assert_eq!(map(&world, session).peers.len(), 2);
    assert_eq!(map(&world, session).this.approvers, [""; 0]);
    for other in [on_left, on_right] {
        let entry = map(&world, other).peers.iter().find(|peer| peer.id == waiting).unwrap();
        assert!(entry.online && !entry.endpoints.is_empty());
    }
    world.assert_converged();
    let again = world.account.prepare_approve(waiting, &ctx).unwrap();
    assert!(again.changes.is_empty(), "nothing to commit");
    assert!(matches!(world.account.prepare_refuse(waiting), Err(Refused::Conflict(_))));
}

#[test]
fn who_is_turned_away_was_never_known_to_anybody() {
    let mut world = World::new("home");
    let (_, sessions) = pair(&mut world);
    world.set(approval(true));
    world.settle();
    let waiting = world.join(1, "pi");
    world.open(waiting);
    let seen = sessions.map(|session| world.clients[&session].events.len());
    let refused = world.account.prepare_refuse(waiting).unwrap();
    let by = By { actor: Actor::Broker, source: None };
    let entries = world.account.activity(&refused.changes, &by, 0);
    assert_eq!(entries[0].action, "device.refused");
    world.commit(refused);
    world.settle();
    assert_eq!(sessions.map(|session| world.clients[&session].events.len()), seen);
    assert_eq!(world.account.device_count(), 2);
}

#[test]
fn a_key_that_approves_or_an_end_of_approval_lets_devices_in_at_once() {
    let mut world = World::new("home");
    world.set(approval(true));
    let owner = Some(UserId(7));
    let key = world.join_key(NewJoinKey { approves: true, owner, ..NewJoinKey::default() });
    let device = world.register(1, "pi", &key.secret).unwrap().device;
    assert_eq!(world.admission(device), Admission::Member);
    assert_eq!(world.account.device(device, world.now, world.unix).unwrap().owner, owner);
    let waiting = world.join(2, "attic");
    assert_eq!(world.admission(waiting), Admission::Waiting);
    world.set(approval(false));
    assert_eq!(world.admission(waiting), Admission::Waiting, "it was told to wait");
    let later = world.join(3, "cellar");
    assert_eq!(world.admission(later), Admission::Member);
    world.restart();
    assert_eq!(world.admission(waiting), Admission::Waiting);
}

#[test]
fn a_device_expires_to_the_second_and_is_renewed_without_joining_again() {
    let mut world = World::new("home");
    world.set(expiry(Some(30)));
    let ([left, right], [on_left, on_right]) = pair(&mut world);
    let end = map(&world, on_left).this.expires_unix.unwrap();
    assert_eq!(end, (world.unix + 30 * DAY).as_secs());
    let server = DeviceEdit {
        tags: Some(BTreeSet::from(["server".parse().unwrap()])),
        ..DeviceEdit::default()
    };
    let change = world.change(right, server).unwrap();
    world.commit(change);
    assert_eq!(map(&world, on_right).this.expires_unix, None, "it is nobody's who could renew it");
    let rest = Duration::from_secs(end).checked_sub(world.unix).unwrap();
    world.advance(rest - Duration::from_millis(1));
    assert_eq!(map(&world, on_right).peers.len(), 1);
    world.advance(Duration::from_millis(1));
    assert_eq!(world.admission(left), Admission::Expired);
    assert!(map(&world, on_right).peers.is_empty(), "at once");
    assert!(map(&world, on_left).peers.is_empty());
    assert_eq!(map(&world, on_left).this.admission, Admission::Expired);
    assert_eq!(world.account.revoked_devices(), [left]);

    let ctx = world.ctx();
    let renewal = world.account.prepare_renew(left, &ctx).unwrap();
    let entries =
        world.account.activity(&renewal.changes, &By::BROKER, world.unix.as_millis() as u64);
    assert_eq!(entries[0].action, "device.renewed");
    world.commit(renewal);
    world.settle();
    assert_eq!(map(&world, on_left).peers.len(), 1);
    assert_eq!(map(&world, on_right).peers.len(), 1);
    assert_eq!(world.account.revoked_devices(), []);
    world.assert_converged();
    world.advance(31 * DAY);
    assert_eq!(world.admission(left), Admission::Expired, "again");
    world.restart();
    assert_eq!(world.admission(left), Admission::Expired, "another process knows, too");
    assert_eq!(world.admission(right), Admission::Member);
}

#[test]
fn an_old_key_renews_nobody_and_a_device_that_was_away_hears_of_its_expiry() {
    let mut world = World::new("home");
    world.set(expiry(Some(1)));
    let key = world.join_key(NewJoinKey::default());
    let device = world.register(1, "pi", &key.secret).unwrap().device;
    let ends = |world: &World| world.account.device(device, world.now, world.unix).unwrap().expires;
    let (first, session) = (ends(&world), world.open(device));
    world.join(2, "laptop");
    world.settle();
    world.advance(Duration::from_secs(3_600));
    let kept = world.close(session).map.unwrap();
    assert_eq!(kept.peers.len(), 1);
    world.register(1, "pi", &key.secret).unwrap();
    assert_eq!(ends(&world), first, "a repeated registration is no renewal");
    let expiry = world.expire(device).unwrap();
    world.commit(expiry);
    assert_eq!(world.register(1, "pi", &key.secret), Err(Refused::JoinKeyUsed));
    let session = world.reopen(device, kept);
    assert_eq!(map(&world, session).this.admission, Admission::Expired);
    assert!(map(&world, session).peers.is_empty(), "what it knew is void");
    world.assert_converged();
    let fresh = world.join_key(NewJoinKey::default());
    let back = world.register(1, "other", &fresh.secret).unwrap();
    assert_eq!((back.device, back.name.as_str()), (device, "pi"));
    assert_eq!(world.admission(device), Admission::Member);
}

#[test]
fn another_lifetime_counts_from_now_and_brings_nobody_back() {
    let mut world = World::new("home");
    let ([left, right], _) = pair(&mut world);
    let never = DeviceEdit { never_expires: Some(true), ..DeviceEdit::default() };
    let change = world.change(right, never).unwrap();
    world.commit(change);
    let ctx = world.ctx();
    let edit = world.account.prepare_settings(expiry(Some(5)), &ctx).unwrap();
    let entries = world.account.activity(&edit.changes, &By::BROKER, 0);
    assert_eq!(entries.len(), 1, "the setting says it for all devices");
    assert_eq!(entries[0].action, "account.changed");
    world.commit(edit);
    let ends = |world: &World, id| world.account.device(id, world.now, world.unix).unwrap().expires;
    assert_eq!(ends(&world, left).unwrap().0, world.unix.as_secs() + 5 * 86_400);
    assert_eq!(ends(&world, right), None);
    world.advance(6 * DAY);
    assert_eq!(world.admission(left), Admission::Expired);
    world.set(expiry(None));
    assert_eq!(world.admission(left), Admission::Expired, "nobody has renewed it");
    let kept = |days| SettingsEdit { activity_days: Some(days), ..SettingsEdit::default() };
    for wrong in [expiry(Some(0)), kept(Some(0)), kept(Some(29))] {
        assert!(matches!(world.account.prepare_settings(wrong, &ctx), Err(Refused::Invalid(_))));
    }
    world.set(kept(Some(30)));
    world.set(kept(None));
}

#[test]
fn who_confirms_brings_only_his_own_devices_back() {
    let mut world = World::new("home");
    let of = |id| NewJoinKey { owner: Some(UserId(id)), ..NewJoinKey::default() };
    let key = world.join_key(of(1));
    let device = world.register(1, "laptop", &key.secret).unwrap().device;
    let expiry = world.expire(device).unwrap();
    world.commit(expiry);
    let others = world.join_key(of(2));
    assert_eq!(world.register(1, "laptop", &others.secret), Err(Refused::NotYourDevice));
    let own = world.join_key(of(1));
    assert_eq!(world.register(1, "laptop", &own.secret).unwrap().device, device);
    assert_eq!(world.admission(device), Admission::Member);
}

#[test]
fn a_suspended_account_has_devices_without_a_mesh_and_resumes_as_it_was() {
    let mut world = World::new("home");
    let (devices, sessions) = pair(&mut world);
    let expired = world.join(1, "old");
    let expiry = world.expire(expired).unwrap();
    world.commit(expiry);
    world.settle();
    let before = sessions.map(|session| map(&world, session).peers.clone());
    world.set(suspension(true));
    world.settle();
    for session in sessions {
        assert_eq!(map(&world, session).this.admission, Admission::Suspended);
        assert!(map(&world, session).peers.is_empty() && map(&world, session).relays.is_empty());
    }
    assert_eq!(world.account.revoked_devices().len(), 3, "relays refuse them all");
    let key = world.reusable_key();
    assert_eq!(world.register(5, "new", &key), Err(Refused::AccountSuspended));
    world.restart();
    assert_eq!(world.admission(devices[0]), Admission::Suspended);
    let sessions = devices.map(|device| world.open(device));
    world.settle();
    world.set(suspension(false));
    world.settle();
    for (session, before) in sessions.into_iter().zip(before) {
        let after = map(&world, session).peers.iter().map(|peer| (peer.id, peer.key));
        assert!(after.eq(before.iter().map(|peer| (peer.id, peer.key))));
    }
    assert_eq!(world.admission(expired), Admission::Expired, "as it was");
    assert_eq!(world.account.revoked_devices(), [expired]);
    world.assert_converged();
}

#[test]
fn an_account_takes_no_more_devices_than_its_own_limit() {
    let mut world = World::new("home");
    pair(&mut world);
    let limit = |n: Option<u32>| SettingsEdit {
        device_limit: Some(n.map(DeviceLimit)),
        ..SettingsEdit::default()
    };
    world.set(limit(Some(2)));
    let key = world.reusable_key();
    let refused = world.register(1, "third", &key).unwrap_err();
    assert_eq!(refused, Refused::AccountFull);
    assert!(refused.to_string().contains("operator"), "{refused}");
    world.register(101, "left", &key).expect("those that are there may come back");
    world.set(limit(None));
    world.register(1, "third", &key).unwrap();
    let ctx = world.ctx();
    for wrong in [0, 10_001] {
        let refused = world.account.prepare_settings(limit(Some(wrong)), &ctx);
        assert!(matches!(refused, Err(Refused::Invalid(_))), "{wrong}");
    }
}

#[test]
fn who_was_hidden_until_it_expired_is_not_spoken_of_when_the_policy_opens() {
    let mut world = World::new("home");
    let policy = |world: &mut World, text: &str| {
        let prepared = world.account.prepare_policy(text, None).unwrap();
        world.commit(prepared);
    };
    let left = world.join(101, "left");
    let session = world.open(left);
    policy(&mut world, "[[rules]]\nfrom = 'tag:nobody'\nto = 'tag:nobody'");
    world.settle();
    let map = world.close(session).map.unwrap();
    let hidden = world.join(102, "hidden");
    let expiry = world.expire(hidden).unwrap();
    world.commit(expiry);
    policy(&mut world, "[[rules]]\nfrom = '*'\nto = '*'");
    let session = world.reopen(left, map);
    world.settle();
    let is_removal = |change: &Change| matches!(change, Change::Removed { .. });
    for event in &world.clients[&session].events {
        if let SessionEvent::Delta(delta) = event {
            assert!(!delta.changes.iter().any(is_removal), "{delta:?}");
        }
    }
    assert!(world.clients[&session].deltas() > 0);
    world.assert_converged();
}
