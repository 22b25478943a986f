//! Names of devices, each by who says it: the DNS server, the device itself (multicast DNS, LLMNR,
//! NetBIOS, SSDP: all asked directly, so that only it answers), a DHCP server on this host.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::{TcpStream, UdpSocket};
use warren_proto::MacAddr;
use warren_scan::{Finding, NameSource, clean};

use super::probes::{TEXT, between, header, page};

/// The lease files of dnsmasq: expiry, MAC, address, name, client id.
const LEASES: [&str; 2] =
    ["/var/lib/misc/dnsmasq.leases", "/var/lib/NetworkManager/dnsmasq.leases"];
/// OpenWrt's. Elsewhere anybody may write into that folder.
const OPENWRT: [&str; 2] = ["/etc/openwrt_release", "/tmp/dhcp.leases"];
/// The most bytes of a lease file that are read.
const MOST_BYTES: u64 = 1 << 20;
/// The most of a lease file that is read.
const MOST_LEASES: usize = 4096;

/// Asks for the name of a device.
pub(super) async fn ask(ip: Ipv4Addr, source: NameSource) -> io::Result<Finding> {
    let named = |name| Finding { name: Some(name), ..Finding::default() };
    match source {
        NameSource::Ptr => {
            let server = resolver().ok_or(io::ErrorKind::NotFound)?;
            reverse(ip, (server, 53).into()).await.map(named)
        }
        NameSource::Mdns => reverse(ip, (ip, 5353).into()).await.map(named),
        NameSource::Llmnr => reverse(ip, (ip, 5355).into()).await.map(named),
        NameSource::NetBios => netbios(ip).await,
        NameSource::Ssdp => ssdp(ip).await.map(named),
        NameSource::Dhcp => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Names and cards that a DHCP server on this host has given leases to.
pub(super) fn leases() -> Vec<(MacAddr, String)> {
    let [release, leases] = OPENWRT;
    let openwrt = Path::new(release).exists().then_some(leases);
    let texts = LEASES.into_iter().chain(openwrt).filter_map(|path| read_roots(Path::new(path)));
    texts.flat_map(|text| parse_leases(&text)).collect()
}

/// The beginning of a plain file that belongs to who may write what this process believes: root, or its
/// own user.
fn read_roots(path: &Path) -> Option<String> {
    // A pipe would be waited for, and a link leads who knows where.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let found = file.metadata().ok()?;
    let own = std::fs::metadata("/proc/self").ok()?.uid();
    if !found.is_file() || ![0, own].contains(&found.uid()) {
        return None;
    }
    let mut text = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

fn parse_leases(text: &str) -> Vec<(MacAddr, String)> {
    let lines = text.lines().take(MOST_LEASES);
    lines
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let mac = fields.next()?.parse().ok()?;
            let name = clean(fields.nth(1)?.as_bytes(), TEXT);
            (name != "*" && !name.is_empty()).then_some((mac, name))
        })
        .collect()
}

/// The system's first name server of IPv4.
fn resolver() -> Option<IpAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").ok()?;
    text.lines().find_map(|line| line.strip_prefix("nameserver")?.trim().parse().ok())
}

/// A question of DNS for the name of an address, to one server; the same in mDNS and LLMNR, where
/// the device is the server.
async fn reverse(ip: Ipv4Addr, server: SocketAddr) -> io::Result<String> {
    let [a, b, c, d] = ip.octets();
    let name =
        Name::from_ascii(format!("{d}.{c}.{b}.{a}.in-addr.arpa.")).map_err(io::Error::other)?;
    let id = u16::from_be_bytes([c ^ 0x57, d]);
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = server.port() == 53;
    question.add_query(Query::query(name.clone(), RecordType::PTR));
    let socket = connected(server).await?;
    socket.send(&question.to_vec().map_err(io::Error::other)?).await?;
    let mut answer = [0; 1500];
    loop {
        let len = socket.recv(&mut answer).await?;
        let Ok(message) = Message::from_vec(&answer[..len]) else { continue };
        if message.metadata.id != id || message.metadata.message_type != MessageType::Response {
            continue;
        }
        let name = message.answers.iter().filter(|record| record.name == name).find_map(|record| {
            if let RData::PTR(ptr) = &record.data { Some(ptr.0.to_string()) } else { None }
        });
        let name = name.ok_or(io::ErrorKind::NotFound)?;
        return some(clean(name.trim_end_matches('.').as_bytes(), TEXT));
    }
}

