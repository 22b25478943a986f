//! A router that maps ports on request (the real miniupnpd) opens a path where its NAT alone would not.

mod common;

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use common::{Lab, SECOND, debian_package};
use warren_lab::warren::Node;
use warren_lab::{NatKind, NatSpec, Plug, Process, Router, isolated, wait_until};

/// miniupnpd writes into chains of its own; the lab's other tables masquerade and filter.
const CHAINS: &str = r#"
table inet filter {
  chain miniupnpd {
  }
  chain forward {
    type filter hook forward priority 10; policy accept;
    jump miniupnpd
  }
}
table inet nat {
  chain prerouting_miniupnpd {
  }
  chain postrouting_miniupnpd {
  }
  chain prerouting {
    type nat hook prerouting priority -110; policy accept;
    jump prerouting_miniupnpd
  }
  chain postrouting {
    type nat hook postrouting priority 90; policy accept;
    jump postrouting_miniupnpd
  }
}
"#;

fn miniupnpd() -> Result<PathBuf> {
    Ok(debian_package(&["own", "miniupnpd-nftables"])?.join("usr/sbin/miniupnpd"))
}

/// Starts it on a router, with UPnP-IGD or with NAT-PMP and PCP.
fn serve_mappings(router: &Router, upnp: bool) -> Result<Process> {
    let host = router.host();
    host.nft(CHAINS)?;
    // UPnP's discovery is by multicast, which needs a route.
    host.ip(&["route add 239.0.0.0/8 dev lan"])?;
    let word = |on: bool| if on { "yes" } else { "no" };
    let configuration = format!(
        "ext_ifname=wan\nlistening_ip=lan\nport=0\nenable_natpmp={}\nenable_upnp={}\n\
         min_lifetime=120\nmax_lifetime=86400\nsecure_mode=yes\nsystem_uptime=yes\n\
         notify_interval=60\nuuid=00000000-0000-0000-0000-000000000000\n\
         upnp_table_name=filter\nupnp_nat_table_name=nat\nupnp_forward_chain=miniupnpd\n\
         upnp_nat_chain=prerouting_miniupnpd\nupnp_nat_postrouting_chain=postrouting_miniupnpd\n\
         allow 1024-65535 192.168.1.0/24 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n",
        word(!upnp),
        word(upnp)
    );
    let file = host.folder().join("miniupnpd.conf");
    fs::write(&file, configuration)?;
    let mut command = host.command(miniupnpd()?);
    let file = file.to_string_lossy();
    let daemon = command.args(["-d", "-f", file.as_ref(), "-P", "/run/miniupnpd.pid"]).spawn()?;
    let port = if upnp { ":1900 " } else { ":5351 " };
    wait_until("miniupnpd to listen", 10 * SECOND, || {
        Ok(host.run(&["ss", "-uln"])?.contains(port))
    })?;
    Ok(daemon)
}

/// Two homes whose NATs map per destination, one with a daemon: no path but by a mapping.
fn meets_by_mapping(upnp: bool) {
    if !warren_lab::isolate::is_inside() {
        miniupnpd().expect("miniupnpd");
    }
    isolated(|world| {
        let lab = Lab::start(world)?;
        // miniupnpd refuses a WAN address of the networks for documentation.
        let spec = NatSpec::new(NatKind::Apdm).at(Ipv4Addr::new(192, 0, 1, 2));
        let home = world.router("mapped-home", world.internet(), spec)?;
        let daemon = serve_mappings(&home, upnp)?;
        let (host, _) = lab.host("mapped", home.lan(), &Plug::ipv4())?;
        let mut mapped = Node::join(&lab.warren, &host, &lab.link)?;
        let status = mapped.wait_status("has a mapped endpoint", 20 * SECOND, |status| {
            status.node.endpoints.iter().any(|endpoint| endpoint["kind"] == "mapped")
        })?;
        println!("{:?}", status.node.endpoints);
        let (other, _, _other_home) = lab.home_node("other", NatKind::Apdm)?;
        let reply = other.ping_direct("mapped")?;
        let wan = std::net::IpAddr::V4(home.wan().v4()?);
        ensure!(reply.endpoint.is_some_and(|it| it.ip() == wan), "{reply:?}");

        // Asked to stop, the node gives the port back.
        mapped.run(&["down"])?;
        let chain = ["nft", "list", "chain", "inet", "nat", "prerouting_miniupnpd"];
        wait_until("the mapping to be given back", 10 * SECOND, || {
            Ok(!home.host().run(&chain)?.contains("dnat"))
        })?;
        drop(daemon);
        Ok(())
    });
}

#[test]
fn a_port_mapped_by_pcp_or_nat_pmp_joins_two_nats_that_map_per_destination() {
    meets_by_mapping(false);
}

#[test]
fn a_port_mapped_by_upnp_joins_two_nats_that_map_per_destination() {
    meets_by_mapping(true);
}
