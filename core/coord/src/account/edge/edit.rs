//! Deciding on changes of what an edge opens.

use warren_proto::{
    DeviceId, EdgeChange, EdgeChanged, ForwardEdit, ForwardId, ForwardSpec, GatewayEdit, GatewayId,
    GatewaySpec, INTERNET, LanSource, NewForward, NewGateway, NewVirtualDevice, VirtualDeviceEdit,
    VirtualDeviceId, VirtualDeviceSpec,
};

use super::Edge;
use super::check::{check_name, check_note};
use crate::account::Account;
use crate::address::{TakenAddresses, allocate, ipv4};
use crate::{
    AccountRecord, Change, Ctx, EdgeItem, EdgeItemId, EdgeItemRecord, EdgeRecord, Prepared,
    Refused, UnixTime,
};

impl Account {
    /// Decides on a change of what an edge opens. It may be told before the device says that it is an
    /// edge, and waits for that then.
    ///
    /// # Errors
    /// [`Refused::NotFound`]; [`Refused::EdgeInvalid`], [`Refused::EdgeConflict`], [`Refused::Invalid`]
    /// or [`Refused::NameTaken`], with the reason; [`Refused::AccountFull`] when no address is left.
    pub fn prepare_edge_change(
        &self,
        edge: DeviceId,
        change: EdgeChange,
        ctx: &Ctx,
    ) -> Result<Prepared<EdgeChanged>, Refused> {
        if !self.devices.contains_key(&edge) {
            return Err(Refused::NotFound("device"));
        }
        match change {
            EdgeChange::AddForward(new) => self.add_forward(edge, new, ctx),
            EdgeChange::SetForward { id, edit } => self.set_forward(edge, id, edit),
            EdgeChange::RemoveForward { id } => self.remove_item(edge, EdgeItemId::Forward(id)),
            EdgeChange::AddVirtualDevice(new) => self.add_virtual_device(edge, new, ctx),
            EdgeChange::SetVirtualDevice { id, edit } => self.set_virtual_device(edge, id, edit),
            EdgeChange::RemoveVirtualDevice { id } => {
                self.remove_item(edge, EdgeItemId::VirtualDevice(id))
            }
            EdgeChange::AddGateway(new) => self.add_gateway(edge, &new, ctx),
            EdgeChange::SetGateway { id, edit } => self.set_gateway(edge, id, edit),
            EdgeChange::RemoveGateway { id } => self.remove_item(edge, EdgeItemId::Gateway(id)),
        }
    }

    /// Decides on whether the account wants a device to be an edge. Its owner has the last word, on it.
    ///
    /// # Errors
    /// [`Refused::NotFound`].
    pub fn prepare_edge_ask(&self, device: DeviceId, asked: bool) -> Result<Prepared<()>, Refused> {
        if !self.devices.contains_key(&device) {
            return Err(Refused::NotFound("device"));
        }
        let edge = self.edge_of(device);
        let enabled = edge.is_some_and(Edge::is_enabled);
        let is_so = edge.is_some_and(Edge::is_asked) == asked;
        let change = Change::Edge(EdgeRecord { device, enabled, asked });
        Ok(Prepared { changes: if is_so { Vec::new() } else { vec![change] }, reply: () })
    }

    fn add_forward(
        &self,
        edge: DeviceId,
        new: NewForward,
        ctx: &Ctx,
    ) -> Result<Prepared<EdgeChanged>, Refused> {
        self.check_target(new.target, new.allow_public)?;
        let is_known = |id| self.edges.items().any(|it| it.id() == EdgeItemId::Forward(id));
        let last_port = new.last_port.unwrap_or(new.port);
        let spec = ForwardSpec {
            id: ForwardId(ctx.fresh_id("forward id", |id| is_known(ForwardId(id)))),
            name: new.name.unwrap_or_else(|| name_by_port(new.port, last_port)),
            enabled: new.enabled,
            protocol: new.protocol,
            port: new.port,
            last_port,
            target: new.target,
            target_port: new.target_port.unwrap_or(new.port),
            source: new.source,
            untested: new.untested && new.source == LanSource::Transparent,
            allow: new.allow,
            schedule: new.schedule,
            note: new.note,
        };
        check_name(&spec.name)?;
        check_note(&spec.note)?;
        self.check_forward(edge, self.edge_of(edge), &spec)?;
        Ok(added(edge, EdgeItem::Forward(spec), ctx))
    }

