//! What people type into the forms of an edge, and the changes that it asks for.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use warren_proto::{
    EdgeChange, EdgeSpec, ForwardEdit, ForwardProtocol, GatewayEdit, LanSource, LanTarget,
    NewForward, NewGateway, NewVirtualDevice, ParseScheduleError, Ports, Schedule,
    VirtualDeviceEdit,
};

use super::super::answer::{Oops, sentence};

/// What an edge opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Forward,
    VirtualDevice,
    Gateway,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Forward, Self::VirtualDevice, Self::Gateway];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Forward => "Port forwards",
            Self::VirtualDevice => "Virtual devices",
            Self::Gateway => "Gateways",
        }
    }

    pub(super) fn one(self) -> &'static str {
        match self {
            Self::Forward => "port forward",
            Self::VirtualDevice => "virtual device",
            Self::Gateway => "gateway",
        }
    }

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Forward => "A port of the edge's own mesh address leads to a device of its LAN.",
            Self::VirtualDevice => {
                "A device of the LAN gets a name and an address of its own in the mesh."
            }
            Self::Gateway => {
                "A whole network behind the edge, address by address; or the internet, for devices that \
                 choose this edge as their exit node."
            }
        }
    }

    pub(super) fn is_forward(self) -> bool {
        self == Self::Forward
    }

    pub(super) fn is_gateway(self) -> bool {
        self == Self::Gateway
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forwards",
            Self::VirtualDevice => "virtual-devices",
            Self::Gateway => "gateways",
        })
    }
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|kind| kind.to_string() == s).ok_or(())
    }
}

/// What was typed.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(in crate::portal) struct Fields {
    pub(super) name: String,
    pub(super) protocol: String,
    /// One port, or the first and the last: `8000-8010`.
    pub(super) port: String,
    pub(super) target: String,
    /// The target's hardware address, where it is to be followed.
    pub(super) mac: String,
    pub(super) target_port: String,
    /// What a virtual device lets through, as a policy has it.
    pub(super) ports: String,
    /// A gateway's network.
    pub(super) lan: String,
    pub(super) allow: String,
    /// The hours in which a forward is open.
    pub(super) hours: Option<String>,
    pub(super) note: String,
    /// Whether the LAN sees who asks: `on` or nothing.
    pub(super) transparent: String,
    /// Whether nobody looks whether answers come back then: `on` or nothing.
    pub(super) untested: String,
}

/// What is wrong with it.
#[derive(Debug, Default)]
pub(super) struct Wrong {
    /// In which field; none: as a whole.
    field: &'static str,
    text: String,
}

impl Wrong {
    pub(super) fn new(field: &'static str, text: impl Into<String>) -> Self {
        Self { field, text: text.into() }
    }

    /// What is wrong in a field, or (an empty name) as a whole.
    pub(super) fn at(&self, field: &str) -> &str {
        if self.field == field { &self.text } else { "" }
    }
}

impl Fields {
    /// What is set, as it would be typed.
    pub(super) fn of(kind: Kind, id: &str, spec: &EdgeSpec) -> Option<Self> {
        let on = |is_on: bool| if is_on { "on".to_owned() } else { String::new() };
        let transparent = |source| on(source == LanSource::Transparent);
        match kind {
            Kind::Forward => {
                let it = spec.forwards.iter().find(|it| it.id.to_string() == id)?;
                Some(Self {
                    name: it.name.clone(),
                    protocol: protocol_word(it.protocol).to_owned(),
                    port: range(it.port, it.last_port),
                    target_port: it.target_port.to_string(),
                    allow: it.allow.join(", "),
                    hours: it.schedule.as_ref().map(ToString::to_string),
                    note: it.note.clone(),
                    transparent: transparent(it.source),
                    untested: on(it.untested),
                    ..Self::targeted(it.target)
                })
            }
            Kind::VirtualDevice => {
                let it = spec.virtual_devices.iter().find(|it| it.id.to_string() == id)?;
                let ports: Vec<String> = it.ports.iter().map(ToString::to_string).collect();
                Some(Self {
                    name: it.name.to_string(),
                    ports: ports.join(", "),
                    note: it.note.clone(),
                    transparent: transparent(it.source),
                    untested: on(it.untested),
                    ..Self::targeted(it.target)
                })
            }
            Kind::Gateway => {
                let it = spec.gateways.iter().find(|it| it.id.to_string() == id)?;
                Some(Self {
                    lan: it.network(),
                    note: it.note.clone(),
                    transparent: transparent(it.source),
                    ..Self::default()
                })
            }
        }
    }

    fn targeted(target: LanTarget) -> Self {
        Self {
            target: target.ip.to_string(),
            mac: target.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            ..Self::default()
        }
    }

