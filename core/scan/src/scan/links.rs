//! IPv6 on the links that a whole scan covers.
//!
//! Nobody walks through a /64. All on a link are called twice; and asked one by one are the addresses that
//! the kernel or an earlier scan knows, and the link-local one that each card heard by ARP has if it makes
//! it of its own address (RFC 4291, appendix A): what answers no call answers that. An answer counts for
//! the card that its frame is from. How many addresses of one card are kept is bounded, and how many in
//! all: a device can make up as many as it likes, and cards too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;
use warren_proto::MacAddr;

use super::probe::{Ipv6Neighbour, Probe};

/// The most addresses that are kept of one card.
pub(super) const MAX_OF_CARD: usize = 8;
/// The most that are kept in all.
pub(super) const MAX_ADDRESSES: usize = 4096;
/// The most questions to single addresses.
pub(super) const MAX_QUESTIONS: usize = 2048;

/// What was heard on them, and what is still to be asked.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// The networks of each link, by the first of them, which stands for the link.
    networks: BTreeMap<Ipv4Net, Vec<Ipv4Net>>,
    heard: BTreeMap<(Ipv4Net, MacAddr), BTreeSet<Ipv6Addr>>,
    /// How many addresses that are.
    kept: usize,
    questions: VecDeque<(Ipv4Net, Ipv6Addr)>,
    asked: BTreeSet<(Ipv4Net, Ipv6Addr)>,
}

impl Links {
    pub(super) fn add(
        &mut self,
        link: Ipv4Net,
        networks: Vec<Ipv4Net>,
        known: impl IntoIterator<Item = Ipv6Addr>,
    ) {
        self.networks.insert(link, networks);
        for ip in known {
            self.question(link, ip);
        }
    }

    /// A card was heard by ARP at an address: it is asked at the address that it may have made of its own.
    pub(super) fn note_card(&mut self, ip: Ipv4Addr, mac: MacAddr) {
        let mut links = self.networks.iter();
        let found = links.find(|(_, networks)| networks.iter().any(|it| it.contains(&ip)));
        if let Some(link) = found.map(|(link, _)| *link) {
            self.question(link, made_of(mac));
        }
    }

    pub(super) fn note(&mut self, link: Ipv4Net, ip: Ipv6Addr, mac: MacAddr) {
        if !self.networks.contains_key(&link) || self.kept >= MAX_ADDRESSES {
            return;
        }
        let of_card = self.heard.entry((link, mac)).or_default();
        if of_card.len() < MAX_OF_CARD && of_card.insert(ip) {
            self.kept += 1;
        }
    }

    pub(super) fn next(&mut self) -> Option<Probe> {
        self.questions.pop_front().map(|(link, ip)| Probe::Solicit(link, ip))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.questions.is_empty()
    }

    /// All that was heard.
    pub(super) fn take(&mut self) -> Vec<Ipv6Neighbour> {
        let heard = std::mem::take(&mut self.heard).into_iter();
        heard.map(|((link, mac), addresses)| Ipv6Neighbour { link, mac, addresses }).collect()
    }

    fn question(&mut self, link: Ipv4Net, ip: Ipv6Addr) {
        if self.asked.len() < MAX_QUESTIONS && self.asked.insert((link, ip)) {
            self.questions.push_back((link, ip));
        }
    }
}

/// The link-local address that a card makes of its own (modified EUI-64).
fn made_of(MacAddr([a, b, c, d, e, f]): MacAddr) -> Ipv6Addr {
    let [high, low] = [u16::from_be_bytes([a ^ 2, b]), u16::from_be_bytes([c, 0xff])];
    let [next, last] = [u16::from_be_bytes([0xfe, d]), u16::from_be_bytes([e, f])];
    Ipv6Addr::new(0xfe80, 0, 0, 0, high, low, next, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_makes_its_address_as_rfc_4291_says() {
        let mac = MacAddr([0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde]);
        assert_eq!(made_of(mac), "fe80::3656:78ff:fe9a:bcde".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn made_up_addresses_and_cards_fill_nothing() {
        let link: Ipv4Net = "192.168.1.0/24".parse().unwrap();
        let ip = |n: u128| Ipv6Addr::from_bits(0xfe80 << 112 | n);
        let mut links = Links::default();
        links.note(link, ip(1), MacAddr([2; 6]));
        assert!(links.take().is_empty(), "no link that is looked at");
        links.add(link, vec![link], (0..99_999).map(ip));
        for n in 0..9999_u32 {
            links.note(link, ip(n.into()), MacAddr([0x3c, 0, 0, 0, 0, 1]));
            let [_, b, c, d] = n.to_be_bytes();
            for _ in 0..2 {
                links.note(link, ip(u128::from(n) << 32), MacAddr([0x3c, 1, 0, b, c, d]));
            }
        }
        let heard = links.take();
        assert!(heard.iter().all(|it| it.addresses.len() <= MAX_OF_CARD), "{heard:?}");
        let kept: usize = heard.iter().map(|it| it.addresses.len()).sum();
        assert_eq!(kept, MAX_ADDRESSES);
        assert_eq!(std::iter::from_fn(|| links.next()).count(), MAX_QUESTIONS);
    }
}
