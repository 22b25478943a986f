//! Whatever happens, in whatever order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;
use warren_coord::policy::Members;
use warren_coord::{
    DeviceEdit, EdgeItemId, NewJoinKey, Refused, RelayFace, Role, SessionId, SettingsEdit,
};
use warren_proto::{
    Change, ConnectRequest, DeviceId, DeviceName, EdgeChange, ForwardProtocol, GatewayEdit,
    NatReport, Netmap, NewForward, RelayId, SessionEvent, UserId, VirtualDeviceEdit,
};

use crate::edges::{forward, gateway, virtual_device};
use crate::world::World;

#[derive(Debug, Clone)]
enum Step {
    Join { seed: u64, name: u8, ephemeral: bool },
    Open { device: usize },
    Resume { device: usize },
    Close { session: usize },
    CheckIn { device: usize, port: u16 },
    Connect { from: usize, to: usize },
    Rename { device: usize, name: u8 },
    StaticEndpoint { device: usize, port: u16 },
    Expire { device: usize },
    Renew { device: usize },
    Approve { device: usize },
    Refuse { device: usize },
    Admission { approval: bool, days: Option<u16>, suspended: bool },
    Remove { device: usize },
    Settings { n: u8 },
    RelayList { first: usize, second: usize, equal: bool },
    RelayServer { n: u8 },
    RemoveRelay { n: usize },
    RotateRelay { n: usize },
    Overflow { session: usize },
    Tag { device: usize, tag: u8 },
    Owner { device: usize, user: u8 },
    Policy { text: usize },
    Members { first: u8 },
    Wait { millis: u64 },
    Restart,
    Consent { device: usize, is_edge: bool },
    Virtual { device: usize, name: u8 },
    Gateway { device: usize, lan: u8 },
    Forward { device: usize, allow: usize },
    Switch { item: usize, on: bool },
    Drop { item: usize },
}

/// Texts that mean the same devices in many ways.
const POLICIES: [&str; 9] = [
    "",
    "[[rules]]\nfrom = '*'\nto = '*'",
    "[[rules]]\nfrom = '*'\nto = 'tag:tag-1'\nports = 'tcp:22'",
    "[[rules]]\nfrom = '*'\nto = 'own'\n[[rules]]\nfrom = 'tag:tag-1'\nto = 'device:name-1'",
    "[groups]\ng = ['u1@example.org', 'tag:tag-2']\n[[rules]]\nfrom = 'group:g'\nto = ['group:g', \
     'virtual:cam.name-2']",
    "[[rules]]\nfrom = 'role:admin'\nto = '*'\n[[rules]]\nfrom = 'user:u2@example.org'\nto = \
     'subnet:10.0.0.0/8@name-0'\nports = ['udp:53', 'icmp']",
    "[[rules]]\nfrom = 'tag:tag-1'\nto = ['virtual:cam-0.name-1', 'subnet:192.168.0.0/16']",
    "[[rules]]\nfrom = '*'\nto = ['virtual:cam-1.name-0', 'device:name-2']\n[[rules]]\nfrom = \
     'user:u1@example.org'\nto = 'subnet:192.168.1.0/24@name-1'",
    "[[rules]]\nfrom = 'device:name-3'\nto = ['tag:tag-0', 'user:u0@example.org']",
];

/// Whom port forwards are for.
const ALLOWED: [&[&str]; 3] =
    [&["tag:tag-1", "device:name-2"], &["user:u1@example.org", "role:admin"], &["group:g"]];

