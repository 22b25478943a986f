use askama::Template;
use axum::extract::{Path, State};
use serde::Deserialize;
use warren_edge::Opened;
use warren_proto::{
    EdgeChange, ForwardEdit, ForwardId, ForwardProtocol, ForwardSpec, NewForward,
    ParseScheduleError, Schedule,
};
use warren_scan::Device;
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

const PATH: &str = "/forwards";

/// A forward as typed.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Typed {
    #[serde(default)]
    name: String,
    protocol: String,
    port: String,
    ip: String,
    #[serde(default)]
    mac: String,
    #[serde(default)]
    target_port: String,
    #[serde(default)]
    allow: String,
    hours: Option<String>,
    #[serde(default)]
    note: String,
    enabled: Option<String>,
    transparent: Option<String>,
    untested: Option<String>,
}

/// What is typed, understood.
struct Meant {
    name: Option<String>,
    protocol: ForwardProtocol,
    ports: (u16, u16),
    target: warren_proto::LanTarget,
    target_port: Option<u16>,
    allow: Vec<String>,
    schedule: Option<Schedule>,
}

impl Typed {
    fn of(spec: &ForwardSpec) -> Self {
        let port = match spec.port == spec.last_port {
            true => spec.port.to_string(),
            false => format!("{}-{}", spec.port, spec.last_port),
        };
        let on = |it: bool| it.then(|| "on".to_owned());
        Self {
            name: spec.name.clone(),
            protocol: match spec.protocol {
                ForwardProtocol::Tcp => "tcp",
                ForwardProtocol::Udp => "udp",
                ForwardProtocol::Both => "both",
            }
            .to_owned(),
            port,
            ip: spec.target.ip.to_string(),
            mac: spec.target.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            target_port: spec.target_port.to_string(),
            allow: spec.allow.join(", "),
            hours: spec.schedule.as_ref().map(ToString::to_string),
            note: spec.note.clone(),
            enabled: on(spec.enabled),
            transparent: on(spec.source == warren_proto::LanSource::Transparent),
            untested: on(spec.untested),
        }
    }

    fn meant(&self) -> Result<Meant, Refusal> {
        let port = |text: &str| {
            let wrong =
                || Refusal::invalid(format!("'{text}' is no port: write 8080 or 8080-8090"));
            text.trim().parse::<u16>().map_err(|_| wrong())
        };
        let (first, last) = self.port.split_once('-').unwrap_or((&self.port, &self.port));
        let target_port = match self.target_port.trim() {
            "" => None,
            text => Some(port(text)?),
        };
        Ok(Meant {
            name: Some(self.name.trim().to_owned()).filter(|name| !name.is_empty()),
            protocol: match self.protocol.as_str() {
                "udp" => ForwardProtocol::Udp,
                "both" => ForwardProtocol::Both,
                _ => ForwardProtocol::Tcp,
            },
            ports: (port(first)?, port(last)?),
            target: target(&self.ip, &self.mac)?,
            target_port,
            allow: words_of(&self.allow).map(str::to_owned).collect(),
            schedule: match self.hours.as_deref().unwrap_or_default().trim() {
                "" | "always" => None,
                text => Some(text.parse().map_err(|error: ParseScheduleError| {
                    Refusal::invalid(format!("'{text}': {error}"))
                })?),
            },
        })
    }

    fn new_forward(&self) -> Result<NewForward, Refusal> {
        let Meant { name, protocol, ports, target, target_port, allow, schedule } = self.meant()?;
        Ok(NewForward {
            name,
            protocol,
            port: ports.0,
            last_port: Some(ports.1),
            target,
            target_port,
            source: source(self.transparent.as_deref()),
            untested: self.untested.is_some(),
            enabled: self.enabled.is_some(),
            allow,
            schedule,
            note: self.note.clone(),
            allow_public: false,
        })
    }

    fn edit(&self) -> Result<ForwardEdit, Refusal> {
        let Meant { name, protocol, ports, target, target_port, allow, schedule } = self.meant()?;
        Ok(ForwardEdit {
            name,
            enabled: Some(self.enabled.is_some()),
            protocol: Some(protocol),
            port: Some(ports.0),
            last_port: Some(ports.1),
            target: Some(target),
            target_port: Some(target_port.unwrap_or(ports.0)),
            source: Some(source(self.transparent.as_deref())),
            untested: Some(self.untested.is_some()),
            allow: Some(allow),
            // A form without hours leaves them alone.
            always: schedule.is_none() && self.hours.is_some(),
            schedule,
            note: Some(self.note.clone()),
            ..ForwardEdit::default()
        })
    }
}

struct Row {
    id: ForwardId,
    name: String,
    enabled: bool,
    is_open: bool,
    sentence: String,
    url: String,
    is_page: bool,
    bytes: String,
    packets: u64,
    last: Option<When>,
    note: String,
}

