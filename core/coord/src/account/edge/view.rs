//! Edges as people see them.

use std::net::Ipv4Addr;

use warren_proto::{DeviceId, DeviceName, EdgeSpec, EdgeState};

use super::Edge;
use crate::account::Account;
use crate::{EdgeItem, Refused};

/// An edge as an admin sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeView {
    /// The device.
    pub device: DeviceId,
    /// Its name.
    pub name: DeviceName,
    /// Its name in DNS, without a trailing dot.
    pub dns_name: String,
    /// Its mesh address.
    pub ipv4: Ipv4Addr,
    /// Whether it is connected to the broker.
    pub online: bool,
    /// Whether it is an edge at present: if not, what is set for it waits.
    pub enabled: bool,
    /// Whether the account wants it to be one.
    pub asked: bool,
    /// What is set for it.
    pub spec: EdgeSpec,
    /// What it said of itself last.
    pub state: Option<EdgeState>,
}

impl Account {
    /// All devices that are edges, were, or for which something is set, by id.
    pub fn edges(&self) -> impl Iterator<Item = EdgeView> {
        self.edges.by_device.iter().filter_map(|(id, edge)| self.edge_view(*id, Some(edge)))
    }

    /// One device as an edge, whether it is one or not.
    ///
    /// # Errors
    /// [`Refused::NotFound`].
    pub fn edge(&self, id: DeviceId) -> Result<EdgeView, Refused> {
        let edge = self.edges.by_device.get(&id);
        self.edge_view(id, edge).ok_or(Refused::NotFound("device"))
    }

    fn edge_view(&self, id: DeviceId, edge: Option<&Edge>) -> Option<EdgeView> {
        let device = self.devices.get(&id)?;
        let name = device.record.name.clone();
        Some(EdgeView {
            device: id,
            dns_name: format!("{name}.{}", self.dns().domain),
            name,
            ipv4: device.record.ipv4,
            online: device.online,
            enabled: edge.is_some_and(Edge::is_enabled),
            asked: edge.is_some_and(Edge::is_asked),
            spec: edge.map(spec).unwrap_or_default(),
            state: device.reported.as_ref().and_then(|reported| reported.edge.clone()),
        })
    }
}

fn spec(edge: &Edge) -> EdgeSpec {
    let mut spec = EdgeSpec::default();
    for item in edge.items() {
        match item {
            EdgeItem::Forward(it) => spec.forwards.push(it.clone()),
            EdgeItem::VirtualDevice(it) => spec.virtual_devices.push(it.clone()),
            EdgeItem::Gateway(it) => spec.gateways.push(it.clone()),
        }
    }
    spec.forwards.sort_by_key(|it| (it.port, it.protocol));
    spec.virtual_devices.sort_by(|a, b| a.name.cmp(&b.name));
    spec.gateways.sort_by_key(|it| it.lan);
    spec
}