fn step() -> impl Strategy<Value = Step> {
    let which = 0..100usize;
    prop_oneof![
        6 => (0..12u64, 0..4u8, any::<bool>())
            .prop_map(|(seed, name, ephemeral)| Step::Join { seed, name, ephemeral }),
        6 => which.clone().prop_map(|device| Step::Open { device }),
        3 => which.clone().prop_map(|device| Step::Resume { device }),
        3 => which.clone().prop_map(|session| Step::Close { session }),
        8 => (which.clone(), 1..4u16).prop_map(|(device, port)| Step::CheckIn { device, port }),
        3 => (which.clone(), which.clone()).prop_map(|(from, to)| Step::Connect { from, to }),
        2 => (which.clone(), 0..4u8).prop_map(|(device, name)| Step::Rename { device, name }),
        1 => (which.clone(), 0..3u16)
            .prop_map(|(device, port)| Step::StaticEndpoint { device, port }),
        1 => which.clone().prop_map(|device| Step::Expire { device }),
        1 => which.clone().prop_map(|device| Step::Renew { device }),
        2 => which.clone().prop_map(|device| Step::Approve { device }),
        1 => which.clone().prop_map(|device| Step::Refuse { device }),
        2 => (any::<bool>(), prop::option::of(1..3u16), 0..4u8).prop_map(|(approval, days, n)| {
            Step::Admission { approval, days, suspended: n == 0 }
        }),
        1 => which.clone().prop_map(|device| Step::Remove { device }),
        1 => (0..3u8).prop_map(|n| Step::Settings { n }),
        2 => (which.clone(), which.clone(), any::<bool>())
            .prop_map(|(first, second, equal)| Step::RelayList { first, second, equal }),
        1 => (0..3u8).prop_map(|n| Step::RelayServer { n }),
        1 => which.clone().prop_map(|n| Step::RemoveRelay { n }),
        1 => which.clone().prop_map(|n| Step::RotateRelay { n }),
        1 => which.clone().prop_map(|session| Step::Overflow { session }),
        4 => (which.clone(), 0..4u8).prop_map(|(device, tag)| Step::Tag { device, tag }),
        4 => (which.clone(), 0..4u8).prop_map(|(device, user)| Step::Owner { device, user }),
        4 => (0..POLICIES.len()).prop_map(|text| Step::Policy { text }),
        1 => (0..3u8).prop_map(|first| Step::Members { first }),
        6 => prop_oneof![Just(10u64), Just(60), Just(4_000), Just(2_000_000), Just(90_000_000)]
            .prop_map(|millis| Step::Wait { millis }),
        1 => Just(Step::Restart),
        4 => (which.clone(), prop::bool::weighted(0.8))
            .prop_map(|(device, is_edge)| Step::Consent { device, is_edge }),
        4 => (which.clone(), 0..3u8).prop_map(|(device, name)| Step::Virtual { device, name }),
        2 => (which.clone(), 0..3u8).prop_map(|(device, lan)| Step::Gateway { device, lan }),
        3 => (which.clone(), 0..ALLOWED.len())
            .prop_map(|(device, allow)| Step::Forward { device, allow }),
        2 => (which.clone(), any::<bool>()).prop_map(|(item, on)| Step::Switch { item, on }),
        2 => which.clone().prop_map(|item| Step::Drop { item }),
    ]
}

/// A world, and the maps that its devices have kept.
struct Model {
    world: World,
    kept: Vec<(DeviceId, Netmap)>,
    /// Whose each address ever was.
    owner_by_ipv4: BTreeMap<Ipv4Addr, DeviceId>,
}

impl Model {
    fn device(&self, n: usize) -> Option<DeviceId> {
        let devices = &self.world.stored.devices;
        (!devices.is_empty()).then(|| devices[n % devices.len()].id)
    }

    fn relay(&self, n: usize) -> Option<RelayId> {
        let relays = &self.world.stored.relays;
        (!relays.is_empty()).then(|| relays[n % relays.len()].id)
    }

    fn session(&self, n: usize) -> Option<SessionId> {
        let open: Vec<SessionId> = self
            .world
            .clients
            .keys()
            .copied()
            .filter(|it| self.world.account.session_device(*it).is_some())
            .collect();
        (!open.is_empty()).then(|| open[n % open.len()])
    }