    fn set_forward(
        &self,
        edge: DeviceId,
        id: ForwardId,
        edit: ForwardEdit,
    ) -> Result<Prepared<EdgeChanged>, Refused> {
        let old = self.item(edge, EdgeItemId::Forward(id))?;
        let EdgeItem::Forward(old_spec) = &old.item else {
            return Err(Refused::NotFound("port forward"));
        };
        let mut spec = old_spec.clone();
        if let Some(target) = edit.target.filter(|target| *target != spec.target) {
            self.check_target(target, edit.allow_public)?;
            spec.target = target;
        }
        if let Some(port) = edit.port {
            (spec.port, spec.last_port) = (port, port);
        }
        spec.last_port = edit.last_port.unwrap_or(spec.last_port);
        if let Some(name) = edit.name.filter(|name| *name != spec.name) {
            check_name(&name)?;
            spec.name = name;
        }
        spec.enabled = edit.enabled.unwrap_or(spec.enabled);
        spec.protocol = edit.protocol.unwrap_or(spec.protocol);
        spec.target_port = edit.target_port.unwrap_or(spec.target_port);
        spec.allow = edit.allow.unwrap_or(spec.allow);
        spec.schedule = edit.schedule.or(spec.schedule).filter(|_| !edit.always);
        spec.source = edit.source.unwrap_or(spec.source);
        spec.untested =
            edit.untested.unwrap_or(spec.untested) && spec.source == LanSource::Transparent;
        if let Some(note) = new_note(edit.note, &spec.note)? {
            spec.note = note;
        }
        self.check_forward(edge, self.edge_of(edge), &spec)?;
        Ok(changed(old, EdgeItem::Forward(spec)))
    }

    fn add_virtual_device(
        &self,
        edge: DeviceId,
        new: NewVirtualDevice,
        ctx: &Ctx,
    ) -> Result<Prepared<EdgeChanged>, Refused> {
        self.check_target(new.target, new.allow_public)?;
        self.check_members_devices(edge)?;
        let is_known = |id| self.edges.items().any(|it| it.id() == EdgeItemId::VirtualDevice(id));
        let range = self.record.ipv4_range;
        let taken = self.taken_addresses();
        let (offset, next_host) = allocate(range, self.record.next_host, |ip| taken.have(ip))
            .ok_or(Refused::AccountFull)?;
        let id = ctx.fresh_id("virtual device id", |id| is_known(VirtualDeviceId(id)));
        let spec = VirtualDeviceSpec {
            id: VirtualDeviceId(id),
            name: new.name,
            ipv4: ipv4(range, offset),
            enabled: new.enabled,
            target: new.target,
            ports: new.ports,
            source: new.source,
            untested: new.untested && new.source == LanSource::Transparent,
            note: new.note,
        };
        check_note(&spec.note)?;
        self.check_virtual_device(edge, self.edge_of(edge), &spec)?;
        let mut prepared = added(edge, EdgeItem::VirtualDevice(spec), ctx);
        let account = AccountRecord { next_host, ..self.record.clone() };
        prepared.changes.insert(0, Change::Account(account));
        Ok(prepared)
    }

    fn set_virtual_device(
        &self,
        edge: DeviceId,
        id: VirtualDeviceId,
        edit: VirtualDeviceEdit,
    ) -> Result<Prepared<EdgeChanged>, Refused> {
        let old = self.item(edge, EdgeItemId::VirtualDevice(id))?;
        let EdgeItem::VirtualDevice(old_spec) = &old.item else {
            return Err(Refused::NotFound("virtual device"));
        };
        let mut spec = old_spec.clone();
        if let Some(target) = edit.target.filter(|target| *target != spec.target) {
            self.check_target(target, edit.allow_public)?;
            spec.target = target;
        }
        spec.name = edit.name.unwrap_or(spec.name);
        spec.enabled = edit.enabled.unwrap_or(spec.enabled);
        spec.ports = edit.ports.unwrap_or(spec.ports);
        spec.source = edit.source.unwrap_or(spec.source);
        spec.untested =
            edit.untested.unwrap_or(spec.untested) && spec.source == LanSource::Transparent;
        if let Some(note) = new_note(edit.note, &spec.note)? {
            spec.note = note;
        }
        self.check_virtual_device(edge, self.edge_of(edge), &spec)?;
        Ok(changed(old, EdgeItem::VirtualDevice(spec)))
    }

    fn add_gateway(
        &self,
        edge: DeviceId,
        new: &NewGateway,
        ctx: &Ctx,
    ) -> Result<Prepared<EdgeChanged>, Refused> {
        self.check_network(edge, new.lan)?;
        let is_known = |id| self.edges.items().any(|it| it.id() == EdgeItemId::Gateway(id));
        let stood_by = match &new.standby_for {
            Some(other) => Some(self.stood_by(edge, other, new.lan)?),
            None => None,
        };
        let mesh = match stood_by {
            Some((_, mesh)) => mesh,
            None if new.lan == INTERNET => INTERNET,
            None => self.free_part(new.lan.prefix_len()).ok_or_else(|| {
                let range = self.record.ipv4_range;
                Refused::EdgeInvalid(format!(
                    "the account's range {range} has no free part as large as {}; choose a smaller \
                     network",
                    new.lan
                ))
            })?,
        };
        let spec = GatewaySpec {
            id: GatewayId(ctx.fresh_id("gateway id", |id| is_known(GatewayId(id)))),
            lan: new.lan,
            mesh,
            enabled: new.enabled,
            source: new.source,
            standby_for: stood_by.map(|(id, _)| id).filter(|_| new.lan == INTERNET),
            note: new.note.clone(),
        };
        check_source(&spec)?;
        check_note(&spec.note)?;
        Ok(added(edge, EdgeItem::Gateway(spec), ctx))
    }

