//! The names of one account, as a DNS zone (RFC 1035, RFC 2308).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use ipnet::IpNet;
use warren_proto::Netmap;

/// How long an answer may be kept, in seconds: a device keeps its address, but may be renamed.
const TTL: u32 = 30;
/// How long a denial may be kept (RFC 2308 §5), in seconds: a new device should be found soon.
const NEGATIVE_TTL: u32 = 5;
/// What fits a datagram wherever it goes (DNS flag day 2020).
const UDP_PAYLOAD: u16 = 1_232;
/// Browsers ask for it before they pass over the host's resolver (protocols.md §6).
const CANARY: &str = "use-application-dns.net";

/// What to do with a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Ours: send this.
    Reply(Vec<u8>),
    /// Somebody else's: ask him.
    Forward,
    /// No question at all.
    Ignore,
}

/// The names of one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Zone {
    /// `<account>.<suffix>`, in lower case.
    domain: Name,
    /// The domains of reverse names that are ours.
    reverse: Vec<Name>,
    ranges: Vec<IpNet>,
    /// By the labels before the domain: `pi`, or `camera.pi` for what stands behind an edge.
    by_label: BTreeMap<String, (Ipv4Addr, Option<Ipv6Addr>)>,
    by_address: BTreeMap<IpAddr, String>,
    serial: u32,
}

/// Where a name lies.
enum Place {
    /// The zone's top, or one of the reverse zones' inner nodes: it exists and has no addresses.
    Apex(Name),
    Device(Ipv4Addr, Option<Ipv6Addr>),
    Pointer(String),
    /// In one of our zones, and not there.
    Nowhere(Name),
    Canary,
    Foreign,
}

