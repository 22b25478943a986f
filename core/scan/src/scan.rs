//! One scan: which probe when.
//!
//! Addresses are walked through without ever being listed, so a /16 costs no more memory than a /24;
//! only devices that answer are kept. A neighbour is found by ARP, asked twice. Behind a router a
//! device is found by a ping or by any answer of a port, be it a refusal; small networks are tried at
//! all ports, of UDP too, large ones at [`KNOCK`] alone. What was found is looked into before the walk
//! goes on: its names, its ports. Everything keeps to one rate.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use warren_proto::MacAddr;

use crate::inventory::{NameSource, Transport};
use crate::plan::{Refused, ScanPlan, UdpService};

/// Ports at which a device behind a router is knocked at, in a large network.
const KNOCK: [u16; 3] = [443, 80, 22];
/// Up to so many probes, a network behind a router is tried at all ports.
const SMALL: u64 = 16_384;
/// How often a neighbour is asked by ARP.
const ROUNDS: usize = 2;
/// How long answers may take after the last question by ARP.
const GRACE: Duration = Duration::from_millis(1200);
/// More addresses than that of one card are a router's that answers for others, or made up.
const MAX_OF_CARD: u32 = 1024;
/// How many probes may be without an answer at a time.
const IN_FLIGHT: usize = 400;
/// How much of unused time may be made good at once.
const BURST: u32 = 8;

/// A question to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probe {
    /// Who has this address? Answers come as [`Scan::handle_neighbour`]; the probe itself has no
    /// outcome.
    Arp(Ipv4Addr),
    /// Is anybody there (ICMP echo)?
    Ping(Ipv4Addr),
    /// Does this TCP port answer, and what does it say?
    Tcp(Ipv4Addr, u16),
    /// Does this service answer over UDP, and what does it say?
    Udp(Ipv4Addr, UdpService),
    /// What is its name?
    Name(Ipv4Addr, NameSource),
}

impl Probe {
    /// Whom it is for.
    pub fn address(&self) -> Ipv4Addr {
        match *self {
            Self::Arp(ip)
            | Self::Ping(ip)
            | Self::Tcp(ip, _)
            | Self::Udp(ip, _)
            | Self::Name(ip, _) => ip,
        }
    }
}

/// How a probe ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Nobody answered in time.
    Silence,
    /// Somebody is there, but the port is closed.
    Closed,
    /// It answers.
    Answer(Finding),
}

/// What a device said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finding {
    /// How long it took.
    pub rtt: Option<Duration>,
    /// A greeting or the first line of an answer, cleaned.
    pub banner: Option<String>,
    /// The title of a page, cleaned.
    pub title: Option<String>,
    /// A name, cleaned.
    pub name: Option<String>,
    /// A card's address, where the answer tells it.
    pub mac: Option<MacAddr>,
}

/// What a scan tells as it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScanEvent {
    /// A device is there.
    Device {
        /// Its address.
        ip: Ipv4Addr,
        /// Its card's, for neighbours.
        mac: Option<MacAddr>,
        /// How long it took to answer.
        rtt: Option<Duration>,
    },
    /// A device serves a port.
    Service {
        /// Whose.
        ip: Ipv4Addr,
        /// Over what.
        transport: Transport,
        /// Which.
        port: u16,
        /// What it said.
        finding: Finding,
    },
    /// A device has a name.
    Name {
        /// Whose.
        ip: Ipv4Addr,
        /// Who says so.
        source: NameSource,
        /// The name.
        name: String,
    },
    /// All is asked and answered, or it was cancelled.
    Ended {
        /// Whether it was cancelled.
        cancelled: bool,
    },
}

/// How far a scan is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Probes sent.
    pub sent: u64,
    /// How many of the addresses were gone through; each round counts.
    pub walked: u64,
    /// How many there are to go through.
    pub total: u64,
    /// Devices found.
    pub devices: u32,
}

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
    in_flight: usize,
    next_at: Instant,
    settled_at: Instant,
    progress: Progress,
    events: VecDeque<ScanEvent>,
    ended: bool,
}

/// A way through one network, with the same question to each address.
#[derive(Debug)]
struct Walk {
    network: Ipv4Net,
    question: Question,
    /// How many addresses lie behind.
    next: u64,
}

/// A device that was found, and how far it was looked into: the questions aren't listed, so that a
/// network full of made-up devices costs little.
#[derive(Debug)]
struct Inquiry {
    ip: Ipv4Addr,
    walked: Walked,
    /// The number of the next question.
    next: usize,
}

/// The ports that a device was tried at before it was found.
#[derive(Debug, Clone, Copy)]
enum Walked {
    Nothing,
    Knocked,
    Everything,
}

impl Walked {
    fn have(self, port: u16) -> bool {
        match self {
            Self::Nothing => false,
            Self::Knocked => KNOCK.contains(&port),
            Self::Everything => true,
        }
    }

