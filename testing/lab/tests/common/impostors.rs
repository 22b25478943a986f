//! Devices of a LAN that are found in different ways: what a scan asks them, and what they answer.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use anyhow::{Result, ensure};
use serde_json::Value;
use warren_lab::Host;

/// At which UDP port each of them says its name, the silent one too.
pub(crate) const SAYS: u16 = 7000;

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Impostor {
    /// A page, and RTSP.
    Camera,
    /// Raw printing, and IPP.
    Printer,
    /// Drops whatever it wasn't made for, pings too: only ARP finds it.
    Silent,
    /// Says its name by multicast DNS (RFC 6762).
    Mdns,
    /// Says its name by NetBIOS (RFC 1002).
    NetBios,
    /// Says its name in its UPnP description.
    Ssdp,
    /// SSH, a page and another one.
    Several,
}

impl Impostor {
    pub(crate) const ALL: [Self; 7] = [
        Self::Camera,
        Self::Printer,
        Self::Silent,
        Self::Mdns,
        Self::NetBios,
        Self::Ssdp,
        Self::Several,
    ];

    /// Has the host answer as such a device.
    pub(crate) fn play(self, host: &Host, ip: Ipv4Addr) -> Result<()> {
        super::lan::serve(host, SAYS)?;
        let name = host.name();
        let titled = |title: &str| format!("HTTP/1.0 200 OK\r\n\r\n<title>{title}</title>{name}");
        match self {
            Self::Camera => {
                answer(host, 80, true, titled("Front door"))?;
                answer(host, 554, true, "RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n".to_owned())
            }
            Self::Printer => {
                answer(host, 9100, true, String::new())?;
                answer(host, 631, true, titled("LaserJet"))
            }
            Self::Silent => host.nft(&format!(
                "table ip quiet {{\n  chain input {{\n    type filter hook input priority 0; policy drop;\n    \
                 udp dport {SAYS} accept\n  }}\n}}\n"
            )),
            Self::Mdns => datagrams(host, 5353, mdns_answer),
            Self::NetBios => {
                answer(host, 445, true, String::new())?;
                datagrams(host, 137, |_| Some(netbios_answer()))
            }
            Self::Ssdp => {
                let page = "HTTP/1.0 200 OK\r\n\r\n<root><friendlyName>Living room</friendlyName></root>";
                answer(host, 49_152, true, page.to_owned())?;
                datagrams(host, 1900, move |_| {
                    let found = format!("HTTP/1.1 200 OK\r\nLOCATION: http://{ip}:49152/d.xml\r\n\r\n");
                    Some(found.into_bytes())
                })
            }
            Self::Several => {
                answer(host, 22, false, "SSH-2.0-dropbear\r\n".to_owned())?;
                answer(host, 80, true, titled("Home"))?;
                answer(host, 8080, true, titled("Settings"))
            }
        }
    }

    /// Whether a scan has found what there is to find of it.
    pub(crate) fn check(self, found: &Value) -> Result<()> {
        let says = |path: &str, wanted: &str| {
            let said = found.pointer(path).and_then(Value::as_str);
            ensure!(said == Some(wanted), "{self:?}: {path} is {said:?}: {found}");
            Ok(())
        };
        ensure!(found["mac"].is_string(), "{self:?} has no card: {found}");
        match self {
            Self::Camera => {
                says("/kind", "camera")?;
                says("/services/tcp:80/title", "Front door")
            }
            Self::Printer => {
                says("/kind", "printer")?;
                says("/services/tcp:631/title", "LaserJet")
            }
            Self::Silent => {
                ensure!(found.get("services").is_none(), "{found}");
                Ok(())
            }
            Self::Mdns => says("/names/mdns", "kitchen.local"),
            Self::NetBios => {
                says("/names/net-bios", "FRONT-DESK")?;
                says("/kind", "computer")
            }
            Self::Ssdp => says("/names/ssdp", "Living room"),
            Self::Several => {
                says("/services/tcp:22/banner", "SSH-2.0-dropbear")?;
                says("/services/tcp:80/title", "Home")?;
                says("/services/tcp:8080/title", "Settings")
            }
        }
    }
}

/// Answers each connection, after what it was asked if it `waits`.
fn answer(host: &Host, port: u16, waits: bool, answer: String) -> Result<()> {
    host.enter(move || {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let answer = answer.clone();
                std::thread::spawn(move || {
                    if waits {
                        let _ = stream.read(&mut [0; 512]);
                    }
                    let _ = stream.write_all(answer.as_bytes());
                });
            }
        });
        anyhow::Ok(())
    })?
}

/// Answers datagrams.
fn datagrams(
    host: &Host,
    port: u16,
    answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
) -> Result<()> {
    host.enter(move || {
        let socket = UdpSocket::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
        std::thread::spawn(move || {
            let mut question = [0; 1500];
            while let Ok((len, peer)) = socket.recv_from(&mut question) {
                if let Some(answer) = answer(&question[..len]) {
                    let _ = socket.send_to(&answer, peer);
                }
            }
        });
        anyhow::Ok(())
    })?
}

/// The question's own name is `kitchen.local` (RFC 1035 §4.1).
fn mdns_answer(question: &[u8]) -> Option<Vec<u8>> {
    let asked = question.get(12..)?;
    let (id, mut answer) = (question.get(..2)?, Vec::new());
    answer.extend(id);
    // An authoritative answer; one question, one answer.
    answer.extend([0x84, 0, 0, 1, 0, 1, 0, 0, 0, 0]);
    answer.extend(asked);
    // The name of the question, PTR, IN, 120 s, the length of what follows.
    answer.extend([0xc0, 12, 0, 12, 0, 1, 0, 0, 0, 120, 0, 15]);
    answer.extend(b"\x07kitchen\x05local\0");
    Some(answer)
}

/// A node status with one name, as a Windows machine gives it.
fn netbios_answer() -> Vec<u8> {
    let mut answer = vec![0; 56];
    answer.push(1);
    answer.extend(b"FRONT-DESK     \0\x04\0");
    answer.extend([0; 6]);
    answer
}