impl Zone {
    /// The names of a map: this device's own and its peers'. `None` if the domain is no name.
    pub(crate) fn new(netmap: &Netmap) -> Option<Self> {
        let domain = absolute(&netmap.dns.domain)?;
        // It goes into the host's configuration too.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        if domain.is_root() || !netmap.dns.domain.chars().all(plain) {
            return None;
        }
        let this = &netmap.this;
        let own = (this.name.as_str().to_owned(), (this.ipv4, Some(this.ipv6)));
        // What programs trust by its bare name is no device's, whatever the broker says.
        let peers = netmap.peers.iter().filter(|peer| !peer.name.is_reserved());
        let peers = peers.map(|peer| (peer.name.as_str().to_owned(), (peer.ipv4, Some(peer.ipv6))));
        // The own name comes last, so that nobody else can stand for it.
        let by_label: BTreeMap<_, _> = behind_edges(netmap).chain(peers).chain([own]).collect();
        let by_address = by_label
            .iter()
            .flat_map(|(label, (ipv4, ipv6))| {
                let ips = [Some(IpAddr::V4(*ipv4)), ipv6.map(IpAddr::V6)];
                ips.into_iter().flatten().map(|ip| (ip, label.clone()))
            })
            .collect();
        let ranges = vec![IpNet::V4(netmap.ipv4_range), IpNet::V6(netmap.ipv6_range)];
        let reverse = ranges.iter().filter_map(|range| absolute(&reverse_zone(range))).collect();
        // Zones follow one another with rising serials within an epoch; across epochs nobody asks.
        let serial = netmap.version.sequence as u32;
        Some(Self { domain, reverse, ranges, by_label, by_address, serial })
    }

    /// The reverse zones that are ours, without a trailing dot.
    pub(crate) fn reverse_zones(netmap: &Netmap) -> Vec<String> {
        [IpNet::V4(netmap.ipv4_range), IpNet::V6(netmap.ipv6_range)]
            .iter()
            .map(reverse_zone)
            .collect()
    }

    /// Answers a question, if it is ours. Every answer fits a datagram of 512 bytes.
    pub(crate) fn answer(&self, question: &[u8]) -> Answer {
        let Ok(request) = Message::from_vec(question) else {
            return form_error(question).map_or(Answer::Ignore, Answer::Reply);
        };
        if request.metadata.message_type != MessageType::Query {
            return Answer::Ignore;
        }
        let [query] = request.queries.as_slice() else {
            return reply(&request, ResponseCode::FormErr, |_| {});
        };
        if request.metadata.op_code != OpCode::Query || query.query_class() != DNSClass::IN {
            return Answer::Forward;
        }
        let place = self.place(query.name());
        if !matches!(place, Place::Foreign)
            && request.edns.as_ref().is_some_and(|edns| edns.version() > 0)
        {
            return reply(&request, ResponseCode::BADVERS, |_| {});
        }
        self.answer_at(&request, query, place)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "DNS has any number of record types")]
    fn answer_at(&self, request: &Message, query: &Query, place: Place) -> Answer {
        let name = query.name();
        let wanted = query.query_type();
        match place {
            Place::Foreign => Answer::Forward,
            Place::Canary => reply(request, ResponseCode::NXDomain, |_| {}),
            Place::Nowhere(zone) => reply(request, ResponseCode::NXDomain, |message| {
                message.add_authority(self.soa(&zone));
            }),
            Place::Apex(zone) => reply(request, ResponseCode::NoError, |message| match wanted {
                RecordType::SOA | RecordType::ANY => {
                    message.add_answer(self.soa(&zone));
                }
                RecordType::NS => {
                    let data = RData::NS(NS(self.name_server()));
                    message.add_answer(Record::from_rdata(zone, TTL, data));
                }
                _ => {
                    message.add_authority(self.soa(&zone));
                }
            }),
            Place::Device(ipv4, ipv6) => {
                let ipv4 = Record::from_rdata(name.clone(), TTL, RData::A(A(ipv4)));
                let ipv6 =
                    ipv6.map(|ip| Record::from_rdata(name.clone(), TTL, RData::AAAA(AAAA(ip))));
                let records = match wanted {
                    RecordType::A => vec![ipv4],
                    RecordType::AAAA => ipv6.into_iter().collect(),
                    RecordType::ANY => std::iter::once(ipv4).chain(ipv6).collect(),
                    _ => Vec::new(),
                };
                self.data_or_none(request, records, &self.domain)
            }
            Place::Pointer(label) => {
                let records = match (wanted, self.full_name(&label)) {
                    (RecordType::PTR | RecordType::ANY, Some(target)) => {
                        vec![Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(target)))]
                    }
                    _ => Vec::new(),
                };
                let zone = self.reverse.iter().find(|zone| zone.zone_of(name));
                self.data_or_none(request, records, zone.unwrap_or(&self.domain))
            }
        }
    }

    /// The records, or a denial of that type alone (NODATA, RFC 2308 §2.2).
    fn data_or_none(&self, request: &Message, records: Vec<Record>, zone: &Name) -> Answer {
        reply(request, ResponseCode::NoError, |message| {
            if records.is_empty() {
                message.add_authority(self.soa(zone));
            } else {
                message.add_answers(records);
            }
        })
    }

    fn place(&self, name: &Name) -> Place {
        let lower = name.to_lowercase();
        if absolute(CANARY).is_some_and(|canary| canary.zone_of(&lower)) {
            return Place::Canary;
        }
        if let Some(zone) = self.reverse.iter().find(|zone| zone.zone_of(&lower)) {
            return self.pointer(&lower, zone);
        }
        if self.domain == lower {
            return Place::Apex(self.domain.clone());
        }
        let above = lower.num_labels().saturating_sub(self.domain.num_labels());
        let label = |n| lower.iter().nth(n).and_then(|label| std::str::from_utf8(label).ok());
        let own = match above {
            2 => label(0).zip(label(1)).map(|(name, edge)| format!("{name}.{edge}")),
            _ => label(0).map(str::to_owned),
        };
        let device = own.and_then(|own| self.by_label.get(&own));
        if self.domain.zone_of(&lower) {
            return match device {
                Some((ipv4, ipv6)) if (1..=2).contains(&above) => Place::Device(*ipv4, *ipv6),
                Some(_) | None => Place::Nowhere(self.domain.clone()),
            };
        }
        match device {
            // A bare name; somebody else may know those that we don't.
            Some((ipv4, ipv6)) if lower.num_labels() == 1 => Place::Device(*ipv4, *ipv6),
            Some(_) | None => Place::Foreign,
        }
    }

    fn pointer(&self, name: &Name, zone: &Name) -> Place {
        match name.parse_arpa_name() {
            Ok(network) if network.prefix_len() == network.max_prefix_len() => {
                match self.by_address.get(&network.addr()) {
                    Some(label) => Place::Pointer(label.clone()),
                    None => Place::Nowhere(zone.clone()),
                }
            }
            Ok(network) => {
                // An inner node exists if an address lies below (RFC 8020).
                let below = |ip: &IpAddr| network.contains(ip);
                let ours = self.ranges.contains(&network);
                if ours || self.by_address.keys().any(below) {
                    Place::Apex(zone.clone())
                } else {
                    Place::Nowhere(zone.clone())
                }
            }
            Err(_) => Place::Nowhere(zone.clone()),
        }
    }

    fn full_name(&self, label: &str) -> Option<Name> {
        Name::from_ascii(label).ok()?.append_domain(&self.domain).ok()
    }

    fn name_server(&self) -> Name {
        self.domain.clone()
    }

    fn soa(&self, zone: &Name) -> Record {
        let mailbox = self.full_name("hostmaster").unwrap_or_else(|| self.domain.clone());
        let soa =
            SOA::new(self.name_server(), mailbox, self.serial, 3_600, 600, 86_400, NEGATIVE_TTL);
        Record::from_rdata(zone.clone(), NEGATIVE_TTL, RData::SOA(soa))
    }
}

