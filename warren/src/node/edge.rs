//! `warren edge`: this device as an edge, or another one.

use anyhow::{bail, ensure};
use serde::Serialize;
use warren_node::local::{EdgeKind, EdgeReply, EdgeRequest, EdgeStatus, Enabling};
use warren_proto::{
    EdgeChange, EdgeChanged, EdgeOpen, EdgeSpec, ForwardEdit, ForwardSpec, GatewayEdit, INTERNET,
    LanCap, LanSource, LanTarget, NewForward, NewGateway, NewVirtualDevice, Ports,
    VirtualDeviceEdit, VirtualDeviceSpec,
};
use warren_scan::RescanStatus;

use super::edge_open::{bind, opened, tell, warn_of_ftp};
use super::edge_remote::Asked;
use super::{edge_lan, edge_open};
use crate::cli::{Card, Common, Edge, EdgeArgs, Forwards, Gateways, Global, Lan, VirtualDevices};
use crate::edge_tables;
use crate::output::{self, say};

/// `warren edge …`.
pub(crate) async fn edge(
    global: &Global,
    EdgeArgs { on, command }: EdgeArgs,
) -> anyhow::Result<()> {
    let client = Asked::find(super::client(global), on.as_deref()).await?;
    match command {
        Edge::Enable { userspace, when_asked, only } => {
            let only = cap(only)?;
            let kind = match (userspace, when_asked, &only) {
                (true, _, _) => Some(EdgeKind::Userspace),
                (false, true, _) => Some(EdgeKind::WhenAsked),
                // Who says what it may open doesn't say when.
                (false, false, Some(_)) => None,
                (false, false, None) => Some(EdgeKind::Plain),
            };
            let request = EdgeRequest::Enable(Enabling { kind, only });
            status(&client, request, global.json).await
        }
        Edge::Disable => status(&client, EdgeRequest::Disable, global.json).await,
        Edge::Status => status(&client, EdgeRequest::Status, global.json).await,
        Edge::Forwards(command) => forwards(&client, command, global.json).await,
        Edge::VirtualDevices(command) => virtual_devices(&client, command, global.json).await,
        Edge::Gateways(command) => gateways(&client, command, global.json).await,
        Edge::Scan(args) => edge_lan::scan(&client, args, global.json).await,
        Edge::Devices(args) => edge_lan::devices(&client, args, global.json).await,
        Edge::Wake { device } => edge_lan::wake(&client, device, global.json).await,
    }
}

/// What `--only` says; nothing, if it isn't there.
fn cap(only: Vec<Lan>) -> anyhow::Result<Option<LanCap>> {
    if only.contains(&Lan::Everything) {
        ensure!(only.len() == 1, "`--only everything` stands alone: it is every network");
        return Ok(Some(LanCap::default()));
    }
    let networks = only.into_iter().filter_map(|lan| match lan {
        Lan::Network(network) => Some(network),
        Lan::Everything => None,
    });
    let networks: Vec<_> = networks.collect();
    Ok((!networks.is_empty()).then(|| LanCap::only(networks)))
}

async fn status(client: &Asked, request: EdgeRequest, json: bool) -> anyhow::Result<()> {
    let EdgeReply::Status(status) = client.edge(request).await? else { return Err(strange()) };
    let rescan = match status.enabled && status.accepted {
        true => edge_lan::repeated(client).await,
        false => None,
    };
    if json {
        return output::json(&Shown { status, rescan });
    }
    let open = if status.accepted { opened(client).await } else { None };
    show_status(&status, open.as_ref());
    if let Some(rescan) = &rescan {
        say!("{}", edge_lan::sentence(rescan));
    }
    // The broker is told of the first ones alone, but also of what isn't the engine's.
    let mut problems = status.state.problems.clone();
    let all = open.into_iter().flat_map(|open| open.problems);
    problems.extend(all.filter(|it| !status.state.problems.contains(it)));
    for problem in problems {
        say!("Problem: {problem}");
    }
    Ok(())
}

/// An edge's status for programs.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    status: EdgeStatus,
    rescan: Option<RescanStatus>,
}

