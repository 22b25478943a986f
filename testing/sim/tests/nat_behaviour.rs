//! The virtual NATs behave as RFC 4787 says: classified from behind by RFC 5780 logic, with the
//! real Binding client and server.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use warren_sim::StunHost;
use warren_sim::net::{
    Behaviour, Firewall, HostId, Link, Loss, NatConfig, Network, Ports, RouterConfig, RouterId,
    SegmentId,
};
use warren_turn::codec::ChangeRequest;
use warren_turn::{BindingClient, Builder, Class, Family, Mapping, Message, Method, TransactionId};

const PORT: u16 = 41000;
const BEHAVIOURS: [Behaviour; 3] = [
    Behaviour::EndpointIndependent,
    Behaviour::AddressDependent,
    Behaviour::AddressAndPortDependent,
];

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// An internet with a STUN server, one router, and hosts behind it.
struct Lan {
    network: Network,
    stun: StunHost,
    internet: SegmentId,
    lan: SegmentId,
    router: RouterId,
    host: HostId,
    neighbour: HostId,
    now: Instant,
    next_id: u8,
    port: u16,
}

/// What a request of RFC 5780 brought: how the server saw us.
type Answer = Option<SocketAddr>;

impl Lan {
    fn new(nat: NatConfig) -> Self {
        let now = Instant::now();
        let mut network = Network::new(1, now);
        let internet = network.add_segment();
        let server = network.add_host();
        let server_addrs =
            nets(&["203.0.113.1/24", "203.0.113.2/24", "2001:db8:ff::1/64", "2001:db8:ff::2/64"]);
        network.attach(server, internet, &server_addrs, Link::ACCESS);
        let lan = network.add_segment();
        let router = network.add_router(&RouterConfig {
            inside: lan,
            inside_addrs: nets(&["192.168.1.1/24"]),
            outside: internet,
            outside_addrs: nets(&["198.51.100.7/24"]),
            line: Link::ACCESS,
            nat: Some(nat),
            ipv6: Some((nets(&["2001:db8:7::/64"])[0], Firewall::default())),
            udp_blocked: false,
        });
        let host = network.add_host();
        network.attach(host, lan, &nets(&["192.168.1.10/24", "2001:db8:7::10/64"]), Link::LAN);
        let neighbour = network.add_host();
        network.attach(neighbour, lan, &nets(&["192.168.1.11/24"]), Link::LAN);
        let stun = StunHost::new(&network, server, now);
        Self { network, stun, internet, lan, router, host, neighbour, now, next_id: 0, port: PORT }
    }

    /// Lets everything arrive that is on its way; what reaches `host`.
    fn settle(&mut self, host: HostId) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut received = Vec::new();
        while let Some(at) = self.network.poll_timeout() {
            self.now = at;
            let Some(delivery) = self.network.handle_timeout(at) else { continue };
            if delivery.host == self.stun.host {
                self.stun.handle_delivery(&delivery, &mut self.network, at);
            } else if delivery.host == host {
                received.push((delivery.from, delivery.payload));
            }
        }
        received
    }

    fn ask(&mut self, host: HostId, server: SocketAddr, change: ChangeRequest) -> Answer {
        self.next_id += 1;
        let id = TransactionId([self.next_id; 12]);
        let mut request = Vec::new();
        Builder::new(&mut request, Class::Request, Method::BINDING, id).change_request(change);
        self.network.send(host, self.port, server, request, self.now);
        let received = self.settle(host);
        received.iter().find_map(|(_, datagram)| {
            let message = Message::parse(datagram).ok()?;
            (message.transaction_id() == id).then(|| message.xor_mapped_address())?
        })
    }

    fn sockets(&self) -> [SocketAddr; 4] {
        [0, 1, 2, 3].map(|i| self.stun.sockets[i])
    }

    /// RFC 5780 §4.3.
    fn mapping(&mut self) -> Behaviour {
        let [a1p1, _, a2p1, a2p2] = self.sockets();
        let host = self.host;
        let [first, second, third] =
            [a1p1, a2p1, a2p2].map(|s| self.ask(host, s, ChangeRequest::default()).unwrap());
        if first == second {
            Behaviour::EndpointIndependent
        } else if second == third {
            Behaviour::AddressDependent
        } else {
            Behaviour::AddressAndPortDependent
        }
    }

    /// RFC 5780 §4.4. From a mapping that has never been used otherwise.
    fn filtering(&mut self) -> Behaviour {
        let server = self.sockets()[0];
        let host = self.host;
        if self.ask(host, server, ChangeRequest { ip: true, port: true }).is_some() {
            Behaviour::EndpointIndependent
        } else if self.ask(host, server, ChangeRequest { ip: false, port: true }).is_some() {
            Behaviour::AddressDependent
        } else {
            Behaviour::AddressAndPortDependent
        }
    }

    /// The verdict of the client that nodes use.
    fn client_verdict(&mut self) -> Mapping {
        let mut client = BindingClient::new([1; 32]);
        let local: Vec<IpAddr> = self.network.addresses(self.host).map(|net| net.addr()).collect();
        client.handle_local_addresses(&local, self.now);
        let [a1p1, _, a2p1, _] = self.sockets();
        client.handle_servers(&[a1p1, a2p1], self.now);
        while let Some(transmit) = client.poll_transmit() {
            self.network.send(self.host, PORT, transmit.to, transmit.contents, self.now);
        }
        for (from, datagram) in self.settle(self.host) {
            let message = Message::parse(&datagram).unwrap();
            let _ = client.handle_response(from, &message, self.now);
        }
        client.mapping(Family::V4)
    }

    fn attach_public_host(&mut self) -> HostId {
        let host = self.network.add_host();
        let addrs = nets(&["198.51.100.99/24", "2001:db8:99::1/64"]);
        self.network.attach(host, self.internet, &addrs, Link::ACCESS);
        host
    }
}