    /// One more.
    pub(super) fn added(self, kind: Kind) -> Result<EdgeChange, Wrong> {
        let source = self.source();
        Ok(match kind {
            Kind::Forward => {
                let (port, last_port) = self.port_range()?;
                EdgeChange::AddForward(NewForward {
                    protocol: self.protocol(),
                    port,
                    last_port,
                    target: self.target()?,
                    target_port: self.target_port()?,
                    name: Some(self.name.trim().to_owned()).filter(|name| !name.is_empty()),
                    source,
                    untested: !self.untested.is_empty(),
                    enabled: true,
                    allow: words(&self.allow),
                    schedule: self.hours()?,
                    note: self.note,
                    allow_public: false,
                })
            }
            Kind::VirtualDevice => EdgeChange::AddVirtualDevice(NewVirtualDevice {
                name: self.device_name()?,
                target: self.target()?,
                ports: self.ports()?,
                source,
                untested: !self.untested.is_empty(),
                enabled: true,
                note: self.note,
                allow_public: false,
            }),
            Kind::Gateway => {
                let wrong = "A network has the form 192.168.7.0/24; 'internet' makes an exit node.";
                let lan = NewGateway::parse_network(&self.lan);
                let lan = lan.ok_or_else(|| Wrong::new("lan", wrong))?;
                EdgeChange::AddGateway(NewGateway {
                    lan,
                    source,
                    enabled: true,
                    standby_for: None,
                    note: self.note,
                })
            }
        })
    }

    /// Another; what the form doesn't have stays.
    pub(super) fn changed(self, kind: Kind, id: &str) -> Result<EdgeChange, Wrong> {
        let unknown = || Wrong::new("", "It is gone meanwhile.");
        let source = Some(self.source());
        let untested = Some(!self.untested.is_empty());
        Ok(match kind {
            Kind::Forward => {
                let id = id.parse().map_err(|_| unknown())?;
                let (port, last_port) = self.port_range()?;
                let schedule = self.hours()?;
                let edit = ForwardEdit {
                    protocol: Some(self.protocol()),
                    port: Some(port),
                    last_port,
                    target: Some(self.target()?),
                    target_port: Some(self.target_port()?.unwrap_or(port)),
                    name: Some(self.name.trim().to_owned()).filter(|name| !name.is_empty()),
                    source,
                    untested,
                    allow: Some(words(&self.allow)),
                    // A form without hours leaves them alone.
                    always: schedule.is_none() && self.hours.is_some(),
                    schedule,
                    note: Some(self.note),
                    ..ForwardEdit::default()
                };
                EdgeChange::SetForward { id, edit }
            }
            Kind::VirtualDevice => {
                let id = id.parse().map_err(|_| unknown())?;
                let edit = VirtualDeviceEdit {
                    name: Some(self.device_name()?),
                    target: Some(self.target()?),
                    ports: Some(self.ports()?),
                    source,
                    untested,
                    note: Some(self.note),
                    ..VirtualDeviceEdit::default()
                };
                EdgeChange::SetVirtualDevice { id, edit }
            }
            Kind::Gateway => {
                let id = id.parse().map_err(|_| unknown())?;
                let edit = GatewayEdit { source, note: Some(self.note), enabled: None };
                EdgeChange::SetGateway { id, edit }
            }
        })
    }

    fn source(&self) -> LanSource {
        if self.transparent.is_empty() { LanSource::Masquerade } else { LanSource::Transparent }
    }

    fn protocol(&self) -> ForwardProtocol {
        match self.protocol.as_str() {
            "udp" => ForwardProtocol::Udp,
            "both" => ForwardProtocol::Both,
            _ => ForwardProtocol::Tcp,
        }
    }

    fn port_range(&self) -> Result<(u16, Option<u16>), Wrong> {
        let port = |text: &str| {
            let wrong = "A port is a number up to 65535; several in a row are 8000-8010.";
            let parsed = text.trim().parse();
            parsed.map_err(|_| Wrong::new("port", wrong))
        };
        match self.port.split_once('-') {
            Some((first, last)) => Ok((port(first)?, Some(port(last)?))),
            None => Ok((port(&self.port)?, None)),
        }
    }

    fn target_port(&self) -> Result<Option<u16>, Wrong> {
        let text = self.target_port.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let wrong = "A port is a number up to 65535.";
        text.parse().map(Some).map_err(|_| Wrong::new("target_port", wrong))
    }

    fn hours(&self) -> Result<Option<Schedule>, Wrong> {
        match self.hours.as_deref().unwrap_or_default().trim() {
            "" | "always" => Ok(None),
            text => text.parse().map(Some).map_err(|error: ParseScheduleError| {
                Wrong::new("hours", sentence(&error.to_string()))
            }),
        }
    }

    fn target(&self) -> Result<LanTarget, Wrong> {
        let wrong = "An address has the form 192.168.1.9.";
        let ip = self.target.trim().parse().map_err(|_| Wrong::new("target", wrong))?;
        let mac = match self.mac.trim() {
            "" => None,
            text => Some(text.parse().map_err(|error: warren_proto::ParseMacError| {
                Wrong::new("mac", sentence(&error.to_string()))
            })?),
        };
        Ok(LanTarget { ip, mac })
    }

