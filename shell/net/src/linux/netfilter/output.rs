//! Rules for what the host itself sends, written without `nft`: a device that only uses an exit node
//! needs no such program.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::message::{ACK, Holder, Request};
use super::tables::{BATCH_BEGIN, BATCH_END, DELETE_TABLE, INET, NFTABLES, Nftables};
use crate::error::Error;

const NEW_TABLE: u16 = NFTABLES;
const NEW_CHAIN: u16 = NFTABLES | 3;
const NEW_RULE: u16 = NFTABLES | 6;
/// `NLM_F_CREATE`, and with `NLM_F_APPEND`.
const CREATE: u16 = 0x400;
const APPEND: u16 = 0xc00;

const OUTPUT_HOOK: u32 = 3;
const ACCEPT: u32 = 1;
/// `NFT_JUMP`.
const JUMP: i32 = -3;
/// The register in which all values are compared.
const REGISTER: [u8; 4] = 1_u32.to_be_bytes();
/// `ARPHRD_LOOPBACK`.
const LOOPBACK: u16 = 772;
/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// Where the header has the destination (RFC 791, RFC 8200).
const DESTINATION4: u32 = 16;
const DESTINATION6: u32 = 24;

/// What a packet is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Test {
    /// Its mark, in these bits.
    Mark {
        /// The mark.
        mark: u32,
        /// The bits that count.
        mask: u32,
    },
    /// That it leaves by an interface of that group.
    OutGroup(u32),
    /// That it doesn't leave the host.
    OutLoopback,
    /// That it goes to that network.
    To(IpNet),
    /// That it goes to a multicast group of IPv6 that no router leads out of a site (RFC 4291 §2.7, RFC 7346).
    ToSite,
    /// Its protocol's number (`IPPROTO_…`).
    Protocol(u8),
    /// The port that it comes from; after [`Self::Protocol`].
    FromPort(u16),
    /// The port that it goes to; after [`Self::Protocol`].
    ToPort(u16),
    /// The kind of its ICMP message; after [`Self::Protocol`].
    Icmp(RangeInclusive<u8>),
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No later rule is asked.
    Accept,
    /// The program that sent it is told at once (ICMP 'administratively prohibited').
    Reject,
    /// The rules of another chain are asked, and then those that follow.
    Ask(&'static str),
}

/// What becomes of packets that pass all tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutputRule {
    pub(crate) tests: Vec<Test>,
    pub(crate) verdict: Verdict,
}

/// Rules, of which the first that holds counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutputChain {
    pub(crate) name: &'static str,
    pub(crate) rules: Vec<OutputRule>,
}

impl Nftables {
    /// Makes the table one whose first chain judges what the host sends, and lets go of what no rule judges;
    /// the others are asked by it. In one transaction: the old one counts until then.
    ///
    /// # Errors
    ///
    /// The kernel has no nftables, or no privilege.
    pub(crate) fn replace_output(
        &mut self,
        table: &str,
        chains: &[OutputChain],
    ) -> Result<(), Error> {
        let frame = |kind| Request::new(kind, 0, 0).resource(NFTABLES >> 8);
        let create = |flags| Request::new(NEW_TABLE, CREATE | flags, INET).text(1, table);
        let hook = Holder::default().be32(1, OUTPUT_HOOK).be32(2, 0);
        let is_first = |chain: &OutputChain| chains.first().is_some_and(|it| it.name == chain.name);
        let create_chain = |chain: &OutputChain| {
            let request = Request::new(NEW_CHAIN, CREATE, INET).text(1, table).text(3, chain.name);
            if !is_first(chain) {
                return request;
            }
            request.nested(4, &hook).attribute(5, &ACCEPT.to_be_bytes()).text(7, "filter")
        };
        let create_rule = |chain: &'static str, rule: &OutputRule| {
            let expressions = rule.expressions();
            Request::new(NEW_RULE, APPEND, INET)
                .text(1, table)
                .text(2, chain)
                .nested(4, &expressions)
        };
        // One that isn't there can't be deleted; one that is there can be made once more.
        let deletion = Request::new(DELETE_TABLE, 0, INET).text(1, table);
        let before = [frame(BATCH_BEGIN), create(0), deletion, create(0)];
        let rules = chains
            .iter()
            .flat_map(|chain| chain.rules.iter().map(|rule| create_rule(chain.name, rule)));
        // The last word is answered, when all has been done; a refusal comes before.
        let after = [create(ACK), frame(BATCH_END)];
        let requests = before.into_iter().chain(chains.iter().map(create_chain)).chain(rules);
        self.netlink
            .transact(requests.chain(after), 1)
            .map_err(|error| Error::os("write a table of nftables", error))
    }
}

