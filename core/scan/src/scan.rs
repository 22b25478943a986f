//! One scan: which probe when.
//!
//! Addresses are walked through without ever being listed, so a /16 costs no more memory than a /24;
//! only devices that answer are kept. A neighbour is found by ARP, asked twice. Behind a router a
//! device is found by a ping or by any answer of a port, be it a refusal; small networks are tried at
//! all ports, of UDP too, large ones at [`KNOCK`] alone. What was found is looked into before the walk
//! goes on: its names, its ports. Who has IPv6 is found on whole links ([`links`]). Everything keeps to
//! one rate.

mod links;
mod probe;
mod walk;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use warren_proto::MacAddr;

use crate::inventory::Transport;
use crate::plan::{Refused, ScanPlan};

use links::Links;
pub use probe::{Ended, Finding, Ipv6Neighbour, Probe, Progress, ScanEvent};
use walk::{Inquiry, Question, Walk, Walked, size};

/// Ports at which a device behind a router is knocked at, in a large network.
const KNOCK: [u16; 3] = [443, 80, 22];
/// Up to so many probes, a network behind a router is tried at all ports.
const SMALL: u64 = 16_384;
/// How often a neighbour is asked by ARP.
const ROUNDS: usize = 2;
/// How long answers may take after the last question by ARP or neighbour discovery.
const GRACE: Duration = Duration::from_millis(1200);
/// More addresses than that of one card are a router's that answers for others, or made up.
const MAX_OF_CARD: u32 = 1024;
/// How many probes may be without an answer at a time.
const IN_FLIGHT: usize = 400;
/// How much of unused time may be made good at once.
const BURST: u32 = 8;

/// A scan under way.
#[derive(Debug)]
pub struct Scan {
    plan: ScanPlan,
    /// The networks, and whether each is adjacent.
    networks: Vec<(Ipv4Net, bool)>,
    walks: VecDeque<Walk>,
    /// Questions to devices that were found; they go first.
    inquiries: VecDeque<Inquiry>,
    /// Devices that were found, with their card where it is known.
    found: BTreeMap<Ipv4Addr, Option<MacAddr>>,
    /// How many addresses each card has said to have.
    by_card: BTreeMap<MacAddr, u32>,
    links: Links,
    in_flight: usize,
    next_at: Instant,
    settled_at: Instant,
    progress: Progress,
    events: VecDeque<ScanEvent>,
    ended: bool,
}

impl Scan {
    /// Begins; `adjacent` tells whether a network has no router between.
    ///
    /// # Errors
    ///
    /// The plan is refused.
    pub fn new(
        plan: ScanPlan,
        adjacent: impl Fn(&Ipv4Net) -> bool,
        now: Instant,
    ) -> Result<Self, Refused> {
        plan.check()?;
        let distinct: BTreeSet<Ipv4Net> = plan.networks.iter().map(Ipv4Net::trunc).collect();
        let networks: Vec<(Ipv4Net, bool)> =
            distinct.into_iter().map(|network| (network, adjacent(&network))).collect();
        let mut scan = Self {
            plan,
            networks,
            walks: VecDeque::new(),
            inquiries: VecDeque::new(),
            found: BTreeMap::new(),
            by_card: BTreeMap::new(),
            links: Links::default(),
            in_flight: 0,
            next_at: now,
            settled_at: now,
            progress: Progress::default(),
            events: VecDeque::new(),
            ended: false,
        };
        for (network, adjacent) in scan.networks.clone() {
            let questions =
                if adjacent { vec![Question::Arp; ROUNDS] } else { scan.walked_by(&network) };
            scan.progress.total += size(&network) * questions.len() as u64;
            let walks = questions.into_iter().map(|question| Walk { network, question, next: 0 });
            scan.walks.extend(walks);
        }
        Ok(scan)
    }

