//! From the broker's duty and what this host sees to what can be opened.
//!
//! What can't be is left out, each with its [`Problem`]; the rest is opened all the same. The broker
//! has checked its duty, but a table with one impossible line would open nothing: so whatever the
//! kernel would refuse is sorted out here again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use warren_proto::{EdgeDuty, Forward, Gateway, LanCap, LanSource, LanTarget, VirtualDevice};

use super::opening::{OpenDevice, OpenForward, OpenGateway, Opening};
use crate::follow::Place;
use crate::problem::Problem;

/// The way of a packet from this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// By an interface that isn't the mesh's.
    Lan {
        /// The interface.
        interface: String,
        /// Whether there is no router between.
        adjacent: bool,
    },
    /// To this host itself.
    Host,
    /// Into the mesh.
    Mesh,
    /// Nowhere.
    Nowhere,
}

/// Where a target's answers to the mesh's own addresses go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WayBack {
    /// That is yet to be seen.
    Untested,
    /// To this host.
    Here,
    /// Not here, though it answers this host itself.
    Elsewhere,
    /// It answers nothing.
    Silent,
}

/// What this host sees.
pub trait Surroundings {
    /// The way to an address.
    fn way(&mut self, to: Ipv4Addr) -> Way;

    /// Where a target is.
    fn place(&self, target: &LanTarget) -> Place;

    /// Where the answers of an address of a LAN to the mesh go.
    fn way_back(&self, from: Ipv4Addr) -> WayBack;
}

/// What comes of a duty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// What can be opened.
    pub opening: Opening,
    /// What can be as soon as its target is heard where it was, or answers the test of its way back: what is
    /// connected by it may go on meanwhile.
    pub held: Opening,
    /// By which interfaces it is reached.
    pub lan: BTreeSet<String>,
    /// What can't be opened, and why.
    pub problems: BTreeSet<Problem>,
}

/// Sees what of `duty` can be opened at the mesh address `mesh`, as far as the device's owner lets it.
pub fn resolve(
    duty: &EdgeDuty,
    mesh: Ipv4Addr,
    cap: &LanCap,
    surroundings: &mut impl Surroundings,
) -> Resolved {
    let mut work = Work {
        resolved: Resolved {
            opening: Opening::nothing(mesh),
            held: Opening::nothing(mesh),
            lan: BTreeSet::new(),
            problems: BTreeSet::new(),
        },
        taken: BTreeMap::new(),
        cap,
        surroundings,
    };
    for forward in &duty.forwards {
        work.note(|work| work.forward(forward));
    }
    for device in &duty.virtual_devices {
        work.note(|work| work.device(device));
    }
    for gateway in &duty.gateways {
        work.note(|work| work.gateway(gateway));
    }
    work.resolved
}

struct Work<'a, S> {
    resolved: Resolved,
    /// Last port, and whose, by protocol and first port.
    taken: BTreeMap<(u8, u16), (u16, String)>,
    cap: &'a LanCap,
    surroundings: &'a mut S,
}

