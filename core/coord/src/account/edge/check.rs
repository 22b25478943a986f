//! What an edge may open, and what would clash.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use warren_proto::{
    DeviceId, DeviceName, EndpointKind, ForwardSpec, GatewaySpec, INTERNET, LanAddress, LanTarget,
    MAX_FORWARDS, MAX_GATEWAYS, MAX_UTC_OFFSET, MAX_VIRTUAL_DEVICES, Ports, Schedule,
    VirtualDeviceSpec, is_plain_text, reserved_port,
};

use super::Edge;
use crate::account::Account;
use crate::address::{SERVICE_ADDRESSES, overlap};
use crate::policy::Subject;
use crate::{EdgeItem, Refused, Right, Standing, may};

/// The most virtual devices of one account: so many fit into every netmap.
const MAX_VIRTUAL_OF_ACCOUNT: usize = 2_000;

/// The most virtual devices of one person who is no admin.
const MAX_VIRTUAL_OF_MEMBER: usize = 500;

/// The part of the account's range that the gateways of one such person may have: an eighth of the half
/// that is left to gateways.
const MEMBERS_PART: u64 = 16;

/// The most gateways of one account.
const MAX_GATEWAYS_OF_ACCOUNT: usize = 1_000;

const MAX_NAME: usize = 64;
const MAX_NOTE: usize = 500;
const MAX_PORTS: usize = 32;
const MAX_ALLOW: usize = 32;
/// The largest network that a gateway leads to, and the smallest, by the lengths of their prefixes.
const GATEWAY_PREFIXES: std::ops::RangeInclusive<u8> = 17..=30;

impl Account {
    pub(super) fn check_forward(
        &self,
        id: DeviceId,
        edge: Option<&Edge>,
        spec: &ForwardSpec,
    ) -> Result<(), Refused> {
        check_ports(spec)?;
        check_allow(&spec.allow)?;
        check_hours(spec.schedule.as_ref())?;
        let items = edge.into_iter().flat_map(Edge::items);
        let others = items.filter_map(|item| match item {
            EdgeItem::Forward(other) if other.id != spec.id => Some(other),
            EdgeItem::Forward(_) | EdgeItem::VirtualDevice(_) | EdgeItem::Gateway(_) => None,
        });
        let mut count = 0;
        for other in others {
            count += 1;
            if other.name == spec.name {
                return Err(Refused::EdgeConflict(format!(
                    "this edge has a port forward called '{}' already; choose another name",
                    spec.name
                )));
            }
            let (first, last) = (spec.port.max(other.port), spec.last_port.min(other.last_port));
            if first <= last && spec.protocol.meets(other.protocol) {
                return Err(Refused::EdgeConflict(format!(
                    "port {first} of this edge leads elsewhere by '{}' already; choose another port",
                    other.name
                )));
            }
        }
        check_count(count, MAX_FORWARDS, "port forwards")?;
        self.check_self(id, spec.target)
    }

    pub(super) fn check_virtual_device(
        &self,
        id: DeviceId,
        edge: Option<&Edge>,
        spec: &VirtualDeviceSpec,
    ) -> Result<(), Refused> {
        if spec.ports.is_empty() || spec.ports.len() > MAX_PORTS {
            return Err(Refused::Invalid("a virtual device lets 1 to 32 kinds of ports through"));
        }
        if spec.ports.contains(&Ports::Unknown) {
            return Err(Refused::Invalid(
                "ports are written as 'tcp:22', 'tcp:8000-8100', 'udp:53', 'icmp' or '*'",
            ));
        }
        let is_other = |item: &&EdgeItem| item.id() != crate::EdgeItemId::VirtualDevice(spec.id);
        let virtual_devices = |item: &EdgeItem| match item {
            EdgeItem::VirtualDevice(other) => Some(other.name.clone()),
            EdgeItem::Forward(_) | EdgeItem::Gateway(_) => None,
        };
        let own = edge.into_iter().flat_map(Edge::items).filter(is_other);
        let names: Vec<_> = own.filter_map(virtual_devices).collect();
        if names.contains(&spec.name) {
            return Err(Refused::NameTaken(spec.name.clone()));
        }
        check_count(names.len(), MAX_VIRTUAL_DEVICES, "virtual devices")?;
        let all = self.edges.items().filter(is_other).filter_map(virtual_devices).count();
        if all >= MAX_VIRTUAL_OF_ACCOUNT {
            return Err(Refused::Invalid(
                "an account has at most 2,000 virtual devices: remove some, or reach whole networks by gateways",
            ));
        }
        self.check_self(id, spec.target)
    }

