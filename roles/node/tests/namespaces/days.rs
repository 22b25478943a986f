//! Bad input and bad days: what the user sees when something is missing, taken, wrong or gone.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use serde_json::Value;
use warren_lab::isolated;
use warren_node::NodeConfig;
use warren_node::local::{
    FailureCode, HealthCode, ListenPort, LocalError, NodeState, PathKind, PingReport, PingRequest,
    Status,
};

use crate::common::{Broker, Mesh, Node, Running, runtime, until};

fn ping(node: &Node, peer: &str) -> Result<PingReport> {
    runtime().block_on(async {
        let mut replies = node.client().ping(PingRequest::new(peer)).await?;
        let mut last = None;
        for _ in 0..20 {
            let Some(report) = replies.next_ping().await? else { break };
            last = Some(report);
        }
        last.context("a ping is reported")
    })
}

fn ensure_direct(node: &Node, peer: &str) -> Result<()> {
    let report = ping(node, peer)?;
    ensure!(report.path == PathKind::Direct && report.rtt_ms.is_some(), "{report:?}");
    Ok(())
}

fn refusal<T: std::fmt::Debug>(result: Result<T, LocalError>) -> (FailureCode, String) {
    match result {
        Err(LocalError::Refused { code, text }) => (code, text),
        other => panic!("this should have been refused: {other:?}"),
    }
}

fn has(status: &Status, code: HealthCode) -> bool {
    status.health.iter().any(|health| health.code == code)
}

#[test]
fn a_cold_start_without_the_broker_works_from_the_cached_map() {
    isolated(|world| {
        let mesh = Mesh::new(world)?;
        let (a, b) = mesh.nodes()?;
        ensure_direct(&a, "desktop")?;
        let port = a.status()?.node.listen_port;
        a.running.stop()?;
        b.running.stop()?;
        mesh.broker.running.stop()?;
        let (a, b) = (Node::start(&mesh.laptop, |_| {})?, Node::start(&mesh.desktop, |_| {})?);
        let status = a.wait("offline", |status| status.node.state == NodeState::Offline)?;
        ensure!(status.node.listen_port == port, "the port is kept");
        ensure!(!status.broker.connected && status.broker.netmap_age_s.is_some());
        ensure!(has(&status, HealthCode::BrokerAway), "{:?}", status.health);
        ensure_direct(&a, "desktop")?;
        b.running.stop()?;
        let broker = Broker::run(&mesh.hub, mesh.broker.config.clone())?;
        let status = a.wait_connected()?;
        ensure!(!has(&status, HealthCode::BrokerAway), "{:?}", status.health);
        broker.running.stop()
    });
}

#[test]
fn down_holds_over_a_restart_and_leaves_nothing_behind() {
    isolated(|world| {
        let mesh = Mesh::new(world)?;
        let before = mesh.laptop.run(&["sh", "-c", "ip rule; ip -6 rule; cat /etc/resolv.conf"])?;
        let (a, _b) = mesh.nodes()?;
        let up = mesh.laptop.run(&["sh", "-c", "ip rule; ip -6 rule; cat /etc/resolv.conf"])?;
        ensure!(up != before, "the mesh has a routing rule and a resolver");
        runtime().block_on(a.client().down())?;
        ensure!(a.status()?.node.state == NodeState::Down);
        let down = mesh.laptop.run(&["sh", "-c", "ip rule; ip -6 rule; cat /etc/resolv.conf"])?;
        ensure!(down == before, "before {before}\nafter {down}");
        ensure!(!mesh.laptop.run(&["ip", "link"])?.contains("warren"));
        let (code, text) = refusal(runtime().block_on(async {
            let mut replies = a.client().ping(PingRequest::new("desktop")).await?;
            replies.next_ping().await
        }));
        ensure!(code == FailureCode::Down && text.contains("warren up"), "{text}");
        a.running.stop()?;
        let a = Node::start(&mesh.laptop, |_| {})?;
        a.wait("it runs", |_| true)?;
        ensure!(a.status()?.node.state == NodeState::Down);
        let status = runtime().block_on(a.client().up(None, None))?;
        ensure!(matches!(status.node.state, NodeState::Connected), "{status:?}");
        ensure_direct(&a, "desktop")
    });
}

