//! What is asked, what is answered, what is told.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use warren_proto::MacAddr;

use crate::inventory::{NameSource, Transport};
use crate::plan::UdpService;

/// A question to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probe {
    /// Who has this address? Answers come as [`Scan::handle_neighbour`](crate::Scan::handle_neighbour); the probe itself has no
    /// outcome.
    Arp(Ipv4Addr),
    /// Who is on this link (ICMPv6 echo to all)? Answers come as
    /// [`Scan::handle_ipv6_neighbour`](crate::Scan::handle_ipv6_neighbour); the probe itself has no outcome.
    Call(Ipv4Net),
    /// Who has this address of the link (neighbour solicitation)? As [`Self::Call`].
    Solicit(Ipv4Net, Ipv6Addr),
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
    /// The IPv4 address that it is for.
    pub fn address(&self) -> Option<Ipv4Addr> {
        match *self {
            Self::Arp(ip)
            | Self::Ping(ip)
            | Self::Tcp(ip, _)
            | Self::Udp(ip, _)
            | Self::Name(ip, _) => Some(ip),
            Self::Call(_) | Self::Solicit(..) => None,
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
    /// Who has IPv6 on the links that are scanned as a whole: told once, at the end, when it is known who
    /// has IPv4; not by a scan that was cancelled.
    Ipv6(Vec<Ipv6Neighbour>),
    /// All is asked and answered, or it was cancelled.
    Ended {
        /// Whether it was cancelled.
        cancelled: bool,
    },
}

/// A card that was heard by IPv6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipv6Neighbour {
    /// The IPv4 network that stands for its link.
    pub link: Ipv4Net,
    /// The card's address.
    pub mac: MacAddr,
    /// Its IPv6 addresses; some of them, if it has said to have many.
    pub addresses: BTreeSet<Ipv6Addr>,
}

/// How far a scan is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