    /// Checks the network that a new gateway is to lead to.
    pub(super) fn check_network(&self, id: DeviceId, lan: Ipv4Net) -> Result<(), Refused> {
        let edge = self.edges.by_device.get(&id);
        let own: Vec<&GatewaySpec> =
            edge.into_iter().flat_map(Edge::items).filter_map(gateway).collect();
        check_count(own.len(), MAX_GATEWAYS, "gateways")?;
        if self.edges.items().filter_map(gateway).count() >= MAX_GATEWAYS_OF_ACCOUNT {
            return Err(Refused::Invalid("an account has at most 1,000 gateways; remove some"));
        }
        if lan != INTERNET {
            self.check_lan(&own, lan)?;
            return self.check_members_part(id, lan);
        }
        if own.iter().any(|other| other.is_internet()) {
            return Err(Refused::EdgeConflict(
                "this edge is a gateway to the internet already".to_owned(),
            ));
        }
        Ok(())
    }

    fn check_lan(&self, own: &[&GatewaySpec], lan: Ipv4Net) -> Result<(), Refused> {
        if lan.addr() != lan.network() {
            return Err(Refused::EdgeInvalid(format!(
                "{lan} has bits set behind its prefix; write {}",
                lan.trunc()
            )));
        }
        if !GATEWAY_PREFIXES.contains(&lan.prefix_len()) {
            return Err(Refused::Invalid(
                "a gateway leads to a network from /17 to /30: make several of a larger one, and a \
                 virtual device of a single address",
            ));
        }
        if LanAddress::of_network(lan) != LanAddress::Private {
            return Err(Refused::EdgeInvalid(format!("{lan} is no private network")));
        }
        if overlap(lan, self.record.ipv4_range) {
            return Err(Refused::EdgeInvalid(format!(
                "{lan} overlaps the account's own range {}",
                self.record.ipv4_range
            )));
        }
        let mut lans = own.iter().filter(|other| !other.is_internet());
        if let Some(other) = lans.find(|other| overlap(other.lan, lan)) {
            return Err(Refused::EdgeConflict(format!(
                "{lan} overlaps {}, which this edge is a gateway to already",
                other.lan
            )));
        }
        Ok(())
    }

    /// What the edges of one person have, if he is no admin: what one such person may take is bounded, so
    /// that something is left to the others. `None`: the device is an admin's, or a machine's own.
    fn of_member(&self, device: DeviceId) -> Option<impl Iterator<Item = &EdgeItem>> {
        let owner = |id: &DeviceId| {
            let record = &self.devices.get(id)?.record;
            record.owner.filter(|_| record.tags.is_empty())
        };
        let member = owner(&device)?;
        let (_, role) = self.rules.members().get(member)?;
        let is_admin = may(Standing::Role(role), Right::ManageDevices);
        let edges = self.edges.by_device.iter().filter(move |(id, _)| owner(id) == Some(member));
        (!is_admin).then(|| edges.flat_map(|(_, edge)| edge.items()))
    }

    fn check_members_part(&self, device: DeviceId, lan: Ipv4Net) -> Result<(), Refused> {
        let Some(items) = self.of_member(device) else { return Ok(()) };
        let size = |net: Ipv4Net| 1u64 << (32 - net.prefix_len());
        let others = items.filter_map(gateway).filter(|other| !other.is_internet());
        let taken: u64 = others.map(|other| size(other.mesh)).sum();
        let most = size(self.record.ipv4_range) / MEMBERS_PART;
        if taken + size(lan) <= most {
            return Ok(());
        }
        Err(Refused::EdgeInvalid(format!(
            "{lan} is too large: all gateways of one person have at most {most} addresses of the account's \
             range, and {taken} are taken; an admin's devices and those with tags may have more"
        )))
    }