fn show_status(status: &EdgeStatus, open: Option<&EdgeOpen>) {
    match (status.enabled, status.accepted) {
        (false, _) if status.when_asked => {
            say!(
                "This device is an edge while the account asks for that, and it doesn't at present."
            );
        }
        (false, _) if status.asked => {
            say!("The account asks this device to be an edge: `warren edge enable` agrees.");
        }
        (false, _) => {
            say!(
                "This device is no edge: nothing of its LAN is open. `warren edge enable` makes it one."
            );
        }
        (true, false) => say!("This device is an edge; the broker hasn't taken note of that yet."),
        (true, true) => {
            say!("This device is an edge.");
            let count = |set: usize, open: Option<usize>| match open {
                Some(open) => format!("{set} to be open, {open} open"),
                None => set.to_string(),
            };
            let by = |count: fn(&EdgeOpen) -> usize| open.map(count);
            say!("Port forwards: {}", count(status.forwards, by(|open| open.forwards.len())));
            let devices = by(|open| open.virtual_devices.len());
            say!("Virtual devices: {}", count(status.virtual_devices, devices));
            say!("Gateways: {}", count(status.gateways, by(|open| open.gateways.len())));
        }
    }
    if !status.only.is_everything() {
        say!(
            "It opens nothing but {}: `warren edge enable --only everything` lifts that.",
            status.only
        );
    }
    if !status.broker_connected {
        say!("Note: the broker is out of reach, so nothing can be changed.");
    }
}

async fn spec(client: &Asked) -> anyhow::Result<EdgeSpec> {
    match client.edge(EdgeRequest::Spec).await? {
        EdgeReply::Spec(spec) => Ok(spec),
        EdgeReply::Status(_) | EdgeReply::Changed(_) | EdgeReply::Found(_) => Err(strange()),
    }
}

/// Has the broker change something, and shows what there is afterwards.
async fn change(client: &Asked, change: EdgeChange, json: bool) -> anyhow::Result<()> {
    let EdgeReply::Changed(changed) = client.edge(EdgeRequest::Change(change)).await? else {
        return Err(strange());
    };
    if json {
        return output::json(&changed);
    }
    match &changed {
        EdgeChanged::Forward(spec) => edge_tables::forwards(std::slice::from_ref(spec), None),
        EdgeChanged::VirtualDevice(spec) => {
            edge_tables::virtual_devices(std::slice::from_ref(spec), None);
        }
        EdgeChanged::Gateway(spec) => edge_tables::gateways(std::slice::from_ref(spec), None),
        EdgeChanged::Removed => say!("Removed."),
    }
    warn_of_ftp(&changed);
    tell(client, &changed).await;
    Ok(())
}

async fn forwards(client: &Asked, command: Forwards, json: bool) -> anyhow::Result<()> {
    let wanted = match command {
        Forwards::List => {
            let all = spec(client).await?.forwards;
            return shown(client, &all, json, edge_tables::forwards).await;
        }
        Forwards::Add { port, target, protocol, name, mac, allow, hours, allow_public, common } => {
            EdgeChange::AddForward(NewForward {
                name,
                protocol: protocol.into(),
                port: port.first,
                last_port: Some(port.last),
                target: LanTarget { ip: target.ip, mac: bind(client, target.ip, mac).await },
                target_port: target.port,
                source: common.source().unwrap_or_default(),
                untested: common.untested().unwrap_or_default(),
                enabled: common.enabled().unwrap_or(true),
                allow,
                schedule: hours.and_then(|hours| hours.0),
                note: common.note.unwrap_or_default(),
                allow_public,
            })
        }
        set @ Forwards::Set { .. } => set_forward(client, set).await?,
        Forwards::Check { forward } => {
            let id = forward_id(client, &forward).await?;
            return edge_lan::check(client, id, json).await;
        }
        Forwards::Remove { forward } => {
            EdgeChange::RemoveForward { id: forward_id(client, &forward).await? }
        }
    };
    change(client, wanted, json).await
}

