//! ICMP echo through the tunnel (RFC 792, RFC 4443 §4): a request of the daemon's own, answered by
//! the peer's kernel, so that a ping proves the whole way and not only the path.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use warren_mesh::OutboundDrop;
use warren_net::checksum;

const ECHO_REQUEST_4: u8 = 8;
const ECHO_REPLY_4: u8 = 0;
const ECHO_REQUEST_6: u8 = 128;
const ECHO_REPLY_6: u8 = 129;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;
const TTL: u8 = 64;
/// ICMP's header: type, code, checksum, identifier, sequence number.
const HEADER: usize = 8;
/// The payload: tells our answers from those to the host's own pings.
const COOKIE: usize = 16;
/// Requests whose answers are waited for at once.
const LIMIT: usize = 64;

type Answer = oneshot::Sender<Result<Duration, OutboundDrop>>;

/// The echo requests under way.
#[derive(Debug, Default)]
pub(super) struct Echoes {
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    cookie: [u8; COOKIE],
    sent: Instant,
    answer: Answer,
}

impl Echoes {
    /// Whether no answer is awaited.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Makes a request; `None` if there are too many, or the addresses are of two families.
    pub(super) fn begin(
        &mut self,
        source: IpAddr,
        destination: IpAddr,
        answer: Answer,
        now: Instant,
    ) -> Option<Vec<u8>> {
        self.waiting.retain(|waiting| !waiting.answer.is_closed());
        if self.waiting.len() >= LIMIT {
            return None;
        }
        let mut cookie = [0; COOKIE];
        rand::Rng::fill_bytes(&mut rand::rng(), &mut cookie);
        let packet = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                request_v4(source, destination, &cookie)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                request_v6(source, destination, &cookie)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        };
        self.waiting.push(Waiting { cookie, sent: now, answer });
        Some(packet)
    }

    /// The request that was just begun could not be sent.
    pub(super) fn refuse_last(&mut self, reason: OutboundDrop) {
        if let Some(waiting) = self.waiting.pop() {
            let _ = waiting.answer.send(Err(reason));
        }
    }

    /// Whether `packet`, which came out of a tunnel, answers one of our requests; then nobody else
    /// needs to see it.
    pub(super) fn take(&mut self, packet: &[u8], now: Instant) -> bool {
        let Some(cookie) = reply_cookie(packet) else { return false };
        let Some(at) = self.waiting.iter().position(|waiting| waiting.cookie == *cookie) else {
            return false;
        };
        let waiting = self.waiting.swap_remove(at);
        let _ = waiting.answer.send(Ok(now.saturating_duration_since(waiting.sent)));
        true
    }
}

fn request_v4(source: Ipv4Addr, destination: Ipv4Addr, cookie: &[u8; COOKIE]) -> Vec<u8> {
    let len = (20 + HEADER + COOKIE) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, TTL, PROTOCOL_ICMP, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum);
    let echo = echo(ECHO_REQUEST_4, cookie, &[]);
    packet.extend(echo);
    packet
}

fn request_v6(source: Ipv6Addr, destination: Ipv6Addr, cookie: &[u8; COOKIE]) -> Vec<u8> {
    let len = (HEADER + COOKIE) as u16;
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([PROTOCOL_ICMPV6, TTL]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    // RFC 8200 §8.1
    let mut pseudo_header = packet[8..40].to_vec();
    pseudo_header.extend(u32::from(len).to_be_bytes());
    pseudo_header.extend([0, 0, 0, PROTOCOL_ICMPV6]);
    packet.extend(echo(ECHO_REQUEST_6, cookie, &pseudo_header));
    packet
}

fn echo(kind: u8, cookie: &[u8; COOKIE], pseudo_header: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    // The identifier differs from one request to the next, so that NATs and firewalls keep them
    // apart; the cookie is what counts.
    message.extend([cookie[0], cookie[1], 0, 1]);
    message.extend(cookie);
    let sum = checksum(&[pseudo_header, &message].concat());
    message[2..4].copy_from_slice(&sum);
    message
}

/// The payload's beginning, if the packet is an echo reply.
fn reply_cookie(packet: &[u8]) -> Option<&[u8; COOKIE]> {
    let (message, reply) = match packet.first()? >> 4 {
        4 if packet.get(9) == Some(&PROTOCOL_ICMP) => {
            let header = usize::from(packet[0] & 0xf) * 4;
            (packet.get(header..)?, ECHO_REPLY_4)
        }
        6 if packet.get(6) == Some(&PROTOCOL_ICMPV6) => (packet.get(40..)?, ECHO_REPLY_6),
        _ => return None,
    };
    if message.first() != Some(&reply) {
        return None;
    }
    message.get(HEADER..)?.first_chunk()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(source: &str, destination: &str, reply: u8) {
        let mut echoes = Echoes::default();
        let now = Instant::now();
        let (answer, mut answered) = oneshot::channel();
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        let mut packet = echoes.begin(source, destination, answer, now).unwrap();
        assert!(!echoes.take(&packet, now), "a request is no answer");
        let at = packet.len() - HEADER - COOKIE;
        packet[at] = reply;
        let later = now + Duration::from_millis(30);
        assert!(echoes.take(&packet, later));
        assert_eq!(answered.try_recv().unwrap(), Ok(Duration::from_millis(30)));
        assert!(!echoes.take(&packet, later), "a repeated answer is the host's own affair");
        assert!(echoes.is_idle());
    }

    #[test]
    fn an_answer_is_recognised_in_both_families() {
        answered("100.70.0.1", "100.70.0.2", ECHO_REPLY_4);
        answered("fd00::1", "fd00::2", ECHO_REPLY_6);
    }

    #[test]
    fn the_checksums_are_right() {
        let packet = request_v4([100, 70, 0, 1].into(), [100, 70, 0, 2].into(), &[7; COOKIE]);
        assert_eq!(checksum(&packet[..20]), [0, 0]);
        assert_eq!(checksum(&packet[20..]), [0, 0]);
    }

    #[test]
    fn foreign_and_cut_packets_are_left_alone() {
        let mut echoes = Echoes::default();
        let (answer, _answered) = oneshot::channel();
        let now = Instant::now();
        let source = "100.70.0.1".parse().unwrap();
        let packet = echoes.begin(source, "100.70.0.2".parse().unwrap(), answer, now).unwrap();
        for len in 0..packet.len() {
            assert!(!echoes.take(&packet[..len], now));
        }
        assert!(!echoes.take(&[0x4f; 20], now));
    }

    #[test]
    fn requests_nobody_waits_for_make_room() {
        let mut echoes = Echoes::default();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for _ in 0..LIMIT * 3 {
            let (answer, _) = oneshot::channel();
            let now = Instant::now();
            assert!(echoes.begin(ip("100.70.0.1"), ip("100.70.0.2"), answer, now).is_some());
        }
    }
}
