//! A technician's laptop, an edge between it and a LAN, and devices in the LAN.
//!
//! A veth pair stands for the tunnel: the engine sees a mesh interface, and that is all it needs.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::sync::{oneshot, watch};
use warren_edge::{Edge, EdgeConfig, EdgeReport};
use warren_lab::{Host, World, wait_for};
use warren_net::{Diverted, Tun, TunConfig, TunReader};
use warren_proto::{EdgeDuty, LanCap, LanTarget};

pub(crate) const MESH: Ipv4Addr = Ipv4Addr::new(100, 80, 0, 1);
pub(crate) const TECHNICIAN: Ipv4Addr = Ipv4Addr::new(100, 80, 0, 5);
pub(crate) const EDGE_LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(1500);

/// All machines.
pub(crate) struct Site {
    pub(crate) technician: Host,
    pub(crate) edge: Host,
    /// The LAN's switch.
    switch: Host,
    pub(crate) state: PathBuf,
    /// What the edge's owner lets it open.
    pub(crate) cap: LanCap,
}

impl Site {
    /// An edge in a LAN; how the technician reaches it is left open.
    fn with_lan(world: &World) -> Result<Self> {
        let site = Self {
            technician: world.host("technician")?,
            edge: world.host("edge")?,
            switch: world.host("switch")?,
            // Each host has a /run of its own; the test looks into this folder too.
            state: world.logs().join("edge-state"),
            cap: LanCap::default(),
        };
        std::fs::create_dir_all(&site.state)?;
        site.switch.ip(&["link add lan0 type bridge"])?;
        // It is no device of the LAN.
        site.switch.sysctl("net.ipv6.conf.lan0.disable_ipv6", "1")?;
        site.switch.ip(&["link set lan0 up"])?;
        site.plug(&site.edge, EDGE_LAN)?;
        Ok(site)
    }

    /// The edge's own firewall forwards nothing, as Docker's or ufw's.
    pub(crate) fn drop_forwarding(&self) -> Result<()> {
        self.edge.nft(
            "table ip filter {\n\tchain FORWARD {\n\t\ttype filter hook forward priority 0; \
             policy drop;\n\t}\n}\n",
        )
    }

    pub(crate) fn build(world: &World) -> Result<Self> {
        let site = Self::with_lan(world)?;
        ip("link add w0 netns edge type veth peer name w0 netns technician")?;
        site.technician.ip(&[
            "link set w0 up".to_owned(),
            format!("addr add {TECHNICIAN}/32 dev w0"),
            "route add 100.80.0.0/16 dev w0".to_owned(),
        ])?;
        site.edge.ip(&[
            "link set w0 up".to_owned(),
            format!("addr add {MESH}/32 dev w0"),
            "route add 100.80.0.0/16 dev w0".to_owned(),
        ])?;
        // The virtual devices' and gateways' addresses aren't the edge's own: as through a tunnel,
        // nobody asks by ARP for them.
        let edge_mac = mac_of(&site.edge, "w0")?;
        let technician_mac = mac_of(&site.technician, "w0")?;
        site.edge.ip(&[format!("neigh replace {TECHNICIAN} lladdr {technician_mac} dev w0")])?;
        let behind = [
            MESH,
            Ipv4Addr::new(100, 80, 7, 1),
            Ipv4Addr::new(100, 80, 7, 2),
            Ipv4Addr::new(100, 80, 16, 9),
        ];
        for address in behind {
            site.technician.ip(&[format!("neigh replace {address} lladdr {edge_mac} dev w0")])?;
        }
        Ok(site)
    }

    /// The same, but what the technician sends goes where a [`Diverter`] takes it, and nowhere else.
    pub(crate) fn without_kernel(world: &World) -> Result<Self> {
        let site = Self::with_lan(world)?;
        // The mesh's interface on the edge, as far as the engine looks at it.
        site.edge.ip(&[
            "link add w0 type bridge".to_owned(),
            "link set w0 up".to_owned(),
            format!("addr add {MESH}/32 dev w0"),
            "route add 100.80.0.0/16 dev w0".to_owned(),
        ])?;
        Ok(site)
    }