#[test]
fn every_nat_is_classified_as_what_it_was_made() {
    for mapping in BEHAVIOURS {
        for filtering in BEHAVIOURS {
            let nat = NatConfig::new(mapping, filtering);
            assert_eq!(Lan::new(nat).mapping(), mapping, "{nat:?}");
            assert_eq!(Lan::new(nat).filtering(), filtering, "{nat:?}");
            let verdict = match mapping {
                Behaviour::EndpointIndependent => Mapping::EndpointIndependent,
                Behaviour::AddressDependent | Behaviour::AddressAndPortDependent => {
                    Mapping::AddressDependent
                }
            };
            assert_eq!(Lan::new(nat).client_verdict(), verdict, "{nat:?}");
        }
    }
}

#[test]
fn ports_are_preserved_or_random_and_never_shared() {
    let eim = Behaviour::EndpointIndependent;
    let mut lan = Lan::new(NatConfig::new(eim, eim));
    let server = lan.sockets()[0];
    let (host, neighbour) = (lan.host, lan.neighbour);
    let first = lan.ask(host, server, ChangeRequest::default()).unwrap();
    let second = lan.ask(neighbour, server, ChangeRequest::default()).unwrap();
    assert_eq!(first.port(), PORT);
    assert_eq!(second.ip(), first.ip());
    assert_ne!(second.port(), PORT);
    let random = NatConfig { ports: Ports::Random, ..NatConfig::new(eim, eim) };
    let mut lan = Lan::new(random);
    assert_ne!(lan.ask(lan.host, server, ChangeRequest::default()).unwrap().port(), PORT);
}

#[test]
fn a_mapping_ends_after_its_timeout_unless_outbound_traffic_keeps_it() {
    let eim = Behaviour::EndpointIndependent;
    let nat = NatConfig { ports: Ports::Random, ..NatConfig::new(eim, eim) };
    let mut lan = Lan::new(nat);
    let server = lan.sockets()[0];
    let host = lan.host;
    let first = lan.ask(host, server, ChangeRequest::default()).unwrap();
    for _ in 0..5 {
        lan.now += Duration::from_secs(100);
        assert_eq!(lan.ask(host, server, ChangeRequest::default()), Some(first));
    }
    let public = lan.attach_public_host();
    for inbound_refresh in [false, true] {
        let nat = NatConfig { inbound_refresh, ..nat };
        let mut lan = Lan::new(nat);
        let mapped = lan.ask(host, server, ChangeRequest::default()).unwrap();
        let public_too = lan.attach_public_host();
        assert_eq!(public, public_too);
        for _ in 0..3 {
            lan.now += Duration::from_secs(70);
            lan.network.send(public, 5, mapped, vec![1], lan.now);
            lan.settle(host);
        }
        lan.network.send(public, 5, mapped, vec![1], lan.now);
        assert_eq!(lan.settle(host).len(), usize::from(inbound_refresh));
    }
    lan.now += Duration::from_secs(121);
    assert_ne!(lan.ask(host, server, ChangeRequest::default()), Some(first));
}

#[test]
fn only_a_hairpinning_nat_joins_its_own_hosts_by_their_outside_addresses() {
    let eim = Behaviour::EndpointIndependent;
    for hairpin in [false, true] {
        let mut lan = Lan::new(NatConfig { hairpin, ..NatConfig::new(eim, eim) });
        let server = lan.sockets()[0];
        let (host, neighbour) = (lan.host, lan.neighbour);
        let mapped = lan.ask(neighbour, server, ChangeRequest::default()).unwrap();
        let own = lan.ask(host, server, ChangeRequest::default()).unwrap();
        lan.network.send(host, PORT, mapped, b"hello".to_vec(), lan.now);
        let received = lan.settle(neighbour);
        if hairpin {
            assert_eq!(received, [(own, b"hello".to_vec())]);
        } else {
            assert_eq!(received, []);
            assert_eq!(lan.network.losses()[&Loss::NoHairpin], 1);
        }
        lan.network.send(host, PORT, addr("192.168.1.11:41000"), b"lan".to_vec(), lan.now);
        assert_eq!(lan.settle(neighbour), [(addr("192.168.1.10:41000"), b"lan".to_vec())]);
    }
}