    fn run(&mut self, step: &Step) -> Option<()> {
        let world = &mut self.world;
        match *step {
            Step::Join { seed, name, ephemeral } => {
                let key = world.join_key(NewJoinKey { ephemeral, ..Default::default() });
                let joined = world.register(seed, &format!("name {name}"), &key.secret);
                let suspended = world.account.record().settings.suspended;
                assert_eq!(joined.err(), suspended.then_some(Refused::AccountSuspended));
            }
            Step::Open { device } => {
                let device = self.device(device)?;
                self.world.open_with(device, None, None).ok()?;
            }
            Step::Resume { device } => {
                let (device, map) = self.kept.get(device % self.kept.len().max(1))?.clone();
                if self.world.account.netmap(device).is_ok() {
                    self.world.reopen(device, map);
                }
            }
            Step::Close { session } => {
                let session = self.session(session)?;
                let device = self.world.account.session_device(session)?;
                self.kept.push((device, self.world.close(session).map?));
            }
            Step::CheckIn { device, port } => {
                let device = self.device(device)?;
                self.world.check_in(device, &[&format!("198.51.100.7:{port}")]).ok()?;
            }
            Step::Connect { from, to } => {
                let (from, peer) = (self.device(from)?, self.device(to)?);
                let request = ConnectRequest {
                    peer,
                    endpoints: Vec::new(),
                    nat: NatReport::default(),
                    relay: None,
                };
                self.world.account.handle_connect(from, &request, self.world.now).ok()?;
                self.world.drain();
            }
            Step::Rename { device, name } => {
                let name = DeviceName::from_free_text(&format!("name {name}"));
                let device = self.device(device)?;
                let prepared = self.world.change(device, DeviceEdit::rename(name));
                self.world.commit(prepared.ok()?);
            }
            Step::StaticEndpoint { device, port } => {
                let endpoint = (port > 0).then(|| ([203, 0, 113, 1], port).into());
                let device = self.device(device)?;
                let prepared = self.world.change(device, DeviceEdit::static_endpoint(endpoint));
                self.world.commit(prepared.ok()?);
            }
            Step::Expire { device } => {
                let device = self.device(device)?;
                let prepared = self.world.expire(device);
                self.world.commit(prepared.ok()?);
            }
            Step::Renew { device } => {
                let (device, ctx) = (self.device(device)?, self.world.ctx());
                let prepared = self.world.account.prepare_renew(device, &ctx);
                self.world.commit(prepared.ok()?);
            }
            Step::Approve { device } => {
                let (device, ctx) = (self.device(device)?, self.world.ctx());
                let prepared = self.world.account.prepare_approve(device, &ctx);
                self.world.commit(prepared.ok()?);
            }
            Step::Refuse { device } => {
                let prepared = self.world.account.prepare_refuse(self.device(device)?);
                self.world.commit(prepared.ok()?);
            }
            Step::Admission { approval, days, suspended } => world.set(SettingsEdit {
                suspended: Some(suspended),
                device_approval: Some(approval),
                key_expiry_days: Some(days),
                ..SettingsEdit::default()
            }),
            Step::Remove { device } => {
                let prepared = self.world.account.prepare_remove(self.device(device)?);
                self.world.commit(prepared.ok()?);
            }
            Step::Settings { n } => {
                world.settings.stun = vec![([203, 0, 113, n], 3478).into()];
                world.settings.dns_suffix = format!("suffix-{n}");
                world.account.handle_settings(&world.settings, world.now);
                world.drain();
            }
            Step::RelayList { first, second, equal } => {
                let names = [first, second].map(|n| self.device(n).map(|id| id.to_string()));
                let names: Vec<String> = names.into_iter().flatten().collect();
                let groups = if equal {
                    vec![names]
                } else {
                    names.into_iter().map(|name| vec![name]).collect()
                };
                let ctx = self.world.ctx();
                let prepared = self.world.account.prepare_relay_list(&groups, &ctx);
                self.world.commit(prepared.ok()?);
            }
            Step::RelayServer { n } => {
                let ctx = world.ctx();
                let name = format!("server-{n}").parse().ok()?;
                let prepared = world.account.prepare_relay_server(name, &ctx);
                let id = world.commit(prepared.ok()?).id;
                let face = RelayFace {
                    udp: vec![([203, 0, 113, n + 10], 3478).into()],
                    ..RelayFace::default()
                };
                let prepared = world.account.prepare_relay_face(id, &face);
                world.commit(prepared.ok()?);
            }
            Step::RemoveRelay { n } => {
                let relay = self.relay(n)?;
                let prepared = self.world.account.prepare_remove_relay(relay);
                self.world.commit(prepared.ok()?);
            }
            Step::RotateRelay { n } => {
                let (relay, ctx) = (self.relay(n)?, self.world.ctx());
                let prepared = self.world.account.prepare_rotate_relay(relay, &ctx);
                self.world.commit(prepared.ok()?);
            }
            Step::Overflow { session } => {
                let session = self.session(session)?;
                self.world.account.handle_overflow(session);
                self.world.settle();
                self.world.account.handle_drained(session);
                self.world.drain();
            }
            Step::Tag { device, tag } => {
                let tags = (tag > 0).then(|| format!("tag-{}", tag - 1).parse().unwrap());
                let edit =
                    DeviceEdit { tags: Some(tags.into_iter().collect()), ..DeviceEdit::default() };
                let device = self.device(device)?;
                let prepared = self.world.change(device, edit);
                self.world.commit(prepared.ok()?);
            }
            Step::Owner { device, user } => {
                let owner = (user > 0).then(|| UserId((user - 1).into()));
                let edit = DeviceEdit { owner: Some(owner), ..DeviceEdit::default() };
                let device = self.device(device)?;
                let prepared = self.world.change(device, edit);
                self.world.commit(prepared.ok()?);
            }
            Step::Policy { text } => {
                let prepared = world.account.prepare_policy(POLICIES[text], None).unwrap();
                world.commit(prepared);
            }
            Step::Members { first } => {
                let member = |n: u8| {
                    let role = if n == first { Role::Admin } else { Role::Member };
                    (UserId(n.into()), format!("u{n}@example.org").parse().unwrap(), role)
                };
                let members: Members = (0..3).map(member).collect();
                world.account.handle_members(members, world.now);
                world.drain();
            }
            Step::Wait { millis } => world.advance(Duration::from_millis(millis)),
            Step::Restart => world.restart(),
            Step::Consent { .. }
            | Step::Virtual { .. }
            | Step::Gateway { .. }
            | Step::Forward { .. }
            | Step::Switch { .. }
            | Step::Drop { .. } => self.run_edge(step)?,
        }
        Some(())
    }

