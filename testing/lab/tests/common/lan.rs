//! Devices of a LAN that know nothing of the mesh, and how they are asked.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use warren_lab::warren::Node;
use warren_lab::{Host, Link, NatKind, Plug, Process, Router, wait_for};

use super::Lab;

/// Debian's, which has `pyftpdlib`.
const PYTHON: &str = "/usr/bin/python3";
/// How long an answer may take.
const ANSWER: Duration = Duration::from_millis(1500);

pub(crate) const CAMERA: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 9);

/// A place with a router, an edge, and a camera at [`CAMERA`].
pub(crate) struct Site {
    pub(crate) router: Router,
    pub(crate) edge: Node,
    pub(crate) camera: Host,
    /// The edge's cable.
    pub(crate) link: Link,
}

impl Site {
    /// Behind a NAT; its device `name` is an edge.
    pub(crate) fn build(lab: &Lab<'_>, name: &str) -> Result<Self> {
        let router = lab.home(&format!("{name}-router"), NatKind::EimApdf)?;
        let at = Plug::ipv4().at([192, 168, 1, 2].into());
        let (host, link) = lab.host(name, router.lan(), &at)?;
        let (camera, _) =
            lab.host(&format!("{name}-camera"), router.lan(), &Plug::ipv4().at(CAMERA))?;
        serve(&camera, 80)?;
        serve(&camera, 7000)?;
        let edge = lab.join(&host)?;
        enable(&edge)?;
        Ok(Self { router, edge, camera, link })
    }

    /// A device of the LAN more.
    pub(crate) fn device(&self, lab: &Lab<'_>, name: &str, ip: Ipv4Addr) -> Result<(Host, Link)> {
        lab.host(name, self.router.lan(), &Plug::ipv4().at(ip))
    }

    /// Whether the edge's kernel has a table of an edge.
    pub(crate) fn has_table(&self) -> Result<bool> {
        Ok(self.edge.host().run(&["nft", "list", "tables"])?.contains("warren-edge"))
    }

    /// Whether the edge forwards what comes in by its LAN.
    pub(crate) fn forwards(&self) -> Result<bool> {
        let path = "/proc/sys/net/ipv4/conf/eth0/forwarding";
        Ok(self.edge.host().run(&["cat", path])?.trim() == "1")
    }

    /// Adds something by `warren edge …`, and returns what it says in JSON.
    pub(crate) fn add(&self, words: &[&str]) -> Result<serde_json::Value> {
        let text = self.edge.run(&[&["--json", "edge"], words].concat())?;
        serde_json::from_str(&text).with_context(|| format!("{words:?} printed {text}"))
    }
}

/// Makes a node an edge, and waits until the broker has taken note of that.
pub(crate) fn enable(node: &Node) -> Result<()> {
    node.run(&["edge", "enable"])?;
    wait_for("the broker's word on the edge", Duration::from_secs(10), || {
        let status = node.run(&["--json", "edge", "status"])?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        Ok((status["accepted"] == true).then_some(()))
    })
}