    /// Checks that a plain member may have one more.
    pub(super) fn check_members_devices(&self, device: DeviceId) -> Result<(), Refused> {
        let Some(items) = self.of_member(device) else { return Ok(()) };
        let own = items.filter(|item| matches!(item, EdgeItem::VirtualDevice(_)));
        if own.count() < MAX_VIRTUAL_OF_MEMBER {
            return Ok(());
        }
        Err(Refused::Invalid(
            "all edges of one person have at most 500 virtual devices: remove some, or reach whole networks \
             by gateways; an admin's devices and those with tags may have more",
        ))
    }

    /// The highest part of the account's range of that size in which nobody is or was. The range's
    /// lower half is left to devices: gateways never keep one from joining.
    pub(super) fn free_part(&self, prefix_len: u8) -> Option<Ipv4Net> {
        let range = self.record.ipv4_range;
        if prefix_len <= range.prefix_len() {
            return None;
        }
        let step = 1u32 << (32 - prefix_len);
        let base = u32::from(range.network());
        let half = 1u32 << (31 - range.prefix_len());
        let lowest = base + self.record.next_host.max(SERVICE_ADDRESSES).max(half);
        let mut network = u32::from(range.broadcast()) & !(step - 1);
        loop {
            network = network.checked_sub(step).filter(|network| *network >= lowest)?;
            let part = Ipv4Net::new(Ipv4Addr::from(network), prefix_len).ok()?;
            if !self.is_inhabited(part) {
                return Some(part);
            }
        }
    }

    /// Another edge that is a gateway to the same network, and the part of the range that leads there.
    /// Whoever shares it draws the other's traffic: only those whom no policy tells apart may.
    pub(super) fn stood_by(
        &self,
        edge: DeviceId,
        other: &DeviceName,
        lan: Ipv4Net,
    ) -> Result<(DeviceId, Ipv4Net), Refused> {
        let record = |id: DeviceId| self.devices.get(&id).map(|device| &device.record);
        let whose = self.edges.by_device.iter().find(|(id, _)| {
            **id != edge && record(**id).is_some_and(|record| record.name == *other)
        });
        let gateway = whose.and_then(|(id, it)| {
            Some((*id, it.items().filter_map(gateway).find(|gateway| gateway.lan == lan)?))
        });
        let Some((id, gateway)) = gateway else {
            let net = if lan == INTERNET { "the internet".to_owned() } else { lan.to_string() };
            return Err(Refused::EdgeInvalid(format!("{other} is no gateway to {net}")));
        };
        let alike = record(id)
            .zip(record(edge))
            .is_some_and(|(one, another)| one.owner == another.owner && one.tags == another.tags);
        if !alike {
            return Err(Refused::EdgeInvalid(format!(
                "{other} is somebody else's, or has other tags: only an edge of the same person and \
                 with the same tags may stand by for it"
            )));
        }
        Ok((id, gateway.mesh))
    }

    fn is_inhabited(&self, part: Ipv4Net) -> bool {
        let addresses = part.network()..=part.broadcast();
        self.device_by_ipv4.range(addresses).next().is_some()
            || self.edges.items().any(|item| match item {
                EdgeItem::VirtualDevice(device) => part.contains(&device.ipv4),
                EdgeItem::Gateway(it) => !it.is_internet() && overlap(it.mesh, part),
                EdgeItem::Forward(_) => false,
            })
    }