    fn run_edge(&mut self, step: &Step) -> Option<()> {
        let items = &self.world.stored.edge_items;
        let item = |n: usize| items.get(n % items.len().max(1)).map(|it| (it.edge, it.item.id()));
        let (edge, change) = match *step {
            Step::Consent { device, is_edge } => {
                let device = self.device(device)?;
                return self.world.try_consent(device, is_edge).ok();
            }
            Step::Virtual { device, name } => {
                let new = virtual_device(&format!("cam-{name}"));
                (self.device(device)?, EdgeChange::AddVirtualDevice(new))
            }
            Step::Gateway { device, lan } => {
                let new = gateway(&format!("192.168.{lan}.0/24"));
                (self.device(device)?, EdgeChange::AddGateway(new))
            }
            Step::Forward { device, allow } => {
                let port = 8000 + u16::try_from(allow).ok()?;
                let words = ALLOWED[allow].iter().map(|word| (*word).to_owned());
                let new =
                    NewForward { allow: words.collect(), ..forward(ForwardProtocol::Tcp, port) };
                (self.device(device)?, EdgeChange::AddForward(new))
            }
            Step::Switch { item: n, on } => {
                let enabled = Some(on);
                match item(n)? {
                    (edge, EdgeItemId::VirtualDevice(id)) => {
                        let edit = VirtualDeviceEdit { enabled, ..Default::default() };
                        (edge, EdgeChange::SetVirtualDevice { id, edit })
                    }
                    (edge, EdgeItemId::Gateway(id)) => {
                        let edit = GatewayEdit { enabled, ..Default::default() };
                        (edge, EdgeChange::SetGateway { id, edit })
                    }
                    (_, EdgeItemId::Forward(_)) => return None,
                }
            }
            Step::Drop { item: n } => match item(n)? {
                (edge, EdgeItemId::VirtualDevice(id)) => {
                    (edge, EdgeChange::RemoveVirtualDevice { id })
                }
                (edge, EdgeItemId::Gateway(id)) => (edge, EdgeChange::RemoveGateway { id }),
                (edge, EdgeItemId::Forward(id)) => (edge, EdgeChange::RemoveForward { id }),
            },
            _ => return None,
        };
        self.world.edge_change(edge, change).ok().map(|_| ())
    }

    fn new(name: &str) -> Self {
        Self { world: World::new(name), kept: Vec::new(), owner_by_ipv4: BTreeMap::new() }
    }

    fn check(&mut self) {
        let records = &self.world.stored.devices;
        let count = records.len();
        assert_eq!(records.iter().map(|it| &it.name).collect::<BTreeSet<_>>().len(), count);
        assert_eq!(records.iter().map(|it| it.ipv4).collect::<BTreeSet<_>>().len(), count);
        assert_eq!(records.iter().map(|it| it.ipv6).collect::<BTreeSet<_>>().len(), count);
        assert_eq!(records.iter().map(|it| it.key).collect::<BTreeSet<_>>().len(), count);
        assert_eq!(records.iter().map(|it| it.id).collect::<BTreeSet<_>>().len(), count);
        for record in records {
            let owner = *self.owner_by_ipv4.entry(record.ipv4).or_insert(record.id);
            assert_eq!(owner, record.id, "an address is for life and not used again");
            let addresses = self.owner_by_ipv4.iter().filter(|(_, it)| **it == record.id);
            assert_eq!(addresses.count(), 1, "a device keeps its address");
        }
        for device in records {
            if let Ok(map) = self.world.account.netmap(device.id) {
                assert_eq!(map.check(), Ok(()), "what a node believes");
            }
        }
    }
}

