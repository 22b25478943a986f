//! The server against a model of what RFC 8656 and design.md §7 allow: whatever clients do, data
//! arrives only where a live permission lets it, and virtual addresses talk only among themselves.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use warren_turn::server::{ClientAddr, Config, Heading, Route, Run};
use warren_turn::{ChannelNumber, Family, virtual_relayed};

use crate::world::{Who, World, addr, client, config, number};

const CLIENTS: u8 = 4;

#[derive(Debug, Clone)]
enum Step {
    Allocate {
        who: u8,
        virtual_address: bool,
    },
    /// To a new 5-tuple, which another client of ours may have used before.
    Move {
        who: u8,
        seat: u8,
    },
    Refresh {
        who: u8,
        lifetime: u32,
    },
    Permit {
        who: u8,
        peer: u8,
    },
    Bind {
        who: u8,
        channel: u8,
        peer: u8,
    },
    Send {
        who: u8,
        channel: u8,
    },
    Hear {
        who: u8,
        peer: u8,
    },
    Pass {
        seconds: u16,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = || 0..CLIENTS;
    let step = prop_oneof![
        3 => (who(), any::<bool>()).prop_map(|(who, virtual_address)| {
            Step::Allocate { who, virtual_address }
        }),
        1 => (who(), 0..6_u8).prop_map(|(who, seat)| Step::Move { who, seat }),
        1 => (who(), prop::sample::select(vec![0, 600, 900])).prop_map(|(who, lifetime)| {
            Step::Refresh { who, lifetime }
        }),
        3 => (who(), 0..12_u8).prop_map(|(who, peer)| Step::Permit { who, peer }),
        4 => (who(), 0..3_u8, 0..12_u8).prop_map(|(who, channel, peer)| {
            Step::Bind { who, channel, peer }
        }),
        6 => (who(), 0..3_u8).prop_map(|(who, channel)| Step::Send { who, channel }),
        3 => (who(), 0..4_u8).prop_map(|(who, peer)| Step::Hear { who, peer }),
        2 => (0..400_u16).prop_map(|seconds| Step::Pass { seconds }),
    ];
    prop::collection::vec(step, 1..60)
}

/// What the model knows of one allocation.
struct Allocation {
    owner: u8,
    relayed: SocketAddr,
    expires: Instant,
    permissions: BTreeMap<IpAddr, Instant>,
    channels: BTreeMap<ChannelNumber, (SocketAddr, Instant)>,
}

struct Checked {
    world: World,
    whos: Vec<Who>,
    model: BTreeMap<ClientAddr, Allocation>,
}

impl Checked {
    fn new() -> Self {
        let allow_peers = vec!["203.0.113.0/24".parse().unwrap()];
        Self {
            world: World::new(Config { allow_peers, ..config() }),
            whos: (0..CLIENTS).map(|n| Who::rest(&n.to_string(), client(n + 1))).collect(),
            model: BTreeMap::new(),
        }
    }

    /// 0–3 others' virtual addresses, 4–7 others' relayed ports, 8–9 the outside, 10–11 forbidden.
    fn peer(&self, n: u8) -> SocketAddr {
        match n {
            0..=3 => virtual_relayed(&n.to_string()),
            4..=7 => {
                let at = self.whos[usize::from(n - 4)].at;
                let of_port = |allocation: &&Allocation| allocation.relayed.is_ipv4();
                let found = self.model.get(&at).filter(of_port);
                found.map_or(addr("203.0.113.77:7"), |allocation| allocation.relayed)
            }
            8 => addr("203.0.113.8:8"),
            9 => addr("203.0.113.9:9"),
            10 => addr("10.0.0.1:1"),
            _ => addr("[fd00::1]:1"),
        }
    }