/// Serves a page by TCP and an answer by UDP at a port: the host's name, and who it says asked.
pub(crate) fn serve(host: &Host, port: u16) -> Result<()> {
    let name = host.name().to_owned();
    host.enter(|| {
        let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
        let answer = move |peer: SocketAddr| format!("{name}:{port} asked by {}", peer.ip());
        let say = answer.clone();
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                let Ok(peer) = stream.peer_addr() else { continue };
                let text = say(peer);
                std::thread::spawn(move || {
                    let _ = stream.read(&mut [0; 512]);
                    let page = format!("HTTP/1.0 200 OK\r\n\r\n<title>{text}</title>");
                    let _ = stream.write_all(page.as_bytes());
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

/// The page of `at`, as a browser would ask for it.
pub(crate) fn page(from: &Host, at: impl Into<SocketAddr> + Send) -> Result<String> {
    page_within(from, at, ANSWER)
}

/// As [`page`], for those who don't wait for a lost SYN to be sent again.
pub(crate) fn page_within(
    from: &Host,
    at: impl Into<SocketAddr> + Send,
    limit: Duration,
) -> Result<String> {
    from.enter(|| {
        let mut stream = TcpStream::connect_timeout(&at.into(), limit)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        ensure!(page.starts_with("HTTP/1.0 200"), "{page:?}");
        Ok(page)
    })?
}

/// What `at` answers by UDP.
pub(crate) fn datagram(from: &Host, at: impl Into<SocketAddr> + Send) -> Result<String> {
    from.enter(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(ANSWER))?;
        socket.connect(at.into())?;
        socket.send(b"?")?;
        let mut buffer = [0; 128];
        let len = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
    })?
}

/// Waits until a page says `needle`; the first question may be lost while a path is sought.
pub(crate) fn shows(from: &Host, at: (Ipv4Addr, u16), needle: &str) -> Result<String> {
    let mut last = String::new();
    let found = wait_for(&format!("{needle} at {at:?}"), Duration::from_secs(15), || {
        match page(from, at) {
            Ok(page) if page.contains(needle) => return Ok(Some(page)),
            Ok(page) => last = page,
            Err(error) => last = format!("{error:#}"),
        }
        Ok(None)
    });
    found.with_context(|| format!("the last answer was {last}"))
}

/// The IPv4 addresses of a name, by the host's own resolver.
pub(crate) fn resolve(host: &Host, name: &str) -> Result<Option<Ipv4Addr>> {
    let output = host.command("getent").args(["ahostsv4", name]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.split_whitespace().next().and_then(|word| word.parse().ok()))
}

/// An FTP server with the file `hello`, whose contents are the host's name.
pub(crate) fn start_ftp(host: &Host) -> Result<Process> {
    let folder = host.folder().join("ftp");
    std::fs::create_dir(&folder)?;
    std::fs::write(folder.join("hello"), host.name())?;
    let folder = folder.to_string_lossy();
    let mut command = host.command(PYTHON);
    command.args(["-W", "ignore", "-m", "pyftpdlib", "-p", "21", "-d", folder.as_ref()]);
    let server = command.spawn()?;
    wait_for("the FTP server", Duration::from_secs(10), || {
        let listening = host.run(&["ss", "-Hltn", "sport = :21"])?;
        Ok((!listening.trim().is_empty()).then_some(()))
    })?;
    Ok(server)
}

/// Fetches `hello` by a second connection from the server (`active`) or from the client.
pub(crate) fn fetch_by_ftp(from: &Host, name: &str, port: u16, active: bool) -> Result<String> {
    const SCRIPT: &str = "
import ftplib, sys
ftp = ftplib.FTP(timeout=5)
ftp.trust_server_pasv_ipv4_address = True
ftp.connect(sys.argv[1], int(sys.argv[2]))
ftp.login()
ftp.af = 2
ftp.set_pasv(sys.argv[3] == 'passive')
ftp.retrlines('RETR hello')
";
    let mode = if active { "active" } else { "passive" };
    from.run(&[PYTHON, "-c", SCRIPT, name, &port.to_string(), mode])
}

/// A SIP telephone that answers an INVITE, and speaks to where its SDP says.
pub(crate) fn start_phone(host: &Host) -> Result<()> {
    host.enter(|| {
        let sip = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5060))?;
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((len, _)) = sip.recv_from(&mut buffer) {
                let invite = String::from_utf8_lossy(&buffer[..len]).into_owned();
                if let Some(media) = media(&invite) {
                    let _ = sip.send_to(format!("sound for {media}").as_bytes(), media);
                }
            }
        });
        anyhow::Ok(())
    })?
}

/// Where the sound is wanted: SDP's `c=` and `m=` lines (RFC 8866).
fn media(invite: &str) -> Option<SocketAddr> {
    let line = |start: &str| invite.lines().find_map(|line| line.strip_prefix(start));
    let ip: Ipv4Addr = line("c=IN IP4 ")?.trim().parse().ok()?;
    let port = line("m=audio ")?.split_whitespace().next()?.parse().ok()?;
    Some((ip, port).into())
}

/// Calls a phone; returns the sound that comes to the port named in the SDP.
pub(crate) fn call(from: &Host, own: Ipv4Addr, phone: Ipv4Addr) -> Result<String> {
    from.enter(|| {
        let sound = UdpSocket::bind((own, 40_000))?;
        sound.set_read_timeout(Some(ANSWER))?;
        let sip = UdpSocket::bind((own, 5060))?;
        let sdp = format!(
            "v=0\r\no=- 1 1 IN IP4 {own}\r\ns=-\r\nc=IN IP4 {own}\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\n"
        );
        let invite = format!(
            "INVITE sip:door@{phone} SIP/2.0\r\nVia: SIP/2.0/UDP {own}:5060;branch=z9hG4bK1\r\n\
             From: <sip:tech@{own}>;tag=1\r\nTo: <sip:door@{phone}>\r\nCall-ID: 1@{own}\r\n\
             CSeq: 1 INVITE\r\nContact: <sip:tech@{own}:5060>\r\nMax-Forwards: 70\r\n\
             Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}",
            sdp.len()
        );
        sip.send_to(invite.as_bytes(), (phone, 5060))?;
        let mut buffer = [0; 128];
        let len = sound.recv(&mut buffer).context("no sound")?;
        Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
    })?
}

/// A process's resident memory in KiB, and the processor time it has used, in ticks of 10 ms.
pub(crate) fn usage(pid: u32) -> Result<(u64, u64)> {
    let read =
        |name: &str| std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join(name));
    let status = read("status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    let stat = read("stat")?;
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
    let used = ticks(11).zip(ticks(12)).map(|(user, system)| user + system);
    Ok((resident.context("VmRSS")?, used.context("utime, stime")?))
}