impl Model {
    /// Notes who may be told of whom at this moment.
    fn note_visible(&self, visible: &mut BTreeSet<(DeviceId, DeviceId)>) {
        let ids: Vec<DeviceId> = self.world.stored.devices.iter().map(|it| it.id).collect();
        for a in &ids {
            for b in &ids {
                let verdict = self.world.account.verdict(*a, *b, None).unwrap();
                let in_mesh = [*a, *b].iter().all(|id| self.world.admission(*id).is_member());
                let reach = !verdict.there.is_empty() || !verdict.back.is_empty();
                assert!(!reach || verdict.see_each_other, "who reaches somebody sees him");
                if a == b || (in_mesh && verdict.see_each_other) {
                    visible.insert((*a, *b));
                }
            }
        }
    }
}

/// Every device that an event speaks of.
fn mentioned(event: &SessionEvent) -> Vec<DeviceId> {
    match event {
        SessionEvent::Netmap(map) => map.peers.iter().map(|peer| peer.id).collect(),
        SessionEvent::Delta(delta) => delta
            .changes
            .iter()
            .filter_map(|change| match change {
                Change::Peer { peer } => Some(peer.id),
                Change::Removed { id }
                | Change::Presence { id, .. }
                | Change::PeerRelays { id, .. } => Some(*id),
                Change::This { this } => Some(this.id),
                Change::Stun { .. }
                | Change::NextPin { .. }
                | Change::Dns { .. }
                | Change::Relays { .. }
                | Change::RelayDuty { .. }
                | Change::Filter { .. }
                | Change::Edge { .. }
                | Change::Unknown => None,
            })
            .collect(),
        SessionEvent::Connect(signal) => vec![signal.from],
        SessionEvent::Current(_)
        | SessionEvent::Reach(_)
        | SessionEvent::Wake(_)
        | SessionEvent::Revoked => Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn names_and_addresses_are_unique_and_every_session_converges(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut model = Model::new("home");
        for step in &steps {
            model.run(step);
            model.check();
        }
        model.world.advance(Duration::from_secs(10));
        model.world.assert_converged();
    }

    /// Keys, addresses, presence, signals, names: nothing of a hidden device, or of one that
    /// is not in the mesh, reaches anybody.
    #[test]
    fn no_event_speaks_of_a_device_that_is_hidden_or_outside(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut model = Model::new("home");
        let mut visible = BTreeSet::new();
        let mut looked_at: BTreeMap<SessionId, usize> = BTreeMap::new();
        for step in &steps {
            model.note_visible(&mut visible);
            model.run(step);
            model.note_visible(&mut visible);
            if matches!(step, Step::Restart) {
                looked_at.clear();
            }
            for (session, client) in &model.world.clients {
                let Some(viewer) = model.world.account.session_device(*session) else { continue };
                let seen = looked_at.entry(*session).or_default();
                for device in client.events[*seen..].iter().flat_map(mentioned) {
                    prop_assert!(visible.contains(&(viewer, device)), "{:?}", client.events);
                }
                *seen = client.events.len();
            }
        }
    }

    /// Two accounts of one broker are driven side by side, with the same keys of the same devices.
    #[test]
    fn no_event_speaks_of_another_accounts_device(
        steps in prop::collection::vec((any::<bool>(), step()), 1..80),
    ) {
        let mut models = ["home", "office"].map(Model::new);
        models[1].world.unix += Duration::from_secs(7);
        let mut ever: [BTreeSet<DeviceId>; 2] = Default::default();
        for (second, step) in &steps {
            let which = usize::from(*second);
            models[which].run(step);
            ever[which].extend(models[which].world.stored.devices.iter().map(|it| it.id));
            for client in models[which].world.clients.values() {
                for device in client.events.iter().flat_map(mentioned) {
                    prop_assert!(ever[which].contains(&device));
                }
            }
        }
    }
}