impl OutputRule {
    /// As the kernel takes them: a list of small programs' steps.
    fn expressions(&self) -> Holder {
        let steps = self.tests.iter().flat_map(Test::steps).chain([self.verdict.step()]);
        steps.fold(Holder::default(), |list, Step(name, data)| {
            list.nested(1, Holder::default().text(1, name).nested(2, data))
        })
    }
}

/// An expression's name and what it works with.
struct Step(&'static str, Holder);

/// What the kernel knows of a packet (`NFT_META_…`).
#[derive(Clone, Copy)]
enum Meta {
    Mark = 3,
    OutType = 9,
    Version = 15,
    Protocol = 16,
    OutGroup = 22,
}

/// Where a field stands (`NFT_PAYLOAD_…`).
#[derive(Clone, Copy)]
enum Header {
    Network = 1,
    Transport = 2,
}

/// How the register and a value are compared (`NFT_CMP_…`).
#[derive(Clone, Copy)]
enum Compare {
    Equal = 0,
    AtMost = 3,
    AtLeast = 5,
}

impl Test {
    fn steps(&self) -> Vec<Step> {
        match self {
            Self::Mark { mark, mask } => vec![
                load(Meta::Mark),
                masked(&mask.to_ne_bytes()),
                compare(Compare::Equal, &(mark & mask).to_ne_bytes()),
            ],
            Self::OutGroup(group) => {
                vec![load(Meta::OutGroup), compare(Compare::Equal, &group.to_ne_bytes())]
            }
            Self::OutLoopback => {
                vec![load(Meta::OutType), compare(Compare::Equal, &LOOPBACK.to_ne_bytes())]
            }
            Self::To(network) => to(network),
            // The second byte is flags and scope; 5 is the site.
            Self::ToSite => vec![
                load(Meta::Version),
                compare(Compare::Equal, &[IPV6]),
                field(Header::Network, DESTINATION6, 2),
                masked(&[0xff, 0x0f]),
                compare(Compare::AtLeast, &[0xff, 0]),
                compare(Compare::AtMost, &[0xff, 5]),
            ],
            Self::Protocol(number) => {
                vec![load(Meta::Protocol), compare(Compare::Equal, &[*number])]
            }
            Self::FromPort(port) => {
                vec![field(Header::Transport, 0, 2), compare(Compare::Equal, &port.to_be_bytes())]
            }
            Self::ToPort(port) => {
                vec![field(Header::Transport, 2, 2), compare(Compare::Equal, &port.to_be_bytes())]
            }
            Self::Icmp(kinds) => vec![
                field(Header::Transport, 0, 1),
                compare(Compare::AtLeast, &[*kinds.start()]),
                compare(Compare::AtMost, &[*kinds.end()]),
            ],
        }
    }
}

/// Whether the destination is in that network.
fn to(network: &IpNet) -> Vec<Step> {
    let bytes = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (version, offset, length) = match network {
        IpNet::V4(_) => (IPV4, DESTINATION4, 4),
        IpNet::V6(_) => (IPV6, DESTINATION6, 16),
    };
    vec![
        load(Meta::Version),
        compare(Compare::Equal, &[version]),
        field(Header::Network, offset, length),
        masked(&bytes(network.netmask())),
        compare(Compare::Equal, &bytes(network.network())),
    ]
}

impl Verdict {
    fn step(self) -> Step {
        match self {
            Self::Accept => immediate(Holder::default().be32(1, ACCEPT)),
            Self::Ask(chain) => {
                immediate(Holder::default().attribute(1, &JUMP.to_be_bytes()).text(2, chain))
            }
            // `NFT_REJECT_ICMPX_UNREACH`, `NFT_REJECT_ICMPX_ADMIN_PROHIBITED`.
            Self::Reject => Step("reject", Holder::default().be32(1, 2).attribute(2, &[3])),
        }
    }
}

fn immediate(verdict: Holder) -> Step {
    let value = Holder::default().nested(2, verdict);
    Step("immediate", Holder::default().be32(1, 0).nested(2, value))
}

fn load(what: Meta) -> Step {
    Step("meta", Holder::default().attribute(1, &REGISTER).be32(2, what as u32))
}

fn field(header: Header, offset: u32, length: u32) -> Step {
    let data = Holder::default().attribute(1, &REGISTER).be32(2, header as u32);
    Step("payload", data.be32(3, offset).be32(4, length))
}

/// The bits of the register that count; not more than 16 bytes.
fn masked(mask: &[u8]) -> Step {
    let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
    let data = Holder::default().attribute(1, &REGISTER).attribute(2, &REGISTER).be32(3, length);
    let value = |bytes: &[u8]| Holder::default().attribute(1, bytes);
    let nothing = vec![0; mask.len()];
    Step("bitwise", data.nested(4, value(mask)).nested(5, value(&nothing)))
}

fn compare(how: Compare, value: &[u8]) -> Step {
    let value = Holder::default().attribute(1, value);
    Step("cmp", Holder::default().attribute(1, &REGISTER).be32(2, how as u32).nested(3, &value))
}
