//! Which question is next.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::probe::Probe;
use super::{KNOCK, SMALL, Scan};
use crate::inventory::NameSource;
use crate::plan::UdpService;

/// A way through one network, with the same question to each address.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) network: Ipv4Net,
    pub(super) question: Question,
    /// How many addresses lie behind.
    pub(super) next: u64,
}

impl Walk {
    /// How many questions it is.
    pub(super) fn len(&self) -> u64 {
        match self.question {
            Question::Call => 1,
            Question::Arp | Question::Ping | Question::Tcp(_) | Question::Udp(_) => {
                size(&self.network)
            }
        }
    }
}

/// A device that was found, and how far it was looked into: the questions aren't listed, so that a
/// network full of made-up devices costs little.
#[derive(Debug)]
pub(super) struct Inquiry {
    pub(super) ip: Ipv4Addr,
    pub(super) walked: Walked,
    /// The number of the next question.
    pub(super) next: usize,
}

/// The ports that a device was tried at before it was found.
#[derive(Debug, Clone, Copy)]
pub(super) enum Walked {
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
pub(super) enum Question {
    Arp,
    /// To all on the link at once.
    Call,
    Ping,
    Tcp(u16),
    Udp(UdpService),
}

impl Scan {
    /// The next question to a device that was found: its names, then the ports that weren't tried yet,
    /// then the services over UDP.
    pub(super) fn inquire(&mut self) -> Option<Probe> {
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
    pub(super) fn walked_by(&self, network: &Ipv4Net) -> Vec<Question> {
        let ports: BTreeSet<u16> = match self.walked(network) {
            Walked::Everything => self.plan.ports.iter().copied().collect(),
            Walked::Knocked | Walked::Nothing => KNOCK.into(),
        };
        let udp = UdpService::ALL.into_iter().filter(|_| self.walked(network).have_udp());
        let ports = ports.into_iter().map(Question::Tcp);
        [Question::Ping].into_iter().chain(ports).chain(udp.map(Question::Udp)).collect()
    }

    /// Which of the ports these are.
    pub(super) fn walked(&self, network: &Ipv4Net) -> Walked {
        let ports: BTreeSet<u16> = self.plan.ports.iter().copied().collect();
        let questions = ports.len() + UdpService::ALL.len() + 1;
        let is_small = size(network) * questions as u64 <= SMALL;
        if is_small { Walked::Everything } else { Walked::Knocked }
    }

    /// The next probe of the walk; addresses that have answered already aren't asked by ARP again.
    pub(super) fn walk(&mut self) -> Option<Probe> {
        loop {
            let walk = self.walks.front_mut()?;
            if walk.next == walk.len() {
                self.walks.pop_front();
                continue;
            }
            let ip = nth(&walk.network, walk.next);
            walk.next += 1;
            self.progress.walked += 1;
            match walk.question {
                Question::Arp if self.found.contains_key(&ip) => {}
                Question::Arp => return Some(Probe::Arp(ip)),
                Question::Call => return Some(Probe::Call(walk.network)),
                Question::Ping => return Some(Probe::Ping(ip)),
                Question::Tcp(port) => return Some(Probe::Tcp(ip, port)),
                Question::Udp(service) => return Some(Probe::Udp(ip, service)),
            }
        }
    }
}

/// How many addresses a network has for devices: but its own and the broadcast address.
pub(super) fn size(network: &Ipv4Net) -> u64 {
    let all = 1_u64 << (32 - network.prefix_len());
    if network.prefix_len() < 31 { all - 2 } else { all }
}

fn nth(network: &Ipv4Net, number: u64) -> Ipv4Addr {
    let first = u64::from(network.network().to_bits()) + u64::from(network.prefix_len() < 31);
    // Below 2^32, as the number is below the network's size.
    Ipv4Addr::from_bits(u32::try_from(first + number).unwrap_or(u32::MAX))
}