impl Row {
    fn of(site: &Site, spec: &ForwardSpec) -> Self {
        let report = site.report();
        let opened = Opened::Forward(spec.id);
        let used = report.uses.get(&opened).copied().unwrap_or_default();
        let url = words::url(&site.place(), spec);
        Self {
            id: spec.id,
            name: spec.name.clone(),
            enabled: spec.enabled,
            is_open: report.open.contains_key(&opened),
            sentence: site.tools.known(|inventory| words::forward(spec, inventory)),
            is_page: url.starts_with("http"),
            url,
            bytes: words::bytes(used.bytes),
            packets: used.packets,
            last: used.last_unix.map(when),
            note: spec.note.clone(),
        }
    }
}

#[derive(Template)]
#[template(path = "forwards.html")]
struct Forwards {
    layout: Layout,
    frame: Frame,
    rows: Vec<Row>,
    is_whole: bool,
    typed: Typed,
    error: String,
    action: String,
    devices: Vec<(String, String)>,
}

pub(super) async fn list(State(site): Shared, visitor: Visitor) -> Answer {
    let typed =
        Typed { protocol: "tcp".to_owned(), enabled: Some("on".to_owned()), ..Typed::default() };
    page(&forwards(&site, &visitor, typed, String::new()).await)
}

async fn forwards(site: &Site, visitor: &Visitor, typed: Typed, error: String) -> Forwards {
    let known = site.known().await;
    let (layout, frame) = frame(site, visitor, "Port forwards", Section::Forwards);
    Forwards {
        layout,
        frame,
        rows: known.spec.forwards.iter().map(|spec| Row::of(site, spec)).collect(),
        is_whole: known.is_whole,
        typed,
        error,
        action: PATH.to_owned(),
        devices: devices(site),
    }
}

/// Devices to choose from: address, and what it is called.
fn devices(site: &Site) -> Vec<(String, String)> {
    let shown = |it: &Device| {
        Some((it.ipv4()?.to_string(), words::name_of(it).unwrap_or_default().to_owned()))
    };
    site.tools.known(|it| it.devices.values().filter_map(shown).take(1000).collect())
}

pub(super) async fn add(
    State(site): Shared,
    visitor: Visitor,
    Form(mut typed): Form<Typed>,
) -> Answer {
    site.check(&visitor.asker)?;
    let note = follow(&site, &visitor, &typed.ip, &mut typed.mac).await;
    let asked = match typed.new_forward() {
        Ok(new) => site.change(&visitor.asker, EdgeChange::AddForward(new)).await,
        Err(refusal) => Err(refusal),
    };
    match asked {
        Ok(_) => told(PATH, Ok(format!("The port leads there now.{note}"))),
        Err(refusal) => {
            let error = words::sentence(&refusal.text);
            let page = forwards(&site, &visitor, typed, error).await;
            page_with(status(refusal.why), &page)
        }
    }
}

#[derive(Template)]
#[template(path = "forward.html")]
struct ForwardPage {
    layout: Layout,
    frame: Frame,
    row: Row,
    typed: Typed,
    error: String,
    action: String,
    devices: Vec<(String, String)>,
}

async fn find(site: &Site, id: &str) -> Result<ForwardSpec, Oops> {
    let spec = site.known().await.spec;
    let found = spec.forwards.into_iter().find(|it| it.id.to_string() == id);
    found.ok_or_else(|| Refusal::not_found("port forward").into())
}

fn one(
    site: &Site,
    visitor: &Visitor,
    spec: &ForwardSpec,
    typed: Typed,
    error: String,
) -> ForwardPage {
    let (layout, frame) = frame(site, visitor, &spec.name, Section::Forwards);
    let row = Row::of(site, spec);
    let action = format!("{PATH}/{}", spec.id);
    ForwardPage { layout, frame, row, typed, error, action, devices: devices(site) }
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
        Ok(edit) => site.change(&visitor.asker, EdgeChange::SetForward { id: spec.id, edit }).await,
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
    let edit = ForwardEdit { enabled: Some(switch.enabled), ..ForwardEdit::default() };
    changed(&site, &visitor, PATH, EdgeChange::SetForward { id, edit }, switch.text()).await
}

pub(super) async fn check(
    State(site): Shared,
    visitor: Visitor,
    Path(id): Path<String>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    let looked = site.look(&visitor.asker, parse(&id)?).await;
    told(&format!("{PATH}/{id}"), looked.map(|looked| words::sentence(&looked.to_string())))
}

pub(super) async fn remove(
    State(site): Shared,
    visitor: Visitor,
    Path(id): Path<String>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    let id = parse(&id)?;
    changed(&site, &visitor, PATH, EdgeChange::RemoveForward { id }, "It was removed.").await
}

fn parse(id: &str) -> Result<ForwardId, Oops> {
    id.parse().map_err(|_| Refusal::not_found("port forward").into())
}
