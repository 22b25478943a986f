//! Exit nodes: traffic to the internet leaves by an edge at another site, names too, and nothing beside it.

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use common::lan::{CAMERA, enable, page, resolve, serve, shows};
use common::{Lab, SECOND};
use warren_lab::warren::Node;
use warren_lab::{Host, NatKind, NatSpec, Plug, Router, isolated, wait_for, wait_until};

/// What the download has.
const MEGABYTE: usize = 1_000_000;

/// Who has asked something, and what.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(IpAddr, String)>>>);

impl Log {
    fn note(&self, who: SocketAddr, what: &str) {
        let ip = who.ip().to_canonical();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((ip, what.to_owned()));
    }

    fn take(&self) -> Vec<(IpAddr, String)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A DNS server that answers every A question with 192.0.2.99 and all else with nothing.
fn start_dns(host: &Host) -> Result<Log> {
    let socket = host.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)))??;
    let log = Log::default();
    let noted = log.clone();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            let Some((name, answer)) = answer(&query[..length]) else { continue };
            noted.note(from, &name);
            let _ = socket.send_to(&answer, from);
        }
    });
    Ok(log)
}

/// RFC 1035 §4: the name, and header, question as it came, one answer that points at it.
fn answer(query: &[u8]) -> Option<(String, Vec<u8>)> {
    let question = query.get(12..)?;
    let end = question.iter().position(|&length| length == 0)?;
    let readable = |byte: &u8| if byte.is_ascii_graphic() { *byte as char } else { '.' };
    let name: String = question.get(1..end)?.iter().map(readable).collect();
    let question = question.get(..end + 5)?;
    let is_a = question.get(end + 1..end + 3)? == [0, 1];
    let mut out = query.get(..2)?.to_vec();
    out.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    out.extend(question);
    if is_a {
        out.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 99]);
    }
    Some((name, out))
}

/// A website in both families that says who asks, at port 80, and has a megabyte, at port 81.
fn start_website(host: &Host) -> Result<Log> {
    let log = Log::default();
    let noted = log.clone();
    host.enter(move || {
        for port in [80, 81] {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
            let noted = noted.clone();
            std::thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    let Ok(peer) = stream.peer_addr() else { continue };
                    noted.note(peer, "tcp");
                    std::thread::spawn(move || {
                        let _ = stream.read(&mut [0; 512]);
                        let text =
                            format!("HTTP/1.0 200 OK\r\n\r\nasked by {}", peer.ip().to_canonical());
                        let body = if port == 81 { vec![b'x'; MEGABYTE] } else { Vec::new() };
                        let _ = stream.write_all(text.as_bytes());
                        let _ = stream.write_all(&body);
                    });
                }
            });
        }
        anyhow::Ok(())
    })??;
    Ok(log)
}

/// A laptop at home, an edge at another site, the internet with a website and its name server.
struct Scene {
    laptop: Node,
    edge: Node,
    site_wan: IpAddr,
    home_wan: IpAddr,
    website: Ipv4Addr,
    website6: Ipv6Addr,
    visits: Log,
    asked_there: Log,
    asked_at_home: Log,
    original: String,
    _routers: [Router; 2],
}

/// The address that a site has on the internet.
fn wan(from: &Host, website: Ipv4Addr) -> Result<IpAddr> {
    let text = shows(from, (website, 80), "asked by")?;
    let ip = text.rsplit(' ').next().context("an address")?;
    Ok(ip.trim().parse()?)
}

impl Scene {
    fn build(lab: &Lab<'_>) -> Result<Self> {
        let (site, link) = lab.host("website", lab.world.internet(), &Plug::dual())?;
        let (website, website6) = (link.v4()?, link.v6()?);
        let visits = start_website(&site)?;
        let asked_there = start_dns(&site)?;

        let home = NatSpec::new(NatKind::EimApdf).with_ipv6();
        let home = lab.world.router("home", lab.world.internet(), home)?;
        let (printer, _) = lab.host("printer", home.lan(), &Plug::ipv4().at(CAMERA))?;
        serve(&printer, 80)?;
        let (dns, dns_link) = lab.host("home-dns", home.lan(), &Plug::ipv4())?;
        let asked_at_home = start_dns(&dns)?;
        let (host, _) = lab.host("laptop", home.lan(), &Plug::dual())?;
        let original = format!("# by hand\nnameserver {}\n", dns_link.v4()?);
        fs::write(host.resolv_conf(), &original)?;
        let home_wan = wan(&host, website)?;
        let laptop = lab.join(&host)?;

        let router = lab.home("site-7-router", NatKind::EimApdf)?;
        let at = Plug::ipv4().at([192, 168, 1, 2].into());
        let (host, _) = lab.host("site-7", router.lan(), &at)?;
        fs::write(host.resolv_conf(), format!("nameserver {website}\n"))?;
        let (camera, _) =
            lab.host("camera", router.lan(), &Plug::ipv4().at([192, 168, 1, 77].into()))?;
        serve(&camera, 80)?;
        let site_wan = wan(&host, website)?;
        let edge = lab.join(&host)?;
        enable(&edge)?;
        edge.run(&["edge", "gateways", "add", "--internet"])?;
        Ok(Self {
            laptop,
            edge,
            site_wan,
            home_wan,
            website,
            website6,
            visits,
            asked_there,
            asked_at_home,
            original,
            _routers: [home, router],
        })
    }

