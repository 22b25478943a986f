//! Services over UDP: each answers a question of its own protocol, and says a word about itself.

use std::io;
use std::net::Ipv4Addr;
use std::time::Instant;

use tokio::net::UdpSocket;
use tokio::time::timeout;
use warren_scan::{Ended, Finding, UdpService, clean};

use super::probes::{LIMIT, TEXT, header};

/// The mark of our questions, where a protocol has one.
const MARK: [u8; 2] = [0x57, 0x52];
/// `sysDescr.0` (RFC 3418), as BER writes it.
const SYS_DESCR: [u8; 8] = [0x2b, 6, 1, 2, 1, 1, 1, 0];

/// Asks, and waits for the answer, a refusal, or for too long.
pub(super) async fn ask(ip: Ipv4Addr, service: UdpService) -> Ended {
    match timeout(LIMIT, exchange(ip, service)).await {
        Ok(Ok(finding)) => Ended::Answer(finding),
        // The device's ICMP says that the port is closed, and so that it is there.
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ended::Closed,
        Ok(Err(_)) | Err(_) => Ended::Silence,
    }
}

async fn exchange(ip: Ipv4Addr, service: UdpService) -> io::Result<Finding> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    // Connected: only this device's answers come.
    socket.connect((ip, service.port())).await?;
    let local = socket.local_addr()?;
    let sent = Instant::now();
    socket.send(&question(service, ip, &local.to_string())).await?;
    let mut answer = [0; 1500];
    loop {
        let len = socket.recv(&mut answer).await?;
        if is_answer(service, &answer[..len]) {
            let banner = says(service, &answer[..len]).filter(|text| !text.is_empty());
            return Ok(Finding { rtt: Some(sent.elapsed()), banner, ..Finding::default() });
        }
    }
}

fn question(service: UdpService, ip: Ipv4Addr, local: &str) -> Vec<u8> {
    match service {
        // The name servers of the root.
        UdpService::Dns => [&MARK[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1]].concat(),
        // Version 4, a client.
        UdpService::Ntp => {
            let mut question = vec![0; 48];
            question[0] = 0x23;
            question
        }
        UdpService::Snmp => {
            // Version 1, community `public`; a request with its number, no error, one variable.
            let message =
                b"\x30\x29\x02\x01\x00\x04\x06public\xa0\x1c\x02\x04\x57\x52\x00\x01\x02\x01\x00\
                \x02\x01\x00\x30\x0e\x30\x0c\x06\x08";
            [&message[..], &SYS_DESCR, &[5, 0]].concat()
        }
        UdpService::Sip => format!(
            "OPTIONS sip:{ip} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bKwarren;rport\r\n\
             From: <sip:scan@{local}>;tag=5752\r\nTo: <sip:{ip}>\r\nCall-ID: 5752@{local}\r\n\
             CSeq: 1 OPTIONS\r\nMax-Forwards: 1\r\nContent-Length: 0\r\n\r\n"
        )
        .into_bytes(),
        // A confirmable GET of /.well-known/core.
        UdpService::Coap => [&[0x40, 1], &MARK[..], b"\xbb.well-known", b"\x04core"].concat(),
        // The name of whatever device answers, by ReadProperty.
        UdpService::BacNet => {
            b"\x81\x0a\x00\x11\x01\x04\x00\x05\x01\x0c\x0c\x02\x3f\xff\xff\x19\x4d".to_vec()
        }
    }
}

/// Whether somebody who speaks the protocol has answered our question.
fn is_answer(service: UdpService, answer: &[u8]) -> bool {
    match service {
        UdpService::Dns => {
            answer.starts_with(&MARK) && answer.get(2).is_some_and(|it| it & 0x80 != 0)
        }
        // A server's mode.
        UdpService::Ntp => answer.len() >= 48 && answer[0] & 7 == 4,
        UdpService::Snmp => answer.first() == Some(&0x30),
        UdpService::Sip => answer.starts_with(b"SIP/2.0 "),
        UdpService::Coap => answer.get(2..4) == Some(&MARK) && answer[0] >> 6 == 1,
        UdpService::BacNet => answer.first() == Some(&0x81),
    }
}