impl<S: Surroundings> Work<'_, S> {
    fn note(&mut self, attempt: impl FnOnce(&mut Self) -> Result<(), Problem>) {
        if let Err(problem) = attempt(self) {
            self.resolved.problems.insert(problem);
        }
    }

    fn forward(&mut self, forward: &Forward) -> Result<(), Problem> {
        let what = || format!("forward '{}'", forward.name);
        let Forward { port, last_port, target_port, .. } = *forward;
        let fits = last_port >= port && target_port.checked_add(last_port - port).is_some();
        if port == 0 || target_port == 0 || !fits {
            return Err(Problem::Ports { what: what() });
        }
        let open = OpenForward::new(forward, forward.target.ip);
        if let Some((port, _)) = forward.reserved() {
            return Err(Problem::Reserved { what: what(), port });
        }
        let other = open.protocols().iter().find_map(|protocol| {
            let before = self.taken.range((*protocol, 0)..=(*protocol, last_port)).next_back();
            before.filter(|(_, (last, _))| *last >= port).map(|(_, (_, whose))| whose.clone())
        });
        if let Some(other) = other {
            return Err(Problem::Clash { what: what(), other });
        }
        let (target, waits) = self.locate(&forward.target, &what)?;
        let untested = self.check_way_back(forward.source, forward.untested, target, &what)?;
        let waits = waits.or(untested);
        let ports =
            open.protocols().iter().map(|protocol| ((*protocol, port), (last_port, what())));
        self.taken.extend(ports);
        self.part(waits.is_some()).forwards.push(OpenForward { target, ..open });
        waits.map_or(Ok(()), Err)
    }

    /// What can be opened, or what has yet to wait.
    fn part(&mut self, waits: bool) -> &mut Opening {
        if waits { &mut self.resolved.held } else { &mut self.resolved.opening }
    }

    fn device(&mut self, device: &VirtualDevice) -> Result<(), Problem> {
        let what = || format!("virtual device '{}'", device.name);
        let Resolved { opening, held, .. } = &self.resolved;
        let ipv4 = device.ipv4;
        if ipv4 == opening.mesh {
            return Err(Problem::Clash { what: what(), other: "the edge itself".to_owned() });
        }
        if opening.devices.iter().chain(&held.devices).any(|other| other.ipv4 == ipv4) {
            let other = format!("another virtual device at {ipv4}");
            return Err(Problem::Clash { what: what(), other });
        }
        let (target, waits) = self.locate(&device.target, &what)?;
        let untested = self.check_way_back(device.source, device.untested, target, &what)?;
        let waits = waits.or(untested);
        self.part(waits.is_some()).devices.push(OpenDevice {
            id: device.id,
            ipv4,
            target,
            ports: device.ports.clone(),
            source: device.source,
        });
        waits.map_or(Ok(()), Err)
    }

    fn gateway(&mut self, gateway: &Gateway) -> Result<(), Problem> {
        let open = OpenGateway::new(gateway);
        let what = || match open.is_internet() {
            true => "gateway to the internet".to_owned(),
            false => format!("gateway to {}", gateway.lan),
        };
        self.admit(gateway.lan, &what)?;
        if open.mesh.prefix_len() != open.lan.prefix_len() {
            let OpenGateway { mesh, lan, .. } = open;
            return Err(Problem::Sizes { what: what(), mesh, lan });
        }
        let overlaps = |other: &OpenGateway| {
            other.is_internet() == open.is_internet()
                && (other.mesh.contains(&open.mesh) || open.mesh.contains(&other.mesh))
        };
        if let Some(other) = self.resolved.opening.gateways.iter().find(|other| overlaps(other)) {
            let other = format!("the gateway to {}", other.lan);
            return Err(Problem::Clash { what: what(), other });
        }
        // Any address of it shows the way; the first is the network's own, and no device's.
        let probe = if open.is_internet() {
            Ipv4Addr::new(192, 0, 0, 9)
        } else {
            open.lan.hosts().find(|host| *host != open.lan.network()).unwrap_or(open.lan.network())
        };
        match self.surroundings.way(probe) {
            Way::Lan { interface, .. } => self.resolved.lan.insert(interface),
            // The edge itself has that one address; the network is its neighbour all the same.
            Way::Host => {
                let other = open.lan.hosts().nth(2).unwrap_or(probe);
                match self.surroundings.way(other) {
                    Way::Lan { interface, .. } => self.resolved.lan.insert(interface),
                    Way::Host | Way::Mesh | Way::Nowhere => {
                        return Err(Problem::NoWay { what: what(), target: probe });
                    }
                }
            }
            Way::Mesh | Way::Nowhere => {
                return Err(Problem::NoWay { what: what(), target: probe });
            }
        };
        self.resolved.opening.gateways.push(open);
        Ok(())
    }

    /// Keeps to what the device's owner lets it open.
    fn admit(&self, target: Ipv4Net, what: &impl Fn() -> String) -> Result<(), Problem> {
        match self.cap.admits_network(target) {
            true => Ok(()),
            false => Err(Problem::Capped { what: what(), target, cap: self.cap.clone() }),
        }
    }

    /// Nothing is shown to the LAN as it is before its answers are known to come back, or somebody says that
    /// they do. What is to be waited for, if there is something.
    fn check_way_back(
        &self,
        source: LanSource,
        untested: bool,
        target: Ipv4Addr,
        what: &impl Fn() -> String,
    ) -> Result<Option<Problem>, Problem> {
        if source == LanSource::Masquerade || untested {
            return Ok(None);
        }
        match self.surroundings.way_back(target) {
            WayBack::Here => Ok(None),
            WayBack::Untested => Ok(Some(Problem::WayBackUntested { what: what(), target })),
            WayBack::Elsewhere => Err(Problem::NoWayBack { what: what(), target }),
            // What is connected shows that there is one.
            WayBack::Silent => Ok(Some(Problem::NoAnswer { what: what(), target })),
        }
    }

    /// The target's address, once it is certain that it is one of a LAN; and what is to be waited for, if
    /// there is something.
    fn locate(
        &mut self,
        target: &LanTarget,
        what: &impl Fn() -> String,
    ) -> Result<(Ipv4Addr, Option<Problem>), Problem> {
        // Who isn't let there isn't looked for either.
        self.admit(target.ip.into(), what)?;
        let (ip, waits) = match self.surroundings.place(target) {
            Place::At(ip) => (ip, None),
            Place::Awaited(ip) => (ip, Some(Problem::Awaited { what: what(), target: ip })),
            Place::Taken { ip, by } => {
                return Err(Problem::Vanished { what: what(), target: ip, by });
            }
        };
        let foreign = ip.is_loopback()
            || ip.is_multicast()
            || ip.is_broadcast()
            || ip.is_unspecified()
            || ip == self.resolved.opening.mesh;
        if foreign {
            return Err(Problem::NotOfTheLan { what: what(), target: ip });
        }
        self.admit(ip.into(), what)?;
        match self.surroundings.way(ip) {
            Way::Lan { interface, adjacent } if adjacent || ip.is_private() => {
                self.resolved.lan.insert(interface);
                Ok((ip, waits))
            }
            Way::Lan { .. } => Err(Problem::NotOfTheLan { what: what(), target: ip }),
            Way::Host => {
                let mesh = self.resolved.opening.mesh;
                Err(Problem::Itself { what: what(), target: ip, mesh })
            }
            Way::Mesh | Way::Nowhere => Err(Problem::NoWay { what: what(), target: ip }),
        }
    }
}