    fn have_udp(self) -> bool {
        match self {
            Self::Nothing | Self::Knocked => false,
            Self::Everything => true,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    Arp,
    Ping,
    Tcp(u16),
    Udp(UdpService),
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

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Ends it: nothing more is asked.
    pub fn cancel(&mut self) {
        if !self.ended {
            self.walks.clear();
            self.inquiries.clear();
            self.end(true);
        }
    }

    /// Takes what a neighbour said of himself by ARP or neighbour discovery, asked or not.
    pub fn handle_neighbour(&mut self, ip: Ipv4Addr, mac: MacAddr, _now: Instant) {
        if !self.ended && self.plan.networks.iter().any(|network| network.contains(&ip)) {
            let of_card = self.by_card.entry(mac).or_default();
            if *of_card < MAX_OF_CARD || self.found.contains_key(&ip) {
                *of_card += u32::from(!self.found.contains_key(&ip));
                self.note(ip, Some(mac), None);
            }
        }
    }

    /// Takes how a probe ended; each but ARP's has to be told once.
    pub fn handle_ended(&mut self, probe: Probe, ended: Ended, _now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.ended {
            return;
        }
        let ip = probe.address();
        let finding = match ended {
            Ended::Silence => return,
            Ended::Closed => return self.note(ip, None, None),
            Ended::Answer(finding) => finding,
        };
        self.note(ip, finding.mac, finding.rtt);
        match probe {
            Probe::Arp(_) | Probe::Ping(_) => {}
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
        let probe = self.inquire().or_else(|| self.walk())?;
        let pace = Duration::from_secs(1) / self.plan.rate;
        let earliest = now.checked_sub(pace * BURST).unwrap_or(now);
        self.next_at = self.next_at.max(earliest) + pace;
        self.progress.sent += 1;
        match probe {
            Probe::Arp(_) => self.settled_at = now + GRACE,
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
        let more = !self.inquiries.is_empty() || !self.walks.is_empty();
        (more && self.in_flight < IN_FLIGHT).then_some((self.next_at, "the next probe"))
    }

    /// The next thing to tell.
    pub fn poll_event(&mut self) -> Option<ScanEvent> {
        self.events.pop_front()
    }

    fn is_idle(&self) -> bool {
        self.walks.is_empty() && self.inquiries.is_empty() && self.in_flight == 0
    }

    fn end(&mut self, cancelled: bool) {
        self.ended = true;
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

    /// The next question to a device that was found: its names, then the ports that weren't tried yet,
    /// then the services over UDP.
    fn inquire(&mut self) -> Option<Probe> {
        loop {
            let inquiry = self.inquiries.front_mut()?;
            let (ip, number) = (inquiry.ip, inquiry.next);
            inquiry.next += 1;
            if let Some(source) = NameSource::ASKED.get(number) {
                return Some(Probe::Name(ip, *source));
            }
            let number = number - NameSource::ASKED.len();
            match self.plan.ports.get(number) {
                Some(port) if inquiry.walked.have(*port) => continue,
                Some(port) => return Some(Probe::Tcp(ip, *port)),
                None => {}
            }
            match UdpService::ALL.get(number - self.plan.ports.len()) {
                Some(service) if !inquiry.walked.have_udp() => {
                    return Some(Probe::Udp(ip, *service));
                }
                Some(_) | None => {
                    self.inquiries.pop_front();
                }
            }
        }
    }

    /// What all addresses of a network behind a router are asked.
    fn walked_by(&self, network: &Ipv4Net) -> Vec<Question> {
        let ports: BTreeSet<u16> = match self.walked(network) {
            Walked::Everything => self.plan.ports.iter().copied().collect(),
            Walked::Knocked | Walked::Nothing => KNOCK.into(),
        };
        let udp = UdpService::ALL.into_iter().filter(|_| self.walked(network).have_udp());
        let ports = ports.into_iter().map(Question::Tcp);
        [Question::Ping].into_iter().chain(ports).chain(udp.map(Question::Udp)).collect()
    }

    /// Which of the ports these are.
    fn walked(&self, network: &Ipv4Net) -> Walked {
        let ports: BTreeSet<u16> = self.plan.ports.iter().copied().collect();
        let questions = ports.len() + UdpService::ALL.len() + 1;
        let is_small = size(network) * questions as u64 <= SMALL;
        if is_small { Walked::Everything } else { Walked::Knocked }
    }

    /// The next probe of the walk; addresses that have answered already aren't asked by ARP again.
    fn walk(&mut self) -> Option<Probe> {
        loop {
            let walk = self.walks.front_mut()?;
            if walk.next == size(&walk.network) {
                self.walks.pop_front();
                continue;
            }
            let ip = nth(&walk.network, walk.next);
            walk.next += 1;
            self.progress.walked += 1;
            match walk.question {
                Question::Arp if self.found.contains_key(&ip) => {}
                Question::Arp => return Some(Probe::Arp(ip)),
                Question::Ping => return Some(Probe::Ping(ip)),
                Question::Tcp(port) => return Some(Probe::Tcp(ip, port)),
                Question::Udp(service) => return Some(Probe::Udp(ip, service)),
            }
        }
    }
}

/// How many addresses a network has for devices: but its own and the broadcast address.
fn size(network: &Ipv4Net) -> u64 {
    let all = 1_u64 << (32 - network.prefix_len());
    if network.prefix_len() < 31 { all - 2 } else { all }
}

fn nth(network: &Ipv4Net, number: u64) -> Ipv4Addr {
    let first = u64::from(network.network().to_bits()) + u64::from(network.prefix_len() < 31);
    // Below 2^32, as the number is below the network's size.
    Ipv4Addr::from_bits(u32::try_from(first + number).unwrap_or(u32::MAX))
}