#[test]
fn names_resolve_on_the_device_and_no_longer_after_it_ends() {
    isolated(|world| {
        let mesh = Mesh::new(world)?;
        let before = fs::read_to_string(mesh.laptop.resolv_conf())?;
        let (a, b) = mesh.nodes()?;
        let peer = b.status()?.node;
        let (v4, v6) = (peer.ipv4.context("v4")?.to_string(), peer.ipv6.context("v6")?.to_string());
        for name in ["desktop", "desktop.home.warren.internal"] {
            let found = mesh.laptop.run(&["getent", "ahosts", name])?;
            ensure!(found.contains(&v4) && found.contains(&v6), "{name}: {found}");
        }
        for address in [&v4, &v6] {
            let found = mesh.laptop.run(&["getent", "hosts", address.as_str()])?;
            ensure!(found.contains("desktop.home.warren.internal"), "{found}");
        }
        mesh.broker.running.stop()?;
        ensure!(mesh.laptop.run(&["getent", "ahosts", "desktop"])?.contains(&v4));
        a.running.stop()?;
        let after = fs::read_to_string(mesh.laptop.resolv_conf())?;
        ensure!(after == before, "{after}");
        Ok(())
    });
}

#[test]
fn a_taken_port_53_is_said_and_everything_else_works() {
    isolated(|world| {
        let mesh = Mesh::new(world)?;
        let _taken =
            mesh.laptop.enter(|| std::net::UdpSocket::bind("0.0.0.0:53")).context("enter")??;
        let (a, _b) = mesh.nodes()?;
        let status = a.wait("said", |status| has(status, HealthCode::DnsPortTaken))?;
        let text =
            &status.health.iter().find(|h| h.code == HealthCode::DnsPortTaken).context("it")?.text;
        ensure!(text.contains("port 53"), "{text}");
        ensure_direct(&a, "desktop")
    });
}

#[test]
fn a_removed_device_is_cut_off_and_told_to_join_again() {
    isolated(|world| {
        let mesh = Mesh::new(world)?;
        let (a, b) = mesh.nodes()?;
        ensure_direct(&a, "desktop")?;
        runtime().block_on(mesh.broker.admin().remove_device("home", "laptop"))?;
        let status = a.wait("told", |s| s.node.state == NodeState::MustJoinAgain)?;
        ensure!(has(&status, HealthCode::MustJoinAgain), "{:?}", status.health);
        ensure!(status.node.interface.is_none(), "the mesh is down");
        b.wait("gone", |status| status.peers.is_empty())?;
        let (code, _) = refusal(runtime().block_on(a.client().up(None, None)));
        ensure!(code == FailureCode::NotJoined);
        a.running.stop()?;
        let a = Node::start(&mesh.laptop, |_| {})?;
        let status = a.wait("it runs", |_| true)?;
        ensure!(status.node.state == NodeState::MustJoinAgain, "{status:?}");
        ensure!(has(&status, HealthCode::MustJoinAgain), "{:?}", status.health);
        let status = runtime().block_on(a.client().up(Some(mesh.link.clone()), None))?;
        ensure!(status.node.state == NodeState::Connected, "{status:?}");
        ensure!(!has(&status, HealthCode::MustJoinAgain), "{:?}", status.health);
        Ok(())
    });
}

#[test]
fn logout_leaves_the_account_and_a_new_identity_is_a_new_device() {
    isolated(|world| {
        let mesh = Mesh::new(world)?;
        let (a, b) = mesh.nodes()?;
        let key = a.status()?.node.public_key;
        runtime().block_on(a.client().logout(false))?;
        let status = a.status()?;
        ensure!(status.node.state == NodeState::NotJoined && status.node.public_key == key);
        ensure!(status.peers.is_empty() && status.node.ipv4.is_none(), "{status:?}");
        b.wait("offline", |status| !status.peers.iter().any(|peer| peer.online))?;
        runtime().block_on(a.client().logout(true))?;
        ensure!(a.status()?.node.public_key != key);
        let (code, _) = refusal(runtime().block_on(a.client().logout(false)));
        ensure!(code == FailureCode::NotJoined);
        Ok(())
    });
}

#[test]
fn a_taken_listen_port_is_refused_and_a_free_one_keeps_the_tunnel() {
    isolated(|world| {
        let mesh = Mesh::new(world)?;
        let _taken =
            mesh.laptop.enter(|| std::net::UdpSocket::bind("0.0.0.0:51820")).context("enter")??;
        let (a, b) = mesh.nodes()?;
        let shown = runtime().block_on(a.client().listen_port(None))?;
        ensure!(shown.auto && !shown.changed && shown.port >= 49_152, "{shown:?}");
        ensure_direct(&a, "desktop")?;
        let set = |port| runtime().block_on(a.client().listen_port(Some(port)));
        let (code, text) = refusal(set(ListenPort::Fixed(51_820)));
        ensure!(code == FailureCode::PortInUse && text.contains("51820"), "{text}");
        ensure!(a.status()?.node.listen_port == shown.port, "the old one stays");
        ensure_direct(&a, "desktop")?;
        let changed = set(ListenPort::Fixed(51_821))?;
        ensure!(changed.port == 51_821 && !changed.auto && changed.changed, "{changed:?}");
        ensure_direct(&b, "laptop")?;
        let moved = |status: &Status| {
            status.peers.iter().any(|peer| peer.endpoint.is_some_and(|addr| addr.port() == 51_821))
        };
        b.wait("the peer follows", moved)?;
        a.running.stop()?;
        let a = Node::start(&mesh.laptop, |_| {})?;
        ensure!(a.wait_connected()?.node.listen_port == 51_821, "it is kept");
        let back = runtime().block_on(a.client().listen_port(Some(ListenPort::Auto)))?;
        ensure!(back.auto && back.changed && back.port == shown.port, "{back:?}");
        Ok(())
    });
}