fn says(service: UdpService, answer: &[u8]) -> Option<String> {
    match service {
        UdpService::Snmp => sys_descr(answer),
        UdpService::Sip => {
            let text = String::from_utf8_lossy(answer);
            let by = header(&text, "server").or_else(|| header(&text, "user-agent"));
            Some(clean(by?.as_bytes(), TEXT))
        }
        UdpService::BacNet => bacnet_name(answer),
        UdpService::Dns | UdpService::Ntp | UdpService::Coap => None,
    }
}

/// What follows the variable's name: a string, its length in one to three bytes.
fn sys_descr(answer: &[u8]) -> Option<String> {
    let at = answer.windows(SYS_DESCR.len()).position(|window| window == SYS_DESCR)?;
    let (tag, rest) = answer.get(at + SYS_DESCR.len()..)?.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (len, text) = match first {
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), rest.get(2..)?),
        short => (usize::from(*short), rest),
    };
    (*tag == 4).then(|| clean(&text[..len.min(text.len())], TEXT))
}

/// The value of an acknowledged ReadProperty: between an opening and a closing tag 3, a character
/// string with its length and its alphabet, of which UTF-8 (0) is taken.
fn bacnet_name(answer: &[u8]) -> Option<String> {
    let at = answer.iter().position(|byte| *byte == 0x3e)?;
    let (len, text) = match answer.get(at + 1..)? {
        [0x75, len, 0, text @ ..] => (usize::from(*len).checked_sub(1)?, text),
        [short, 0, text @ ..] if short >> 4 == 7 => (usize::from(short & 7).checked_sub(1)?, text),
        _ => return None,
    };
    Some(clean(text.get(..len)?, TEXT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_as_long_as_they_say() {
        let snmp = question(UdpService::Snmp, Ipv4Addr::LOCALHOST, "");
        assert_eq!(snmp.len(), usize::from(snmp[1]) + 2);
        let bacnet = question(UdpService::BacNet, Ipv4Addr::LOCALHOST, "");
        assert_eq!(bacnet.len(), usize::from(bacnet[3]));
    }

    #[test]
    fn an_agent_describes_itself() {
        let answer = |value: &[u8]| [&[0x30, 0x40][..], &SYS_DESCR, value].concat();
        let said = |value: &[u8]| sys_descr(&answer(value));
        assert_eq!(said(b"\x04\x07HP ETHX").as_deref(), Some("HP ETHX"));
        assert_eq!(said(b"\x04\x81\x05Linux more").as_deref(), Some("Linux"));
        assert_eq!(said(b"\x04\x82\x00\x05Linux").as_deref(), Some("Linux"));
        assert_eq!(said(b"\x04\x82\xff\xffcut").as_deref(), Some("cut"));
        for broken in [&b""[..], b"\x04", b"\x04\x81", b"\x04\x82\x01", b"\x05\x00"] {
            assert!(said(broken).is_none_or(|text| text.is_empty()), "{broken:?}");
        }
    }

    #[test]
    fn a_controller_says_its_name() {
        let head = b"\x81\x0a\x00\x1d\x01\x00\x30\x01\x0c\x0c\x02\x00\x00\x07\x19\x4d\x3e";
        let said = |value: &[u8]| bacnet_name(&[&head[..], value].concat());
        assert_eq!(said(b"\x75\x08\x00Boiler1\x3f").as_deref(), Some("Boiler1"));
        assert_eq!(said(b"\x74\x00AHU\x3f").as_deref(), Some("AHU"));
        for broken in [&b""[..], b"\x75", b"\x75\x00\x00", b"\x75\x09\x00Boiler", b"\x70\x00"] {
            assert_eq!(said(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn only_answers_to_the_question_count() {
        for service in UdpService::ALL {
            assert!(!is_answer(service, b""), "{service:?}");
            assert!(
                !is_answer(service, b"hello, here I am, whatever you said, and for long"),
                "{service:?}"
            );
        }
        assert!(is_answer(UdpService::Sip, b"SIP/2.0 200 OK\r\n"));
        assert!(is_answer(UdpService::Ntp, &[0x24; 48]));
    }
}
