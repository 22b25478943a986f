use askama::Template;
use axum::extract::{Path, State};
use serde::Deserialize;
use warren_edge::Opened;
use warren_proto::{
    DeviceName, EdgeChange, LanSource, NewVirtualDevice, Ports, VirtualDeviceEdit, VirtualDeviceId,
    VirtualDeviceSpec,
};
use warren_web::{Layout, When};

use super::{
    Frame, Section, Switch, changed, follow, follow_to, frame, list as words_of, source, target,
    when,
};
use crate::desk::Refusal;
use crate::site::Site;
use crate::surround::{
    Answer, Form, Nothing, Oops, Shared, Visitor, page, page_with, status, told,
};
use crate::words;

const PATH: &str = "/virtual-devices";

/// A virtual device as typed.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Typed {
    name: String,
    ip: String,
    #[serde(default)]
    mac: String,
    #[serde(default)]
    ports: String,
    #[serde(default)]
    note: String,
    enabled: Option<String>,
    transparent: Option<String>,
    untested: Option<String>,
}

impl Typed {
    fn of(spec: &VirtualDeviceSpec) -> Self {
        let ports: Vec<String> = spec.ports.iter().map(ToString::to_string).collect();
        let on = |it: bool| it.then(|| "on".to_owned());
        Self {
            name: spec.name.to_string(),
            ip: spec.target.ip.to_string(),
            mac: spec.target.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            ports: if spec.ports == [Ports::All] { String::new() } else { ports.join(", ") },
            note: spec.note.clone(),
            enabled: on(spec.enabled),
            transparent: on(spec.source == LanSource::Transparent),
            untested: on(spec.untested),
        }
    }

    fn name(&self) -> Result<DeviceName, Refusal> {
        self.name.trim().parse().map_err(Refusal::invalid)
    }

    fn ports(&self) -> Result<Vec<Ports>, Refusal> {
        let port = |text: &str| {
            let wrong = || Refusal::invalid(format!("'{text}' is no port: write tcp:80, udp:53"));
            text.parse().map_err(|_| wrong())
        };
        let ports = words_of(&self.ports).map(port).collect::<Result<Vec<Ports>, _>>()?;
        Ok(if ports.is_empty() { vec![Ports::All] } else { ports })
    }

    fn new_device(&self) -> Result<NewVirtualDevice, Refusal> {
        Ok(NewVirtualDevice {
            name: self.name()?,
            target: target(&self.ip, &self.mac)?,
            ports: self.ports()?,
            source: source(self.transparent.as_deref()),
            untested: self.untested.is_some(),
            enabled: self.enabled.is_some(),
            note: self.note.clone(),
            allow_public: false,
        })
    }

    fn edit(&self) -> Result<VirtualDeviceEdit, Refusal> {
        Ok(VirtualDeviceEdit {
            name: Some(self.name()?),
            enabled: Some(self.enabled.is_some()),
            target: Some(target(&self.ip, &self.mac)?),
            ports: Some(self.ports()?),
            source: Some(source(self.transparent.as_deref())),
            untested: Some(self.untested.is_some()),
            note: Some(self.note.clone()),
            allow_public: false,
        })
    }
}

struct Row {
    id: VirtualDeviceId,
    name: String,
    dns_name: String,
    ipv4: String,
    enabled: bool,
    is_open: bool,
    target: String,
    ports: String,
    bytes: String,
    last: Option<When>,
    note: String,
}

impl Row {
    fn of(site: &Site, spec: &VirtualDeviceSpec) -> Self {
        let report = site.report();
        let opened = Opened::Device(spec.id);
        let used = report.uses.get(&opened).copied().unwrap_or_default();
        let ports = Typed::of(spec).ports;
        Self {
            id: spec.id,
            name: spec.name.to_string(),
            dns_name: format!("{}.{}", spec.name, site.place().dns_name()),
            ipv4: spec.ipv4.to_string(),
            enabled: spec.enabled,
            is_open: report.open.contains_key(&opened),
            target: format!(
                "{}{}",
                site.tools.known(|inventory| words::target(inventory, &spec.target)),
                words::shown(spec.source, spec.untested)
            ),
            ports: if ports.is_empty() { "every port".to_owned() } else { ports },
            bytes: words::bytes(used.bytes),
            last: used.last_unix.map(when),
            note: spec.note.clone(),
        }
    }
}

#[derive(Template)]
#[template(path = "virtual_devices.html")]
struct VirtualDevices {
    layout: Layout,
    frame: Frame,
    rows: Vec<Row>,
    is_whole: bool,
    typed: Typed,
    error: String,
    action: String,
}