#[test]
fn a_wrong_pin_and_a_used_key_are_refused_in_words() {
    isolated(|world| {
        let mesh = Mesh::new(world)?;
        let a = Node::start(&mesh.laptop, |_| {})?;
        a.wait("it runs", |status| status.node.state == NodeState::NotJoined)?;
        let (url_and_key, pin) = mesh.link.rsplit_once('.').context("a pin")?;
        let other: String = pin.chars().rev().collect();
        let flipped = format!("{url_and_key}.{}{}", &other[..42], &pin[42..]);
        let up = |link: &str| runtime().block_on(a.client().up(Some(link.to_owned()), None));
        let (code, text) = refusal(up(&flipped));
        ensure!(code == FailureCode::WrongPin && text.contains("certificate"), "{code:?} {text}");
        let once = warren_broker::admin::NewJoinKey::default();
        let once = runtime().block_on(mesh.broker.admin().create_join_key("home", &once))?.link;
        let b = Node::start(&mesh.desktop, |config| config.join = Some(once.clone()))?;
        b.wait_connected()?;
        let (code, text) = refusal(up(&once));
        ensure!(code == FailureCode::JoinRefused, "{code:?} {text}");
        let (code, _) = refusal(up("https://nonsense"));
        ensure!(code == FailureCode::Invalid);
        ensure!(up(&mesh.link)?.node.state == NodeState::Connected, "a good link heals it all");
        Ok(())
    });
}

#[test]
fn a_crash_between_join_and_reply_loses_nothing() {
    isolated(|world| {
        let mesh = Mesh::new(world)?;
        let once = warren_broker::admin::NewJoinKey::default();
        let once = runtime().block_on(mesh.broker.admin().create_join_key("home", &once))?.link;
        let a = Node::start(&mesh.laptop, |config| config.join = Some(once.clone()))?;
        let first = a.wait_connected()?.node;
        let file = a.state.join("node.json");
        a.running.stop()?;
        // The reply never came: the broker knows the device, the device doesn't know it.
        let mut identity: Value = serde_json::from_slice(&fs::read(&file)?)?;
        identity["joined"] = Value::Null;
        identity["joining"] = serde_json::json!({ "link": once, "name": "laptop" });
        fs::write(&file, serde_json::to_vec(&identity)?)?;
        let a = Node::start(&mesh.laptop, |_| {})?;
        let again = a.wait_connected()?.node;
        ensure!((first.ipv4, first.ipv6) == (again.ipv4, again.ipv6), "{first:?} {again:?}");
        ensure!(first.name == again.name);
        let kept: Value = serde_json::from_slice(&fs::read(&file)?)?;
        ensure!(kept["joining"].is_null(), "the link is forgotten");
        Ok(())
    });
}

#[test]
fn a_full_disk_is_said_and_the_mesh_goes_on() {
    isolated(|world| {
        let mesh = Mesh::new(world)?;
        let state = mesh.laptop.folder().join("state");
        let path = state.to_str().context("utf-8")?;
        fs::create_dir(&state)?;
        // Mounted here, where the node's thread sees it too.
        mesh.laptop.run(&["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", path])?;
        let inside = format!("{path}/filler");
        let a = Node::start(&mesh.laptop, mesh.join())?;
        let client = mesh.laptop.enter(|| {
            runtime().block_on(async {
                let client = a.client();
                until("connected", async || {
                    let status = client.status().await;
                    Ok(status.is_ok_and(|status| status.node.state == NodeState::Connected))
                })
                .await?;
                // The rest of the disk is gone, and then the map changes.
                let _ = fs::write(&inside, vec![0; 1 << 20]);
                anyhow::Ok(client)
            })
        })??;
        let b = Node::start(&mesh.desktop, mesh.join())?;
        b.wait_connected()?;
        mesh.laptop.enter(|| {
            runtime().block_on(until("said", async || {
                let status = client.status().await?;
                Ok(has(&status, HealthCode::StateNotSaved) && !status.peers.is_empty())
            }))
        })??;
        ensure_direct(&b, "laptop")?;
        let (code, text) =
            refusal(mesh.laptop.enter(|| {
                runtime().block_on(client.listen_port(Some(ListenPort::Fixed(50_001))))
            })?);
        ensure!(code == FailureCode::State && text.contains("make room"), "{text}");
        Ok(())
    });
}