    /// As RFC 8656 times it, with the second that the server may add.
    fn expire(&mut self) {
        let now = self.world.now;
        self.model.retain(|_, allocation| now < allocation.expires);
        for allocation in self.model.values_mut() {
            allocation.permissions.retain(|_, expires| now <= *expires + Duration::from_secs(1));
            allocation.channels.retain(|_, (_, expires)| now <= *expires + Duration::from_secs(1));
        }
    }

    fn may_have(&self, at: ClientAddr, peer: SocketAddr) -> bool {
        let Some(allocation) = self.model.get(&at) else { return false };
        match (allocation.relayed, peer) {
            (SocketAddr::V6(_), SocketAddr::V6(peer)) => peer.ip().segments()[0] == 0x100,
            (SocketAddr::V4(_), SocketAddr::V4(peer)) => peer.ip().octets()[0] != 10,
            (SocketAddr::V6(_), SocketAddr::V4(_)) | (SocketAddr::V4(_), SocketAddr::V6(_)) => {
                false
            }
        }
    }

    fn apply(&mut self, step: &Step) {
        let now = self.world.now;
        match *step {
            Step::Allocate { who, virtual_address } => self.allocate(who, virtual_address),
            Step::Move { who, seat } => {
                let who = &mut self.whos[usize::from(who)];
                who.at = client(10 + seat);
                who.nonce = None;
            }
            Step::Refresh { who: n, lifetime } => {
                let who = &mut self.whos[usize::from(n)];
                let granted = self.world.refresh(who, Some(lifetime));
                let owns = self.model.get(&who.at).is_some_and(|there| there.owner == n);
                assert_eq!(granted.is_ok(), owns);
                if owns && lifetime == 0 {
                    self.model.remove(&who.at);
                } else if owns && let Some(there) = self.model.get_mut(&who.at) {
                    there.expires = now + Duration::from_secs(lifetime.into());
                }
            }
            Step::Permit { who: n, peer } => {
                let peer = self.peer(peer);
                let at = self.whos[usize::from(n)].at;
                let may = self.may_have(at, peer);
                let granted = self.world.permit(&mut self.whos[usize::from(n)], &[peer]);
                let owned = self.model.get_mut(&at).filter(|there| there.owner == n);
                assert_eq!(granted.is_ok(), may && owned.is_some(), "{granted:?}");
                if let (Ok(()), Some(there)) = (granted, owned) {
                    there.permissions.insert(peer.ip(), now + Duration::from_secs(300));
                }
            }
            Step::Bind { who, channel, peer } => self.bind(who, channel, peer),
            Step::Send { who, channel } => self.send(who, channel),
            Step::Hear { who, peer } => self.hear(who, peer),
            Step::Pass { seconds } => {
                self.world.pass(Duration::from_secs(seconds.into()));
                self.whos.iter_mut().for_each(|who| who.nonce = None);
            }
        }
    }

    fn allocate(&mut self, n: u8, virtual_address: bool) {
        let now = self.world.now;
        let who = &mut self.whos[usize::from(n)];
        let at = who.at;
        let answer = self.world.allocate(who, |b| {
            if virtual_address {
                b.requested_address_family(Family::V6).virtual_address();
            }
        });
        let is_virtual = |there: &Allocation| there.relayed.is_ipv6();
        let there = self.model.get(&at);
        let may = there.is_none_or(|there| virtual_address && is_virtual(there));
        assert_eq!(answer.is_ok(), may, "{answer:?}");
        let Ok(answer) = answer else { return };
        let relayed = crate::world::relayed(&answer);
        if virtual_address {
            assert_eq!(relayed, virtual_relayed(&n.to_string()));
            self.model.retain(|_, there| there.relayed != relayed);
        } else {
            assert!(self.model.values().all(|there| there.relayed != relayed), "given twice");
        }
        let allocation = Allocation {
            owner: n,
            relayed,
            expires: now + Duration::from_secs(600),
            permissions: BTreeMap::new(),
            channels: BTreeMap::new(),
        };
        self.model.insert(at, allocation);
    }