pub(super) async fn list(State(site): Shared, visitor: Visitor) -> Answer {
    let typed = Typed { enabled: Some("on".to_owned()), ..Typed::default() };
    page(&devices(&site, &visitor, typed, String::new()).await)
}

async fn devices(site: &Site, visitor: &Visitor, typed: Typed, error: String) -> VirtualDevices {
    let known = site.known().await;
    let (layout, frame) = frame(site, visitor, "Virtual devices", Section::VirtualDevices);
    let rows = known.spec.virtual_devices.iter().map(|spec| Row::of(site, spec)).collect();
    let action = PATH.to_owned();
    VirtualDevices { layout, frame, rows, is_whole: known.is_whole, typed, error, action }
}

pub(super) async fn add(
    State(site): Shared,
    visitor: Visitor,
    Form(mut typed): Form<Typed>,
) -> Answer {
    site.check(&visitor.asker)?;
    let note = follow(&site, &visitor, &typed.ip, &mut typed.mac).await;
    let asked = match typed.new_device() {
        Ok(new) => site.change(&visitor.asker, EdgeChange::AddVirtualDevice(new)).await,
        Err(refusal) => Err(refusal),
    };
    match asked {
        Ok(_) => told(PATH, Ok(format!("It has an address in the mesh now.{note}"))),
        Err(refusal) => {
            let error = words::sentence(&refusal.text);
            page_with(status(refusal.why), &devices(&site, &visitor, typed, error).await)
        }
    }
}

#[derive(Template)]
#[template(path = "virtual_device.html")]
struct VirtualDevicePage {
    layout: Layout,
    frame: Frame,
    row: Row,
    typed: Typed,
    error: String,
    action: String,
}

async fn find(site: &Site, id: &str) -> Result<VirtualDeviceSpec, Oops> {
    let spec = site.known().await.spec;
    let found = spec.virtual_devices.into_iter().find(|it| it.id.to_string() == id);
    found.ok_or_else(|| Refusal::not_found("virtual device").into())
}

fn one(
    site: &Site,
    visitor: &Visitor,
    spec: &VirtualDeviceSpec,
    typed: Typed,
    error: String,
) -> VirtualDevicePage {
    let (layout, frame) = frame(site, visitor, spec.name.as_str(), Section::VirtualDevices);
    let (row, action) = (Row::of(site, spec), format!("{PATH}/{}", spec.id));
    VirtualDevicePage { layout, frame, row, typed, error, action }
}

pub(super) async fn show(State(site): Shared, visitor: Visitor, Path(id): Path<String>) -> Answer {
    let spec = find(&site, &id).await?;
    page(&one(&site, &visitor, &spec, Typed::of(&spec), String::new()))
}

pub(super) async fn change(
    State(site): Shared,
    visitor: Visitor,
    Path(id): Path<String>,
    Form(mut typed): Form<Typed>,
) -> Answer {
    site.check(&visitor.asker)?;
    let spec = find(&site, &id).await?;
    let note = follow_to(&site, &visitor, &typed.ip, &mut typed.mac, spec.target).await;
    let asked = match typed.edit() {
        Ok(edit) => {
            let change = EdgeChange::SetVirtualDevice { id: spec.id, edit };
            site.change(&visitor.asker, change).await
        }
        Err(refusal) => Err(refusal),
    };
    match asked {
        Ok(_) => told(PATH, Ok(format!("Saved.{note}"))),
        Err(refusal) => {
            let error = words::sentence(&refusal.text);
            page_with(status(refusal.why), &one(&site, &visitor, &spec, typed, error))
        }
    }
}

pub(super) async fn switch(
    State(site): Shared,
    visitor: Visitor,
    Path(id): Path<String>,
    Form(switch): Form<Switch>,
) -> Answer {
    let id = parse(&id)?;
    let edit = VirtualDeviceEdit { enabled: Some(switch.enabled), ..VirtualDeviceEdit::default() };
    changed(&site, &visitor, PATH, EdgeChange::SetVirtualDevice { id, edit }, switch.text()).await
}

pub(super) async fn remove(
    State(site): Shared,
    visitor: Visitor,
    Path(id): Path<String>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    let id = parse(&id)?;
    changed(&site, &visitor, PATH, EdgeChange::RemoveVirtualDevice { id }, "It was removed.").await
}

fn parse(id: &str) -> Result<VirtualDeviceId, Oops> {
    id.parse().map_err(|_| Refusal::not_found("virtual device").into())
}
