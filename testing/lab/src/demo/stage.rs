//! The demo's world and what happens in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::camera::{self, Camera};
use super::view::{CameraView, DeviceView, PathView, View};
use crate::warren::{Broker, Node, Warren};
use crate::{Host, NatKind, NatSpec, Plug, Router, Segment, WireSpec, World};

/// Between two looks at a device.
const LOOK: Duration = Duration::from_millis(500);
/// Between two pings over a path that has been found: shows that it works, and its round trip.
const PING: Duration = Duration::from_secs(5);

/// A device, where it stands and the line it hangs on.
pub(super) struct Site {
    pub(super) name: &'static str,
    pub(super) behind: &'static str,
    /// Of the NAT that the others see.
    nat: NatKind,
    one_way: Duration,
}

pub(super) const SITES: [Site; 4] = [
    Site {
        name: "laptop",
        behind: "NAT, filters by address+port",
        nat: NatKind::EimApdf,
        one_way: Duration::from_millis(8),
    },
    Site {
        name: "desktop",
        behind: "NAT, filters by address",
        nat: NatKind::EimAdf,
        one_way: Duration::from_millis(12),
    },
    Site {
        name: "phone",
        behind: "two NATs, home and carrier",
        nat: NatKind::EimApdf,
        one_way: Duration::from_millis(20),
    },
    Site {
        name: "office",
        behind: "NAT, maps per destination",
        nat: NatKind::Apdm,
        one_way: Duration::from_millis(5),
    },
];

/// Whether two devices reach each other through a relay alone (`testing/expectations`): the port that
/// one's NAT waits for is never the one that the other's takes.
fn need_relay(one: &Site, other: &Site) -> bool {
    let filters = |site: &Site| matches!(site.nat, NatKind::EimApdf | NatKind::Apdm);
    let hides = |site: &Site| site.nat == NatKind::Apdm;
    (hides(one) && filters(other)) || (hides(other) && filters(one))
}

/// Machines and daemons, before anything happens.
pub(super) struct Stage {
    broker: Broker,
    devices: Vec<(Host, &'static Site, String)>,
    camera: Camera,
    /// Their wires carry frames for as long as they are held.
    _routers: Vec<Router>,
    warren: Warren,
}

impl Stage {
    pub(super) fn build(world: &World, program: &Path) -> Result<Self> {
        let warren = Warren::at(program);
        let broker_host = world.host("broker")?;
        let first = world.internet().plug(&broker_host, &Plug::ipv4())?.v4()?;
        // STUN at a second address lets devices tell how their NATs map.
        let second = world.internet().plug(&broker_host, &Plug::ipv4())?.v4()?;
        let mut routers = Vec::new();
        let devices = SITES
            .iter()
            .map(|site| Self::place(world, site, &mut routers))
            .collect::<Result<_>>()?;
        let office = routers.last().context("the office comes last, and has a router")?;
        let camera = Camera::place(world, office.lan())?;
        let broker = Broker::start(&warren, &broker_host, &[first.into(), second.into()])?;
        Ok(Self { broker, devices, camera, _routers: routers, warren })
    }

    fn place(
        world: &World,
        site: &'static Site,
        routers: &mut Vec<Router>,
    ) -> Result<(Host, &'static Site, String)> {
        let line = WireSpec { jitter: Duration::from_millis(2), ..WireSpec::delay(site.one_way) };
        let router =
            |uplink: &Segment, spec| world.router(&format!("{}-router", site.name), uplink, spec);
        let home = if site.name == "phone" {
            let spec = NatSpec::carrier(site.nat).wire(line);
            let carrier = world.router("carrier", world.internet(), spec)?;
            let home = router(carrier.lan(), NatSpec::new(NatKind::EimApdf))?;
            routers.push(carrier);
            home
        } else {
            router(world.internet(), NatSpec::new(site.nat).wire(line))?
        };
        let host = world.host(site.name)?;
        let address = home.lan().plug(&host, &Plug::ipv4())?.v4()?.to_string();
        routers.push(home);
        Ok((host, site, address))
    }

    /// Every machine that `demo shell` enters, and the environment that `warren` finds its daemon by.
    pub(super) fn machines(&self) -> Vec<(&Host, BTreeMap<String, String>)> {
        let data = self.broker.data().to_string_lossy().into_owned();
        let mut machines = vec![(self.broker.host(), [("WARREN_DATA".to_owned(), data)].into())];
        for (host, ..) in &self.devices {
            let state = host.folder().join("node").to_string_lossy().into_owned();
            machines.push((host, [("WARREN_STATE".to_owned(), state)].into()));
        }
        machines
    }

