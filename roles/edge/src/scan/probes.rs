//! Asking: pings, ports, pages. What comes back is bounded and [cleaned](warren_scan::clean).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use warren_scan::{Ended, Finding, Probe, clean};

use super::{names, udp};

/// How long a device may take to answer at all.
pub(super) const LIMIT: Duration = Duration::from_millis(1000);
/// How long a greeting may take.
const GREETING: Duration = Duration::from_millis(700);
/// How long a page may take.
const PAGE: Duration = Duration::from_secs(3);
/// The most of a page that is read.
const MOST: usize = 16 << 10;
/// The most characters that are kept of a text.
pub(super) const TEXT: usize = 120;

/// Ports where web servers are asked for their page.
const WEB: [u16; 7] = [80, 631, 5000, 8000, 8080, 8123, 8888];
/// Ports that speak first.
const GREETS: [u16; 6] = [21, 22, 23, 25, 110, 143];

/// Asks, and waits for the answer or for too long.
pub(super) async fn ask(probe: Probe) -> Ended {
    match probe {
        // Its answers come by another way.
        Probe::Arp(_) | Probe::Call(_) | Probe::Solicit(..) => Ended::Silence,
        Probe::Ping(ip) => match timeout(LIMIT, ping(Ipv4Addr::UNSPECIFIED, ip)).await {
            Ok(Ok(rtt)) => Ended::Answer(Finding { rtt: Some(rtt), ..Finding::default() }),
            Ok(Err(_)) | Err(_) => Ended::Silence,
        },
        Probe::Tcp(ip, port) => port_of(ip, port).await,
        Probe::Udp(ip, service) => udp::ask(ip, service).await,
        Probe::Name(ip, source) => match timeout(LIMIT, names::ask(ip, source)).await {
            Ok(Ok(finding)) => Ended::Answer(finding),
            Ok(Err(_)) | Err(_) => Ended::Silence,
        },
    }
}

/// One ICMP echo (RFC 792), from an address of this host.
pub(crate) async fn ping(from: Ipv4Addr, ip: Ipv4Addr) -> io::Result<Duration> {
    let new = |kind| Socket::new(Domain::IPV4, kind, Some(Protocol::ICMPV4));
    // Ordinary ping sockets need no privilege, where the system lets this group have them.
    let socket = new(Type::DGRAM).or_else(|_| new(Type::RAW))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(SocketAddr::from((from, 0))))?;
    let peer = SocketAddr::from((ip, 0));
    // Connected: only this device's packets come.
    socket.connect(&SockAddr::from(peer))?;
    let socket = UdpSocket::from_std(socket.into())?;
    let mut echo = [8, 0, 0, 0, 0x57, 0x52, 0, 1];
    let sum = warren_net::checksum(&echo);
    echo[2..4].copy_from_slice(&sum);
    let sent = Instant::now();
    socket.send(&echo).await?;
    let mut answer = [0; 128];
    loop {
        let len = socket.recv(&mut answer).await?;
        // A raw socket gives the IP header too; its length is in words.
        let start = if answer[0] >> 4 == 4 { usize::from(answer[0] & 15) * 4 } else { 0 };
        if answer.get(start..len).is_some_and(|icmp| icmp.first() == Some(&0)) {
            return Ok(sent.elapsed());
        }
    }
}

async fn port_of(ip: Ipv4Addr, port: u16) -> Ended {
    let begun = Instant::now();
    let mut stream = match timeout(LIMIT, TcpStream::connect((ip, port))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Ended::Closed,
        Ok(Err(_)) | Err(_) => return Ended::Silence,
    };
    let mut finding = Finding { rtt: Some(begun.elapsed()), ..Finding::default() };
    if WEB.contains(&port) {
        if let Some(page) = page(&mut stream, ip, "/").await {
            finding.banner = header(&page, "server");
            finding.title = between(&page, "<title", "</title");
        }
    } else if GREETS.contains(&port) {
        // Nothing is written to other ports: a printer would print it.
        let mut greeting = [0; 256];
        if let Ok(Ok(len)) = timeout(GREETING, stream.read(&mut greeting)).await {
            let line = greeting[..len].split(|byte| *byte == b'\n').next().unwrap_or_default();
            finding.banner = Some(clean(line, TEXT)).filter(|text| !text.is_empty());
        }
    }
    Ended::Answer(finding)
}

/// The beginning of a page with its headers, by HTTP/1.0.
pub(super) async fn page(stream: &mut TcpStream, ip: Ipv4Addr, path: &str) -> Option<String> {
    let question = format!("GET {path} HTTP/1.0\r\nHost: {ip}\r\nConnection: close\r\n\r\n");
    let read = async {
        stream.write_all(question.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.take(MOST as u64).read_to_end(&mut bytes).await?;
        io::Result::Ok(bytes)
    };
    let bytes = timeout(PAGE, read).await.ok()?.ok()?;
    bytes.starts_with(b"HTTP/").then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// A header's value, cleaned.
pub(super) fn header(page: &str, name: &str) -> Option<String> {
    let lines = page.lines().skip(1).take_while(|line| !line.trim().is_empty());
    let value = lines.filter_map(|line| line.split_once(':')).find_map(|(found, value)| {
        found.trim().eq_ignore_ascii_case(name).then(|| clean(value.as_bytes(), TEXT))
    });
    value.filter(|value| !value.is_empty())
}

/// The text of an element, cleaned; `open` is the beginning of its tag.
pub(super) fn between(page: &str, open: &str, close: &str) -> Option<String> {
    let lower = page.to_ascii_lowercase();
    let tag = lower.find(open)?;
    let start = tag + lower[tag..].find('>')? + 1;
    let end = start + lower[start..].find(close)?;
    Some(clean(unescape(&page[start..end]).as_bytes(), TEXT)).filter(|text| !text.is_empty())
}

/// The few entities that titles use.
fn unescape(text: &str) -> String {
    let mut text = text.to_owned();
    for (entity, character) in
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")]
    {
        text = text.replace(entity, character);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_gives_its_title_and_server_and_nothing_else() {
        let page = "HTTP/1.0 200 OK\r\nServer: \x1b[2Jlighttpd\r\n\r\nServer: x\r\n<html><TITLE \
                    lang=en>\n Camera &amp; <b>Door</b>\u{202e}\n</Title>";
        assert_eq!(header(page, "server").as_deref(), Some("[2Jlighttpd"));
        assert_eq!(between(page, "<title", "</title").as_deref(), Some("Camera & <b>Door</b>"));
        for cut in 0..page.len() {
            if let Some(part) = page.get(..cut) {
                let _ = (header(part, "server"), between(part, "<title", "</title"));
            }
        }
    }
}
