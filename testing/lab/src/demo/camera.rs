//! The camera in the office's LAN: a machine without Warren, which the office opens to the others.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::warren::Node;
use crate::{Host, Plug, Segment, World, wait_for};

/// Its name, in the LAN and in the mesh.
pub(super) const NAME: &str = "camera";
/// The device that opens it, and one that looks at it from afar.
pub(super) const EDGE: &str = "office";
pub(super) const VIEWER: &str = "laptop";
/// What its page says.
const PAGE: &str = "<title>Camera 2</title><h1>Yard</h1>\n";
const PATIENCE: Duration = Duration::from_secs(10);

/// A machine with a web page and nothing else.
pub(super) struct Camera {
    pub(super) address: Ipv4Addr,
    /// It stands for as long as this is held.
    _host: Host,
}

impl Camera {
    pub(super) fn place(world: &World, lan: &Segment) -> Result<Self> {
        let host = world.host(NAME)?;
        let address = lan.plug(&host, &Plug::ipv4())?.v4()?;
        let listener = host.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)))??;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || serve(stream));
            }
        });
        Ok(Self { address, _host: host })
    }
}

/// Whoever hangs up early is no trouble of the camera's.
fn serve(mut stream: TcpStream) {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let mut request = Vec::new();
    let mut part = [0; 512];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < 8192 {
        match stream.read(&mut part) {
            Ok(len @ 1..) => request.extend_from_slice(&part[..len]),
            Ok(0) | Err(_) => return,
        }
    }
    let length = PAGE.len();
    let head = "HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n";
    let _ = write!(stream, "{head}Content-Length: {length}\r\n\r\n{PAGE}");
}

/// Makes it a device of the mesh; returns its address there.
pub(super) fn open(edge: &Node, camera: Ipv4Addr) -> Result<Ipv4Addr> {
    edge.run(&["edge", "enable"])?;
    edge.run(&["edge", "virtual-devices", "add", NAME, &camera.to_string(), "--ports", "tcp:80"])?;
    let list = edge.run(&["edge", "virtual-devices", "list", "--json"])?;
    let list: Value = serde_json::from_str(&list).with_context(|| format!("it printed {list}"))?;
    let address = list[0]["ipv4"].as_str().with_context(|| format!("no address in {list}"))?;
    Ok(address.parse()?)
}

/// Opens its page from another device; returns how long that took.
pub(super) fn look(viewer: &Node, mesh: Ipv4Addr) -> Result<Duration> {
    wait_for("the camera's page", 3 * PATIENCE, || {
        let begun = Instant::now();
        Ok(fetch(viewer.host(), mesh)?.map(|()| begun.elapsed()))
    })
}

/// `None`: it isn't there yet.
fn fetch(from: &Host, mesh: Ipv4Addr) -> Result<Option<()>> {
    let address = SocketAddr::from((mesh, 80));
    let connected = from.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)))?;
    let Ok(mut stream) = connected else { return Ok(None) };
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.0\r\nHost: {NAME}.{EDGE}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.ends_with(PAGE), "the camera answered {answer}");
    Ok(Some(()))
}