    /// Starts the devices and follows what they do, on threads of its own.
    pub(super) fn play(self) -> Scene {
        let devices = self.devices.iter().map(|(host, site, address)| DeviceView {
            name: host.name().to_owned(),
            behind: site.behind.to_owned(),
            address: address.clone(),
            state: "starting".to_owned(),
            ..DeviceView::default()
        });
        let camera = CameraView {
            address: self.camera.address.to_string(),
            state: "waiting".to_owned(),
            ..CameraView::default()
        };
        let view = View { devices: devices.collect(), camera, ..View::default() };
        let scene = Scene(Arc::new(Mutex::new(view)));
        let own = scene.clone();
        std::thread::spawn(move || {
            if let Err(error) = direct(&self, &own) {
                own.lock().trouble = Some(format!("{error:#}"));
            }
        });
        scene
    }
}

/// What happens, for whoever looks on. It goes on until the process ends.
#[derive(Clone)]
pub(super) struct Scene(Arc<Mutex<View>>);

impl Scene {
    pub(super) fn view(&self) -> View {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, View> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn direct(stage: &Stage, scene: &Scene) -> Result<()> {
    let link = stage.broker.join_link()?;
    let nodes = std::thread::scope(|scope| {
        let joining: Vec<_> = stage
            .devices
            .iter()
            .map(|(host, ..)| scope.spawn(|| Node::join(&stage.warren, host, &link)))
            .collect();
        joining
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Result<Vec<Node>>>()
    })?;
    for node in &nodes {
        look(node, scene)?;
    }
    let node = |name: &str| {
        let found = nodes.iter().find(|node| node.host().name() == name);
        found.with_context(|| format!("the demo has no {name}"))
    };
    let (edge, viewer) = (node(camera::EDGE)?, node(camera::VIEWER)?);
    let site = |node: &Node| SITES.iter().find(|site| site.name == node.host().name());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if let Err(error) = show_camera(stage, edge, viewer, scene) {
                scene.lock().trouble = Some(format!("{error:#}"));
            }
        });
        for (number, from) in nodes.iter().enumerate() {
            scope.spawn(move || {
                loop {
                    sleep(LOOK);
                    let _ = look(from, scene);
                }
            });
            for to in &nodes[number + 1..] {
                let best = match (site(from), site(to)) {
                    (Some(one), Some(other)) if need_relay(one, other) => "relayed",
                    (Some(_) | None, _) => "direct",
                };
                scope.spawn(move || follow(from, to.host().name(), best, scene));
            }
        }
    });
    Ok(())
}

/// Opens the office's camera to the mesh, and its page from afar.
fn show_camera(stage: &Stage, edge: &Node, viewer: &Node, scene: &Scene) -> Result<()> {
    let mesh = camera::open(edge, stage.camera.address)?;
    {
        let mut view = scene.lock();
        view.camera.mesh = Some(mesh.to_string());
        "opened".clone_into(&mut view.camera.state);
    }
    let took = camera::look(viewer, mesh)?;
    let mut view = scene.lock();
    "its page opens".clone_into(&mut view.camera.state);
    view.camera.answered_ms = u64::try_from(took.as_millis()).ok();
    Ok(())
}

/// Takes over what a device says of itself.
fn look(node: &Node, scene: &Scene) -> Result<()> {
    let status = node.status()?;
    let mut view = scene.lock();
    let name = node.host().name();
    if let Some(device) = view.devices.iter_mut().find(|device| device.name == name) {
        device.state = status.node.state;
        device.mesh = status.node.ipv4.map(|address| address.to_string());
        device.seen_as = status
            .node
            .endpoints
            .iter()
            .find(|endpoint| endpoint["kind"] == "reflexive")
            .and_then(|endpoint| endpoint["addr"].as_str())
            .map(str::to_owned);
    }
    for peer in status.peers {
        let mut paths = view.paths.iter_mut();
        if let Some(path) = paths.find(|path| path.from == name && path.to == peer.name) {
            path.path = peer.path;
            path.endpoint = peer.endpoint.map(|endpoint| endpoint.to_string());
            path.relay = peer.relay;
            path.reason = peer.reason;
            path.rtt_ms = peer.rtt_ms.or(path.rtt_ms);
        }
    }
    Ok(())
}

/// Seeks a path and goes on using it; `best` is the kind that there is for this pair.
fn follow(from: &Node, to: &str, best: &str, scene: &Scene) {
    let begun = Instant::now();
    let row = {
        let mut view = scene.lock();
        let from = from.host().name().to_owned();
        view.paths.push(PathView {
            from,
            to: to.to_owned(),
            path: "connecting".to_owned(),
            ..PathView::default()
        });
        view.paths.len() - 1
    };
    loop {
        let found = scene.lock().paths[row].found_after_ms.is_some();
        let replies = from.ping(to, Some(1)).unwrap_or_default();
        if let Some(reply) = replies.last() {
            let mut view = scene.lock();
            let path = &mut view.paths[row];
            path.path.clone_from(&reply.path);
            path.endpoint = reply.endpoint.map(|endpoint| endpoint.to_string());
            path.relay.clone_from(&reply.relay);
            path.reason.clone_from(&reply.reason);
            if !found && reply.path == best && reply.rtt_ms.is_some() {
                path.found_after_ms = u64::try_from(begun.elapsed().as_millis()).ok();
            }
            // Not the echo's own time: the first one's has the search in it.
            path.rtt_ms = reply.path_rtt_ms.or(path.rtt_ms);
        }
        sleep(if found { PING } else { LOOK });
    }
}
