//! A real edge: its daemon hands the duty over, the kernel answers at a virtual device's address, and
//! the other device finds it by name.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use warren_lab::{isolated, wait_for};
use warren_node::edge_link;
use warren_node::local::{EdgeKind, EdgeReply, EdgeRequest, Enabling, LocalError};
use warren_proto::{
    EdgeChange, EdgeChanged, EdgeState, LanCap, LanSource, LanTarget, NewVirtualDevice, Ports,
};

use crate::common::{Mesh, Node, runtime};

const PATIENCE: Duration = Duration::from_secs(10);

fn ask(node: &Node, request: EdgeRequest) -> Result<EdgeReply, LocalError> {
    runtime().block_on(node.client().edge(request))
}

fn camera() -> EdgeRequest {
    EdgeRequest::Change(EdgeChange::AddVirtualDevice(NewVirtualDevice {
        name: "camera".parse().expect("a name"),
        target: LanTarget { ip: [192, 168, 1, 9].into(), mac: None },
        ports: vec![Ports::All],
        source: LanSource::Masquerade,
        untested: false,
        enabled: true,
        note: String::new(),
        allow_public: false,
    }))
}

/// What an edge may open holds until it is said otherwise, and so does when it is one.
fn keeps_what_its_owner_has_said(edge: &Node) -> Result<()> {
    let lan = LanCap::only(["192.168.1.0/24".parse()?]);
    let enable = |kind, only: Option<&LanCap>| {
        let only = only.cloned();
        let reply = ask(edge, EdgeRequest::Enable(Enabling { kind, only }))?;
        let EdgeReply::Status(status) = reply else { anyhow::bail!("{reply:?}") };
        Ok(status)
    };
    ensure!(enable(None, Some(&lan))?.only == lan);
    ensure!(enable(Some(EdgeKind::Plain), None)?.only == lan, "plain `enable` lifts it");
    let status = enable(Some(EdgeKind::WhenAsked), None)?;
    ensure!(status.when_asked && !status.enabled && status.only == lan, "{status:?}");
    ask(edge, EdgeRequest::Disable)?;
    ensure!(enable(Some(EdgeKind::WhenAsked), None)?.only == lan, "`disable` lifts it");
    let wider = LanCap::only(["192.168.0.0/16".parse()?]);
    let status = enable(None, Some(&wider))?;
    ensure!(status.when_asked && status.only == wider, "{status:?}");
    let status = enable(Some(EdgeKind::Plain), Some(&LanCap::default()))?;
    ensure!(status.enabled && status.only.is_everything(), "{status:?}");
    Ok(())
}

#[test]
fn a_virtual_device_is_reached_by_its_name_through_its_edge() {
    isolated(|world| {
        let mesh = Mesh::new(world)?;
        let (link, role) = edge_link();
        let join = mesh.join();
        let edge = Node::start(&mesh.desktop, |config| {
            join(config);
            config.edge = Some(link);
        })?;
        let laptop = Node::start(&mesh.laptop, mesh.join())?;
        edge.wait_connected()?;
        laptop.wait_connected()?;
        let plain = ask(&laptop, EdgeRequest::Enable(Enabling::default()))
            .expect_err("it has no edge role");
        ensure!(plain.to_string().contains("without the edge role"), "{plain}");

        let added = ask(&edge, camera())?;
        let EdgeReply::Changed(EdgeChanged::VirtualDevice(camera)) = added else {
            anyhow::bail!("{added:?}")
        };
        ensure!(role.orders.borrow().is_none(), "nobody has said that it is an edge");
        ask(&edge, EdgeRequest::Enable(Enabling::default()))?;
        let orders = wait_for("the role has its orders", PATIENCE, || {
            let orders = role.orders.borrow().clone();
            Ok(orders.filter(|orders| !orders.duty.virtual_devices.is_empty()))
        })?;
        ensure!(orders.duty.virtual_devices[0].ipv4 == camera.ipv4, "{orders:?}");
        ensure!(orders.is_connected && orders.range.contains(&camera.ipv4), "{orders:?}");

        // In the place of a LAN device the edge's own kernel answers.
        let ip = camera.ipv4.to_string();
        mesh.desktop.run(&["ip", "address", "add", &format!("{ip}/32"), "dev", "lo"])?;
        mesh.laptop.run(&["ping", "-c", "2", "-W", "5", &ip])?;
        let name = format!("camera.{}", edge.status()?.node.dns_name.context("a name")?);
        mesh.laptop.run(&["ping", "-c", "1", "-W", "5", &name])?;

        role.state.send_replace(EdgeState {
            scanned_unix: Some(1_800_000_000),
            devices: 7,
            problems: vec!["the firewall drops what is forwarded".to_owned()],
            networks: Vec::new(),
        });
        let admin = mesh.broker.admin();
        wait_for("the broker knows how the role does", PATIENCE, || {
            let edges = runtime().block_on(admin.edges("home"))?;
            Ok(edges.iter().any(|it| it.found == 7 && it.problems.len() == 1).then_some(()))
        })?;
        keeps_what_its_owner_has_said(&edge)?;
        ask(&edge, EdgeRequest::Disable)?;
        wait_for("nothing is open", PATIENCE, || Ok(role.orders.borrow().is_none().then_some(())))?;
        let unanswered = mesh.laptop.run(&["ping", "-c", "1", "-W", "1", &ip]);
        ensure!(unanswered.is_err(), "it is open still");
        Ok(())
    });
}