#[test]
fn without_a_tun_driver_the_daemon_says_so_and_ends() {
    isolated(|world| {
        let mesh = Mesh::new(world)?;
        mesh.laptop.run(&["mount", "-t", "tmpfs", "tmpfs", "/dev/net"])?;
        let a = Node::start(&mesh.laptop, |_| {})?;
        a.wait("it runs", |_| true)?;
        let (code, text) =
            refusal(runtime().block_on(a.client().up(Some(mesh.link.clone()), None)));
        ensure!(code == FailureCode::Interface && text.contains("modprobe tun"), "{text}");
        a.running.stop()?;
        // From then on it is known at the start.
        let state = mesh.laptop.folder().join("state");
        let config = NodeConfig { state, ..NodeConfig::default() };
        let running = Running::start(&mesh.laptop, move |stopped| {
            warren_node::run(config, async { drop(stopped.await) })
        })?;
        let error = running.wait().expect_err("there is no TUN driver");
        ensure!(error.to_string().contains("/dev/net/tun is missing"), "{error:#}");
        Ok(())
    });
}

#[test]
fn a_network_of_the_host_in_the_account_s_range_is_said_and_peers_stay_reachable() {
    isolated(|world| {
        let mesh = Mesh::new(world)?;
        let (a, b) = mesh.nodes()?;
        let own = a.status()?.node.ipv4.context("v4")?.octets();
        a.running.stop()?;
        let clash = format!("{}.{}.200.1/24", own[0], own[1]);
        mesh.laptop.run(&["ip", "link", "add", "isp0", "type", "veth", "peer", "name", "far"])?;
        mesh.laptop.run(&["ip", "address", "add", &clash, "dev", "isp0"])?;
        mesh.laptop.run(&["ip", "link", "set", "isp0", "up"])?;
        mesh.laptop.run(&["ip", "link", "set", "far", "up"])?;
        let a = Node::start(&mesh.laptop, |_| {})?;
        a.wait("said", |status| has(status, HealthCode::RangeClash))?;
        a.wait_connected()?;
        ensure_direct(&a, "desktop")?;
        let peer = b.status()?.node.ipv4.context("v4")?.to_string();
        mesh.laptop.run(&["ping", "-c", "1", "-W", "5", &peer])?;
        Ok(())
    });
}

#[test]
fn a_second_node_on_one_state_folder_is_told_who_holds_it() {
    isolated(|world| {
        let mesh = Mesh::new(world)?;
        let a = Node::start(&mesh.laptop, |_| {})?;
        a.wait("it runs", |_| true)?;
        let second = Node::start(&mesh.laptop, |_| {})?;
        let error = second.running.wait().expect_err("the folder is in use");
        let text = format!("{error:#}");
        let pid = std::process::id().to_string();
        ensure!(text.contains(&pid) && text.contains("--state"), "{text}");
        a.wait("the first goes on", |_| true)?;
        Ok(())
    });
}

/// The pins that a node has written down.
fn pins(node: &Node) -> Result<Vec<String>> {
    let identity: Value = serde_json::from_slice(&fs::read(node.state.join("node.json"))?)?;
    let pins = identity["joined"]["pins"].as_array().context("pins")?;
    Ok(pins.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

#[test]
fn an_announced_change_of_the_broker_s_key_is_followed_and_the_old_key_forgotten() {
    isolated(|world| {
        let mesh = Mesh::new(world)?;
        let a = Node::start(&mesh.laptop, mesh.join())?;
        a.wait_connected()?;
        let old = pins(&a)?;
        ensure!(old.len() == 1, "{old:?}");
        let admin = mesh.broker.admin();
        runtime().block_on(admin.prepare_pin())?;
        runtime().block_on(until("announced", async || Ok(pins(&a)?.len() == 2)))?;
        let both = pins(&a)?;
        runtime().block_on(admin.activate_pin())?;
        mesh.broker.running.stop()?;
        let broker = Broker::run(&mesh.hub, mesh.broker.config.clone())?;
        a.wait("connected", |s| s.broker.connected && s.node.state == NodeState::Connected)?;
        runtime().block_on(until("forgotten", async || Ok(pins(&a)? == both[1..])))?;
        a.running.stop()?;
        let a = Node::start(&mesh.laptop, |_| {})?;
        a.wait_connected()?;
        ensure!(pins(&a)? == both[1..]);
        broker.running.stop()
    });
}