    fn host(&self) -> &Host {
        self.laptop.host()
    }

    /// Waits until the laptop's traffic leaves by the edge.
    fn leaves_by_the_edge(&self) -> Result<()> {
        shows(self.host(), (self.website, 80), &format!("asked by {}", self.site_wan)).map(drop)
    }

    /// Checks that the laptop's traffic and names leave by its own network, and that nothing is left.
    fn is_as_before(&self) -> Result<()> {
        shows(self.host(), (self.website, 80), &format!("asked by {}", self.home_wan))?;
        page(self.host(), (self.website6, 80)).context("IPv6")?;
        self.asked_at_home.take();
        resolve(self.host(), "as-before.example.org")?.context("a name")?;
        ensure!(!self.asked_at_home.take().is_empty(), "names are asked at home");
        Ok(())
    }

    /// Whether our rules, or routes in tables of ours, are there.
    fn traces(&self) -> Result<String> {
        let all = self.host().run(&[
            "sh",
            "-c",
            "(ip rule; ip -6 rule; ip route show table all; ip -6 route show table all) | grep 'proto 119' || true",
        ])?;
        Ok(all)
    }

    fn leaves_no_trace(&self) -> Result<()> {
        let traces = self.traces()?;
        ensure!(traces.is_empty(), "left behind:\n{traces}");
        let names = fs::read_to_string(self.host().resolv_conf())?;
        ensure!(names == self.original, "resolv.conf:\n{names}");
        Ok(())
    }

    /// Checks that for a while nothing of the laptop leaves by its own network, though it tries.
    fn nothing_leaves(&self, why: &str) -> Result<()> {
        self.visits.take();
        self.asked_there.take();
        self.asked_at_home.take();
        let until = Instant::now() + 2 * SECOND;
        while Instant::now() < until {
            let page = page(self.host(), (self.website, 80));
            ensure!(page.is_err(), "{why}: {page:?}");
            ensure!(page_by_ipv6(self)?.is_none(), "{why}: by IPv6");
            let name = resolve(self.host(), "secret.example.org")?;
            ensure!(name.is_none(), "{why}: {name:?}");
        }
        let seen = [self.visits.take(), self.asked_there.take(), self.asked_at_home.take()];
        let tells =
            |(who, what): &&(IpAddr, String)| *who == self.home_wan || what.contains("secret");
        let told: Vec<_> = seen.iter().flatten().filter(tells).collect();
        ensure!(told.is_empty(), "{why}: {told:?}");
        Ok(())
    }
}

fn page_by_ipv6(scene: &Scene) -> Result<Option<String>> {
    Ok(page(scene.host(), (scene.website6, 80)).ok())
}

/// Fetches the megabyte.
fn download(from: &Host, website: Ipv4Addr) -> Result<Duration> {
    let begun = Instant::now();
    let length = from.enter(|| -> Result<usize> {
        let mut stream = TcpStream::connect_timeout(&(website, 81).into(), 5 * SECOND)?;
        stream.set_read_timeout(Some(5 * SECOND))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut all = Vec::new();
        Ok(stream.read_to_end(&mut all)?)
    })??;
    ensure!(length > MEGABYTE, "{length} bytes came");
    Ok(begun.elapsed())
}

