//! What edges open, and who is told of it.

use std::time::Duration;

use warren_coord::policy::Members;
use warren_coord::{
    Actor, By, Change, DeviceEdit, EdgeItem, EdgeItemRecord, Refused, Role, UnixTime,
};
use warren_proto::{
    CheckIn, CheckInState, DeviceId, EDGE, EdgeChange, EdgeChanged, EdgeDuty, Endpoint,
    EndpointKind, ForwardEdit, ForwardProtocol, ForwardSpec, GatewaySpec, LanSource, LanTarget,
    MacAddr, NewForward, NewGateway, NewVirtualDevice, Ports, Schedule, SessionEvent, Target,
    UserId, VirtualDeviceEdit, VirtualDeviceSpec, WakeOrder, Weekday,
};

use crate::world::{World, endpoint};

const LAN: &str = "192.168.1.9";

fn target(ip: &str) -> LanTarget {
    LanTarget { ip: ip.parse().unwrap(), mac: None }
}

pub(crate) fn forward(protocol: ForwardProtocol, port: u16) -> NewForward {
    NewForward {
        name: None,
        protocol,
        port,
        last_port: None,
        target: target(LAN),
        target_port: None,
        source: LanSource::Masquerade,
        untested: false,
        enabled: true,
        allow: Vec::new(),
        schedule: None,
        note: String::new(),
        allow_public: false,
    }
}

pub(crate) fn virtual_device(name: &str) -> NewVirtualDevice {
    NewVirtualDevice {
        name: name.parse().unwrap(),
        target: target(LAN),
        ports: vec![Ports::All],
        source: LanSource::Masquerade,
        untested: false,
        enabled: true,
        note: String::new(),
        allow_public: false,
    }
}

pub(crate) fn gateway(lan: &str) -> NewGateway {
    NewGateway {
        lan: lan.parse().unwrap(),
        source: LanSource::Masquerade,
        enabled: true,
        standby_for: None,
        note: String::new(),
    }
}

impl World {
    pub(crate) fn edge_change(
        &mut self,
        edge: DeviceId,
        change: EdgeChange,
    ) -> Result<EdgeChanged, Refused> {
        let ctx = self.ctx();
        let prepared = self.account.prepare_edge_change(edge, change, &ctx)?;
        Ok(self.commit(prepared))
    }

    /// A device checks in and says whether it is an edge.
    fn consent(&mut self, device: DeviceId, is_edge: bool) {
        self.try_consent(device, is_edge).unwrap();
        self.settle();
        self.settle();
    }

    pub(crate) fn try_consent(&mut self, device: DeviceId, is_edge: bool) -> Result<(), Refused> {
        let capabilities = if is_edge { vec![EDGE.to_owned()] } else { Vec::new() };
        let lan = Endpoint { addr: "192.168.1.2:9".parse().unwrap(), kind: EndpointKind::Host };
        let endpoints = vec![lan, endpoint("198.51.100.7:7")];
        let state = CheckInState { endpoints, capabilities, ..CheckInState::default() };
        let check_in = CheckIn { state: Some(state) };
        self.account.handle_check_in(device, &check_in, self.now)?;
        self.drain();
        Ok(())
    }

    fn duty(&self, device: DeviceId) -> Option<EdgeDuty> {
        self.account.netmap(device).unwrap().edge
    }

    /// The virtual devices and networks that a viewer is told of.
    fn offered(&self, viewer: DeviceId, edge: DeviceId) -> Option<(Vec<String>, Vec<String>)> {
        let map = self.account.netmap(viewer).unwrap();
        let peer = map.peers.into_iter().find(|peer| peer.id == edge)?;
        let offer = peer.edge.unwrap_or_default();
        let names = offer.virtual_devices.iter().map(|it| it.name.to_string()).collect();
        Some((names, offer.subnets.iter().map(ToString::to_string).collect()))
    }

    fn set_policy(&mut self, text: &str) {
        let prepared = self.account.prepare_policy(text, None).unwrap();
        self.commit(prepared);
    }

    fn added_virtual(&mut self, edge: DeviceId, name: &str) -> VirtualDeviceSpec {
        match self.edge_change(edge, EdgeChange::AddVirtualDevice(virtual_device(name))).unwrap() {
            EdgeChanged::VirtualDevice(spec) => spec,
            other => panic!("{other:?}"),
        }
    }

    fn added_forward(&mut self, edge: DeviceId, new: NewForward) -> ForwardSpec {
        match self.edge_change(edge, EdgeChange::AddForward(new)).unwrap() {
            EdgeChanged::Forward(spec) => spec,
            other => panic!("{other:?}"),
        }
    }

