//! Two real nodes and a real broker in network namespaces of their own.

mod common;

use anyhow::{Context, Result, ensure};
use common::{Broker, Node, runtime};
use warren_lab::{Host, Plug, World, isolated};
use warren_node::local::{PathKind, PingRequest};

/// A host on the internet, with both families.
fn host(world: &World, name: &str) -> Result<(Host, std::net::Ipv4Addr)> {
    let host = world.host(name)?;
    let link = world.internet().plug(&host, &Plug::dual())?;
    Ok((host, link.v4()?))
}

fn logs() {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".to_owned());
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
}

#[test]
fn two_public_nodes_join_and_ping_each_other() {
    isolated(|world| {
        logs();
        let (hub, hub_ip) = host(world, "hub")?;
        let (laptop, _) = host(world, "laptop")?;
        let (desktop, _) = host(world, "desktop")?;
        let broker = Broker::start(&hub, hub_ip.into())?;
        let link = broker.link()?;
        let join = |config: &mut warren_node::NodeConfig| config.join = Some(link.clone());
        let a = Node::start(&laptop, join)?;
        let b = Node::start(&desktop, join)?;
        a.wait_connected()?;
        let peer = b.wait_connected()?.node;
        a.wait("desktop is seen", |status| status.peers.iter().any(|peer| peer.online))?;
        let report = runtime().block_on(async {
            let mut replies = a.client().ping(PingRequest::new("desktop")).await?;
            replies.next_ping().await?.context("an attempt is reported")
        })?;
        ensure!(report.path == PathKind::Direct, "{report:?}");
        ensure!(report.rtt_ms.is_some(), "{report:?}");
        println!("first ping: {report:?}");
        for address in [peer.ipv4.context("v4")?.to_string(), peer.ipv6.context("v6")?.to_string()] {
            laptop.run(&["ping", "-c", "2", "-W", "5", &address])?;
        }
        a.running.stop()?;
        let links = laptop.run(&["ip", "link"])?;
        ensure!(!links.contains("warren"), "the interface is gone: {links}");
        b.running.stop()?;
        broker.running.stop()
    });
}