#[test]
fn traffic_and_names_leave_by_the_exit_node_and_nothing_beside_it() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let mut scene = Scene::build(&lab)?;
        let host = scene.host().clone();
        scene.laptop.wait_peers(&["site-7"])?;
        // It is offered, and nobody's traffic moves by that.
        wait_for("the offer", 10 * SECOND, || {
            let list = scene.laptop.run(&["exit-node"])?;
            Ok((list.contains("site-7") && list.contains("own network")).then_some(()))
        })?;
        scene.is_as_before()?;

        let said = scene.laptop.run(&["exit-node", "use", "site-7"])?;
        ensure!(said.contains("goes by site-7; the LAN stays reachable"), "{said}");
        scene.leaves_by_the_edge()?;
        let took = download(&host, scene.website)?;
        println!("a megabyte by the exit node in {took:?}");
        shows(&host, (CAMERA, 80), "printer").context("the laptop's own LAN")?;
        ensure!(page_by_ipv6(&scene)?.is_none(), "IPv6 goes nowhere");
        scene.asked_at_home.take();
        scene.asked_there.take();
        resolve(&host, "www.example.org")?.context("a name by the exit node")?;
        let asked = scene.asked_there.take();
        ensure!(
            asked.iter().any(|(who, what)| *who == scene.site_wan && what.contains("example")),
            "{asked:?}"
        );
        let asked = scene.asked_at_home.take();
        ensure!(asked.is_empty(), "asked beside it: {asked:?}");
        ensure!(resolve(&host, "site-7.home.warren.internal")?.is_some(), "the mesh's own names");
        // As a DHCP client does that knows nothing of the mesh: until that is mended, names fail.
        fs::write(host.resolv_conf(), &scene.original)?;
        resolve(&host, "secret.example.org")?;
        let asked = scene.asked_at_home.take();
        ensure!(asked.is_empty(), "asked beside it: {asked:?}");
        let status = scene.laptop.run(&["status"])?;
        ensure!(status.contains("goes by site-7"), "{status}");

        // The exit node's LAN isn't open by that; without the own LAN nothing else has the address.
        let lan = (Ipv4Addr::new(192, 168, 1, 77), 80);
        scene.laptop.run(&["exit-node", "use", "site-7", "--lan", "off"])?;
        scene.leaves_by_the_edge()?;
        ensure!(page(&host, lan).is_err(), "the exit node's LAN");
        ensure!(page(&host, (CAMERA, 80)).is_err(), "the own LAN is off");
        scene.laptop.run(&["exit-node", "off"])?;
        scene.is_as_before()?;
        shows(&host, (CAMERA, 80), "printer")?;
        Ok(())
    });
}

#[test]
fn while_the_exit_node_is_away_nothing_leaves_and_all_is_put_back_in_the_end() {
    isolated(|world| {
        let lab = Lab::start(world)?;
        let mut scene = Scene::build(&lab)?;
        scene.laptop.wait_peers(&["site-7"])?;
        wait_until("the offer", 10 * SECOND, || {
            Ok(scene.laptop.run(&["exit-node"])?.contains("site-7"))
        })?;
        scene.laptop.run(&["exit-node", "use", "site-7"])?;
        scene.leaves_by_the_edge()?;

        scene.edge.kill()?;
        scene.nothing_leaves("the exit node was killed")?;
        scene.laptop.wait_status("that it is held back", 60 * SECOND, |status| {
            status.health("exit-node-away").is_some()
        })?;
        let said = scene.laptop.run(&["exit-node"])?;
        ensure!(said.contains("held back"), "{said}");
        scene.edge.restart()?;
        scene.leaves_by_the_edge()?;
        scene.laptop.wait_status("that it is back", 30 * SECOND, |status| {
            status.health("exit-node-away").is_none()
        })?;

        scene.laptop.kill()?;
        scene.nothing_leaves("the laptop's own daemon was killed")?;
        // As systemd does before it starts it again.
        let state = scene.laptop.state().display().to_string();
        let mut clean_up = lab.warren.on(scene.host());
        clean_up.args(["--state", &state, "node", "--clean-up"]).env("SERVICE_RESULT", "signal");
        ensure!(clean_up.output()?.status.success(), "the clean-up");
        scene.nothing_leaves("its unit was cleaned up before its restart")?;
        scene.laptop.restart()?;
        scene.leaves_by_the_edge()?;

        scene.laptop.run(&["down"])?;
        scene.leaves_no_trace()?;
        scene.is_as_before()?;
        scene.laptop.run(&["up"])?;
        scene.leaves_by_the_edge()?;
        scene.laptop.kill()?;
        scene.laptop.run(&["node", "--clean-up"])?;
        scene.leaves_no_trace()?;
        scene.is_as_before()?;
        scene.laptop.restart()?;
        scene.leaves_by_the_edge()?;
        scene.laptop.stop()?;
        scene.leaves_no_trace()?;
        scene.laptop.restart()?;
        scene.leaves_by_the_edge()?;
        scene.laptop.kill()?;
        scene.laptop.restart()?;
        scene.laptop.wait_status("runs again", 20 * SECOND, |_| true)?;
        scene.laptop.run(&["exit-node", "off"])?;
        scene.is_as_before()?;
        let traces = scene.traces()?;
        ensure!(!traces.contains("unreachable") && !traces.contains("throw"), "{traces}");
        Ok(())
    });
}