    fn added_gateway(&mut self, edge: DeviceId, lan: &str) -> GatewaySpec {
        match self.edge_change(edge, EdgeChange::AddGateway(gateway(lan))).unwrap() {
            EdgeChanged::Gateway(spec) => spec,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_device_that_is_asked_to_be_an_edge_hears_of_it_and_decides_itself() {
    let mut world = World::new("home");
    let attic = world.join(1, "attic");
    let session = world.open(attic);
    let asked = |world: &World| {
        let map = world.account.netmap(attic).unwrap();
        (map.edge_asked, map.edge.is_some(), world.account.edge(attic).unwrap().asked)
    };
    assert_eq!(asked(&world), (false, false, false));
    let ask = |world: &mut World, asked| {
        let prepared = world.account.prepare_edge_ask(attic, asked).unwrap();
        let changes = prepared.changes.len();
        world.commit(prepared);
        world.settle();
        changes
    };
    let deltas = world.clients[&session].deltas();
    assert_eq!(ask(&mut world, true), 1);
    assert_eq!(asked(&world), (true, false, true), "that opens nothing");
    let client = &world.clients[&session];
    assert!(client.map.as_ref().is_some_and(|map| map.edge_asked), "a delta says it, too");
    assert_eq!(client.deltas(), deltas + 1);
    assert_eq!(ask(&mut world, true), 0, "it is asked already");
    world.consent(attic, true);
    assert_eq!(asked(&world), (true, true, true));
    world.consent(attic, false);
    assert_eq!(asked(&world), (true, false, true), "his word goes, the question stays");
    ask(&mut world, false);
    assert_eq!(asked(&world), (false, false, false));
    let nobody = DeviceId(9);
    assert_eq!(
        world.account.prepare_edge_ask(nobody, true).err(),
        Some(Refused::NotFound("device"))
    );
}

#[test]
fn an_edge_is_told_to_wake_a_device_and_nobody_else_is() {
    let mut world = World::new("home");
    let (attic, laptop) = (world.join(1, "attic"), world.join(2, "laptop"));
    let mac = MacAddr([2, 0, 0, 0, 0, 9]);
    let wake = |world: &mut World, device| {
        let ctx = world.ctx();
        let prepared = world.account.prepare_wake(device, mac, &ctx)?;
        let said = world.account.activity(&prepared.changes, &By::local(0), 0);
        assert_eq!((said.len(), said[0].action.as_str()), (1, "edge.wakes"));
        world.commit(prepared);
        Ok(())
    };
    assert_eq!(wake(&mut world, DeviceId(9)), Err(Refused::NotFound("device")));
    assert!(matches!(wake(&mut world, attic), Err(Refused::Invalid(_))), "it is no edge");
    world.consent(attic, true);
    assert!(matches!(wake(&mut world, attic), Err(Refused::Invalid(_))), "it is offline");
    let session = world.open(attic);
    let other = world.open(laptop);
    for _ in 0..5 {
        assert_eq!(wake(&mut world, attic), Ok(()));
    }
    assert_eq!(wake(&mut world, attic), Err(Refused::RateLimited));
    world.advance(Duration::from_secs(2));
    assert_eq!(wake(&mut world, attic), Ok(()));
    let calls = |session| {
        let order = SessionEvent::Wake(WakeOrder { mac });
        world.clients[&session].events.iter().filter(|event| **event == order).count()
    };
    assert_eq!((calls(session), calls(other)), (6, 0));
    // It may have gone before the decision was written.
    world.advance(Duration::from_secs(9));
    let ctx = world.ctx();
    let late = world.account.prepare_wake(attic, mac, &ctx).unwrap();
    let now = world.now;
    world.account.close_session(session, now);
    world.commit(late);
}

#[test]
fn a_device_opens_nothing_before_it_says_that_it_is_an_edge_and_its_word_is_kept() {
    let mut world = World::new("home");
    let (edge, laptop) = (world.join(1, "attic"), world.join(2, "laptop"));
    world.open(edge);
    let session = world.open(laptop);
    world.added_forward(edge, forward(ForwardProtocol::Tcp, 8080));
    let camera = world.added_virtual(edge, "camera");
    assert_eq!(world.duty(edge), None);
    assert_eq!(world.offered(laptop, edge), Some((vec![], vec![])));
    world.consent(edge, true);
    let duty = world.duty(edge).unwrap();
    assert_eq!((duty.forwards[0].port, duty.forwards[0].target_port), (8080, 8080));
    assert_eq!(duty.virtual_devices[0].ipv4, camera.ipv4);
    assert_eq!(world.offered(laptop, edge), Some((vec!["camera".to_owned()], vec![])));
    let told = &world.clients[&session].map.as_ref().unwrap().peers[0];
    assert_eq!(told.edge.as_ref().unwrap().virtual_devices[0].ipv4, camera.ipv4);
    world.assert_converged();

    world.restart();
    assert_eq!(world.duty(edge), Some(duty), "a broker that starts changes nothing");
    world.consent(edge, false);
    assert_eq!(world.duty(edge), None);
    assert_eq!(world.offered(laptop, edge), Some((vec![], vec![])));
    let view = world.account.edge(edge).unwrap();
    assert!(!view.enabled && view.spec.forwards.len() == 1, "what was set waits");
}

#[test]
fn an_edge_that_stands_by_for_another_shares_its_part_of_the_range() {
    let mut world = World::new("home");
    let (edge, second) = (world.join(1, "attic"), world.join(2, "cellar"));
    let lan = "192.168.1.0/24";
    let standby_for = Some("attic".parse().unwrap());
    let standby = |lan| NewGateway { standby_for: standby_for.clone(), ..gateway(lan) };
    let add = |new| EdgeChange::AddGateway(new);
    let refused = world.edge_change(second, add(standby(lan)));
    assert!(matches!(refused, Err(Refused::EdgeInvalid(text)) if text.contains("no gateway to")));
    let first = world.added_gateway(edge, lan);
    let other = world.added_gateway(second, "192.168.7.0/24");
    assert_ne!(first.mesh, other.mesh);
    let Ok(EdgeChanged::Gateway(shared)) = world.edge_change(second, add(standby(lan))) else {
        panic!("it stands by")
    };
    assert_eq!(shared.mesh, first.mesh);
    let itself = world.edge_change(edge, add(standby("192.168.8.0/24")));
    assert!(itself.is_err(), "nobody stands by for himself");

    let third = world.join(3, "garage");
    let tags = Some(["tools".parse().unwrap()].into());
    let tagged = world.change(third, DeviceEdit { tags, ..DeviceEdit::default() }).unwrap();
    world.commit(tagged);
    let refused = world.edge_change(third, add(standby(lan)));
    assert!(matches!(refused, Err(Refused::EdgeInvalid(text)) if text.contains("same tags")));
}

#[test]
fn ports_that_lead_elsewhere_or_are_the_edges_own_are_refused() {
    let mut world = World::new("home");
    let edge = world.join(1, "attic");
    world.consent(edge, true);
    let mut range = forward(ForwardProtocol::Tcp, 8000);
    range.last_port = Some(8010);
    let first = world.added_forward(edge, range);
    let mut refused = |new: NewForward| match world.edge_change(edge, EdgeChange::AddForward(new)) {
        Err(Refused::EdgeConflict(text) | Refused::EdgeInvalid(text)) => text,
        Err(Refused::Invalid(text)) => text.to_owned(),
        other => panic!("{other:?}"),
    };
    assert!(refused(forward(ForwardProtocol::Both, 8010)).contains("port 8010"));
    assert!(refused(forward(ForwardProtocol::Tcp, 8005)).contains("ports 8000-8010"));
    for (protocol, port, word) in [
        (ForwardProtocol::Udp, 53, "name server"),
        (ForwardProtocol::Tcp, 53, "name server"),
        (ForwardProtocol::Both, 80, "web pages"),
        (ForwardProtocol::Tcp, 0, "from 1"),
    ] {
        let text = refused(forward(protocol, port));
        assert!(text.contains(word), "{text}");
    }
    let mut backwards = forward(ForwardProtocol::Tcp, 9000);
    backwards.last_port = Some(8999);
    assert!(refused(backwards).contains("below"));
    let mut high = forward(ForwardProtocol::Tcp, 9000);
    (high.last_port, high.target_port) = (Some(9001), Some(65_535));
    assert!(refused(high).contains("65,535"));
    for (ip, word) in [
        ("127.0.0.1", "no address"),
        ("224.0.0.1", "no address"),
        ("255.255.255.255", "no address"),
        ("0.0.0.0", "no address"),
        ("8.8.8.8", "--allow-public"),
        ("169.254.169.254", "--allow-public"),
        ("100.100.100.200", "link-local"),
        ("192.168.1.2", "own address"),
    ] {
        let text = refused(NewForward { target: target(ip), ..forward(ForwardProtocol::Tcp, 9) });
        assert!(text.contains(word), "{ip}: {text}");
    }
    let mesh = world.account.record().ipv4_range.hosts().nth(300).unwrap().to_string();
    let inside = NewForward { target: target(&mesh), ..forward(ForwardProtocol::Tcp, 9) };
    let inside = world.edge_change(edge, EdgeChange::AddForward(inside)).unwrap_err();
    assert!(matches!(inside, Refused::EdgeInvalid(_)), "{inside}");

    // UDP beside TCP, port 80 of UDP, a public address that is meant: all good.
    world.added_forward(edge, forward(ForwardProtocol::Udp, 8005));
    world.added_forward(edge, forward(ForwardProtocol::Udp, 80));
    let mut public = forward(ForwardProtocol::Tcp, 9001);
    (public.target, public.allow_public) = (target("203.0.113.9"), true);
    let public = world.added_forward(edge, public);

    let set = |id, edit| EdgeChange::SetForward { id, edit };
    let moved = ForwardEdit { port: Some(80), last_port: Some(81), ..ForwardEdit::default() };
    assert!(world.edge_change(edge, set(first.id, moved)).is_err());
    let renamed = ForwardEdit { name: Some("x".to_owned()), ..ForwardEdit::default() };
    assert!(world.edge_change(edge, set(public.id, renamed)).is_ok(), "its target is as it was");
    let twice = ForwardEdit { name: Some("x".to_owned()), ..ForwardEdit::default() };
    assert!(world.edge_change(edge, set(first.id, twice)).is_err());
    let off = ForwardEdit { enabled: Some(false), ..ForwardEdit::default() };
    world.edge_change(edge, set(first.id, off)).unwrap();
    assert!(world.duty(edge).unwrap().forwards.iter().all(|it| it.id != first.id));
    let id = first.id;
    world.edge_change(edge, EdgeChange::RemoveForward { id }).unwrap();
    let gone = world.edge_change(edge, EdgeChange::RemoveForward { id }).unwrap_err();
    assert_eq!(gone, Refused::NotFound("port forward"));
}

#[test]
fn addresses_of_devices_virtual_devices_and_networks_never_meet() {
    let mut world = World::new("home");
    let edge = world.join(1, "attic");
    let camera = world.added_virtual(edge, "camera");
    let laptop = world.join(2, "laptop");
    assert_ne!(world.account.netmap(laptop).unwrap().this.ipv4, camera.ipv4);
    let taken = world.edge_change(edge, EdgeChange::AddVirtualDevice(virtual_device("camera")));
    assert!(matches!(taken, Err(Refused::NameTaken(_))));
    let range = world.account.record().ipv4_range;
    let first = world.added_gateway(edge, "192.168.1.0/24");
    let second = world.added_gateway(edge, "10.1.0.0/18");
    let third = world.added_gateway(edge, "192.168.7.0/30");
    for (a, b) in [(&first, &second), (&first, &third), (&second, &third)] {
        assert!(!a.mesh.contains(&b.mesh) && !b.mesh.contains(&a.mesh), "{a:?} {b:?}");
        assert!(range.contains(&a.mesh) && a.mesh.prefix_len() == a.lan.prefix_len());
        assert!(!a.mesh.contains(&range.broadcast()));
    }
    for (lan, word) in [
        ("192.168.1.128/25", "overlaps"),
        ("192.168.1.1/24", "behind its prefix"),
        ("10.0.0.0/8", "/17"),
        ("10.2.0.0/17", "no free part"),
        ("8.8.8.0/24", "private"),
        ("127.0.0.0/24", "private"),
        ("169.254.169.0/24", "private"),
    ] {
        let refused = world.edge_change(edge, EdgeChange::AddGateway(gateway(lan))).unwrap_err();
        assert!(refused.to_string().contains(word), "{lan}: {refused}");
    }
}

fn internet(standby_for: Option<&str>) -> EdgeChange {
    let standby_for = standby_for.map(|name| name.parse().unwrap());
    EdgeChange::AddGateway(NewGateway { standby_for, ..gateway("0.0.0.0/0") })
}

impl World {
    /// Whether a viewer is told that it may use an edge as its exit node, and for whom that stands by.
    fn way_out(&self, viewer: DeviceId, edge: DeviceId) -> Option<Option<DeviceId>> {
        let map = self.account.netmap(viewer).unwrap();
        let peer = map.peers.into_iter().find(|peer| peer.id == edge)?;
        Some(peer.edge?.internet?.standby_for)
    }

    fn lets_out(&self, edge: DeviceId) -> Vec<Target> {
        let filter = self.account.netmap(edge).unwrap().filter.unwrap();
        filter.rules.into_iter().flat_map(|rule| rule.to).collect()
    }
}

#[test]
fn an_exit_node_is_offered_to_those_whom_the_policy_lets_go_out() {
    let mut world = World::new("home");
    let (edge, laptop) = (world.join(1, "attic"), world.join(2, "laptop"));
    let (tablet, second) = (world.join(3, "tablet"), world.join(4, "cellar"));
    for device in [edge, laptop, tablet, second] {
        world.open(device);
    }
    world.consent(edge, true);
    world.consent(second, true);
    let office = world.added_gateway(edge, "192.168.1.0/24");
    world.edge_change(edge, internet(None)).unwrap();
    world.edge_change(second, internet(Some("attic"))).unwrap();
    world.settle();
    world.assert_converged();
    assert_eq!(world.way_out(laptop, edge), Some(None));
    assert_eq!(world.way_out(tablet, second), Some(Some(edge)));
    let networks = vec![office.mesh.to_string()];
    assert_eq!(world.offered(laptop, edge), Some((vec![], networks)), "it is no network");
    assert!(world.duty(edge).unwrap().leads_to_the_internet());
    world.join(5, "phone");
    world.added_gateway(edge, "192.168.7.0/24");

    world.set_policy(
        "[[rules]]\nfrom = 'device:laptop'\nto = 'internet@attic'\nports = 'tcp:443'\n\
         [[rules]]\nfrom = 'device:tablet'\nto = 'subnet:0.0.0.0/0'\n",
    );
    world.settle();
    world.assert_converged();
    assert_eq!(world.way_out(laptop, edge), Some(None));
    assert_eq!(world.way_out(laptop, second), None, "not by any");
    assert_eq!(world.way_out(tablet, edge), None, "a network is not the internet");
    let lets_out = world.lets_out(edge);
    assert!(lets_out.contains(&Target::Internet), "{lets_out:?}");
    let subnets = lets_out.iter().filter(|it| matches!(it, Target::Subnet(_)));
    assert_eq!(subnets.count(), 2, "{lets_out:?}");
    world.set_policy("[[rules]]\nfrom = 'device:tablet'\nto = 'internet'\n");
    world.settle();
    world.assert_converged();
    assert_eq!(world.way_out(tablet, edge), Some(None));
    assert_eq!(world.way_out(tablet, second), Some(Some(edge)));
    assert_eq!(world.way_out(laptop, edge), None);
    assert_eq!(world.lets_out(edge), [Target::Internet]);
}

#[test]
fn an_edge_is_an_exit_node_once_and_stands_by_only_for_one() {
    let mut world = World::new("home");
    let (edge, second) = (world.join(1, "attic"), world.join(2, "cellar"));
    let refused = world.edge_change(second, internet(Some("attic"))).unwrap_err();
    assert!(refused.to_string().contains("no gateway to the internet"), "{refused}");
    world.edge_change(edge, internet(None)).unwrap();
    let again = world.edge_change(edge, internet(None)).unwrap_err();
    assert!(again.to_string().contains("already"), "{again}");
    let transparent = NewGateway { source: LanSource::Transparent, ..gateway("0.0.0.0/0") };
    let refused = world.edge_change(second, EdgeChange::AddGateway(transparent)).unwrap_err();
    assert!(refused.to_string().contains("masqueraded"), "{refused}");
    world.edge_change(second, internet(Some("attic"))).unwrap();
    for lan in ["0.0.0.0/1", "128.0.0.0/1"] {
        assert!(world.edge_change(edge, EdgeChange::AddGateway(gateway(lan))).is_err(), "{lan}");
    }
}

#[test]
fn gateways_leave_half_of_the_range_to_devices() {
    let mut world = World::new("home");
    let edge = world.join(1, "attic");
    let range = world.account.record().ipv4_range;
    let half = range.subnets(range.prefix_len() + 1).unwrap().nth(1).unwrap();
    let mut free = 0u32;
    for length in 18..=30 {
        for third in 0..64u8 {
            let lan = format!("10.{length}.{}.0/{length}", if length <= 24 { 0 } else { third });
            let Ok(EdgeChanged::Gateway(spec)) =
                world.edge_change(edge, EdgeChange::AddGateway(gateway(&lan)))
            else {
                continue;
            };
            assert!(half.contains(&spec.mesh), "{spec:?}");
            free += 1;
        }
    }
    assert!(free > 10, "{free}");
    let laptop = world.join(2, "laptop");
    assert!(!half.contains(&world.account.netmap(laptop).unwrap().this.ipv4));
}

#[test]
fn what_one_member_may_take_of_the_range_is_bounded() {
    let mut world = World::new("home");
    let people = [
        (UserId(1), "anna@example.org".parse().unwrap(), Role::Member),
        (UserId(2), "otto@example.org".parse().unwrap(), Role::Admin),
    ];
    world.account.handle_members(people.into_iter().collect(), world.now);
    let devices = [world.join(1, "attic"), world.join(2, "shed"), world.join(3, "office")];
    for (device, owner) in devices.into_iter().zip([1, 1, 2]) {
        let owner = Some(Some(UserId(owner)));
        let prepared = world.change(device, DeviceEdit { owner, ..DeviceEdit::default() }).unwrap();
        world.commit(prepared);
    }
    let [attic, shed, office] = devices;
    let mut add = |edge, lan: &str| world.edge_change(edge, EdgeChange::AddGateway(gateway(lan)));
    let refused = add(attic, "10.0.0.0/17").unwrap_err().to_string();
    assert!(refused.contains("at most 4096 addresses"), "{refused}");
    assert!(add(attic, "10.0.0.0/21").is_ok() && add(shed, "10.1.0.0/21").is_ok());
    assert!(add(shed, "192.168.1.0/24").is_err(), "by several edges neither");
    assert!(add(office, "10.0.0.0/18").is_ok());
    let mut add = |edge, n: u32| {
        let new = virtual_device(&format!("device-{n}"));
        world.edge_change(edge, EdgeChange::AddVirtualDevice(new))
    };
    for n in 0..500 {
        assert!(add(if n % 2 == 0 { attic } else { shed }, n).is_ok(), "{n}");
    }
    let refused = add(shed, 500).unwrap_err().to_string();
    assert!(refused.contains("at most 500 virtual devices"), "{refused}");
    assert!(add(office, 500).is_ok());
}

#[test]
fn names_and_notes_have_no_characters_that_nobody_sees() {
    let mut world = World::new("home");
    let edge = world.join(1, "attic");
    for name in ["cam\u{202e}gpj", "cam\u{200b}", "cam\u{200d}", "\u{200d}", "\u{3164}", "a\nb"] {
        let new = NewForward { name: Some(name.into()), ..forward(ForwardProtocol::Tcp, 8080) };
        assert!(world.edge_change(edge, EdgeChange::AddForward(new)).is_err(), "{name:?}");
        let new = NewForward { note: name.into(), ..forward(ForwardProtocol::Tcp, 8080) };
        assert!(world.edge_change(edge, EdgeChange::AddForward(new)).is_err(), "{name:?}");
    }
}

#[test]
fn names_and_notes_have_joined_emoji_and_stay_as_an_earlier_broker_took_them() {
    let mut world = World::new("home");
    let edge = world.join(1, "attic");
    let joined = "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} \u{645}\u{6cc}\u{200c}\u{62e}\u{648}\u{627}\u{647}\u{645}";
    let new = NewForward {
        name: Some(joined.into()),
        note: joined.into(),
        ..forward(ForwardProtocol::Tcp, 8080)
    };
    let added = world.edge_change(edge, EdgeChange::AddForward(new)).unwrap();
    let EdgeChanged::Forward(spec) = added else { panic!("{added:?}") };
    let edit = ForwardEdit { note: Some(format!("{joined}!")), ..ForwardEdit::default() };
    world.edge_change(edge, EdgeChange::SetForward { id: spec.id, edit }).unwrap();
    // As it was stored before the rule.
    let old = "cam\u{202e}gpj";
    let item =
        EdgeItem::Forward(ForwardSpec { name: old.into(), note: old.into(), ..spec.clone() });
    let record = EdgeItemRecord { edge, item, created: UnixTime(1) };
    let mut prepared = world.account.prepare_edge_ask(edge, true).unwrap();
    prepared.changes = vec![Change::EdgeItem(record)];
    world.commit(prepared);
    let edit = |note: &str, port| ForwardEdit {
        name: Some(old.into()),
        note: Some(note.into()),
        port: Some(port),
        ..ForwardEdit::default()
    };
    let mut set = |edit| world.edge_change(edge, EdgeChange::SetForward { id: spec.id, edit });
    assert!(set(edit(old, 8081)).is_ok(), "its port can't be changed");
    assert!(set(edit(&format!("{old}!"), 8082)).is_err(), "a new one is checked");
}

#[test]
fn a_source_that_is_shown_untested_is_so_as_long_as_it_is_shown() {
    let mut world = World::new("home");
    let edge = world.join(1, "attic");
    world.open(edge);
    world.consent(edge, true);
    let source = LanSource::Transparent;
    let new = NewForward { source, untested: true, ..forward(ForwardProtocol::Udp, 5000) };
    let id = world.added_forward(edge, new).id;
    let is_untested = |world: &World| world.duty(edge).is_some_and(|it| it.forwards[0].untested);
    assert!(is_untested(&world), "the edge isn't told");
    let set = |world: &mut World, edit| {
        let changed = world.edge_change(edge, EdgeChange::SetForward { id, edit }).unwrap();
        let EdgeChanged::Forward(spec) = changed else { panic!("{changed:?}") };
        spec.untested
    };
    let renamed = ForwardEdit { name: Some("x".to_owned()), ..ForwardEdit::default() };
    assert!(set(&mut world, renamed));
    let masked = ForwardEdit { source: Some(LanSource::Masquerade), ..ForwardEdit::default() };
    assert!(!set(&mut world, masked));
    let shown = ForwardEdit { source: Some(source), ..ForwardEdit::default() };
    assert!(!set(&mut world, shown), "a test is left out by nobody's word");
    assert!(!is_untested(&world));
}

#[test]
fn who_is_not_let_reach_a_virtual_device_is_not_told_of_it() {
    let mut world = World::new("home");
    let edge = world.join(1, "attic");
    let (laptop, tablet) = (world.join(2, "laptop"), world.join(3, "tablet"));
    for device in [edge, laptop, tablet] {
        world.open(device);
    }
    world.consent(edge, true);
    world.added_virtual(edge, "camera");
    let printer = world.added_virtual(edge, "printer");
    let office = world.added_gateway(edge, "192.168.1.0/24");
    let both =
        Some((vec!["camera".to_owned(), "printer".to_owned()], vec![office.mesh.to_string()]));
    assert_eq!((world.offered(laptop, edge), world.offered(tablet, edge)), (both.clone(), both));
    world.set_policy(
        "[[rules]]\nfrom = ['device:laptop', 'tag:cam']\nto = 'virtual:camera.attic'\nports = \
         'tcp:80'\n[[rules]]\nfrom = 'device:laptop'\nto = 'subnet:192.168.1.64/26'\n",
    );
    world.settle();
    world.assert_converged();
    let camera = vec!["camera".to_owned()];
    let subnets = vec![office.mesh.to_string()];
    assert_eq!(world.offered(laptop, edge), Some((camera.clone(), subnets)));
    assert_eq!(world.offered(tablet, edge), None, "not even of the edge");
    let filter = world.account.netmap(edge).unwrap().filter.unwrap();
    let part = office.mesh.subnets(26).unwrap().nth(1).unwrap();
    let to: Vec<Target> = filter.rules.iter().flat_map(|rule| rule.to.clone()).collect();
    let expected = [Target::Virtual("camera".parse().unwrap()), Target::Subnet(part.into())];
    assert!(expected.iter().all(|it| to.contains(it)) && to.len() == 2, "{to:?}");

    let tags = Some(["cam".parse().unwrap()].into());
    let prepared = world.change(tablet, DeviceEdit { tags, ..DeviceEdit::default() }).unwrap();
    world.commit(prepared);
    world.settle();
    world.assert_converged();
    assert_eq!(world.offered(tablet, edge), Some((camera, vec![])));
    let off = VirtualDeviceEdit { enabled: Some(false), ..VirtualDeviceEdit::default() };
    world.edge_change(edge, EdgeChange::SetVirtualDevice { id: printer.id, edit: off }).unwrap();
    world.settle();
    world.assert_converged();
}

#[test]
fn a_port_forward_is_for_those_alone_whom_it_names() {
    let mut world = World::new("home");
    let (edge, laptop) = (world.join(1, "attic"), world.join(2, "laptop"));
    let tablet = world.join(3, "tablet");
    for device in [edge, laptop, tablet] {
        world.open(device);
    }
    world.consent(edge, true);
    let mut new = forward(ForwardProtocol::Both, 8080);
    new.allow = vec!["device:laptop".to_owned(), "tag:tools".to_owned()];
    world.added_forward(edge, new);
    world.settle();
    world.assert_converged();
    let limits = |world: &World| world.account.netmap(edge).unwrap().filter.unwrap().limits;
    assert_eq!(limits(&world)[0].from, [laptop]);
    assert_eq!(limits(&world)[0].ports, [Ports::Tcp(8080, 8080), Ports::Udp(8080, 8080)]);
    assert_eq!(world.account.netmap(laptop).unwrap().filter, None);

    let tags = Some(["tools".parse().unwrap()].into());
    let prepared = world.change(tablet, DeviceEdit { tags, ..DeviceEdit::default() }).unwrap();
    world.commit(prepared);
    world.settle();
    world.assert_converged();
    let mut both = [laptop, tablet];
    both.sort();
    assert_eq!(limits(&world)[0].from, both);
    let mut wrong = forward(ForwardProtocol::Tcp, 9000);
    wrong.allow = vec!["laptop".to_owned()];
    let wrong = world.edge_change(edge, EdgeChange::AddForward(wrong)).unwrap_err();
    assert!(wrong.to_string().contains("device:NAME"), "{wrong}");
}

#[test]
fn a_port_forward_keeps_its_hours() {
    let mut world = World::new("home");
    let edge = world.join(1, "attic");
    world.open(edge);
    world.consent(edge, true);
    // 2027-01-15, a Friday, 08:00 UTC.
    assert!((1_800_000_000..1_800_000_100).contains(&world.unix.as_secs()));
    let mut new = forward(ForwardProtocol::Tcp, 8080);
    new.schedule = Some(Schedule {
        days: [Weekday::Friday].into(),
        from: "10:00".parse().unwrap(),
        to: "11:00".parse().unwrap(),
        utc_offset_minutes: 60,
    });
    let id = world.added_forward(edge, new).id;
    let is_open = |world: &World| !world.duty(edge).unwrap().forwards.is_empty();
    assert!(!is_open(&world), "it is nine there");
    world.advance(Duration::from_secs(3600));
    assert!(is_open(&world));
    world.settle();
    world.assert_converged();
    world.restart();
    assert!(is_open(&world));
    world.open(edge);
    world.advance(Duration::from_secs(3600));
    world.settle();
    assert!(!is_open(&world));
    world.assert_converged();
    let always = ForwardEdit { always: true, ..ForwardEdit::default() };
    world.edge_change(edge, EdgeChange::SetForward { id, edit: always }).unwrap();
    assert!(is_open(&world));
}

#[test]
fn what_an_edge_opens_goes_with_it_and_activity_says_who_changed_it() {
    let mut world = World::new("home");
    let edge = world.join(1, "attic");
    world.consent(edge, true);
    let ctx = world.ctx();
    let change = EdgeChange::AddForward(forward(ForwardProtocol::Tcp, 8080));
    let prepared = world.account.prepare_edge_change(edge, change, &ctx).unwrap();
    let by = By::device(edge, "attic".parse().unwrap(), None);
    let said = world.account.activity(&prepared.changes, &by, 1);
    assert_eq!(
        (said[0].action.as_str(), said[0].actor.name.as_str()),
        ("forward.created", "attic")
    );
    assert!(matches!(by.actor, Actor::Device { .. }));
    assert_eq!(said[0].subject.name, "port 8080");
    world.commit(prepared);
    world.added_virtual(edge, "camera");
    let removed = world.account.prepare_remove(edge).unwrap();
    world.commit(removed);
    assert!(world.stored.edges.is_empty() && world.stored.edge_items.is_empty());
    assert_eq!(world.account.edges().count(), 0);
    world.advance(Duration::from_secs(1));
    world.assert_converged();
}

#[test]
fn an_edge_is_told_from_which_devices_it_takes_changes() {
    let mut world = World::new("home");
    let people = [
        (UserId(1), "anna@example.org".parse().unwrap(), Role::Member),
        (UserId(2), "otto@example.org".parse().unwrap(), Role::Admin),
        (UserId(3), "mia@example.org".parse().unwrap(), Role::Member),
    ];
    let members: Members = people.clone().into_iter().collect();
    world.account.handle_members(members, world.now);
    let (edge, annas) = (world.join(1, "attic"), world.join(2, "laptop"));
    let (ottos, mias) = (world.join(3, "desktop"), world.join(4, "tablet"));
    let give = |world: &mut World, device, owner: u64| {
        let owner = Some(Some(UserId(owner)));
        let prepared = world.change(device, DeviceEdit { owner, ..DeviceEdit::default() }).unwrap();
        world.commit(prepared);
    };
    world.open(edge);
    world.consent(edge, true);
    assert_eq!(world.duty(edge).unwrap().managers, []);
    for (device, owner) in [(edge, 1), (annas, 1), (ottos, 2), (mias, 3)] {
        give(&mut world, device, owner);
    }
    world.settle();
    world.assert_converged();
    let mut both = [annas, ottos];
    both.sort();
    assert_eq!(world.duty(edge).unwrap().managers, both, "her own, and the admin's");
    let by = world.account.manager(edge, ottos).unwrap();
    assert!(matches!(by.actor, Actor::User { id: UserId(2), .. }) && by.source.is_some());
    assert_eq!(world.account.manager(edge, mias), Err(Refused::Forbidden));
    assert_eq!(world.account.manager(edge, edge), Err(Refused::Forbidden));

    // A device with tags is nobody's; an admin that is one no more manages nothing of others.
    let tags = Some(["kiosk".parse().unwrap()].into());
    let prepared = world.change(annas, DeviceEdit { tags, ..DeviceEdit::default() }).unwrap();
    world.commit(prepared);
    world.settle();
    world.assert_converged();
    assert_eq!(world.duty(edge).unwrap().managers, [ottos]);
    let demoted = people.map(|(id, email, _)| (id, email, Role::Member));
    world.account.handle_members(demoted.into_iter().collect(), world.now);
    world.drain();
    world.settle();
    world.assert_converged();
    assert_eq!(world.duty(edge).unwrap().managers, []);
}
