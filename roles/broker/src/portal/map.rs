//! The network map: devices in a ring, the paths between them as they are used at this moment.

use std::collections::{BTreeMap, BTreeSet};
use std::f64::consts::PI;
use std::time::{Duration, Instant};

use askama::Template;
use axum::extract::State;
use warren_coord::{Account, DeviceView, PathView, Right};
use warren_proto::{DeviceId, PathKind, RelayId};
use warren_web::Layout;

use super::Shared;
use super::answer::{Answer, page};
use super::devices::Condition;
use super::frame::Section;
use super::paths::{Line, Names, tone};
use super::viewer::Member;
use crate::accounts::fresh_ctx;

/// Devices that are drawn; in a larger account those that talk, then those that are online.
const DRAWN: usize = 120;
/// Room on the ring for a device's name.
const SPACING: f64 = 19.0;
const SMALLEST: f64 = 190.0;
/// Room outside the ring for names.
const NAMES: f64 = 150.0;
/// Where relays stand, between the middle and the ring.
const INNER: f64 = 0.28;
/// How far a line bends to the middle.
const BEND: f64 = 0.35;

struct Node {
    href: String,
    name: String,
    tone: &'static str,
    condition: Condition,
    x: String,
    y: String,
    /// How the name is turned around the node.
    turn: String,
    anchor: &'static str,
    dx: &'static str,
}

struct Hub {
    name: String,
    x: String,
    y: String,
    below: String,
}

struct Edge {
    tone: &'static str,
    path: String,
    title: String,
}

struct Pair {
    from: String,
    line: Line,
}

#[derive(Template)]
#[template(path = "map.html")]
struct Page {
    layout: Layout,
    devices: String,
    join: String,
    is_admin: bool,
    total: usize,
    online: usize,
    shown: usize,
    direct: usize,
    relayed: usize,
    view: String,
    nodes: Vec<Node>,
    hubs: Vec<Hub>,
    edges: Vec<Edge>,
    pairs: Vec<Pair>,
}

/// `GET /a/{account}/map`
pub(super) async fn show(State(portal): Shared, member: Member) -> Answer {
    let (now, unix) = (Instant::now(), fresh_ctx().unix);
    let scene = member.account.read(|account| Scene::of(account, now, unix));
    let count = |kind| scene.paths.values().filter(|path| path.path == kind).count();
    let ring = Ring::new(scene.drawn.len());
    page(&Page {
        layout: member.layout(&portal, "Network map", Section::Map),
        devices: member.path("devices"),
        join: member.path("join"),
        is_admin: member.may(Right::ManageJoinKeys),
        total: scene.total,
        online: scene.online,
        shown: scene.drawn.len(),
        direct: count(PathKind::Direct),
        relayed: count(PathKind::Relayed),
        view: ring.view(),
        nodes: scene.nodes(&member, &ring),
        hubs: scene.hubs(&ring),
        edges: scene.edges(&ring),
        pairs: scene.pairs(),
    })
}

/// Where devices stand.
struct Ring {
    radius: f64,
    count: usize,
}

impl Ring {
    fn new(count: usize) -> Self {
        let radius = (count as f64 * SPACING / (2.0 * PI)).max(SMALLEST);
        Self { radius, count }
    }

    fn view(&self) -> String {
        let half = self.radius + NAMES;
        format!("-{half:.0} -{half:.0} {0:.0} {0:.0}", 2.0 * half)
    }

    /// Clockwise from the top.
    fn angle(&self, index: usize) -> f64 {
        2.0 * PI * index as f64 / self.count.max(1) as f64 - PI / 2.0
    }

    fn at(&self, index: usize) -> (f64, f64) {
        let angle = self.angle(index);
        (self.radius * angle.cos(), self.radius * angle.sin())
    }

    fn hub(&self, index: usize, of: usize) -> (f64, f64) {
        if of == 1 {
            return (0.0, 0.0);
        }
        let angle = 2.0 * PI * index as f64 / of as f64 - PI / 2.0;
        (self.radius * INNER * angle.cos(), self.radius * INNER * angle.sin())
    }
}

/// What is to be drawn.
struct Scene {
    total: usize,
    online: usize,
    drawn: Vec<DeviceView>,
    /// One path of each pair, the better known of the two ends' words.
    paths: BTreeMap<(DeviceId, DeviceId), PathView>,
    names: Names,
    relays: Vec<RelayId>,
}

impl Scene {
    fn of(account: &Account, now: Instant, unix: Duration) -> Self {
        let mut devices: Vec<DeviceView> = account.devices(now, unix).collect();
        let mut paths: BTreeMap<(DeviceId, DeviceId), PathView> = BTreeMap::new();
        for device in devices.iter().filter(|device| device.online) {
            for path in account.paths(device.id) {
                let pair = (device.id.min(path.peer), device.id.max(path.peer));
                let known = paths.get(&pair).map(|path| rank(path.path));
                if known.is_none_or(|known| rank(path.path) < known) {
                    paths.insert(pair, path);
                }
            }
        }
        let (total, online) = (devices.len(), devices.iter().filter(|it| it.online).count());
        let talking: BTreeSet<DeviceId> = paths.keys().flat_map(|(a, b)| [*a, *b]).collect();
        let talks = |id: DeviceId| talking.contains(&id);
        if total > DRAWN {
            devices.sort_by_key(|device| (!talks(device.id), !device.online));
            devices.truncate(DRAWN);
        }
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        let names = Names::new(account, now, unix);
        let mut relays: Vec<RelayId> = paths
            .values()
            .filter(|path| path.path == PathKind::Relayed)
            .filter_map(|path| path.relay.filter(|id| names.relay(Some(*id)).is_some()))
            .collect();
        relays.sort_unstable();
        relays.dedup();
        Self { total, online, drawn: devices, paths, names, relays }
    }