/// What `warren edge forwards set` changes.
async fn set_forward(client: &Asked, command: Forwards) -> anyhow::Result<EdgeChange> {
    let Forwards::Set {
        forward,
        allow,
        hours,
        port,
        target,
        mac,
        protocol,
        name,
        allow_public,
        common,
    } = command
    else {
        return Err(strange());
    };
    let known = forward_of(client, &forward).await?;
    let target_port = target.and_then(|target| target.port);
    let target = new_target(client, known.target, target.map(|target| target.ip), mac).await;
    let edit = ForwardEdit {
        enabled: common.enabled(),
        name,
        protocol: protocol.map(Into::into),
        port: port.map(|port| port.first),
        last_port: port.map(|port| port.last),
        target,
        target_port,
        source: common.source(),
        untested: common.untested(),
        allow: allow.map(|allow| if allow == ["anybody"] { Vec::new() } else { allow }),
        always: hours.as_ref().is_some_and(|hours| hours.0.is_none()),
        schedule: hours.and_then(|hours| hours.0),
        note: common.note,
        allow_public,
    };
    Ok(EdgeChange::SetForward { id: known.id, edit })
}

/// What something that is set is to lead to: bound as it was, unless that is said or another device.
async fn new_target(
    client: &Asked,
    known: LanTarget,
    ip: Option<std::net::Ipv4Addr>,
    mac: Option<Card>,
) -> Option<LanTarget> {
    let ip = ip?;
    let mac = match (mac, kept_card(known, ip)) {
        (None, Some(kept)) => Some(kept),
        (None, None) if known.ip == ip => None,
        (given, _) => bind(client, ip, given).await,
    };
    if known.mac.is_some() && mac.is_none() {
        eprintln!("warren: note: it doesn't follow a device any more; `--mac` binds it to one");
    }
    Some(LanTarget { ip, mac })
}

/// The card that a target is bound to, as long as it is the same target.
fn kept_card(known: LanTarget, ip: std::net::Ipv4Addr) -> Option<warren_proto::MacAddr> {
    known.mac.filter(|_| known.ip == ip)
}

async fn forward_id(client: &Asked, text: &str) -> anyhow::Result<warren_proto::ForwardId> {
    Ok(forward_of(client, text).await?.id)
}

async fn forward_of(client: &Asked, text: &str) -> anyhow::Result<ForwardSpec> {
    let all = spec(client).await?.forwards;
    match all.into_iter().find(|it| it.name == text || it.id.to_string() == text) {
        Some(it) => Ok(it),
        None => bail!("there is no port forward '{text}'; see `warren edge forwards list`"),
    }
}

async fn virtual_devices(
    client: &Asked,
    command: VirtualDevices,
    json: bool,
) -> anyhow::Result<()> {
    let wanted = match command {
        VirtualDevices::List => {
            let all = spec(client).await?.virtual_devices;
            return shown(client, &all, json, edge_tables::virtual_devices).await;
        }
        VirtualDevices::Add { name, ip, mac, ports, allow_public, common } => {
            EdgeChange::AddVirtualDevice(NewVirtualDevice {
                name,
                target: LanTarget { ip, mac: bind(client, ip, mac).await },
                ports: if ports.is_empty() { vec![Ports::All] } else { ports },
                source: common.source().unwrap_or_default(),
                untested: common.untested().unwrap_or_default(),
                enabled: common.enabled().unwrap_or(true),
                note: common.note.unwrap_or_default(),
                allow_public,
            })
        }
        VirtualDevices::Set { device, name, ip, mac, ports, allow_public, common } => {
            let known = virtual_device_of(client, &device).await?;
            let edit = VirtualDeviceEdit {
                enabled: common.enabled(),
                name,
                target: new_target(client, known.target, ip, mac).await,
                ports,
                source: common.source(),
                untested: common.untested(),
                note: common.note,
                allow_public,
            };
            EdgeChange::SetVirtualDevice { id: known.id, edit }
        }
        VirtualDevices::Remove { device } => {
            EdgeChange::RemoveVirtualDevice { id: virtual_device_of(client, &device).await?.id }
        }
    };
    change(client, wanted, json).await
}

