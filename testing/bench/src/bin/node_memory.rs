//! Resident memory of a node: idle, and with N peers, all tunnels up.
//!
//! `cargo run --release -p warren-bench --bin node_memory -- [PEERS]`
//!
//! One broker and N real nodes on one segment. The first is measured alone and after a path to
//! every other one is direct and has carried a ping.

use std::env;
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use warren_bench::resident_kib;
use warren_lab::warren::{Broker, Node, Warren};
use warren_lab::{World, wait_for};

fn main() -> Result<()> {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    warren_bench::enter_namespaces("node-memory", &arguments)?;
    let peers: u16 = match arguments.first() {
        Some(text) => text.to_string_lossy().parse().context("how many peers?")?,
        None => 200,
    };
    let world = World::enter("node-memory")?;
    let hub = world.host("hub")?;
    hub.ip(&[
        "link set lo up",
        "link add lan type bridge",
        "address add 192.0.2.1/16 dev lan",
        "link set lan up",
    ])?;
    let warren = Warren::at(&warren_bench::binary()?);
    let broker = Broker::start_without_relay(&warren, &hub, &["192.0.2.1".parse()?])?;
    let link = broker.join_link()?;
    let flags = ["--join", &link, "--dns", "off"];

    let measured = world.host("measured")?;
    plug(&hub, &measured, 0)?;
    let mut node = Node::start(&warren, &measured, &flags)?;
    node.wait_connected()?;
    let pid = node.process().pid();
    println!("idle, alone: {:.1} MiB", mib(resident_kib(pid)?));

    let mut others = Vec::new();
    for number in 1..=peers {
        let host = world.host(&format!("peer{number}"))?;
        plug(&hub, &host, number)?;
        others.push(Node::start(&warren, &host, &flags)?);
    }
    for other in &mut others {
        wait_for("a node", Duration::from_secs(120), || {
            Ok(other.status().ok().filter(|status| status.node.state == "connected"))
        })?;
    }
    println!("idle, {peers} peers in the map: {:.1} MiB", mib(resident_kib(pid)?));
    for number in 1..=peers {
        node.ping_direct(&format!("peer{number}"))?;
    }
    let direct = node.status()?.peers.iter().filter(|peer| peer.path == "direct").count();
    println!("{direct} tunnels up: {:.1} MiB", mib(resident_kib(pid)?));
    Ok(())
}

/// One cable from the hub's bridge to a host.
fn plug(hub: &warren_lab::Host, host: &warren_lab::Host, number: u16) -> Result<()> {
    let [high, low] = (number + 0x100).to_be_bytes();
    let address = Ipv4Addr::new(192, 0, high + 2, low);
    hub.ip(&[
        format!("link add p{number} type veth peer name eth0 netns {}", host.name()),
        format!("link set p{number} master lan up"),
    ])?;
    host.ip(&[
        "link set lo up".to_owned(),
        format!("address add {address}/16 dev eth0"),
        "link set eth0 up".to_owned(),
    ])
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