/// A node status request (RFC 1002 §4.2.17): the device's NetBIOS name, and its card.
async fn netbios(ip: Ipv4Addr) -> io::Result<Finding> {
    let socket = connected((ip, 137).into()).await?;
    // '*' and fifteen zeroes, each half-byte as a letter from 'A'.
    let mut question = vec![0x57, 0x52, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 32, b'C', b'K'];
    question.extend([b'A'; 30]);
    question.extend([0, 0, 0x21, 0, 1]);
    socket.send(&question).await?;
    let mut answer = [0; 1500];
    let len = socket.recv(&mut answer).await?;
    parse_netbios(&answer[..len]).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// After the header (12), the name (34), type, class, TTL and length (10): a count of names of 18
/// bytes each (15 of name, its kind, flags), then the card's address.
fn parse_netbios(answer: &[u8]) -> Option<Finding> {
    const NAMES: usize = 12 + 34 + 10;
    const GROUP: u8 = 0x80;
    let count = usize::from(*answer.get(NAMES)?);
    let names = answer.get(NAMES + 1..NAMES + 1 + count * 18)?;
    // Kind 0: the workstation itself.
    let own = names.chunks_exact(18).find(|name| name[15] == 0 && name[16] & GROUP == 0)?;
    let name = clean(&own[..15], TEXT);
    let mac = answer.get(NAMES + 1 + count * 18..)?.first_chunk::<6>().copied().map(MacAddr);
    let mac = mac.filter(|mac| mac.0 != [0; 6]);
    (!name.is_empty()).then_some(Finding { name: Some(name), mac, ..Finding::default() })
}

/// SSDP's search, to one device; its description on itself, never elsewhere, has the name.
async fn ssdp(ip: Ipv4Addr) -> io::Result<String> {
    let socket = connected((ip, 1900).into()).await?;
    let question = format!(
        "M-SEARCH * HTTP/1.1\r\nHOST: {ip}:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\
         ST: upnp:rootdevice\r\n\r\n"
    );
    socket.send(question.as_bytes()).await?;
    let mut answer = [0; 1500];
    let len = socket.recv(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer[..len]);
    let location = header(&text, "location").ok_or(io::ErrorKind::NotFound)?;
    let (port, path) = own_location(&location, ip).ok_or(io::ErrorKind::InvalidData)?;
    let mut stream = TcpStream::connect((ip, port)).await?;
    let page = page(&mut stream, ip, &path).await.ok_or(io::ErrorKind::InvalidData)?;
    between(&page, "<friendlyname", "</friendlyname").ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Port and path of an address that is the device's own: nobody sends us elsewhere.
fn own_location(location: &str, ip: Ipv4Addr) -> Option<(u16, String)> {
    let rest = location.strip_prefix("http://")?;
    let (host, path) = rest.split_once('/')?;
    let address: SocketAddr =
        if host.contains(':') { host.parse().ok()? } else { format!("{host}:80").parse().ok()? };
    let plain = path.bytes().all(|byte| byte.is_ascii_graphic());
    (address.ip() == ip && plain).then(|| (address.port(), format!("/{path}")))
}

async fn connected(server: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(server).await?;
    Ok(socket)
}

fn some(name: String) -> io::Result<String> {
    if name.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_name_cards() {
        let text = "1700 3c:00:00:00:00:01 192.168.1.9 door-cam 01:3c\n1 x 1.2.3.4 y *\n\
                    2 3c:00:00:00:00:02 192.168.1.8 * *\n";
        assert_eq!(parse_leases(text), [(MacAddr([0x3c, 0, 0, 0, 0, 1]), "door-cam".to_owned())]);
    }

    #[test]
    fn a_lease_file_is_a_plain_file_and_read_no_further_than_leases_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("leases"), "1 3c:00:00:00:00:01 1.2.3.4 cam *\n").unwrap();
        assert!(read_roots(&path("leases")).is_some());
        std::os::unix::fs::symlink(path("leases"), path("link")).unwrap();
        assert_eq!(read_roots(&path("link")), None);
        let made = std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap();
        assert!(made.success());
        assert_eq!(read_roots(&path("pipe")), None, "and nobody waits for a writer");
        std::fs::File::create(path("huge")).unwrap().set_len(100 << 30).unwrap();
        assert_eq!(read_roots(&path("huge")).unwrap().len() as u64, MOST_BYTES);
        // Somebody else's, where the test may make such a file.
        if std::os::unix::fs::chown(path("leases"), Some(65_534), None).is_ok() {
            assert_eq!(read_roots(&path("leases")), None);
        }
    }

    #[test]
    fn a_node_status_has_name_and_card() {
        let mut answer = vec![0; 56];
        answer.push(2);
        answer.extend(b"GROUP          \0\x80\0");
        answer.extend(b"NAS            \0\x04\0");
        answer.extend([0x3c, 0, 0, 0, 0, 7]);
        let finding = parse_netbios(&answer).unwrap();
        assert_eq!(finding.name.as_deref(), Some("NAS"));
        assert_eq!(finding.mac, Some(MacAddr([0x3c, 0, 0, 0, 0, 7])));
        for len in 0..answer.len() {
            let _ = parse_netbios(&answer[..len]);
        }
    }

    #[test]
    fn nobody_sends_us_to_another_device() {
        let ip = Ipv4Addr::new(192, 168, 1, 9);
        assert_eq!(own_location("http://192.168.1.9:49/d.xml", ip), Some((49, "/d.xml".into())));
        for other in
            ["http://192.168.1.8/d.xml", "https://192.168.1.9/", "http://192.168.1.9/a b", "x"]
        {
            assert_eq!(own_location(other, ip), None, "{other}");
        }
    }
}
