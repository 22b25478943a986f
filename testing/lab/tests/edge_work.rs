//! An edge with much to do: a whole /16 to scan, or every other task of the account as well.

mod common;

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use common::lan::{Site, shows, usage};
use common::traffic::Stream;
use common::{Lab, SECOND, mesh_ipv4};
use nix::sys::signal::Signal;
use warren_lab::{NatKind, isolated, wait_for, wait_until};

const PORT: u16 = 51820;

#[test]
fn one_device_is_edge_gateway_and_the_accounts_relay_at_once() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let mut site = Site::build(&lab, "site-7")?;
        site.edge.run(&["lport", &PORT.to_string()])?;
        site.edge.wait_status("on its port", 20 * SECOND, |status| {
            status.node.listen_port == PORT && status.broker.connected
        })?;
        site.router.forward_port(PORT, [192, 168, 1, 2].into())?;
        let outside = format!("{}:{PORT}", site.router.wan().v4()?);
        lab.broker.change(&["devices", "set", "site-7", "--static-endpoint", &outside])?;
        lab.broker.change(&["relays", "set", "site-7"])?;
        let gateway = site.add(&["gateways", "add", "192.168.1.0/24"])?;
        let part: ipnet::Ipv4Net = gateway["mesh"].as_str().context("its range")?.parse()?;
        let camera = Ipv4Addr::from_bits(part.network().to_bits() + 9);

        let (mut left, _, _left_home) = lab.home_node("left", NatKind::Apdm)?;
        let (right, _, _right_home) = lab.home_node("right", NatKind::Apdm)?;
        left.wait_peers(&["right", "site-7"])?;
        wait_until("both to reach the relay", 40 * SECOND, || {
            let shown = lab.broker.admin(&["relays", "show", "site-7"])?;
            Ok(shown["reached_by"].as_u64() >= Some(2))
        })?;
        let replies = left.ping("right", Some(3))?;
        ensure!(
            replies.iter().any(|reply| reply.relay.as_deref() == Some("site-7")),
            "it isn't relayed by the edge: {replies:?}"
        );
        let stream = Stream::start(left.host(), right.host(), mesh_ipv4(&right)?)?;
        stream.flows("a stream through the edge's relay", 10 * SECOND)?;
        shows(left.host(), (camera, 80), "site-7-camera")?;
        shows(right.host(), (camera, 80), "site-7-camera")?;
        stream.flows("the stream to go on", 10 * SECOND)?;
        let (resident, _) = usage(site.edge.process().pid())?;
        println!("edge, gateway and relay at once: {resident} KiB resident");
        stream.finish()
    });
}

/// What the edge knows of devices in the wide network.
fn found(site: &Site) -> Result<usize> {
    let known: serde_json::Value =
        serde_json::from_str(&site.edge.run(&["--json", "edge", "devices"])?)?;
    let devices = known["devices"].as_object().context("devices")?;
    Ok(devices.keys().filter(|ip| ip.starts_with("10.60.")).count())
}

#[test]
fn a_wide_scan_tells_what_it_finds_stays_small_and_can_be_cancelled() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let mut site = Site::build(&lab, "site-7")?;
        // Behind the camera there is a /16, of whose addresses a quarter answer.
        site.camera.ip(&["route add local 10.60.0.0/18 dev lo"])?;
        site.edge.host().ip(&["route add 10.60.0.0/16 via 192.168.1.9"])?;
        let (before, _) = usage(site.edge.process().pid())?;
        let words = ["edge", "scan", "10.60.0.0/16", "--rate", "1000", "--ports", "80"];
        let mut scan = site.edge.spawn(&words)?;
        let some = wait_for("devices while the scan goes on", 60 * SECOND, || {
            let some = found(&site)?;
            Ok((some > 2000).then_some(some))
        })?;
        ensure!(scan.exited()?.is_none(), "the scan has ended: {}", scan.log());
        let (during, _) = usage(site.edge.process().pid())?;
        println!("{some} devices found, {before} KiB resident before and {during} meanwhile");
        ensure!(during < 50_000, "{during} KiB resident");

        let edges = lab.broker.admin(&["edges", "list"])?;
        ensure!(edges[0]["found"] == 0, "the broker is told of each device: {edges}");

        scan.signal(Signal::SIGINT)?;
        scan.wait(10 * SECOND)?;
        let kept = wait_for("the end of the scan", 10 * SECOND, || {
            let first = found(&site)?;
            std::thread::sleep(SECOND / 2);
            Ok((first == found(&site)?).then_some(first))
        })?;
        ensure!(kept >= some && kept < 16_384, "{kept} devices are kept: {}", scan.log());
        wait_until("the broker to know of them", 10 * SECOND, || {
            Ok(lab.broker.admin(&["edges", "list"])?[0]["found"] == kept)
        })?;
        let log = site.edge.process().log();
        ensure!(!log.contains("check-in was refused"), "it checked in too often");
        Ok(())
    });
}

/// A /22, or with `WARREN_WHOLE_16` set a /16, which takes a quarter of an hour (docs/measurements.md).
#[test]
fn a_network_behind_a_router_is_scanned_to_its_end() {
    let prefix = if std::env::var_os("WARREN_WHOLE_16").is_some() { 16 } else { 22 };
    isolated(move |world| {
        let lab = Lab::start(world)?;
        let mut site = Site::build(&lab, "site-7")?;
        site.camera.ip(&[&format!("route add local 10.60.0.0/{} dev lo", prefix + 2)])?;
        let network = format!("10.60.0.0/{prefix}");
        site.edge.host().ip(&[&format!("route add {network} via 192.168.1.9")])?;
        let pid = site.edge.process().pid();
        let (before, used_before) = usage(pid)?;
        let begun = std::time::Instant::now();
        let words = ["edge", "scan", network.as_str(), "--rate", "1000", "--ports", "80"];
        let mut scan = site.edge.spawn(&words)?;
        let mut most = 0;
        wait_until("the end of the scan", 1800 * SECOND, || {
            most = most.max(usage(pid)?.0);
            std::thread::sleep(SECOND / 4);
            Ok(scan.exited()?.is_some())
        })?;
        let (took, (after, used)) = (begun.elapsed(), usage(pid)?);
        let found = found(&site)?;
        println!(
            "{found} devices of {network} in {took:?}: {before} KiB resident before, at most {most}, {after} \
             afterwards, {} s of a core",
            (used - used_before) / 100
        );
        // The network's own address is nobody's.
        ensure!(found == (1 << (30 - prefix)) - 1, "all that answer are found, not {found}");
        Ok(())
    });
}
