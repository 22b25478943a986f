//! What the device's owner doesn't let it open stays closed, whatever the account sets.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use ipnet::Ipv4Net;
use tokio::sync::watch;
use warren_edge::{
    CheckError, Edge, EdgeReport, EdgeTools, Problem, Rescan, ScanError, ScanPlan, WakeError,
};
use warren_lab::isolated;
use warren_proto::{
    EdgeDuty, ForwardProtocol, Gateway, GatewayId, INTERNET, LanCap, LanSource, Ports,
};

use crate::common::{MESH, Site, ask_tcp, config, serve};
use crate::engine::{CAMERA, PRINTER, device, forward};

fn gateway(id: u64, lan: Ipv4Net, mesh: Ipv4Net) -> Gateway {
    Gateway { id: GatewayId(id), lan, mesh, source: LanSource::Masquerade }
}

/// A forward to the camera, and what leads elsewhere or further.
fn duty() -> Result<EdgeDuty> {
    Ok(EdgeDuty {
        forwards: vec![
            forward(1, ForwardProtocol::Tcp, 8080, CAMERA, 80),
            forward(2, ForwardProtocol::Tcp, 8081, PRINTER, 80),
        ],
        virtual_devices: vec![device(1, [100, 80, 7, 1], PRINTER, vec![Ports::All])],
        gateways: vec![
            gateway(1, "192.168.1.0/24".parse()?, "100.80.16.0/24".parse()?),
            gateway(2, INTERNET, INTERNET),
        ],
        ..EdgeDuty::default()
    })
}

fn capped(report: &EdgeReport) -> usize {
    report.problems.iter().filter(|it| matches!(it, Problem::Capped { .. })).count()
}

fn only_the_camera(site: &Site, by_userspace: bool) -> Result<()> {
    let running = match by_userspace {
        true => site.start_by_userspace(duty()?, true)?,
        false => site.start(duty()?)?,
    };
    let report = running.until("the duty", |report| capped(report) > 0)?;
    ensure!(report.open.len() == 1 && capped(&report) == 4, "{report:?}");
    let texts: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    ensure!(texts.iter().any(|it| it.contains("192.168.1.20 is outside")), "{texts:?}");
    ensure!(ask_tcp(&site.technician, MESH, 8080)?.starts_with("camera"));
    ensure!(ask_tcp(&site.technician, MESH, 8081).is_err(), "a forward");
    let printer = Ipv4Addr::new(100, 80, 7, 1);
    ensure!(ask_tcp(&site.technician, printer, 80).is_err(), "a virtual device");
    running.stop()
}

fn site(world: &warren_lab::World, kernel: bool) -> Result<Site> {
    let mut site = if kernel { Site::build(world)? } else { Site::without_kernel(world)? };
    site.cap = LanCap::only([CAMERA.into()]);
    for (name, ip) in [("camera", CAMERA), ("printer", PRINTER)] {
        serve(&site.device(world, name, ip)?, 80)?;
    }
    Ok(site)
}

#[test]
fn what_the_owner_does_not_let_it_the_edge_opens_by_no_way() {
    isolated(|world| {
        let mut site = site(world, true)?;
        only_the_camera(&site, false)?;
        site.cap = LanCap::default();
        let running = site.start(duty()?)?;
        let report = running.until("the duty", |report| report.open.len() == 4)?;
        ensure!(capped(&report) == 0, "{report:?}");
        running.stop()
    });
}

#[test]
fn nor_does_the_userspace_proxy() {
    isolated(|world| only_the_camera(&site(world, false)?, true));
}

