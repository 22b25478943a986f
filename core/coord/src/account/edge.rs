//! The account's edges: what each of them is to open, and who is told of it.
//!
//! An edge's duty goes to the edge alone. What stands behind it goes with its entry to those of its
//! viewers whom the policy lets reach it: an entry of an edge differs from viewer to viewer.

mod activity;
mod check;
mod edit;
mod limits;
mod managers;
mod view;
mod wake;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Instant;

use ipnet::{IpNet, Ipv4Net};
use warren_proto::{
    Change as MapChange, DeviceId, EDGE, EdgeDuty, EdgeOffer, Filter, ForwardId, INTERNET,
    InternetOffer, Peer, Target, VirtualPeer,
};

use super::device::Device;
use super::presence::Timer;
use super::{Account, COALESCE_WINDOW, Subject, peer_entry};
use crate::{Change, EdgeItem, EdgeItemId, EdgeItemRecord, EdgeRecord};

pub use self::view::EdgeView;

/// The account's edges, by device.
#[derive(Debug, Default)]
pub(super) struct Edges {
    by_device: BTreeMap<DeviceId, Edge>,
    /// Devices whose word on whether they are edges is to be kept.
    unsettled: BTreeSet<DeviceId>,
    /// When hours begin or end next.
    hours: Option<(Instant, Timer)>,
}

#[derive(Debug, Default)]
struct Edge {
    record: Option<EdgeRecord>,
    items: BTreeMap<EdgeItemId, EdgeItemRecord>,
    /// Port forwards that are out of their hours.
    closed: BTreeSet<ForwardId>,
    /// The devices from which it was last said to take changes.
    managers: Vec<DeviceId>,
}

impl Edge {
    fn is_enabled(&self) -> bool {
        self.record.is_some_and(|record| record.enabled)
    }

    fn is_asked(&self) -> bool {
        self.record.is_some_and(|record| record.asked)
    }

    fn items(&self) -> impl Iterator<Item = &EdgeItem> {
        self.items.values().map(|record| &record.item)
    }

    /// What is to be open at this moment.
    fn open(&self) -> impl Iterator<Item = &EdgeItem> {
        self.items().filter(|item| {
            let closed = matches!(item, EdgeItem::Forward(spec) if self.closed.contains(&spec.id));
            self.is_enabled() && item.is_enabled() && !closed
        })
    }
}

impl Edges {
    pub(super) fn new(records: Vec<EdgeRecord>, items: Vec<EdgeItemRecord>) -> Self {
        let mut edges = Self::default();
        for record in records {
            edges.by_device.entry(record.device).or_default().record = Some(record);
        }
        for item in items {
            edges.by_device.entry(item.edge).or_default().items.insert(item.item.id(), item);
        }
        edges
    }

    pub(super) fn records(&self) -> Vec<EdgeRecord> {
        self.by_device.values().filter_map(|edge| edge.record).collect()
    }

    pub(super) fn item_records(&self) -> Vec<EdgeItemRecord> {
        self.by_device.values().flat_map(|edge| edge.items.values()).cloned().collect()
    }

    fn items(&self) -> impl Iterator<Item = &EdgeItem> {
        self.by_device.values().flat_map(Edge::items)
    }

    /// The networks that a device is a gateway to, as its LAN and as the mesh knows them.
    pub(super) fn networks(&self, device: DeviceId) -> Vec<IpNet> {
        let nets = self.gateways(device).flat_map(|(lan, mesh)| [lan, mesh]);
        nets.map(IpNet::V4).collect()
    }

    fn gateways(&self, device: DeviceId) -> impl Iterator<Item = (Ipv4Net, Ipv4Net)> {
        let open = self.by_device.get(&device).into_iter().flat_map(Edge::open);
        open.filter_map(|item| match item {
            EdgeItem::Gateway(gateway) => Some((gateway.lan, gateway.mesh)),
            EdgeItem::Forward(_) | EdgeItem::VirtualDevice(_) => None,
        })
    }

    /// The devices behind which others reach something.
    pub(super) fn offering(&self) -> Vec<DeviceId> {
        let offers = |edge: &Edge| edge.open().any(|it| !matches!(it, EdgeItem::Forward(_)));
        self.by_device.iter().filter(|(_, edge)| offers(edge)).map(|(id, _)| *id).collect()
    }
}