#[test]
fn the_ipv6_firewall_opens_from_inside_only() {
    let eim = Behaviour::EndpointIndependent;
    let mut lan = Lan::new(NatConfig::new(eim, eim));
    let public = lan.attach_public_host();
    let host = lan.host;
    let (inside, outside) = (addr("[2001:db8:7::10]:41000"), addr("[2001:db8:99::1]:5"));
    lan.network.send(public, 5, inside, vec![1], lan.now);
    assert_eq!(lan.settle(host), []);
    lan.network.send(host, PORT, outside, vec![2], lan.now);
    assert_eq!(lan.settle(public), [(inside, vec![2])]);
    lan.network.send(public, 5, inside, vec![3], lan.now);
    assert_eq!(lan.settle(host), [(outside, vec![3])]);
    lan.network.send(public, 6, inside, vec![4], lan.now);
    assert_eq!(lan.settle(host), []);
}

#[test]
fn two_nats_in_a_row_behave_as_the_stricter_one() {
    let eim = Behaviour::EndpointIndependent;
    let mut lan = Lan::new(NatConfig::new(eim, Behaviour::AddressAndPortDependent));
    let home = lan.network.add_segment();
    lan.network.add_router(&RouterConfig {
        inside: home,
        inside_addrs: nets(&["192.168.0.1/24"]),
        outside: lan.lan,
        outside_addrs: nets(&["192.168.1.200/24"]),
        line: Link::ACCESS,
        nat: Some(NatConfig::new(eim, Behaviour::AddressDependent)),
        ipv6: None,
        udp_blocked: false,
    });
    let inner = lan.network.add_host();
    lan.network.attach(inner, home, &nets(&["192.168.0.10/24"]), Link::LAN);
    lan.host = inner;
    assert_eq!(lan.mapping(), Behaviour::EndpointIndependent);
    lan.port += 1;
    assert_eq!(lan.filtering(), Behaviour::AddressAndPortDependent);
    assert!(lan.network.path_to_core(inner).unwrap().latency > Duration::from_millis(40));
}

#[test]
fn a_blocked_router_lets_no_udp_pass_and_a_rebooted_one_has_forgotten() {
    let eim = Behaviour::EndpointIndependent;
    let mut lan = Lan::new(NatConfig { ports: Ports::Random, ..NatConfig::new(eim, eim) });
    let server = lan.sockets()[0];
    let host = lan.host;
    let first = lan.ask(host, server, ChangeRequest::default()).unwrap();
    lan.network.set_udp_blocked(lan.router, true);
    assert_eq!(lan.ask(host, server, ChangeRequest::default()), None);
    lan.network.set_udp_blocked(lan.router, false);
    assert_eq!(lan.ask(host, server, ChangeRequest::default()), Some(first));
    lan.network.reboot_router(lan.router);
    assert_ne!(lan.ask(host, server, ChangeRequest::default()), Some(first));
}

#[test]
fn a_faulty_link_loses_doubles_and_reorders_in_proportion_and_by_the_seed() {
    let run = |seed| {
        let now = Instant::now();
        let mut network = Network::new(seed, now);
        let wire = network.add_segment();
        let link = Link {
            jitter: Duration::from_millis(5),
            loss: 0.1,
            duplicate: 0.1,
            reorder: 0.1,
            ..Link::ACCESS
        };
        let [from, to] = [network.add_host(), network.add_host()];
        network.attach(from, wire, &nets(&["10.0.0.1/24"]), Link::LAN);
        network.attach(to, wire, &nets(&["10.0.0.2/24"]), link);
        for n in 0..1000u32 {
            let at = now + Duration::from_millis(u64::from(n));
            network.send(from, 1, addr("10.0.0.2:2"), n.to_be_bytes().to_vec(), at);
        }
        let mut received = Vec::new();
        while let Some(at) = network.poll_timeout() {
            received.extend(network.handle_timeout(at).map(|delivery| delivery.payload));
        }
        (received, network.trace())
    };
    let (received, trace) = run(7);
    assert_eq!(run(7), (received.clone(), trace), "one seed, one trace");
    assert_ne!(run(8).1, trace);
    let late = received.windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert!((40..200).contains(&late), "{late} late");
    assert!((900..1080).contains(&received.len()), "{} received", received.len());
    let mut distinct = received.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert!((850..950).contains(&distinct.len()), "{} distinct", distinct.len());
}
