//! Whatever may happen, by the seed; then quiet, and everything works again.
//!
//! Always on besides: no packet reaches another node than it was meant for, no core wants to be
//! woken at once after it was woken, time never goes backwards (asserted in the world itself).
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::time::Duration;

use warren_sim::matrix::{Expectation, expectations};
use warren_sim::net::Link;
use warren_sim::replay::for_seeds;
use warren_sim::{Families, Nat, NodeId, RelayIndex, RelayKind, SiteConfig, SiteId, World};

const TABLE: &str = include_str!("../../expectations/nat-matrix.tsv");
const MINUTE: Duration = Duration::from_secs(60);

struct Chaos {
    world: World,
    nodes: Vec<NodeId>,
    /// Where each node stands, and behind what; `None` while it is unplugged.
    places: Vec<Option<Place>>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    site: SiteId,
    nat: Nat,
    families: Families,
}

impl Place {
    /// Whether devices at the two places connect directly, by the table and by what it leaves out.
    fn reaches(self, other: Self, table: &[Expectation]) -> bool {
        if self.site == other.site && self.nat != Nat::Public {
            return true;
        }
        // A carrier here passes no IPv6: its customers have addresses that lead nowhere.
        let open = [self, other]
            .iter()
            .all(|place| place.nat != Nat::UdpBlocked && place.nat != Nat::Cgnat);
        if open && [self, other].iter().all(|place| place.families == Families::Dual) {
            return true;
        }
        let row = table.iter().find(|row| {
            let pair = (row.left, row.right);
            pair == (self.nat, other.nat) || pair == (other.nat, self.nat)
        });
        row.unwrap().direct
    }
}

impl Chaos {
    fn new(seed: u64) -> Self {
        Self::with_relays(seed, &[])
    }

    fn with_relays(seed: u64, relays: &[(&str, RelayKind)]) -> Self {
        let mut world = World::new(seed);
        world.counts_control_bytes = false;
        for (name, kind) in relays {
            world.add_relay(name, *kind, Link::ACCESS);
        }
        let mut chaos = Self { world, nodes: Vec::new(), places: Vec::new() };
        for n in 0..8 {
            let place = chaos.new_place();
            let node = chaos.world.add_node(&format!("node {n}"), place.site);
            chaos.world.start_node(node);
            chaos.nodes.push(node);
            chaos.places.push(Some(place));
        }
        chaos
    }

    fn pick(&mut self, below: usize) -> usize {
        usize::try_from(self.world.chance(below as u64)).unwrap()
    }

    /// A new site, or now and then one where somebody is.
    fn new_place(&mut self) -> Place {
        if !self.places.is_empty() && self.pick(5) == 0 {
            let pick = self.pick(self.places.len());
            if let Some(place) = self.places[pick] {
                return place;
            }
        }
        let nat = Nat::ALL[self.pick(7)];
        let families = if self.pick(3) == 0 { Families::Dual } else { Families::V4 };
        let percent = |n: usize| n as f64 / 100.0;
        let leg = Link {
            latency: Duration::from_millis(1 + self.world.chance(80)),
            jitter: Duration::from_millis(self.world.chance(10)),
            loss: percent(self.pick(4)),
            duplicate: percent(self.pick(3)),
            reorder: percent(self.pick(5)),
            mtu: 1500,
        };
        let site = self.world.add_site(SiteConfig { leg, families, ..SiteConfig::new(nat) });
        Place { site, nat, families }
    }