    /// Runs the engine with the technician's tunnel; `chosen`: by the proxy in any case.
    pub(crate) fn start_by_userspace(&self, duty: EdgeDuty, chosen: bool) -> Result<Running> {
        let (diverter, diverted) = warren_net::diversion();
        let (opened, open) = mpsc::channel();
        let technician = self.technician.clone();
        std::thread::spawn(move || technician.enter(|| tunnel(&diverted, &opened)));
        open.recv_timeout(LIMIT).context("the tunnel opens")?;
        self.technician.ip(&[
            "link set w0 mtu 1280 up".to_owned(),
            format!("addr add {TECHNICIAN}/32 dev w0"),
            "route add 100.80.0.0/16 dev w0".to_owned(),
        ])?;
        let userspace = EdgeConfig { diverter: Some(diverter), userspace: chosen, ..self.config() };
        self.start_with(userspace, duty)
    }

    /// Adds a device to the LAN, with no way but to its own network.
    pub(crate) fn device(&self, world: &World, name: &str, ip: Ipv4Addr) -> Result<Host> {
        let host = world.host(name)?;
        self.plug(&host, ip)?;
        Ok(host)
    }

    fn plug(&self, host: &Host, address: Ipv4Addr) -> Result<()> {
        let (name, port) = (host.name(), format!("p-{}", host.name()));
        ip(&format!("link add eth0 netns {name} type veth peer name {port} netns switch"))?;
        self.switch.ip(&[format!("link set {port} master lan0 up")])?;
        host.ip(&["link set eth0 up".to_owned(), format!("addr add {address}/24 dev eth0")])
    }

    pub(crate) fn config(&self) -> EdgeConfig {
        EdgeConfig { cap: self.cap.clone(), ..config(&self.state) }
    }

    /// Runs the engine on the edge.
    pub(crate) fn start(&self, duty: EdgeDuty) -> Result<Running> {
        self.start_with(self.config(), duty)
    }

    fn start_with(&self, config: EdgeConfig, duty: EdgeDuty) -> Result<Running> {
        let (duty, receiver) = watch::channel(Some(duty));
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        let host = self.edge.clone();
        let thread = std::thread::spawn(move || {
            host.enter(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    let edge = Edge::start(config, receiver);
                    tell.send(edge.report())?;
                    let _ = stopped.await;
                    edge.stop().await;
                    anyhow::Ok(())
                })
            })?
        });
        let report = told.recv_timeout(LIMIT).context("the engine starts")?;
        Ok(Running { duty, report, stop: Some(stop), thread: Some(thread) })
    }

    /// What the edge's kernel has in its tables.
    pub(crate) fn ruleset(&self) -> Result<String> {
        self.edge.run(&["nft", "list", "ruleset"])
    }

    /// Whether the edge forwards what comes in by `interface`.
    pub(crate) fn forwards(&self, interface: &str) -> Result<bool> {
        let path = format!("/proc/sys/net/ipv4/conf/{interface}/forwarding");
        Ok(self.edge.run(&["cat", &path])?.trim() == "1")
    }
}

/// The technician's end of the tunnel: a TUN device, whose packets are judged and led as a node does.
fn tunnel(diverted: &Diverted, opened: &mpsc::Sender<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let tun = Tun::open(&TunConfig { name: Some("w0".to_owned()), ..TunConfig::default() })?;
        let (mut reader, mut intake) = (TunReader::new(), diverted.open());
        let mut segment = vec![0; 65_536];
        opened.send(())?;
        loop {
            tokio::select! {
                ready = tun.readable() => ready?,
                answer = intake.answer() => {
                    tun.send(&answer);
                    continue;
                }
            }
            while let Ok(packet) = tun.try_recv(&mut reader) {
                for index in 0..packet.segments() {
                    let len = packet.write_segment(index, &mut segment);
                    intake.take(&segment[..len]);
                }
            }
        }
    })
}

