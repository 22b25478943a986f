//! The connections that the kernel tracks (IPv4).

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;

use super::message::{ACK, Attributes, DUMP, Nfnetlink, Request};
use crate::error::Error;

/// `NFNL_SUBSYS_CTNETLINK`, in the upper byte of a message's type.
const CTNETLINK: u16 = 1 << 8;
const GET: u16 = CTNETLINK | 1;
const DELETE: u16 = CTNETLINK | 2;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const TUPLE_MASTER: u16 = 14;
const ZONE: u16 = 18;

/// Addresses and ports of one direction. What has no ports has port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// The protocol's number.
    pub protocol: u8,
    /// From.
    pub source: Ipv4Addr,
    /// To.
    pub destination: Ipv4Addr,
    /// From which port.
    pub source_port: u16,
    /// To which port.
    pub destination_port: u16,
}

/// A tracked connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// As it came.
    pub original: Tuple,
    /// As answers come: translated addresses show here.
    pub reply: Tuple,
    /// The connection that this one belongs to, as FTP's data to its control.
    pub master: Option<Tuple>,
}

/// Connection tracking, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Connections {
    netlink: Nfnetlink,
}

impl Connections {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// The kernel has no nfnetlink, or no privilege.
    pub fn open() -> Result<Self, Error> {
        let netlink = Nfnetlink::new().map_err(|error| Error::os("open nfnetlink", error))?;
        Ok(Self { netlink })
    }

    /// How many there are, by who began them.
    ///
    /// # Errors
    ///
    /// The kernel doesn't track connections, or no privilege.
    pub fn count_by_source(&mut self) -> Result<BTreeMap<Ipv4Addr, u32>, Error> {
        self.netlink
            .list(
                || Request::new(GET, DUMP, libc::AF_INET as u8),
                |counts: &mut BTreeMap<Ipv4Addr, u32>, _, attributes| {
                    if let Some(original) = attributes.within(TUPLE_ORIGINAL).and_then(tuple) {
                        *counts.entry(original.source).or_default() += 1;
                    }
                },
            )
            .map_err(|error| Error::os("list the tracked connections", error))
    }

    /// Forgets the connections that `unwanted` says; returns how many. Their next packet is judged
    /// as that of a new one.
    ///
    /// # Errors
    ///
    /// The kernel doesn't track connections, or no privilege.
    pub fn forget(&mut self, unwanted: impl Fn(&Connection) -> bool) -> Result<usize, Error> {
        let found: Vec<Entry> = self
            .netlink
            .list(
                || Request::new(GET, DUMP, libc::AF_INET as u8),
                |found: &mut Vec<Entry>, _, attributes| {
                    found.extend(entry(attributes, &unwanted));
                },
            )
            .map_err(|error| Error::os("list the tracked connections", error))?;
        let mut forgotten = 0;
        for entry in found {
            match self.netlink.transact([entry.deletion()], 1) {
                Ok(()) => forgotten += 1,
                // It ended by itself.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::os("forget a tracked connection", error)),
            }
        }
        Ok(forgotten)
    }
}

/// What names a connection to the kernel.
#[derive(Debug)]
struct Entry {
    original: Vec<u8>,
    id: Option<Vec<u8>>,
    zone: Option<Vec<u8>>,
}

impl Entry {
    fn deletion(&self) -> Request {
        let mut request =
            Request::new(DELETE, ACK, libc::AF_INET as u8).nested(TUPLE_ORIGINAL, &self.original);
        if let Some(id) = &self.id {
            request = request.attribute(ID, id);
        }
        if let Some(zone) = &self.zone {
            request = request.attribute(ZONE, zone);
        }
        request
    }
}

fn entry(attributes: Attributes<'_>, unwanted: &impl Fn(&Connection) -> bool) -> Option<Entry> {
    let connection = Connection {
        original: tuple(attributes.within(TUPLE_ORIGINAL)?)?,
        reply: tuple(attributes.within(TUPLE_REPLY)?)?,
        master: attributes.within(TUPLE_MASTER).and_then(tuple),
    };
    let owned = |kind| attributes.payload(kind).map(<[u8]>::to_vec);
    unwanted(&connection).then(|| Entry {
        original: owned(TUPLE_ORIGINAL).unwrap_or_default(),
        id: owned(ID),
        zone: owned(ZONE),
    })
}

/// `CTA_TUPLE_IP` and `CTA_TUPLE_PROTO`.
fn tuple(attributes: Attributes<'_>) -> Option<Tuple> {
    let ip = attributes.within(1)?;
    let protocol = attributes.within(2)?;
    Some(Tuple {
        protocol: *protocol.payload(1)?.first()?,
        source: Ipv4Addr::from_bits(ip.be32(1)?),
        destination: Ipv4Addr::from_bits(ip.be32(2)?),
        source_port: protocol.be16(2).unwrap_or(0),
        destination_port: protocol.be16(3).unwrap_or(0),
    })
}