    fn act(&mut self) {
        let n = self.pick(self.nodes.len());
        let m = self.pick(self.nodes.len());
        let (node, other) = (self.nodes[n], self.nodes[m]);
        let is_running = |world: &World, node| world.node(node).daemon.is_some();
        let relays = self.world.relays.len();
        let relay = if relays == 0 { 0 } else { self.pick(relays) };
        match self.pick(if relays == 0 { 12 } else { 15 }) {
            12.. => {
                let index = RelayIndex(relay);
                if self.world.relays[relay].is_up {
                    self.world.kill_relay(index);
                } else {
                    self.world.restart_relay(index);
                }
            }
            0 | 1 if self.places[n].is_some() => {
                let place = self.new_place();
                self.world.roam(node, place.site);
                self.places[n] = Some(place);
            }
            2 if self.places[n].is_some() => {
                self.world.unplug(node);
                self.places[n] = None;
            }
            3 if self.places[n].is_none() => self.plug(n),
            4 if is_running(&self.world, node) => self.world.stop_node(node),
            5 if !is_running(&self.world, node) => self.world.start_node(node),
            6 if self.world.broker.is_up() => self.world.kill_broker(),
            7 if !self.world.broker.is_up() => self.world.restart_broker(),
            8 => {
                if let Some(router) =
                    self.places[n].and_then(|place| self.world.sites.router(place.site))
                {
                    self.world.network.reboot_router(router);
                }
            }
            9 if n != m => {
                self.world.stream(node, other, Duration::from_millis(50), MINUTE);
            }
            _ if n != m => {
                self.world.ping(node, other);
            }
            _ => {}
        }
        let pause = Duration::from_millis(self.world.chance(15_000));
        self.world.run_for(pause);
    }

    fn plug(&mut self, n: usize) {
        let place = self.new_place();
        self.world.plug(self.nodes[n], place.site);
        self.places[n] = Some(place);
    }

    fn calm_down(&mut self) {
        if !self.world.broker.is_up() {
            self.world.restart_broker();
        }
        for relay in 0..self.world.relays.len() {
            if !self.world.relays[relay].is_up {
                self.world.restart_relay(RelayIndex(relay));
            }
        }
        for n in 0..self.nodes.len() {
            if self.places[n].is_none() {
                self.plug(n);
            }
            if self.world.node(self.nodes[n]).daemon.is_none() {
                self.world.start_node(self.nodes[n]);
            }
        }
        self.world.run_for(3 * MINUTE);
    }

    fn check(&mut self) {
        let table = expectations(TABLE);
        assert_eq!(self.world.sessions(), self.nodes.len(), "everybody has a session");
        for n in 0..self.nodes.len() {
            for m in 0..self.nodes.len() {
                let (here, there) = (self.places[n].unwrap(), self.places[m].unwrap());
                let relayed = !here.reaches(there, &table);
                if n == m || (relayed && self.world.relays.is_empty()) {
                    continue;
                }
                let time = self.world.ping_repeatedly(self.nodes[n], self.nodes[m], MINUTE);
                let time = time.unwrap_or_else(|| panic!("{n} {here:?} to {m} {there:?}: never"));
                assert!(
                    time <= Duration::from_secs(if relayed { 10 } else { 5 }),
                    "{n} {here:?} to {m} {there:?} took {time:?}"
                );
            }
        }
    }
}

#[test]
fn after_any_chaos_every_pair_that_can_connect_does() {
    for_seeds("after_any_chaos", 0..12, |seed| {
        let mut chaos = Chaos::new(seed);
        for _ in 0..80 {
            chaos.act();
        }
        chaos.calm_down();
        chaos.check();
        let steps = chaos.world.steps() as f64 / chaos.world.elapsed().as_secs_f64();
        assert!(steps < 2000.0, "{steps:.0} steps a second: something is busy");
    });
}

#[test]
fn after_any_chaos_with_relays_every_pair_connects() {
    for_seeds("after_any_chaos_with_relays", (0..8).chain([117]), |seed| {
        let relays = [
            ("first", RelayKind::Ours),
            ("second", RelayKind::Ours),
            ("elsewhere", RelayKind::ThirdParty),
        ];
        let mut chaos = Chaos::with_relays(seed, &relays);
        for _ in 0..80 {
            chaos.act();
        }
        chaos.calm_down();
        chaos.check();
        let steps = chaos.world.steps() as f64 / chaos.world.elapsed().as_secs_f64();
        assert!(steps < 3000.0, "{steps:.0} steps a second: something is busy");
    });
}

#[test]
fn chaos_too_is_the_same_for_the_same_seed() {
    let run = |seed| {
        let mut chaos = Chaos::new(seed);
        for _ in 0..20 {
            chaos.act();
        }
        (chaos.world.network.trace(), chaos.world.steps())
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}