    /// Has it look for IPv6, too, on a link of which it scans all networks; the first of them stands for
    /// the link. `known`: addresses there that may be asked one by one.
    pub fn look_for_ipv6(
        &mut self,
        networks: Vec<Ipv4Net>,
        known: impl IntoIterator<Item = Ipv6Addr>,
    ) {
        let Some(network) = networks.first().copied() else { return };
        self.links.add(network, networks, known);
        let call = || Walk { network, question: Question::Call, next: 0 };
        self.progress.total += 2 * call().len();
        self.walks.push_front(call());
        self.walks.push_back(call());
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Ends it: nothing more is asked.
    pub fn cancel(&mut self) {
        if !self.ended {
            self.walks.clear();
            self.inquiries.clear();
            self.links = Links::default();
            self.end(true);
        }
    }

    /// Takes what a neighbour said of himself by ARP, asked or not.
    pub fn handle_neighbour(&mut self, ip: Ipv4Addr, mac: MacAddr, _now: Instant) {
        let is_asked = self.plan.networks.iter().any(|network| network.contains(&ip));
        if self.ended || !is_asked {
            return;
        }
        if !self.found.contains_key(&ip) {
            // Only of addresses that are new: of those there is an end, of cards that are made up there
            // is none.
            let of_card = self.by_card.entry(mac).or_default();
            if *of_card == MAX_OF_CARD {
                return;
            }
            *of_card += 1;
        }
        self.links.note_card(ip, mac);
        self.note(ip, Some(mac), None);
    }

    /// Takes what a neighbour said of himself by IPv6 on a link, asked or not; the address is one of that
    /// link.
    pub fn handle_ipv6_neighbour(
        &mut self,
        link: Ipv4Net,
        ip: Ipv6Addr,
        mac: MacAddr,
        _now: Instant,
    ) {
        if !self.ended {
            self.links.note(link, ip, mac);
        }
    }

    /// Takes how a probe ended; each has to be told once, but for those whose answers come otherwise.
    pub fn handle_ended(&mut self, probe: Probe, ended: Ended, _now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.ended {
            return;
        }
        let Some(ip) = probe.address() else { return };
        let finding = match ended {
            Ended::Silence => return,
            Ended::Closed => return self.note(ip, None, None),
            Ended::Answer(finding) => finding,
        };
        self.note(ip, finding.mac, finding.rtt);
        match probe {
            Probe::Arp(_) | Probe::Call(_) | Probe::Solicit(..) | Probe::Ping(_) => {}
            Probe::Tcp(_, port) => {
                let transport = Transport::Tcp;
                self.events.push_back(ScanEvent::Service { ip, transport, port, finding });
            }
            Probe::Udp(_, service) => {
                let (transport, port) = (Transport::Udp, service.port());
                self.events.push_back(ScanEvent::Service { ip, transport, port, finding });
            }
            Probe::Name(_, source) => {
                if let Some(name) = finding.name {
                    self.events.push_back(ScanEvent::Name { ip, source, name });
                }
            }
        }
    }

    /// The next probe to send now.
    pub fn poll_probe(&mut self, now: Instant) -> Option<Probe> {
        if self.ended || now < self.next_at || self.in_flight >= IN_FLIGHT {
            return None;
        }
        let probe = self.inquire().or_else(|| self.links.next()).or_else(|| self.walk())?;
        let pace = Duration::from_secs(1) / self.plan.rate;
        let earliest = now.checked_sub(pace * BURST).unwrap_or(now);
        self.next_at = self.next_at.max(earliest) + pace;
        self.progress.sent += 1;
        match probe {
            Probe::Arp(_) | Probe::Call(_) | Probe::Solicit(..) => self.settled_at = now + GRACE,
            Probe::Ping(_) | Probe::Tcp(..) | Probe::Udp(..) | Probe::Name(..) => {
                self.in_flight += 1;
            }
        }
        Some(probe)
    }

    /// Ends the scan when all is asked and answered.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.ended && self.is_idle() && now >= self.settled_at {
            self.end(false);
        }
    }

    /// When to call [`Self::poll_probe`] and [`Self::handle_timeout`] again, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.ended {
            return None;
        }
        if self.is_idle() {
            return Some((self.settled_at, "late answers"));
        }
        let more = !self.inquiries.is_empty() || !self.walks.is_empty() || !self.links.is_idle();
        (more && self.in_flight < IN_FLIGHT).then_some((self.next_at, "the next probe"))
    }

    /// The next thing to tell.
    pub fn poll_event(&mut self) -> Option<ScanEvent> {
        self.events.pop_front()
    }

    fn is_idle(&self) -> bool {
        let all_asked = self.walks.is_empty() && self.inquiries.is_empty() && self.links.is_idle();
        all_asked && self.in_flight == 0
    }

    fn end(&mut self, cancelled: bool) {
        self.ended = true;
        let neighbours = self.links.take();
        if !neighbours.is_empty() {
            self.events.push_back(ScanEvent::Ipv6(neighbours));
        }
        self.events.push_back(ScanEvent::Ended { cancelled });
    }

    /// Notes that somebody is there, and has him looked into.
    fn note(&mut self, ip: Ipv4Addr, mac: Option<MacAddr>, rtt: Option<Duration>) {
        let known = self.found.get(&ip).copied();
        if let Some(before) = known
            && (mac.is_none() || before == mac)
        {
            if rtt.is_some() {
                self.events.push_back(ScanEvent::Device { ip, mac: before, rtt });
            }
            return;
        }
        self.found.insert(ip, mac);
        self.events.push_back(ScanEvent::Device { ip, mac, rtt });
        if known.is_some() {
            return;
        }
        self.progress.devices += 1;
        let walked = match self.networks.iter().find(|(network, _)| network.contains(&ip)) {
            Some((network, false)) => self.walked(network),
            Some((_, true)) | None => Walked::Nothing,
        };
        self.inquiries.push_back(Inquiry { ip, walked, next: 0 });
    }
}