async fn virtual_device_of(client: &Asked, text: &str) -> anyhow::Result<VirtualDeviceSpec> {
    let all = spec(client).await?.virtual_devices;
    let is_it = |it: &VirtualDeviceSpec| it.name.as_str() == text || it.id.to_string() == text;
    match all.into_iter().find(is_it) {
        Some(it) => Ok(it),
        None => {
            bail!("there is no virtual device '{text}'; see `warren edge virtual-devices list`")
        }
    }
}

async fn gateways(client: &Asked, command: Gateways, json: bool) -> anyhow::Result<()> {
    let wanted = match command {
        Gateways::List => {
            let all = spec(client).await?.gateways;
            return shown(client, &all, json, edge_tables::gateways).await;
        }
        Gateways::Add { lan, internet: _, standby_for, common } => {
            EdgeChange::AddGateway(NewGateway {
                lan: lan.unwrap_or(INTERNET),
                standby_for,
                source: gateway_source(&common)?.unwrap_or_default(),
                enabled: common.enabled().unwrap_or(true),
                note: common.note.unwrap_or_default(),
            })
        }
        Gateways::Set { gateway: text, common } => {
            let edit = GatewayEdit {
                enabled: common.enabled(),
                source: gateway_source(&common)?,
                note: common.note,
            };
            EdgeChange::SetGateway { id: gateway_id(client, &text).await?, edit }
        }
        Gateways::Remove { gateway: text } => {
            EdgeChange::RemoveGateway { id: gateway_id(client, &text).await? }
        }
    };
    change(client, wanted, json).await
}

/// What a gateway's LAN sees as the source: whether answers come back isn't tested there.
fn gateway_source(common: &Common) -> anyhow::Result<Option<LanSource>> {
    if common.untested() == Some(true) {
        bail!("a gateway isn't tested before it opens: `--source transparent` is the same for it");
    }
    Ok(common.source())
}

async fn gateway_id(client: &Asked, text: &str) -> anyhow::Result<warren_proto::GatewayId> {
    let all = spec(client).await?.gateways;
    let is_it = |it: &&warren_proto::GatewaySpec| {
        let is_internet = it.is_internet() && text == "internet";
        is_internet || it.lan.to_string() == text || it.id.to_string() == text
    };
    match all.iter().find(is_it) {
        Some(it) => Ok(it.id),
        None => bail!("there is no gateway '{text}'; see `warren edge gateways list`"),
    }
}

async fn shown<T: serde::Serialize>(
    client: &Asked,
    all: &[T],
    json: bool,
    table: fn(&[T], Option<&EdgeOpen>),
) -> anyhow::Result<()> {
    if json {
        return output::json(&all);
    }
    let open = opened(client).await;
    table(all, open.as_ref());
    edge_open::list_problems(open.as_ref());
    Ok(())
}

pub(super) fn strange() -> anyhow::Error {
    anyhow::anyhow!("the daemon's answer was not understood; is it of another version?")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Source;

    #[test]
    fn only_what_is_said_changes_what_an_edge_may_open() {
        let net = |text: &str| Lan::Network(text.parse().unwrap());
        assert_eq!(cap(Vec::new()).unwrap(), None);
        assert_eq!(cap(vec![Lan::Everything]).unwrap(), Some(LanCap::default()));
        let some = cap(vec![net("192.168.1.0/24"), net("0.0.0.0/0")]).unwrap().unwrap();
        assert_eq!(some.to_string(), "192.168.1.0/24, the internet");
        assert!(cap(vec![net("192.168.1.0/24"), Lan::Everything]).is_err());
    }

    #[test]
    fn a_gateway_is_not_said_to_be_untested() {
        let source = |source| gateway_source(&Common { switch: None, source, note: None });
        assert!(source(Some(Source::TransparentUntested)).is_err());
        let transparent = source(Some(Source::Transparent)).unwrap();
        assert_eq!((source(None).unwrap(), transparent), (None, Some(LanSource::Transparent)));
    }

    #[test]
    fn another_port_of_the_same_device_leaves_it_bound_to_its_card() {
        let mac = "3c:52:82:01:02:03".parse().ok();
        let known = LanTarget { ip: [192, 168, 1, 9].into(), mac };
        assert_eq!(kept_card(known, known.ip), mac);
        assert_eq!(kept_card(known, [192, 168, 1, 10].into()), None);
    }
}
