//! What changes of edges mean for people who read Activity.

use warren_proto::{
    DeviceId, DeviceName, ForwardProtocol, ForwardSpec, LanSource, LanTarget, MacAddr,
};

use crate::account::Account;
use crate::activity::{Facts, Named};
use crate::{EdgeItem, EdgeItemId, EdgeItemRecord, EdgeRecord};

/// An action, what it was done to, and what that was before and is after.
type Said = (&'static str, Named, Option<Facts>, Option<Facts>);

impl Account {
    pub(in crate::account) fn said_of_edge(&self, new: &EdgeRecord) -> Option<Said> {
        let device = self.devices.get(&new.device)?;
        let old = self.edges.by_device.get(&new.device).and_then(|edge| edge.record);
        let facts = |record: EdgeRecord| {
            Facts::default().open("edge", record.enabled).open("asked", record.asked)
        };
        let was_asked = old.is_some_and(|old| old.asked);
        let action = match (was_asked == new.asked, new.enabled, new.asked) {
            (false, _, true) => "edge.asked",
            (false, _, false) => "edge.unasked",
            (true, true, _) => "edge.enabled",
            (true, false, _) => "edge.disabled",
        };
        let named = Named::new("device", new.device, &device.record.name);
        Some((action, named, old.map(facts), Some(facts(*new))))
    }

    pub(in crate::account) fn said_of_edge_item(&self, new: &EdgeItemRecord) -> Said {
        let id = new.item.id();
        let old = self.edge_item(new.edge, id);
        let [created, changed, _] = actions(id);
        let action = if old.is_some() { changed } else { created };
        let named = Named::new(id.kind(), id, new.item.name());
        let before = old.map(|old| self.facts(old));
        (action, named, before, Some(self.facts(new)))
    }

    pub(in crate::account) fn said_of_edge_item_gone(
        &self,
        edge: DeviceId,
        id: EdgeItemId,
    ) -> Option<Said> {
        let old = self.edge_item(edge, id)?;
        let named = Named::new(id.kind(), id, old.item.name());
        let [_, _, removed] = actions(id);
        Some((removed, named, Some(self.facts(old)), None))
    }

    pub(in crate::account) fn said_of_wake(&self, edge: DeviceId, mac: MacAddr) -> Option<Said> {
        let named = Named::new("device", edge, self.name_of(edge)?);
        Some(("edge.wakes", named, None, Some(Facts::default().open("card", mac))))
    }

    fn edge_item(&self, edge: DeviceId, id: EdgeItemId) -> Option<&EdgeItemRecord> {
        self.edges.by_device.get(&edge)?.items.get(&id)
    }

    fn name_of(&self, device: DeviceId) -> Option<&DeviceName> {
        Some(&self.devices.get(&device)?.record.name)
    }

    fn facts(&self, record: &EdgeItemRecord) -> Facts {
        let edge = self.name_of(record.edge);
        let facts = Facts::default().maybe("edge", edge);
        match &record.item {
            EdgeItem::Forward(it) => facts
                .open("name", &it.name)
                .open("enabled", it.enabled)
                .open("port", port(it))
                .open("target", target(it.target))
                .open("target_port", it.target_port)
                .open("source", source(it.source, it.untested))
                .list("allow", &it.allow)
                .maybe("hours", it.schedule.as_ref())
                .open("note", &it.note),
            EdgeItem::VirtualDevice(it) => facts
                .open("name", &it.name)
                .open("ipv4", it.ipv4)
                .open("enabled", it.enabled)
                .open("target", target(it.target))
                .list("ports", &it.ports)
                .open("source", source(it.source, it.untested))
                .open("note", &it.note),
            EdgeItem::Gateway(it) if it.is_internet() => facts
                .open("lan", "the internet")
                .open("enabled", it.enabled)
                .maybe("standby_for", it.standby_for.and_then(|edge| self.name_of(edge)))
                .open("source", source(it.source, false))
                .open("note", &it.note),
            EdgeItem::Gateway(it) => facts
                .open("lan", it.lan)
                .open("mesh", it.mesh)
                .open("enabled", it.enabled)
                .open("source", source(it.source, false))
                .open("note", &it.note),
        }
    }
}

fn actions(id: EdgeItemId) -> [&'static str; 3] {
    match id {
        EdgeItemId::Forward(_) => ["forward.created", "forward.changed", "forward.removed"],
        EdgeItemId::VirtualDevice(_) => {
            ["virtual-device.created", "virtual-device.changed", "virtual-device.removed"]
        }
        EdgeItemId::Gateway(_) => ["gateway.created", "gateway.changed", "gateway.removed"],
    }
}

fn port(spec: &ForwardSpec) -> String {
    let protocol = match spec.protocol {
        ForwardProtocol::Tcp => "tcp",
        ForwardProtocol::Udp => "udp",
        ForwardProtocol::Both => "tcp and udp",
    };
    if spec.port == spec.last_port {
        format!("{protocol} {}", spec.port)
    } else {
        format!("{protocol} {}-{}", spec.port, spec.last_port)
    }
}

fn target(target: LanTarget) -> String {
    target.mac.map_or_else(|| target.ip.to_string(), |mac| format!("{} ({mac})", target.ip))
}

fn source(source: LanSource, untested: bool) -> &'static str {
    match (source, untested) {
        (LanSource::Masquerade, _) => "the edge",
        (LanSource::Transparent, false) => "who asks",
        (LanSource::Transparent, true) => "who asks, without a test of the way back",
    }
}