impl Account {
    /// What a device is to do as an edge; `None`: it is none, or not in the mesh.
    pub(super) fn edge_duty(&self, id: DeviceId) -> Option<EdgeDuty> {
        let edge = self.edges.by_device.get(&id).filter(|edge| edge.is_enabled())?;
        let mut duty = EdgeDuty { managers: self.managers_of(id), ..EdgeDuty::default() };
        for item in edge.open() {
            match item {
                EdgeItem::Forward(spec) => duty.forwards.push(spec.into()),
                EdgeItem::VirtualDevice(spec) => duty.virtual_devices.push(spec.into()),
                EdgeItem::Gateway(spec) => duty.gateways.push(spec.into()),
            }
        }
        self.is_member(id).then_some(duty)
    }

    /// Whether the account wants a device to be an edge.
    pub(super) fn edge_asked(&self, id: DeviceId) -> bool {
        self.edges.by_device.get(&id).is_some_and(Edge::is_asked)
    }

    /// What a viewer reaches behind a device.
    fn offer(&self, viewer: &Device, subject: &Device) -> Option<EdgeOffer> {
        let edge = self.edges.by_device.get(&subject.record.id)?;
        let reach = self.reach_behind(viewer, subject);
        let mut offer = EdgeOffer::default();
        for item in edge.open() {
            match item {
                EdgeItem::VirtualDevice(it) if reach.has_virtual(&it.name) => {
                    let peer = VirtualPeer { name: it.name.clone(), ipv4: it.ipv4 };
                    offer.virtual_devices.push(peer);
                }
                EdgeItem::Gateway(it) if it.is_internet() => {
                    if reach.has_the_internet() {
                        offer.internet = Some(InternetOffer { standby_for: it.standby_for });
                    }
                }
                EdgeItem::Gateway(it)
                    if reach.has_part_of(it.lan) || reach.has_part_of(it.mesh) =>
                {
                    offer.subnets.push(it.mesh);
                }
                EdgeItem::Forward(_) | EdgeItem::VirtualDevice(_) | EdgeItem::Gateway(_) => {}
            }
        }
        (offer != EdgeOffer::default()).then_some(offer)
    }

    /// A device's entry as a viewer may see it.
    pub(super) fn entry_for(&self, viewer: &Device, subject: &Device) -> Peer {
        Peer { edge: self.offer(viewer, subject), ..peer_entry(subject) }
    }

    /// The entries of all edges behind which there is something, as a viewer may see them.
    pub(super) fn edge_entries(&self, viewer: &Device) -> Vec<MapChange> {
        let offering = self.edges.offering();
        let edges = offering.iter().filter_map(|id| self.devices.get(id));
        edges
            .filter(|edge| self.may_see(viewer, edge))
            .map(|edge| MapChange::Peer { peer: self.entry_for(viewer, edge) })
            .collect()
    }

    /// What is said of a device to all, as a viewer may hear it.
    pub(super) fn change_for(
        &self,
        viewer: &Device,
        subject: &Device,
        change: &MapChange,
    ) -> MapChange {
        let mut change = change.clone();
        if let MapChange::Peer { peer } = &mut change {
            peer.edge = self.offer(viewer, subject);
        }
        change
    }

    /// Puts networks as the mesh knows them in the place of what the policy calls them.
    pub(super) fn resolve_networks(&self, device: DeviceId, filter: Filter) -> Filter {
        let lans = self.edges.gateways(device).filter(|(lan, _)| *lan != INTERNET);
        let gateways: Vec<(Ipv4Net, Ipv4Net)> = lans.collect();
        let resolve = |target: Target| match target {
            Target::Subnet(net) => {
                gateways.iter().filter_map(|gateway| mapped(net, *gateway)).collect()
            }
            Target::This
            | Target::Virtual(_)
            | Target::Internet
            | Target::Everything
            | Target::Unknown => vec![target],
        };
        let mut rules = filter.rules;
        for rule in &mut rules {
            let mut to: Vec<Target> =
                std::mem::take(&mut rule.to).into_iter().flat_map(resolve).collect();
            to.sort();
            to.dedup();
            rule.to = to;
        }
        rules.retain(|rule| !rule.to.is_empty());
        Filter { rules, limits: filter.limits }
    }

