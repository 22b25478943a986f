//! The edge's own pages, opened by a technician from the portal, through the tunnel, and by nobody else.

mod common;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;

use anyhow::{Result, ensure};
use common::lan::{Site, resolve, shows};
use common::{Lab, SECOND, mesh_ipv4};
use serde_json::{Value, json};
use warren_browser::Browser;
use warren_lab::{Host, NatKind, Plug, isolated, wait_for, wait_until};

/// The first of an edge's own pages.
fn overview(from: &Host, edge: Ipv4Addr) -> Result<String> {
    from.enter(|| {
        let mut stream = TcpStream::connect_timeout(&(edge, 80).into(), SECOND)?;
        stream.set_read_timeout(Some(5 * SECOND))?;
        write!(stream, "GET / HTTP/1.1\r\nHost: {edge}\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    })?
}

#[test]
fn a_technician_goes_from_the_portal_to_the_camera() {
    let browser = Browser::find();
    isolated(|world| {
        let browser = browser?;
        let mut lab = Lab::start(world)?;
        let home = lab.home("technician-home", NatKind::EimApdf)?;
        let (laptop, _link) = lab.host("technician", home.lan(), &Plug::ipv4())?;
        let mut technician = lab.join(&laptop)?;
        let site = Site::build(&lab, "site-7")?;
        technician.wait_peers(&["site-7"])?;
        let edge = mesh_ipv4(&site.edge)?;
        let full = "site-7.home.warren.internal";

        // Before somebody says whose the laptop is, all that one sees is that there is an edge.
        wait_until("the edge's page", 15 * SECOND, || {
            Ok(overview(&laptop, edge).is_ok_and(|page| page.contains("nobody who manages")))
        })?;
        let adds = ["edge", "--on", "site-7", "forwards", "add", "8080", "192.168.1.9:80"];
        common::refused(&technician.cli(&adds)?, "nobody who manages")?;
        lab.broker.change(&["users", "create", "tina@example.org"])?;
        lab.broker.admin(&[
            "users",
            "set-role",
            "tina@example.org",
            "admin",
            "--account",
            "home",
        ])?;
        lab.broker.change(&["devices", "set", "technician", "--owner", "tina@example.org"])?;
        let password = lab.broker.admin(&["users", "reset-password", "tina@example.org"])?;
        wait_until("the edge to hear of it", 10 * SECOND, || {
            Ok(overview(&laptop, edge)
                .is_ok_and(|page| page.contains("which may change this edge")))
        })?;

        // Neither the LAN nor the edge's own programs get anything, at whatever address.
        site.camera.ip(&[format!("route add {edge}/32 via 192.168.1.2")])?;
        let knock = |host: &Host, at: Ipv4Addr| {
            host.enter(|| TcpStream::connect_timeout(&(at, 80).into(), SECOND).is_ok())
        };
        for (host, at) in [
            (&site.camera, edge),
            (&site.camera, Ipv4Addr::new(192, 168, 1, 2)),
            (site.edge.host(), Ipv4Addr::new(192, 168, 1, 2)),
            (site.edge.host(), Ipv4Addr::LOCALHOST),
        ] {
            ensure!(!knock(host, at)?, "{} reaches the pages at {at}", host.name());
        }
        // To the kernel, what the edge says to its own mesh address comes by the mesh's interface.
        let own = overview(site.edge.host(), edge)?;
        ensure!(own.contains("Only devices of this account"), "the edge's own programs get {own}");

        // From the laptop, by the command line, as if on the edge.
        technician.run(&adds)?;
        shows(&laptop, (edge, 8080), "site-7-camera")?;
        let listed = technician.run(&["--json", "edge", "--on", "site-7", "forwards", "list"])?;
        ensure!(listed.contains("\"port\": 8080"), "{listed}");

        wait_for("the edge's name", 10 * SECOND, || resolve(&laptop, full))?;
        let job = browser
            .script(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/edge_pages.mjs"))
            .arguments(json!({
                "url": format!("http://{full}"),
                "password": password["link"],
                "email": "tina@example.org",
            }))
            .within(120 * SECOND);
        let line = job.command_line();
        let said = job.result(&laptop.command(&line[0]).args(&line[1..]).output()?)?;
        let shown = said["page"].as_str().unwrap_or_default();
        ensure!(shown.contains("site-7-camera:80"), "the camera's page: {said}");

        let activity = lab.broker.admin(&["audit", "list"])?;
        let entries = activity.as_array().or(activity["entries"].as_array());
        let made = |entry: &&Value| entry["action"] == "virtual-device.created";
        let made = entries.into_iter().flatten().find(made).map(ToString::to_string);
        let made = made.unwrap_or_default();
        let from = mesh_ipv4(&technician)?.to_string();
        ensure!(made.contains("tina@example.org") && made.contains(&from), "who did it: {made}");

        // With the broker away the pages go on, and say so.
        lab.broker.kill()?;
        wait_until("the edge to notice", 60 * SECOND, || {
            Ok(overview(&laptop, edge).is_ok_and(|page| page.contains("out of reach")))
        })?;
        let on = ["--json", "edge", "--on", "site-7"];
        technician.run(&[&on[..], &["scan", "--every", "24h", "--ports", "80"]].concat())?;
        let status: Value =
            serde_json::from_str(&technician.run(&[&on[..], &["status"]].concat())?)?;
        ensure!(status["rescan"]["every_secs"] == 24 * 3600, "{status}");
        technician.run(&[&on[..], &["scan", "--every", "off"]].concat())?;
        let off = ["edge", "--on", "site-7", "forwards", "set", "port 8080", "--enabled", "off"];
        common::refused(&technician.cli(&off)?, "broker")?;
        shows(&laptop, (edge, 8080), "site-7-camera")?;
        Ok(())
    });
}
