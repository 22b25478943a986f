//! Edges: what stands behind a node, on virtual time.

use std::net::IpAddr;
use std::time::Duration;

use warren_proto::{
    EdgeChange, EdgeChanged, LanSource, LanTarget, NewVirtualDevice, Ports, VirtualDeviceEdit,
    VirtualDeviceId,
};
use warren_sim::replay::for_seeds;
use warren_sim::{Nat, NodeId, World};

const SECOND: Duration = Duration::from_secs(1);

const LAPTOP_TO_CAMERA: &str =
    "[[rules]]\nfrom = 'device:laptop'\nto = 'virtual:camera.site'\nports = 'udp:7'\n";

/// Gives a LAN device behind a node an address in the mesh.
fn add_camera(world: &mut World, site: NodeId) -> (VirtualDeviceId, IpAddr) {
    let device = world.node(site).device();
    let new = NewVirtualDevice {
        name: "camera".parse().expect("a name"),
        target: LanTarget { ip: [192, 168, 1, 9].into(), mac: None },
        ports: vec![Ports::All],
        source: LanSource::Masquerade,
        untested: false,
        enabled: true,
        note: String::new(),
        allow_public: false,
    };
    let change = EdgeChange::AddVirtualDevice(new);
    match world.decide(|account, ctx| account.prepare_edge_change(device, change, ctx)) {
        EdgeChanged::VirtualDevice(spec) => (spec.id, spec.ipv4.into()),
        EdgeChanged::Forward(_) | EdgeChanged::Gateway(_) | EdgeChanged::Removed => unreachable!(),
    }
}

fn is_told(world: &World, node: NodeId, ip: IpAddr) -> bool {
    let map = world.node(node).daemon.as_ref().and_then(|daemon| daemon.mesh.netmap());
    let offers = map.into_iter().flat_map(|map| &map.peers).filter_map(|peer| peer.edge.as_ref());
    offers.flat_map(|offer| &offer.virtual_devices).any(|it| IpAddr::V4(it.ipv4) == ip)
}

fn answers(world: &mut World, from: NodeId, site: NodeId, ip: IpAddr) -> bool {
    let ping = world.ping_behind(from, site, ip);
    world.run_for(5 * SECOND);
    world.ping_time(ping).is_some()
}

#[test]
fn a_virtual_device_is_reached_by_those_who_may_and_by_nobody_else() {
    for_seeds("a_virtual_device", 0..10, |seed| {
        let mut world = World::new(seed);
        let [site, laptop, tablet] =
            ["site", "laptop", "tablet"].map(|name| world.add_home(name, Nat::EimApdf));
        world.run_for(10 * SECOND);
        let (id, camera) = add_camera(&mut world, site);
        world.run_for(SECOND);
        assert!(!is_told(&world, laptop, camera), "the site opens its LAN, nobody else");
        world.set_edge(site, true);
        world.run_for(SECOND);
        assert!(is_told(&world, laptop, camera) && is_told(&world, tablet, camera));
        assert!(answers(&mut world, laptop, site, camera));
        assert!(answers(&mut world, tablet, site, camera));

        world.set_policy(LAPTOP_TO_CAMERA);
        world.run_for(SECOND);
        assert!(is_told(&world, laptop, camera) && !is_told(&world, tablet, camera));
        assert!(answers(&mut world, laptop, site, camera));
        assert!(!answers(&mut world, tablet, site, camera));
        let own = world.mesh_ip(site);
        assert!(!answers(&mut world, laptop, site, own), "the camera isn't the site");

        world.kill_broker();
        world.run_for(30 * SECOND);
        assert!(answers(&mut world, laptop, site, camera), "the mesh goes on by itself");
        world.restart_broker();
        world.run_for(120 * SECOND);
        assert!(is_told(&world, laptop, camera));

        let device = world.node(site).device();
        let edit = VirtualDeviceEdit { enabled: Some(false), ..VirtualDeviceEdit::default() };
        let change = EdgeChange::SetVirtualDevice { id, edit };
        world.decide(|account, ctx| account.prepare_edge_change(device, change, ctx));
        world.run_for(SECOND);
        assert!(!is_told(&world, laptop, camera));
        assert!(!answers(&mut world, laptop, site, camera));
    });
}

#[test]
fn an_edge_that_restarts_with_the_broker_away_opens_what_it_opened() {
    for_seeds("an_edge_restarts", 0..5, |seed| {
        let mut world = World::new(seed);
        let [site, laptop] = ["site", "laptop"].map(|name| world.add_home(name, Nat::EimEif));
        world.set_edge(site, true);
        world.run_for(10 * SECOND);
        let (_, camera) = add_camera(&mut world, site);
        world.run_for(SECOND);
        assert!(answers(&mut world, laptop, site, camera));
        world.kill_broker();
        world.stop_node(site);
        world.run_for(2 * SECOND);
        world.start_node(site);
        world.run_for(60 * SECOND);
        assert!(answers(&mut world, laptop, site, camera));
    });
}