    fn bind(&mut self, n: u8, channel: u8, peer: u8) {
        let now = self.world.now;
        let (channel, peer) = (number(channel.into()), self.peer(peer));
        let at = self.whos[usize::from(n)].at;
        let may = self.may_have(at, peer);
        let granted = self.world.bind(&mut self.whos[usize::from(n)], channel, peer);
        let owned = self.model.get_mut(&at).filter(|there| there.owner == n);
        let Some(there) = owned.filter(|_| may) else {
            assert!(granted.is_err());
            return;
        };
        let conflicts = there.channels.iter().any(|(other, (bound, expires))| {
            *expires >= now && (*other == channel) != (*bound == peer)
        });
        match granted {
            Ok(()) => assert!(!conflicts),
            // Within the second that the server may add, the old binding may still count.
            Err(code) => assert!(code == 400 && !there.channels.is_empty()),
        }
        if granted.is_ok() {
            there.channels.retain(|other, (bound, _)| *other != channel && *bound != peer);
            there.channels.insert(channel, (peer, now + Duration::from_secs(600)));
            there.permissions.insert(peer.ip(), now + Duration::from_secs(300));
        }
    }

    fn send(&mut self, n: u8, channel: u8) {
        let at = self.whos[usize::from(n)].at;
        let channel = number(channel.into());
        let route = self.world.server.route_channel(at, channel, Run::one(9), self.world.now);
        let from = self.model.get(&at);
        let bound = from.and_then(|from| from.channels.get(&channel));
        let Ok(route) = route else { return };
        let (from, (peer, _)) = (from.unwrap(), bound.unwrap());
        match route {
            Route::Peer { from: port, to, .. } => {
                assert_eq!(to, *peer);
                assert_eq!(port.port, from.relayed.port());
                assert_eq!(to.ip().to_string().split('.').next(), Some("203"));
                assert!(from.relayed.is_ipv4());
            }
            Route::Client(delivery) => {
                let target = self.model.get(&delivery.to).unwrap();
                assert_eq!(target.relayed, *peer);
                assert_eq!(target.relayed.is_ipv6(), from.relayed.is_ipv6());
                assert!(target.permissions.contains_key(&from.relayed.ip()), "leaked");
                match delivery.heading {
                    Heading::Channel(number) => {
                        assert_eq!(target.channels[&number].0, from.relayed);
                    }
                    Heading::Indication(named) => assert_eq!(named, from.relayed),
                }
            }
        }
    }

    fn hear(&mut self, n: u8, peer: u8) {
        let at = self.whos[usize::from(n)].at;
        let Some(there) = self.model.get(&at).filter(|there| there.relayed.is_ipv4()) else {
            return;
        };
        let peer = [
            addr("203.0.113.8:8"),
            addr("203.0.113.8:88"),
            addr("203.0.113.9:9"),
            addr("192.0.2.10:50000"),
        ][usize::from(peer)];
        let family = Family::V4;
        let port = warren_turn::server::RelayedPort { family, port: there.relayed.port() };
        let run = Run::one(9);
        if let Ok(delivery) = self.world.server.route_peer(port, peer, run, self.world.now) {
            assert_eq!(delivery.to, at);
            assert!(there.permissions.contains_key(&peer.ip()), "leaked");
        } else {
            let expires = there.permissions.get(&peer.ip());
            let is_live = expires.is_some_and(|expires| *expires > self.world.now);
            assert!(!is_live || peer.ip().to_string() == "192.0.2.10", "lost");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn whatever_clients_do_data_goes_only_where_it_may(steps in steps()) {
        let mut checked = Checked::new();
        for step in &steps {
            checked.apply(step);
            checked.expire();
            prop_assert_eq!(checked.world.server.gauges().allocations, checked.model.len());
            let ports = checked.model.values().filter(|there| there.relayed.is_ipv4()).count();
            prop_assert_eq!(checked.world.open.len(), ports);
        }
    }
}