#[test]
fn nothing_is_scanned_checked_or_called_that_the_owner_does_not_let() {
    isolated(|world| {
        let site = site(world, true)?;
        let unseen = "3c:52:82:01:02:03".parse()?;
        site.edge.enter(|| -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let (_duty, receiver) = watch::channel(Some(duty()?));
                let edge = Edge::start(site.config(), receiver);
                let tools = edge.tools();
                let whole = ScanPlan::of(vec!["192.168.1.0/24".parse()?]);
                let refused = tools.scan(whole.clone());
                ensure!(matches!(refused, Err(ScanError::Capped(..))), "{refused:?}");
                let rescan = Rescan { every_secs: 3600, plan: whole };
                let refused = tools.set_rescan(Some(rescan)).await;
                ensure!(matches!(refused, Err(ScanError::Capped(..))), "{refused:?}");
                ensure!(tools.rescan().is_none());
                let refused = tools.check_target(PRINTER, ForwardProtocol::Tcp, 80).await;
                let is_capped = matches!(refused, Err(CheckError::NoLan(ScanError::Capped(..))));
                ensure!(is_capped, "{refused:?}");
                tools.check_target(CAMERA, ForwardProtocol::Tcp, 80).await?;

                // What is scanned without a name is what is let of the networks that it stands in.
                tools.scan(ScanPlan { ports: vec![80], ..ScanPlan::of(Vec::new()) })?;
                let mut scanning = tools.scanning();
                let ended = scanning.wait_for(|status| !status.running);
                tokio::time::timeout(Duration::from_secs(20), ended).await??;
                let found: Vec<_> = tools.known(|it| it.devices.keys().copied().collect());
                ensure!(found == [std::net::IpAddr::V4(CAMERA)], "{found:?}");
                tools.wake(unseen).await?;
                edge.stop().await;

                let elsewhere = LanCap::only(["10.0.0.0/8".parse()?]);
                let (_duty, receiver) = watch::channel(None);
                let edge = Edge::start(
                    warren_edge::EdgeConfig { cap: elsewhere, ..config(&site.state) },
                    receiver,
                );
                let tools = edge.tools();
                let refused = tools.scan(ScanPlan::of(Vec::new()));
                ensure!(matches!(refused, Err(ScanError::Capped(..))), "{refused:?}");
                let camera = tools.known(|it| it.devices.values().next().and_then(|it| it.mac));
                let refused = tools.wake(camera.unwrap_or(unseen)).await;
                ensure!(matches!(refused, Err(WakeError::Capped(..))), "{refused:?}");
                let refused = tools.wake(unseen).await;
                ensure!(matches!(refused, Err(WakeError::NoLan)), "{refused:?}");
                edge.stop().await;
                Ok(())
            })
        })?
    });
}

/// A scan of what an edge stands in, one port.
fn unnamed() -> ScanPlan {
    ScanPlan { ports: vec![80], ..ScanPlan::of(Vec::new()) }
}

/// What an edge's tools do on the site's edge.
fn with_tools(
    site: &Site,
    cap: LanCap,
    work: impl AsyncFnOnce(EdgeTools) -> Result<()> + Send,
) -> Result<()> {
    site.edge.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (_duty, receiver) = watch::channel(None);
            let config = warren_edge::EdgeConfig { cap, ..config(&site.state) };
            let edge = Edge::start(config, receiver);
            work(edge.tools()).await?;
            edge.stop().await;
            Ok(())
        })
    })?
}

async fn cancel(tools: &EdgeTools) -> Result<()> {
    let mut scanning = tools.scanning();
    tools.cancel();
    scanning.wait_for(|status| !status.running).await?;
    Ok(())
}

#[test]
fn a_large_network_is_scanned_if_it_is_named_and_otherwise_said_to_be_left_out() {
    isolated(|world| {
        let site = Site::build(world)?;
        let large: Ipv4Net = "172.17.0.0/16".parse()?;
        site.edge.ip(&[
            "link add c0 type veth peer name c1",
            "link set c0 up",
            "link set c1 up",
            "addr add 172.17.0.1/16 dev c0",
        ])?;
        let rescan = Rescan { every_secs: 3600, plan: unnamed() };
        with_tools(&site, LanCap::default(), async |tools| {
            let status = || tools.scanning().borrow().clone();
            tools.scan(unnamed())?;
            ensure!(status().running && status().left_out == [large], "{:?}", status());
            let refused = tools.scan_and_repeat(rescan.clone()).await;
            ensure!(matches!(refused, Err(ScanError::UnderWay)), "{refused:?}");
            ensure!(tools.rescan().is_none(), "what is refused isn't repeated either");
            ensure!(status().left_out == [large], "it is the other scan's: {:?}", status());
            cancel(&tools).await?;
            tools.scan(ScanPlan { networks: vec!["172.17.0.0/30".parse()?], ..unnamed() })?;
            ensure!(status().running && status().left_out.is_empty(), "{:?}", status());
            cancel(&tools).await?;
            tools.scan_and_repeat(rescan.clone()).await?;
            ensure!(tools.rescan().is_some_and(|it| it.rescan == rescan));
            tools.set_rescan(None).await?;
            cancel(&tools).await
        })?;

        site.edge.ip(&["addr flush dev eth0"])?;
        with_tools(&site, LanCap::default(), async |tools| {
            let refused = tools.scan_and_repeat(rescan.clone()).await;
            let text = refused.as_ref().map_err(ToString::to_string).err().unwrap_or_default();
            ensure!(text.contains("`warren edge scan 172.17.0.0/16`"), "{refused:?}");
            ensure!(tools.rescan().is_none());
            Ok(())
        })?;

        // The part of it that the device's owner lets it is small, and as good as named.
        let part = LanCap::only(["172.17.0.0/30".parse()?]);
        with_tools(&site, part, async |tools| Ok(tools.scan(unnamed())?))
    });
}
