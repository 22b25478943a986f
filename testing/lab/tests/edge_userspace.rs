//! An edge whose kernel isn't asked: with the real binary, through the real tunnel, what is open goes
//! through the userspace proxy.

mod common;

use anyhow::{Result, ensure};
use common::lan::{Site, datagram, page, resolve, shows};
use common::{Lab, SECOND, lan, mesh_ipv4};
use warren_lab::{NatKind, Plug, isolated, wait_for, wait_until};

/// What `warren edge status` says is wrong.
fn problems(site: &Site) -> Result<String> {
    let status = site.edge.run(&["--json", "edge", "status"])?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    Ok(status["state"]["problems"].to_string())
}

#[test]
fn an_edge_by_the_userspace_proxy_opens_its_lan_and_goes_back_to_the_kernel() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let home = lab.home("technician-home", NatKind::EimApdf)?;
        let (host, _) = lab.host("technician", home.lan(), &Plug::ipv4())?;
        let mut technician = lab.join(&host)?;
        let site = Site::build(&lab, "site-7")?;
        technician.wait_peers(&["site-7"])?;
        technician.ping_direct("site-7")?;
        let mesh = mesh_ipv4(&site.edge)?;
        site.edge.run(&["edge", "enable", "--userspace"])?;
        site.add(&["forwards", "add", "8080", "192.168.1.9:80"])?;
        site.add(&["forwards", "add", "7001", "192.168.1.9:7000", "--protocol", "udp"])?;
        site.add(&["virtual-devices", "add", "camera-2", "192.168.1.9"])?;
        site.add(&["gateways", "add", "192.168.1.0/24"])?;

        let said = shows(&host, (mesh, 8080), "site-7-camera")?;
        ensure!(said.contains("asked by 192.168.1.2"), "the LAN sees the edge: {said}");
        wait_until("the UDP forward", 5 * SECOND, || {
            Ok(datagram(&host, (mesh, 7001)).is_ok_and(|said| said.contains("site-7-camera")))
        })?;
        let device = wait_for("the virtual device's name", 10 * SECOND, || {
            resolve(&host, "camera-2.site-7.home.warren.internal")
        })?;
        shows(&host, (device, 80), "site-7-camera")?;
        ensure!(datagram(&host, (device, 7000))?.contains("site-7-camera"));
        ensure!(page(&host, (mesh, 8081)).is_err(), "another port is open");
        ensure!(!site.has_table()? && !site.forwards()?, "the kernel was asked");
        wait_until("the state to say so", 5 * SECOND, || {
            let problems = problems(&site)?;
            Ok(problems.contains("through the userspace proxy, because that was chosen")
                && problems.contains("gateway to 192.168.1.0/24 isn't open"))
        })?;

        lan::enable(&site.edge)?;
        wait_until("the kernel's way", 10 * SECOND, || Ok(site.has_table()? && site.forwards()?))?;
        shows(&host, (mesh, 8080), "site-7-camera")?;
        shows(&host, (device, 80), "site-7-camera")?;
        wait_until("the state to say nothing", 5 * SECOND, || {
            Ok(!problems(&site)?.contains("userspace"))
        })?;
        Ok(())
    });
}