    fn ports(&self) -> Result<Vec<Ports>, Wrong> {
        let words = words(&self.ports);
        if words.is_empty() {
            return Ok(vec![Ports::All]);
        }
        let wrong = "Ports are written as tcp:22, tcp:8000-8100, udp:53, icmp or *.";
        let parsed: Result<Vec<Ports>, _> = words.iter().map(|word| word.parse()).collect();
        parsed.map_err(|_| Wrong::new("ports", wrong))
    }

    fn device_name(&self) -> Result<warren_proto::DeviceName, Wrong> {
        let wrong = "A name has small letters, digits and hyphens.";
        self.name.trim().parse().map_err(|_| Wrong::new("name", wrong))
    }
}

/// One of them in force, or no more.
pub(super) fn switched(kind: Kind, id: &str, enabled: bool) -> Result<EdgeChange, Oops> {
    let enabled = Some(enabled);
    let gone = || Oops::not_found(kind.one());
    Ok(match kind {
        Kind::Forward => {
            let edit = ForwardEdit { enabled, ..ForwardEdit::default() };
            EdgeChange::SetForward { id: id.parse().map_err(|_| gone())?, edit }
        }
        Kind::VirtualDevice => {
            let edit = VirtualDeviceEdit { enabled, ..VirtualDeviceEdit::default() };
            EdgeChange::SetVirtualDevice { id: id.parse().map_err(|_| gone())?, edit }
        }
        Kind::Gateway => {
            let edit = GatewayEdit { enabled, ..GatewayEdit::default() };
            EdgeChange::SetGateway { id: id.parse().map_err(|_| gone())?, edit }
        }
    })
}

/// One less.
pub(super) fn removed(kind: Kind, id: &str) -> Result<EdgeChange, Oops> {
    let gone = || Oops::not_found(kind.one());
    Ok(match kind {
        Kind::Forward => EdgeChange::RemoveForward { id: id.parse().map_err(|_| gone())? },
        Kind::VirtualDevice => {
            EdgeChange::RemoveVirtualDevice { id: id.parse().map_err(|_| gone())? }
        }
        Kind::Gateway => EdgeChange::RemoveGateway { id: id.parse().map_err(|_| gone())? },
    })
}

pub(super) fn protocol_word(protocol: ForwardProtocol) -> &'static str {
    match protocol {
        ForwardProtocol::Tcp => "tcp",
        ForwardProtocol::Udp => "udp",
        ForwardProtocol::Both => "both",
    }
}

pub(super) fn range(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

fn words(text: &str) -> Vec<String> {
    let words = text.split([',', ' ']).map(str::trim).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_becomes_a_change_or_says_which_field_is_wrong() {
        let typed = Fields {
            port: "8000-8010".to_owned(),
            target: " 192.168.1.9".to_owned(),
            target_port: "80".to_owned(),
            allow: "role:admin, tag:ops".to_owned(),
            hours: Some("mon@08:00-18:00".to_owned()),
            ..Fields::default()
        };
        let Ok(EdgeChange::AddForward(new)) = typed.clone().added(Kind::Forward) else {
            panic!("a forward")
        };
        assert_eq!((new.port, new.last_port, new.target_port), (8000, Some(8010), Some(80)));
        assert_eq!(new.allow, ["role:admin", "tag:ops"]);
        assert_eq!(new.schedule.map(|it| it.to_string()).as_deref(), Some("mon@08:00-18:00"));
        assert!(new.source == LanSource::Masquerade && !new.untested);
        let on = || "on".to_owned();
        let shown = Fields { transparent: on(), untested: on(), ..typed.clone() };
        let Ok(EdgeChange::SetForward { edit, .. }) =
            shown.changed(Kind::Forward, "00000000000000f1")
        else {
            panic!("a forward")
        };
        assert_eq!((edit.source, edit.untested), (Some(LanSource::Transparent), Some(true)));
        let wrong = |change: fn(&mut Fields), kind| {
            let mut fields = typed.clone();
            change(&mut fields);
            fields.added(kind).err().unwrap_or_default()
        };
        assert!(!wrong(|it| it.port = "70000".to_owned(), Kind::Forward).at("port").is_empty());
        assert!(
            !wrong(|it| it.hours = Some("8-18".to_owned()), Kind::Forward).at("hours").is_empty()
        );
        assert!(
            !wrong(|it| it.target = "printer".to_owned(), Kind::Forward).at("target").is_empty()
        );
        assert!(!wrong(|it| it.mac = "xx".to_owned(), Kind::Forward).at("mac").is_empty());
        assert!(
            !wrong(|it| it.name = "No name".to_owned(), Kind::VirtualDevice).at("name").is_empty()
        );
        assert!(!wrong(|it| it.lan = "192.168.7.0".to_owned(), Kind::Gateway).at("lan").is_empty());
    }
}