    fn set_gateway(
        &self,
        edge: DeviceId,
        id: GatewayId,
        edit: GatewayEdit,
    ) -> Result<Prepared<EdgeChanged>, Refused> {
        let old = self.item(edge, EdgeItemId::Gateway(id))?;
        let EdgeItem::Gateway(old_spec) = &old.item else {
            return Err(Refused::NotFound("gateway"));
        };
        let mut spec = old_spec.clone();
        spec.enabled = edit.enabled.unwrap_or(spec.enabled);
        spec.source = edit.source.unwrap_or(spec.source);
        if let Some(note) = new_note(edit.note, &spec.note)? {
            spec.note = note;
        }
        check_source(&spec)?;
        Ok(changed(old, EdgeItem::Gateway(spec)))
    }

    fn remove_item(
        &self,
        edge: DeviceId,
        id: EdgeItemId,
    ) -> Result<Prepared<EdgeChanged>, Refused> {
        self.item(edge, id)?;
        let changes = vec![Change::EdgeItemRemoved { edge, id }];
        Ok(Prepared { changes, reply: EdgeChanged::Removed })
    }

    /// The mesh addresses that are devices', virtual devices' or of networks behind edges.
    pub(in crate::account) fn taken_addresses(&self) -> TakenAddresses<'_> {
        let parts = self.edges.items().filter_map(|item| match item {
            EdgeItem::VirtualDevice(device) => Some((device.ipv4, device.ipv4)),
            EdgeItem::Gateway(gateway) if !gateway.is_internet() => {
                Some((gateway.mesh.network(), gateway.mesh.broadcast()))
            }
            EdgeItem::Gateway(_) | EdgeItem::Forward(_) => None,
        });
        TakenAddresses { devices: &self.device_by_ipv4, parts: parts.collect() }
    }

    fn edge_of(&self, device: DeviceId) -> Option<&Edge> {
        self.edges.by_device.get(&device)
    }

    fn item(&self, edge: DeviceId, id: EdgeItemId) -> Result<&EdgeItemRecord, Refused> {
        self.edge_of(edge).and_then(|edge| edge.items.get(&id)).ok_or(Refused::NotFound(match id {
            EdgeItemId::Forward(_) => "port forward",
            EdgeItemId::VirtualDevice(_) => "virtual device",
            EdgeItemId::Gateway(_) => "gateway",
        }))
    }
}

/// A note, if it is another: what an earlier broker took stays as it is.
fn new_note(edited: Option<String>, old: &str) -> Result<Option<String>, Refused> {
    let new = edited.filter(|note| note != old);
    if let Some(note) = &new {
        check_note(note)?;
    }
    Ok(new)
}

/// No answer from the internet would find back to a mesh address.
fn check_source(spec: &GatewaySpec) -> Result<(), Refused> {
    if spec.is_internet() && spec.source == LanSource::Transparent {
        return Err(Refused::Invalid(
            "the internet sees the edge's own address as the source, not a mesh address: leave the \
             source masqueraded",
        ));
    }
    Ok(())
}

fn name_by_port(first: u16, last: u16) -> String {
    if first == last { format!("port {first}") } else { format!("ports {first}-{last}") }
}

fn added(edge: DeviceId, item: EdgeItem, ctx: &Ctx) -> Prepared<EdgeChanged> {
    let reply = said(&item);
    let created: UnixTime = ctx.unix_time();
    Prepared { changes: vec![Change::EdgeItem(EdgeItemRecord { edge, item, created })], reply }
}

fn changed(old: &EdgeItemRecord, item: EdgeItem) -> Prepared<EdgeChanged> {
    let reply = said(&item);
    let changes = if old.item == item {
        Vec::new()
    } else {
        vec![Change::EdgeItem(EdgeItemRecord { item, ..old.clone() })]
    };
    Prepared { changes, reply }
}

fn said(item: &EdgeItem) -> EdgeChanged {
    match item {
        EdgeItem::Forward(spec) => EdgeChanged::Forward(spec.clone()),
        EdgeItem::VirtualDevice(spec) => EdgeChanged::VirtualDevice(spec.clone()),
        EdgeItem::Gateway(spec) => EdgeChanged::Gateway(spec.clone()),
    }
}
