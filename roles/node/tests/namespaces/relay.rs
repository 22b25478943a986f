//! Two homes whose NATs map per destination, and what joins them: a private relay, somebody's TURN
//! server, and a stream where UDP is blocked.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use warren_broker::admin::{DeviceChange, NewTurn, SetRelays};
use warren_lab::{Host, NatKind, NatSpec, Plug, Router, World, isolated};
use warren_node::local::{DebugCounters, PathKind, PingReport, PingRequest};

use crate::common::{Mesh, Node, runtime};

const RELAY_PORT: u16 = 51_820;

struct Home {
    node: Node,
    host: Host,
    _router: Router,
}

fn home(world: &World, mesh: &Mesh, name: &str, kind: NatKind) -> Result<Home> {
    let router = world.router(&format!("{name}-nat"), world.internet(), NatSpec::new(kind))?;
    let host = world.host(name)?;
    router.lan().plug(&host, &Plug::ipv4())?;
    Ok(Home { node: Node::start(&host, mesh.join())?, host, _router: router })
}

fn connect([left, right]: [&Home; 2]) -> Result<()> {
    let names = [left, right].map(|home| home.node.wait_connected().map(|status| status.node.name));
    let [left_name, right_name] = names;
    for (home, other) in [(left, right_name?), (right, left_name?)] {
        home.node.wait("the other is seen and the NAT is known", |status| {
            let is_seen = status.peers.iter().any(|peer| peer.name == other && peer.online);
            is_seen && status.node.nat.udp.is_some()
        })?;
    }
    Ok(())
}

fn ping(from: &Node, to: &str) -> Result<PingReport> {
    let request = PingRequest { until_direct: false, count: Some(1), ..PingRequest::new(to) };
    runtime().block_on(async {
        from.client().ping(request).await?.next_ping().await?.context("an attempt is reported")
    })
}

fn counters(node: &Node) -> Result<DebugCounters> {
    Ok(runtime().block_on(node.client().counters())?)
}

fn set_relays(mesh: &Mesh, names: &[&str]) -> Result<()> {
    let relays = names.iter().map(|name| vec![(*name).to_owned()]).collect();
    runtime().block_on(mesh.broker.admin().set_relays("home", &SetRelays { relays }))?;
    Ok(())
}