pub(crate) fn config(state: &Path) -> EdgeConfig {
    EdgeConfig {
        mesh_interface: "w0".to_owned(),
        mesh_ipv4: MESH,
        state: state.to_owned(),
        diverter: None,
        userspace: false,
        cap: LanCap::default(),
    }
}

/// The engine on the edge's thread.
pub(crate) struct Running {
    pub(crate) duty: watch::Sender<Option<EdgeDuty>>,
    pub(crate) report: watch::Receiver<EdgeReport>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Running {
    /// Gives another duty and waits until it is in force.
    pub(crate) fn change(&self, duty: EdgeDuty) -> Result<EdgeReport> {
        let before = self.report.borrow().applied;
        self.duty.send_replace(Some(duty));
        self.until("the duty in force", |report| report.applied > before)
    }

    pub(crate) fn until(
        &self,
        what: &str,
        condition: impl Fn(&EdgeReport) -> bool,
    ) -> Result<EdgeReport> {
        let found = wait_for(what, LIMIT, || {
            let report = self.report.borrow().clone();
            Ok(condition(&report).then_some(report))
        });
        found.with_context(|| format!("{:?}", self.report.borrow()))
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        drop(self.stop.take());
        let thread = self.thread.take().context("it runs")?;
        thread.join().map_err(|_| anyhow::anyhow!("the engine panicked"))?
    }
}

/// Serves TCP and UDP on a port: the answer is the device's name, and who it says asked.
pub(crate) fn serve(host: &Host, port: u16) -> Result<()> {
    let name = host.name().to_owned();
    host.enter(|| {
        let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
        let answer = move |peer: SocketAddr| format!("{name}:{port} {}", peer.ip());
        let say = answer.clone();
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                let Ok(peer) = stream.peer_addr() else { continue };
                let text = say(peer);
                std::thread::spawn(move || {
                    let mut buffer = [0; 64];
                    while stream.read(&mut buffer).is_ok_and(|len| len > 0) {
                        if stream.write_all(text.as_bytes()).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(answer(peer).as_bytes(), peer);
            }
        });
        anyhow::Ok(())
    })?
}

/// A TCP connection from a host.
pub(crate) fn connect(host: &Host, ip: Ipv4Addr, port: u16) -> Result<TcpStream> {
    host.enter(|| {
        let stream = TcpStream::connect_timeout(&(ip, port).into(), SHORT)?;
        stream.set_read_timeout(Some(SHORT))?;
        anyhow::Ok(stream)
    })?
}

/// Asks over an open connection.
pub(crate) fn ask(stream: &mut TcpStream) -> Result<String> {
    stream.write_all(b"?")?;
    let mut buffer = [0; 128];
    let len = stream.read(&mut buffer)?;
    ensure!(len > 0, "closed");
    Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
}

pub(crate) fn ask_tcp(host: &Host, ip: Ipv4Addr, port: u16) -> Result<String> {
    ask(&mut connect(host, ip, port)?)
}

pub(crate) fn ask_udp(host: &Host, ip: Ipv4Addr, port: u16) -> Result<String> {
    host.enter(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(SHORT))?;
        socket.connect((ip, port))?;
        socket.send(b"?")?;
        let mut buffer = [0; 128];
        let len = socket.recv(&mut buffer)?;
        anyhow::Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
    })?
}

pub(crate) fn mac_of(host: &Host, interface: &str) -> Result<String> {
    Ok(host.run(&["cat", &format!("/sys/class/net/{interface}/address")])?.trim().to_owned())
}

pub(crate) fn target(ip: Ipv4Addr) -> LanTarget {
    LanTarget { ip, mac: None }
}

/// Runs `ip` where the names of all hosts' namespaces are known.
pub(crate) fn ip(line: &str) -> Result<()> {
    let output = Command::new("ip").args(line.split(' ')).output()?;
    ensure!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