/// What stands behind edges, this device's own among it: `camera.pi`.
fn behind_edges(
    netmap: &Netmap,
) -> impl Iterator<Item = (String, (Ipv4Addr, Option<Ipv6Addr>))> + '_ {
    let theirs = netmap.peers.iter().filter_map(|peer| Some((&peer.name, peer.edge.as_ref()?)));
    let theirs = theirs.flat_map(|(edge, offer)| {
        offer.virtual_devices.iter().map(move |it| (edge, &it.name, it.ipv4))
    });
    let own = netmap.edge.iter().flat_map(|duty| &duty.virtual_devices);
    let own = own.map(|it| (&netmap.this.name, &it.name, it.ipv4));
    theirs.chain(own).map(|(edge, name, ipv4)| (format!("{name}.{edge}"), (ipv4, None)))
}

/// An absolute name in lower case.
fn absolute(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?.to_lowercase();
    name.set_fqdn(true);
    Some(name)
}

/// The domain of a range's reverse names (RFC 1035 §3.5, RFC 3596 §2.5), as long as whole labels
/// allow.
fn reverse_zone(range: &IpNet) -> String {
    match range {
        IpNet::V4(range) => {
            let labels = usize::from(range.prefix_len() / 8);
            let octets = range.network().octets();
            let labels = octets[..labels].iter().rev().map(|octet| format!("{octet}."));
            labels.collect::<String>() + "in-addr.arpa"
        }
        IpNet::V6(range) => {
            let labels = usize::from(range.prefix_len() / 4);
            let digits = range.network().octets().into_iter().flat_map(|b| [b >> 4, b & 0xf]);
            let digits: Vec<u8> = digits.take(labels).collect();
            digits.iter().rev().map(|digit| format!("{digit:x}.")).collect::<String>() + "ip6.arpa"
        }
    }
}

fn reply(request: &Message, code: ResponseCode, fill: impl FnOnce(&mut Message)) -> Answer {
    let mut message = Message::response(request.metadata.id, request.metadata.op_code);
    message.metadata.recursion_desired = request.metadata.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.authoritative = true;
    message.metadata.response_code = code;
    message.add_queries(request.queries.iter().cloned());
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD).set_rcode_high(code.high());
        message.set_edns(edns);
    }
    fill(&mut message);
    message.to_vec().map_or(Answer::Ignore, Answer::Reply)
}

/// An answer to something that begins like a question and can't be read.
fn form_error(question: &[u8]) -> Option<Vec<u8>> {
    let (&[high, low], rest) = question.split_first_chunk::<2>()?;
    let is_query = rest.first()? & 0x80 == 0;
    if question.len() < 12 || !is_query {
        return None;
    }
    let id = u16::from_be_bytes([high, low]);
    Message::error_msg(id, OpCode::Query, ResponseCode::FormErr).to_vec().ok()
}