    /// Checks a target that somebody has just chosen.
    pub(super) fn check_target(
        &self,
        target: LanTarget,
        allow_public: bool,
    ) -> Result<(), Refused> {
        let ip = target.ip;
        if self.record.ipv4_range.contains(&ip) {
            return Err(Refused::EdgeInvalid(format!(
                "{ip} is an address of the mesh itself; give the device's address in its LAN"
            )));
        }
        let what = match LanAddress::of(ip) {
            LanAddress::Special => {
                return Err(Refused::EdgeInvalid(format!("{ip} is no address of a LAN device")));
            }
            LanAddress::Private => return Ok(()),
            LanAddress::LinkLocal => "link-local, as clouds' stores of credentials are",
            LanAddress::Public => "a public address",
        };
        if allow_public {
            return Ok(());
        }
        Err(Refused::EdgeInvalid(format!(
            "{ip} is {what}; say that you mean it (`--allow-public`)"
        )))
    }

    /// Refuses what leads from an edge to itself, as far as its own addresses are known.
    fn check_self(&self, id: DeviceId, target: LanTarget) -> Result<(), Refused> {
        let reported = self.devices.get(&id).and_then(|device| device.reported.as_ref());
        let mut endpoints = reported.into_iter().flat_map(|reported| &reported.endpoints);
        let is_itself = endpoints.any(|endpoint| {
            endpoint.kind == EndpointKind::Host && endpoint.addr.ip() == IpAddr::V4(target.ip)
        });
        if is_itself {
            return Err(Refused::EdgeInvalid(format!(
                "{} is the edge's own address; it is reached without that",
                target.ip
            )));
        }
        Ok(())
    }
}

fn gateway(item: &EdgeItem) -> Option<&GatewaySpec> {
    match item {
        EdgeItem::Gateway(gateway) => Some(gateway),
        EdgeItem::Forward(_) | EdgeItem::VirtualDevice(_) => None,
    }
}

pub(super) fn check_name(name: &str) -> Result<(), Refused> {
    let is_plain = is_plain_text(name) && name.trim() == name;
    if name.is_empty() || name.len() > MAX_NAME || !is_plain {
        return Err(Refused::Invalid(
            "a name has 1 to 64 bytes on one line, and no characters that nobody sees",
        ));
    }
    Ok(())
}

pub(super) fn check_note(note: &str) -> Result<(), Refused> {
    if note.len() > MAX_NOTE || !is_plain_text(note) {
        return Err(Refused::Invalid(
            "a note has at most 500 bytes on one line, and no characters that nobody sees",
        ));
    }
    Ok(())
}

fn check_count(others: usize, most: usize, what: &str) -> Result<(), Refused> {
    if others < most {
        return Ok(());
    }
    Err(Refused::EdgeInvalid(format!("an edge has at most {most} {what}; remove some")))
}

fn check_ports(spec: &ForwardSpec) -> Result<(), Refused> {
    if spec.port == 0 || spec.target_port == 0 {
        return Err(Refused::Invalid("a port is a number from 1 to 65,535"));
    }
    let Some(more) = spec.last_port.checked_sub(spec.port) else {
        return Err(Refused::Invalid("the last port is below the first one"));
    };
    if spec.target_port.checked_add(more).is_none() {
        return Err(Refused::Invalid("the target's ports would go beyond 65,535"));
    }
    if let Some((port, whose)) = reserved_port(spec.port..=spec.last_port, spec.protocol) {
        return Err(Refused::EdgeInvalid(format!(
            "port {port} of the edge belongs to {whose}; choose another one"
        )));
    }
    Ok(())
}

fn check_allow(allow: &[String]) -> Result<(), Refused> {
    if allow.len() > MAX_ALLOW {
        return Err(Refused::Invalid("at most 32 words say who may use a port forward"));
    }
    let wrong = allow.iter().find_map(|word| word.parse::<Subject>().err());
    wrong.map_or(Ok(()), |wrong| Err(Refused::EdgeInvalid(wrong)))
}

fn check_hours(schedule: Option<&Schedule>) -> Result<(), Refused> {
    if schedule
        .is_some_and(|it| it.utc_offset_minutes.unsigned_abs() > MAX_UTC_OFFSET.unsigned_abs())
    {
        return Err(Refused::Invalid("local time is at most 14 hours ahead of UTC or behind it"));
    }
    Ok(())
}
