//! Devices that answer late after the edge was killed, as on Wi-Fi: what is connected goes on, and nothing new
//! leads there before it is known who they are.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use warren_edge::Problem;
use warren_edge::kernel::opening::{OpenForward, Opening};
use warren_edge::kernel::path::KernelPath;
use warren_lab::{Host, World, isolated};
use warren_net::Connections;
use warren_proto::{Forward, MacAddr};

use crate::common::{
    EDGE_LAN, MESH, Running, Site, TECHNICIAN, ask, ask_tcp, connect, mac_of, serve,
};
use crate::engine::{CAMERA, forwards};
use crate::following::{NEXT, bound, move_to, until_at};

/// Opens a forward as an engine does that is killed then.
fn killed(site: &Site, forward: &Forward) -> Result<()> {
    let opening =
        Opening { forwards: vec![OpenForward::new(forward, CAMERA)], ..Opening::nothing(MESH) };
    let state = site.state.clone();
    site.edge.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut path = KernelPath::open(&state, "w0")?;
        let lan = ["eth0".to_owned()].into();
        runtime.block_on(path.apply(&opening, &Opening::nothing(MESH), &lan))?;
        std::mem::forget(path);
        anyhow::Ok(())
    })?
}

/// A camera that answers no ARP for now, though packets find it.
fn late_camera(site: &Site, world: &World) -> Result<(Host, MacAddr)> {
    let camera = site.device(world, "camera", CAMERA)?;
    serve(&camera, 80)?;
    let mac = mac_of(&camera, "eth0")?.parse()?;
    hush(site, &camera, CAMERA)?;
    Ok((camera, mac))
}

/// From now on a host answers no ARP; the edge and it know each other all the same.
fn hush(site: &Site, host: &Host, ip: Ipv4Addr) -> Result<()> {
    host.ip(&["link set eth0 arp off"])?;
    site.edge.ip(&[format!("neigh replace {ip} lladdr {} dev eth0", mac_of(host, "eth0")?)])?;
    let edge_mac = mac_of(&site.edge, "eth0")?;
    host.ip(&[format!("neigh replace {EDGE_LAN} lladdr {edge_mac} dev eth0")])
}

fn is_awaited(running: &Running) -> Result<()> {
    running.until("that it waits", |report| {
        report.problems.iter().any(|problem| matches!(problem, Problem::Awaited { .. }))
    })?;
    Ok(())
}

/// How many connections of the technician the edge's kernel tracks.
fn tracked(site: &Site) -> Result<u32> {
    let counts = site.edge.enter(|| Connections::open()?.count_by_source())??;
    Ok(counts.get(&TECHNICIAN).copied().unwrap_or(0))
}

#[test]
fn after_a_kill_what_is_connected_goes_on_while_its_card_is_awaited_and_nothing_new_begins() {
    isolated(|world| {
        let site = Site::build(world)?;
        let (camera, mac) = late_camera(&site, world)?;
        killed(&site, &bound(1, mac))?;
        let mut open = connect(&site.technician, MESH, 8080)?;
        ask(&mut open)?;
        let running = site.start(forwards(vec![bound(1, mac)]))?;
        is_awaited(&running)?;
        ensure!(ask(&mut open).context("it was cut")?.starts_with("camera"));
        ensure!(running.report.borrow().open.is_empty());
        ensure!(ask_tcp(&site.technician, MESH, 8080).is_err(), "it has yet to be heard");
        camera.ip(&["link set eth0 arp on"])?;
        until_at(&running, CAMERA)?;
        ensure!(ask(&mut open)?.starts_with("camera"));
        ensure!(ask_tcp(&site.technician, MESH, 8080)?.starts_with("camera"));
        running.stop()?;
        ensure!(ask(&mut open).is_err(), "it goes on without an edge");
        Ok(())
    });
}

#[test]
fn after_a_kill_a_stranger_at_the_address_gets_nothing_new_and_ends_what_was_connected() {
    isolated(|world| {
        let site = Site::build(world)?;
        let (camera, mac) = late_camera(&site, world)?;
        killed(&site, &bound(1, mac))?;
        let mut open = connect(&site.technician, MESH, 8080)?;
        ask(&mut open)?;
        camera.ip(&["link set eth0 down"])?;
        let stranger = site.device(world, "stranger", CAMERA)?;
        serve(&stranger, 80)?;
        hush(&site, &stranger, CAMERA)?;
        let running = site.start(forwards(vec![bound(1, mac)]))?;
        is_awaited(&running)?;
        ensure!(tracked(&site)? == 1);
        stranger.ip(&["link set eth0 arp on"])?;
        let _ = stranger.run(&["ping", "-c1", "-W1", "192.168.1.1"]);
        running.until("that he is a stranger", |report| {
            report.problems.iter().any(|problem| matches!(problem, Problem::Vanished { .. }))
        })?;
        ensure!(tracked(&site)? == 0, "what was connected goes on");
        ensure!(ask_tcp(&site.technician, MESH, 8080).is_err(), "the stranger is reached");
        running.stop()
    });
}

#[test]
fn a_forward_that_the_broker_left_out_for_hours_begins_where_its_device_was_last() {
    isolated(|world| {
        let site = Site::build(world)?;
        let camera = site.device(world, "camera", CAMERA)?;
        serve(&camera, 80)?;
        let mac = mac_of(&camera, "eth0")?.parse()?;
        let running = site.start(forwards(vec![bound(1, mac)]))?;
        until_at(&running, CAMERA)?;
        move_to(&camera, NEXT)?;
        until_at(&running, NEXT)?;
        running.change(forwards(Vec::new()))?;
        running.change(forwards(vec![bound(1, mac)]))?;
        let took = until_at(&running, NEXT)?;
        println!("known again after {took:?}");
        ensure!(took < Duration::from_secs(1), "{took:?}");
        running.change(forwards(Vec::new()))?;
        running.stop()?;
        // A restart out of its hours, in which others are followed.
        let running = site.start(forwards(Vec::new()))?;
        running.until("its beginning", |report| report.applied > 0)?;
        std::thread::sleep(Duration::from_secs(11));
        running.change(forwards(vec![bound(1, mac)]))?;
        let took = until_at(&running, NEXT)?;
        println!("known again after {took:?}");
        ensure!(took < Duration::from_secs(1), "{took:?}");
        running.stop()
    });
}
