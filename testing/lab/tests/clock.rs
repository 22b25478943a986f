//! A device whose clock is off by a day.

mod common;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use common::{Lab, SECOND, debian_package, kernel_ping, mesh_ipv4};
use warren_lab::warren::Node;
use warren_lab::{Plug, isolated};

/// libfaketime of the system, or unpacked into the cache.
fn faketime() -> Result<PathBuf> {
    let find = |root: &str| -> Option<PathBuf> {
        let folders = std::fs::read_dir(format!("{root}/usr/lib")).ok()?.flatten();
        folders.map(|it| it.path().join("faketime/libfaketime.so.1")).find(|it| it.is_file())
    };
    if let Some(found) = find("") {
        return Ok(found);
    }
    let package = debian_package(&["own", "faketime", "libfaketime"])?;
    find(&package.to_string_lossy()).context("libfaketime.so.1 is not in its package")
}

#[test]
fn a_device_whose_clock_is_off_by_a_day_joins_is_told_and_works() {
    if !warren_lab::isolate::is_inside() {
        faketime().unwrap();
    }
    isolated(|world| {
        let lab = Lab::start(world)?;
        let (mut peer, _) = lab.public_node("peer")?;
        for (name, offset) in [("early", "-1d"), ("late", "+1d")] {
            let (host, _) = lab.host(name, world.internet(), &Plug::ipv4())?;
            let library = faketime()?;
            let environment = [
                ("LD_PRELOAD", library.to_string_lossy().into_owned()),
                ("FAKETIME", offset.to_owned()),
                // Timers run by the monotonic clock, which is right also where the date is wrong.
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ];
            let mut node = Node::start_with_environment(
                &lab.warren,
                &host,
                &["--join", &lab.link],
                &environment,
            )?;
            let status = node.wait_status("is told of its clock", 20 * SECOND, |status| {
                status.health("clock-off").is_some()
            })?;
            println!("{name}: {:?}", status.health("clock-off"));
            node.wait_connected()?;
            node.ping_direct("peer")?;
            kernel_ping(peer.host(), mesh_ipv4(&node)?, 5 * SECOND)?;
            // A second handshake, begun by the peer, needs both timestamps to be accepted.
            node.restart()?;
            node.wait_connected()?;
            peer.wait_peers(&[name])?;
            peer.ping_direct(name)?;
            ensure!(node.status()?.peer("peer").is_some(), "the map was lost");
        }
        Ok(())
    });
}