    fn index(&self, id: DeviceId) -> Option<usize> {
        self.drawn.iter().position(|device| device.id == id)
    }

    fn nodes(&self, member: &Member, ring: &Ring) -> Vec<Node> {
        let node = |(index, device): (usize, &DeviceView)| {
            let ((x, y), degrees) = (ring.at(index), ring.angle(index).to_degrees());
            // Names on the left half are turned over, so that none stands on its head.
            let is_left = degrees > 90.0 && degrees < 270.0;
            let turned = if is_left { degrees + 180.0 } else { degrees };
            let condition = Condition::of(device);
            Node {
                href: member.path(&format!("devices/{}", device.id)),
                name: device.name.to_string(),
                tone: condition.tone(),
                condition,
                x: format!("{x:.1}"),
                y: format!("{y:.1}"),
                turn: format!("rotate({turned:.1} {x:.1} {y:.1})"),
                anchor: if is_left { "end" } else { "start" },
                dx: if is_left { "-12" } else { "12" },
            }
        };
        self.drawn.iter().enumerate().map(node).collect()
    }

    fn hubs(&self, ring: &Ring) -> Vec<Hub> {
        let hub = |(index, relay): (usize, &RelayId)| {
            let (x, y) = ring.hub(index, self.relays.len());
            Hub {
                name: self.names.relay(Some(*relay)).map(ToString::to_string).unwrap_or_default(),
                x: format!("{x:.1}"),
                y: format!("{y:.1}"),
                below: format!("{:.1}", y + 26.0),
            }
        };
        self.relays.iter().enumerate().map(hub).collect()
    }

    fn edges(&self, ring: &Ring) -> Vec<Edge> {
        let edge = |((a, b), path): (&(DeviceId, DeviceId), &PathView)| {
            let (from, to) = (ring.at(self.index(*a)?), ring.at(self.index(*b)?));
            let (one, other) = (self.names.device(*a)?, self.names.device(*b)?);
            let relay = self.names.relay(path.relay);
            let via = relay.map(|relay| format!(" by {relay}")).unwrap_or_default();
            Some(Edge {
                tone: tone(path.path),
                path: self.course(ring, from, to, path),
                title: format!("{one} and {other}: {}{via}", word(path.path)),
            })
        };
        self.paths.iter().filter_map(edge).collect()
    }

    fn course(&self, ring: &Ring, from: (f64, f64), to: (f64, f64), path: &PathView) -> String {
        let hub = self.relays.iter().position(|relay| Some(*relay) == path.relay);
        match (path.path, hub) {
            (PathKind::Relayed, Some(hub)) => {
                let (x, y) = ring.hub(hub, self.relays.len());
                format!("M{:.1} {:.1}L{x:.1} {y:.1}L{:.1} {:.1}", from.0, from.1, to.0, to.1)
            }
            (_, _) => {
                let (x, y) = ((from.0 + to.0) / 2.0 * BEND, (from.1 + to.1) / 2.0 * BEND);
                format!("M{:.1} {:.1}Q{x:.1} {y:.1} {:.1} {:.1}", from.0, from.1, to.0, to.1)
            }
        }
    }

    /// The same in words, for who can't see it or wants to know exactly.
    fn pairs(&self) -> Vec<Pair> {
        let pair = |((a, b), path): (&(DeviceId, DeviceId), &PathView)| {
            let from = if path.peer == *a { b } else { a };
            let from = self.names.device(*from)?.to_string();
            Some(Pair { from, line: self.names.line(path.clone())? })
        };
        let mut pairs: Vec<Pair> = self.paths.iter().filter_map(pair).collect();
        pairs.sort_by(|a, b| (&a.from, &a.line.peer).cmp(&(&b.from, &b.line.peer)));
        pairs
    }
}

/// Which of two ends' words on a path is the better one.
fn rank(path: PathKind) -> u8 {
    match path {
        PathKind::Direct => 0,
        PathKind::Relayed => 1,
        PathKind::Connecting => 2,
        PathKind::Unreachable => 3,
        PathKind::Idle => 4,
    }
}

fn word(path: PathKind) -> &'static str {
    match path {
        PathKind::Direct => "direct",
        PathKind::Relayed => "relayed",
        PathKind::Connecting => "connecting",
        PathKind::Unreachable => "unreachable",
        PathKind::Idle => "idle",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_stand_in_a_ring_that_grows_with_them() {
        let small = Ring::new(4);
        let (x, y) = small.at(0);
        assert!(x.abs() < 0.01 && (y + SMALLEST).abs() < 0.01, "the first stands on top");
        let (x, y) = small.at(1);
        assert!((x - SMALLEST).abs() < 0.01 && y.abs() < 0.01, "the second to the right");
        assert!(Ring::new(120).radius > small.radius);
        assert_eq!(Ring::new(0).at(0).0.round(), 0.0);
    }
}