    /// A device has said, or says no more, that it is an edge: that is kept.
    pub(super) fn note_consent(&mut self, id: DeviceId, now: Instant) {
        let consents = |device: &Device| {
            let reported = device.reported.as_ref()?;
            Some(reported.capabilities.iter().any(|word| word == EDGE))
        };
        let said = self.devices.get(&id).and_then(consents);
        let known = self.edges.by_device.get(&id).is_some_and(Edge::is_enabled);
        if said.is_some_and(|said| said != known) {
            if self.edges.unsettled.insert(id) {
                self.timers.insert((now + COALESCE_WINDOW, Timer::Edges));
            }
        } else {
            self.edges.unsettled.remove(&id);
        }
    }

    /// What devices have said of being edges, to be kept.
    pub(super) fn consents(&self) -> impl Iterator<Item = Change> {
        self.edges.unsettled.iter().filter(|id| self.devices.contains_key(id)).map(|id| {
            let edge = self.edges.by_device.get(id);
            Change::Edge(EdgeRecord {
                device: *id,
                enabled: !edge.is_some_and(Edge::is_enabled),
                asked: edge.is_some_and(Edge::is_asked),
            })
        })
    }

    pub(super) fn put_edge(&mut self, record: EdgeRecord, now: Instant) {
        let id = record.device;
        let offered = self.edges.offering().contains(&id);
        self.edges.by_device.entry(id).or_default().record = Some(record);
        // What the device has said meanwhile is still to be kept.
        self.note_consent(id, now);
        self.edge_changed(id, offered || self.edges.offering().contains(&id), now);
    }

    pub(super) fn put_edge_item(&mut self, record: EdgeItemRecord, now: Instant) {
        let (id, is_offered) = (record.edge, !matches!(record.item, EdgeItem::Forward(_)));
        self.edges.by_device.entry(id).or_default().items.insert(record.item.id(), record);
        self.edge_changed(id, is_offered, now);
    }

    pub(super) fn drop_edge_item(&mut self, id: DeviceId, item: EdgeItemId, now: Instant) {
        let Some(edge) = self.edges.by_device.get_mut(&id) else { return };
        edge.items.remove(&item);
        if edge.items.is_empty() && edge.record.is_none() {
            self.edges.by_device.remove(&id);
        }
        self.edge_changed(id, !matches!(item, EdgeItemId::Forward(_)), now);
    }

    pub(super) fn forget_edge(&mut self, id: DeviceId) {
        self.edges.by_device.remove(&id);
        self.edges.unsettled.remove(&id);
    }

    /// Tells an edge what it is to open, and, if that is `offered` to others, those who see it.
    fn edge_changed(&mut self, id: DeviceId, offered: bool, now: Instant) {
        if !self.devices.contains_key(&id) {
            return;
        }
        self.touch(Subject::Edge(id), now);
        self.keep_hours(now);
        if offered {
            self.touch_device(id, true, now);
            self.judge_gateway(id, now);
        } else {
            self.touch(Subject::Filters(std::sync::Arc::new([id])), now);
        }
    }
}

/// The part of a network behind a gateway that another network means, as the mesh knows it; that one
/// may be written as the LAN or as the mesh knows it.
fn mapped(net: IpNet, (lan, mesh): (Ipv4Net, Ipv4Net)) -> Option<Target> {
    let IpNet::V4(net) = net else { return None };
    let within = if lan.contains(&net) {
        let offset = u32::from(net.network()) - u32::from(lan.network());
        let network = Ipv4Addr::from(u32::from(mesh.network()) + offset);
        Ipv4Net::new(network, net.prefix_len()).ok()?
    } else if mesh.contains(&net) {
        net
    } else if net.contains(&lan) || net.contains(&mesh) {
        mesh
    } else {
        return None;
    };
    Some(Target::Subnet(IpNet::V4(within)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_the_policy_is_the_meshs_part_of_it() {
        let gateway = ("192.168.7.0/24".parse().unwrap(), "100.80.254.0/24".parse().unwrap());
        let mesh =
            |net: &str| mapped(net.parse().unwrap(), gateway).map(String::from).unwrap_or_default();
        assert_eq!(mesh("192.168.7.0/24"), "subnet:100.80.254.0/24");
        assert_eq!(mesh("192.168.0.0/16"), "subnet:100.80.254.0/24");
        assert_eq!(mesh("192.168.7.64/26"), "subnet:100.80.254.64/26");
        assert_eq!(mesh("100.80.254.9/32"), "subnet:100.80.254.9/32");
        assert_eq!(mesh("0.0.0.0/0"), "subnet:100.80.254.0/24");
        assert_eq!(mesh("192.168.8.0/24"), "");
        assert_eq!(mesh("fd00::/8"), "");
    }
}
