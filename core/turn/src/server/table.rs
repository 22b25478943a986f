//! All allocations, and the ways to find one: by client, by virtual address, by relayed port.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};

use siphasher::sip::SipHasher13;

use super::allocation::{Allocation, Relayed};
use super::port::Ports;
use super::{ClientAddr, Config, RelayedPort};
use crate::binding::Family;

/// Hashes with a secret key, so that nobody can choose keys that collide.
#[derive(Debug, Clone)]
pub(super) struct Keyed(u64, u64);

impl Keyed {
    pub(super) fn new(key: [u8; 16]) -> Self {
        let [low, high] = [0, 8].map(|at| {
            u64::from_le_bytes(key[at..at + 8].try_into().expect("half of 16 bytes is 8"))
        });
        Self(low, high)
    }
}

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}

/// A place in the table, and which of those that were there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Handle {
    pub(super) index: u32,
    generation: u32,
}

/// A client in the form that hashes quickest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ClientKey(u128, u64);

impl ClientKey {
    fn new(client: ClientAddr) -> Self {
        match client {
            ClientAddr::Udp { listener, addr } => {
                let ip = match addr.ip() {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                Self(ip.to_bits(), u64::from(listener.0) << 16 | u64::from(addr.port()))
            }
            // No address: 0:0:0:1 in the upper half is nobody's.
            ClientAddr::Stream(id) => Self(1 << 64, id.0),
        }
    }
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    allocation: Option<Box<Allocation>>,
}

#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_client: HashMap<ClientKey, u32, Keyed>,
    by_virtual: HashMap<u64, u32, Keyed>,
    ipv4: Option<Ports>,
    ipv6: Option<Ports>,
    /// Channels of all allocations.
    pub(super) channels: usize,
}

impl Table {
    pub(super) fn new(config: &Config, keyed: Keyed) -> Self {
        let ports = |family_is_served: bool| family_is_served.then(|| Ports::new(&config.ports));
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_client: HashMap::with_hasher(keyed.clone()),
            by_virtual: HashMap::with_hasher(keyed),
            ipv4: ports(config.relayed_ipv4.is_some()),
            ipv6: ports(config.relayed_ipv6.is_some()),
            channels: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_client.len()
    }

    pub(super) fn virtual_len(&self) -> usize {
        self.by_virtual.len()
    }

    pub(super) fn find(&self, client: ClientAddr) -> Option<Handle> {
        self.by_client.get(&ClientKey::new(client)).map(|index| self.handle(*index))
    }

    pub(super) fn find_virtual(&self, ip: Ipv6Addr) -> Option<Handle> {
        self.by_virtual.get(&interface_id(ip)).map(|index| self.handle(*index))
    }

    pub(super) fn find_port(&self, port: RelayedPort) -> Option<Handle> {
        self.ports(port.family)?.holder(port.port).map(|index| self.handle(index))
    }

    pub(super) fn ports(&self, family: Family) -> Option<&Ports> {
        match family {
            Family::V4 => self.ipv4.as_ref(),
            Family::V6 => self.ipv6.as_ref(),
        }
    }

    pub(super) fn ports_mut(&mut self, family: Family) -> Option<&mut Ports> {
        match family {
            Family::V4 => self.ipv4.as_mut(),
            Family::V6 => self.ipv6.as_mut(),
        }
    }

    pub(super) fn get(&self, handle: Handle) -> Option<&Allocation> {
        let slot = self.slots.get(handle.index as usize)?;
        slot.allocation.as_deref().filter(|_| slot.generation == handle.generation)
    }

    pub(super) fn get_mut(&mut self, handle: Handle) -> Option<&mut Allocation> {
        let slot = self.slots.get_mut(handle.index as usize)?;
        slot.allocation.as_deref_mut().filter(|_| slot.generation == handle.generation)
    }

    /// Adds an allocation whose client has none, and whose virtual address nobody has.
    pub(super) fn insert(&mut self, allocation: Allocation) -> Handle {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, allocation: None });
            u32::try_from(self.slots.len() - 1).expect("allocations are limited to a u32's worth")
        });
        self.by_client.insert(ClientKey::new(allocation.client), index);
        if let Relayed::Virtual(ip) = allocation.relayed {
            self.by_virtual.insert(interface_id(ip), index);
        }
        self.slots[index as usize].allocation = Some(Box::new(allocation));
        self.handle(index)
    }

    /// Takes an allocation out; its ports are the caller's business.
    pub(super) fn remove(&mut self, handle: Handle) -> Option<Box<Allocation>> {
        self.get(handle)?;
        let slot = &mut self.slots[handle.index as usize];
        let allocation = slot.allocation.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(handle.index);
        self.by_client.remove(&ClientKey::new(allocation.client));
        if let Relayed::Virtual(ip) = allocation.relayed {
            self.by_virtual.remove(&interface_id(ip));
        }
        self.channels -= allocation.peers.channels();
        Some(allocation)
    }

    /// All of them, in the order of their places: for the rare day that credentials are revoked.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Handle, &Allocation)> {
        self.slots.iter().zip(0..).filter_map(|(slot, index)| {
            let handle = Handle { index, generation: slot.generation };
            slot.allocation.as_deref().map(|allocation| (handle, allocation))
        })
    }

    /// The same, for the rare day that the host has another address.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Allocation> {
        self.slots.iter_mut().filter_map(|slot| slot.allocation.as_deref_mut())
    }

    fn handle(&self, index: u32) -> Handle {
        Handle { index, generation: self.slots[index as usize].generation }
    }
}

/// What tells one virtual address from another.
fn interface_id(ip: Ipv6Addr) -> u64 {
    (ip.to_bits() & u128::from(u64::MAX)) as u64
}