/// Sends megabytes by TCP through the mesh, and checks what arrives.
fn transfer(from: &Host, to: &Host, address: Ipv4Addr) -> Result<()> {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    const BYTES: usize = 4 << 20;
    let listener = to.enter(|| TcpListener::bind((address, 5_000)))??;
    let receiver = std::thread::spawn(move || -> std::io::Result<Vec<u8>> {
        let (mut stream, _) = listener.accept()?;
        let mut content = Vec::new();
        stream.read_to_end(&mut content)?;
        Ok(content)
    });
    let mut stream = from.enter(|| TcpStream::connect((address, 5_000)))??;
    let data: Vec<u8> =
        (0..BYTES as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    stream.write_all(&data)?;
    drop(stream);
    let content = receiver.join().expect("it doesn't panic")?;
    ensure!(content == data, "{} bytes arrived, or others", content.len());
    Ok(())
}

#[test]
fn a_private_relay_joins_two_homes_that_reach_each_other_no_other_way() {
    isolated(|world| {
        let mesh = Mesh::new(world)?;
        let relay = Node::start(&mesh.laptop, |config| {
            mesh.join()(config);
            config.listen_port = Some(RELAY_PORT);
        })?;
        relay.wait_connected()?;
        let ip = mesh.laptop_ip;
        let change = DeviceChange {
            static_endpoint: Some(Some(SocketAddr::from((ip, RELAY_PORT)))),
            ..DeviceChange::default()
        };
        runtime().block_on(mesh.broker.admin().change_device("home", "laptop", &change))?;
        set_relays(&mesh, &["laptop"])?;
        let left = home(world, &mesh, "left", NatKind::Apdm)?;
        let right = home(world, &mesh, "right", NatKind::Apdm)?;
        connect([&left, &right])?;

        let report = ping(&left.node, "right")?;
        println!("first ping: {report:?}");
        ensure!(report.path == PathKind::Relayed, "{report:?}");
        ensure!(report.relay.as_deref() == Some("laptop"), "{report:?}");
        ensure!(report.rtt_ms.is_some_and(|rtt| rtt < 1500.0), "{report:?}");
        let to = right.node.status()?.node.ipv4.context("an address")?;
        transfer(&left.host, &right.host, to)?;
        let (served, sent) = (counters(&relay)?, counters(&left.node)?);
        let core = |counters: &DebugCounters, name: &str| counters.core.get(name).copied();
        ensure!(core(&served, "relay-allocations") == Some(2), "{served:?}");
        ensure!(core(&served, "relay-packets") > Some(2000), "{served:?}");
        ensure!(core(&sent, "relayed-out").is_some(), "{sent:?}");
        // It forwards in runs, and reads nothing of it.
        let per_send = served.udp_send_segments as f64 / served.udp_sends as f64;
        println!("{per_send:.1} segments per send of the relay");
        ensure!(per_send > 4.0, "forwarding in batches has died: {served:?}");
        ensure!(core(&served, "delivered").is_none(), "{served:?}");
        // Direct pairs touch no relay.
        let direct = ping(&left.node, "laptop")?;
        ensure!(direct.path == PathKind::Direct && direct.rtt_ms.is_some(), "{direct:?}");
        let served = counters(&relay)?;
        ensure!(core(&served, "relay-allocations") == Some(2), "{served:?}");
        Ok(())
    });
}

/// coturn on a host, with one user.
fn coturn(host: &Host, ip: Ipv4Addr) -> Result<warren_lab::Process> {
    let folder = host.folder().join("coturn");
    std::fs::create_dir_all(&folder)?;
    let config = folder.join("turnserver.conf");
    std::fs::write(
        &config,
        format!(
            "listening-ip={ip}\nrelay-ip={ip}\nlistening-port=3478\nuser=me:secret\nrealm=elsewhere\n\
             lt-cred-mech\nfingerprint\nno-cli\nno-tls\nno-dtls\nlog-file=stdout\nsimple-log\n\
             pidfile={0}/pid\nuserdb={0}/db\nno-multicast-peers\n",
            folder.display()
        ),
    )?;
    host.command("turnserver").args(["-c", &config.display().to_string()]).spawn()
}

#[test]
fn somebody_s_turn_server_joins_two_homes_and_by_tcp_where_udp_is_blocked() {
    isolated(|world| {
        let mesh = Mesh::new(world)?;
        let _coturn = coturn(&mesh.laptop, mesh.laptop_ip)?;
        let admin = mesh.broker.admin();
        for (name, transport) in [("turn", ""), ("turn-tcp", "?transport=tcp")] {
            let new = NewTurn {
                url: format!("turn:{}:3478{transport}", mesh.laptop_ip),
                name: Some(name.parse()?),
                username: Some("me".to_owned()),
                secret: "secret".to_owned(),
            };
            runtime().block_on(admin.add_turn(Some("home"), &new))?;
        }
        set_relays(&mesh, &["turn", "turn-tcp"])?;
        let left = home(world, &mesh, "left", NatKind::Apdm)?;
        let right = home(world, &mesh, "right", NatKind::Apdm)?;
        connect([&left, &right])?;
        let report = ping(&left.node, "right")?;
        println!("first ping by UDP: {report:?}");
        ensure!(report.path == PathKind::Relayed && report.rtt_ms.is_some(), "{report:?}");
        ensure!(report.relay.as_deref() == Some("turn"), "{report:?}");
        let to = right.node.status()?.node.ipv4.context("an address")?;
        transfer(&left.host, &right.host, to)?;

        let cut = home(world, &mesh, "cut", NatKind::UdpBlocked)?;
        cut.node.wait_connected()?;
        cut.node.wait("UDP is known to be blocked, and 'right' is seen", |status| {
            let is_seen = status.peers.iter().any(|peer| peer.online && peer.ipv4 == to);
            is_seen && status.node.nat.udp == Some(false)
        })?;
        let report = ping(&cut.node, "right")?;
        println!("first ping by TCP: {report:?}");
        ensure!(report.path == PathKind::Relayed && report.rtt_ms.is_some(), "{report:?}");
        ensure!(report.relay.as_deref() == Some("turn-tcp"), "{report:?}");
        ensure!(report.rtt_ms.is_some_and(|rtt| rtt < 3000.0), "{report:?}");
        transfer(&cut.host, &right.host, to)?;
        Ok(())
    });
}
