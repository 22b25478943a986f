//! The Binding client through its public API, against the real server.
#![expect(clippy::disallowed_methods, reason = "a test starts at some instant")]
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use warren_turn::{
    Answer, BindingClient, BindingServer, Builder, Class, ClientEvent, Family, Handled, Limits,
    Mapping, Message, Method, Transmit,
};

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const FIRST: &str = "203.0.113.1:3478";
const SECOND: &str = "203.0.113.2:3478";

struct World {
    client: BindingClient,
    start: Instant,
    now: Instant,
}

impl World {
    fn new(servers: &[&str], local: &str) -> Self {
        let now = Instant::now();
        let mut client = BindingClient::new([9; 32]);
        client.handle_local_addresses(&[ip(local), ip("127.0.0.1")], now);
        let servers: Vec<_> = servers.iter().map(|server| addr(server)).collect();
        client.handle_servers(&servers, now);
        Self { client, start: now, now }
    }

    /// Goes to the client's next timeout; everything that it then sends.
    fn next(&mut self) -> Vec<Transmit> {
        if let Some((due, _)) = self.client.poll_timeout() {
            assert!(due > self.now, "a busy loop");
            self.now = due;
            self.client.handle_timeout(due);
        }
        self.sent()
    }

    fn sent(&mut self) -> Vec<Transmit> {
        std::iter::from_fn(|| self.client.poll_transmit()).collect()
    }

    fn elapsed_ms(&self) -> u128 {
        (self.now - self.start).as_millis()
    }

    /// The server's answer to a request that it saw coming from `seen_as`.
    fn answer(&mut self, request: &Transmit, seen_as: &str) -> Handled {
        let sockets = vec![request.to];
        let mut server = BindingServer::new(sockets, Limits::default(), [0; 16], self.now);
        let mut reply = Vec::new();
        let answer =
            server.handle_datagram(0, addr(seen_as), &request.contents, &mut reply, self.now);
        assert_eq!(answer, Answer::Reply { socket: 0 });
        self.client.handle_response(request.to, &Message::parse(&reply).unwrap(), self.now)
    }

    fn mapped(&self) -> Option<SocketAddr> {
        self.client.mapped(Family::V4).map(|mapped| mapped.addr)
    }

    fn changed(&mut self) -> bool {
        std::iter::from_fn(|| self.client.poll_event())
            .any(|e| e == ClientEvent::Changed(Family::V4))
    }
}

#[test]
fn two_servers_that_see_the_same_mean_endpoint_independent_mapping() {
    for (second_seen, local, verdict) in [
        ("198.51.100.1:40000", "192.168.1.2", Mapping::EndpointIndependent),
        ("198.51.100.1:40001", "192.168.1.2", Mapping::AddressDependent),
        ("198.51.100.1:40000", "198.51.100.1", Mapping::None),
    ] {
        let mut world = World::new(&[FIRST, SECOND], local);
        let sent = world.sent();
        assert_eq!(sent.iter().map(|t| t.to).collect::<Vec<_>>(), [addr(FIRST), addr(SECOND)]);
        world.now += Duration::from_millis(40);
        assert_eq!(world.answer(&sent[0], "198.51.100.1:40000"), Handled::Answered);
        assert!(world.changed());
        assert_eq!(world.answer(&sent[1], second_seen), Handled::Answered);
        assert_eq!(world.client.mapping(Family::V4), verdict);
        assert_eq!(world.mapped(), Some(addr("198.51.100.1:40000")));
        assert_eq!(world.client.reachable(Family::V4), Some(true));
        assert_eq!(world.client.reachable(Family::V6), None);
        let status = world.client.servers().next().unwrap();
        assert_eq!(status.rtt, Some(Duration::from_millis(40)));
    }
}

#[test]
fn two_ports_of_one_server_tell_less() {
    let mut world = World::new(&[FIRST, "203.0.113.1:3479"], "192.168.1.2");
    let sent = world.sent();
    let _ = world.answer(&sent[0], "198.51.100.1:40000");
    assert_eq!(world.client.mapping(Family::V4), Mapping::Unknown);
    let _ = world.answer(&sent[1], "198.51.100.1:40000");
    let verdict = Mapping::EndpointIndependentOrAddressDependent;
    assert_eq!(world.client.mapping(Family::V4), verdict);
}

#[test]
fn a_servers_other_address_serves_as_the_second() {
    let mut world = World::new(&[FIRST], "192.168.1.2");
    let sent = world.sent();
    assert_eq!(sent.len(), 1);
    let request = Message::parse(&sent[0].contents).unwrap();
    let mut reply = Vec::new();
    Builder::new(&mut reply, Class::Success, Method::BINDING, request.transaction_id())
        .xor_mapped_address(addr("198.51.100.1:40000"))
        .other_address(addr("203.0.113.9:3479"));
    let message = Message::parse(&reply).unwrap();
    let handled = world.client.handle_response(addr(FIRST), &message, world.now);
    assert_eq!(handled, Handled::Answered);
    let sent = world.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].to, addr("203.0.113.9:3479"));
    let _ = world.answer(&sent[0], "198.51.100.1:40000");
    assert_eq!(world.client.mapping(Family::V4), Mapping::EndpointIndependent);
}

#[test]
fn a_private_address_is_reported_as_such_and_tells_nothing_of_the_mapping() {
    let mut world = World::new(&["192.168.1.1:3478", "192.168.1.3:3478"], "192.168.1.2");
    for request in world.sent() {
        let _ = world.answer(&request, "192.168.1.2:40000");
    }
    let mapped = world.client.mapped(Family::V4).unwrap();
    assert!(!mapped.public);
    assert_eq!(world.client.mapping(Family::V4), Mapping::Unknown);
}

#[test]
fn an_unanswered_question_is_repeated_and_given_up() {
    let mut world = World::new(&[FIRST], "192.168.1.2");
    assert_eq!(world.sent().len(), 1);
    let mut times = Vec::new();
    while world.client.reachable(Family::V4).is_none() {
        if !world.next().is_empty() {
            times.push(world.elapsed_ms());
        }
    }
    assert_eq!(times, [200, 500, 1000, 2000, 4000]);
    assert_eq!(world.elapsed_ms(), 8000);
    assert_eq!(world.client.reachable(Family::V4), Some(false));
    assert!(world.changed());
}

#[test]
fn while_nobody_answers_questions_thin_out_but_never_end() {
    let mut world = World::new(&[FIRST, SECOND], "192.168.1.2");
    let mut sent = world.sent().len();
    while world.elapsed_ms() < 3_600_000 {
        sent += world.next().len();
    }
    assert!((72..200).contains(&sent), "{sent} datagrams in an hour");
    let request = loop {
        if let Some(request) = world.next().pop() {
            break request;
        }
    };
    assert_eq!(world.answer(&request, "198.51.100.1:40000"), Handled::Answered);
    assert_eq!(world.mapped(), Some(addr("198.51.100.1:40000")));
}

#[test]
fn after_an_outage_the_mapping_is_measured_again() {
    let mut world = World::new(&[FIRST, SECOND], "192.168.1.2");
    world.sent();
    while world.elapsed_ms() < 100_000 {
        world.next();
    }
    assert_eq!(world.client.reachable(Family::V4), Some(false));
    let knock = loop {
        if let Some(knock) = world.next().pop() {
            break knock;
        }
    };
    let _ = world.answer(&knock, "198.51.100.1:40000");
    assert_eq!(world.client.reachable(Family::V4), Some(true));
    let sent = world.sent();
    assert_eq!(sent.len(), 1, "the other server is asked too");
    assert_ne!(sent[0].to, knock.to);
    let _ = world.answer(&sent[0], "198.51.100.1:40000");
    assert_eq!(world.client.mapping(Family::V4), Mapping::EndpointIndependent);
}

#[test]
fn an_answer_is_refreshed_each_25_seconds_by_one_datagram() {
    let mut world = World::new(&[FIRST, SECOND], "192.168.1.2");
    for request in world.sent() {
        let _ = world.answer(&request, "198.51.100.1:40000");
    }
    for round in 1..10 {
        let sent = world.next();
        assert_eq!(world.elapsed_ms(), round * 25_000);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].to, addr(FIRST));
        let _ = world.answer(&sent[0], "198.51.100.1:40000");
    }
}

#[test]
fn without_a_nat_the_refresh_is_rarer() {
    let mut world = World::new(&[FIRST, SECOND], "198.51.100.1");
    for request in world.sent() {
        let _ = world.answer(&request, "198.51.100.1:40000");
    }
    for round in 1..4 {
        let sent = world.next();
        assert_eq!(world.elapsed_ms(), round * 100_000);
        let _ = world.answer(&sent[0], "198.51.100.1:40000");
    }
}

#[test]
fn a_mapping_that_moved_is_noticed_and_measured_again() {
    let mut world = World::new(&[FIRST, SECOND], "192.168.1.2");
    for request in world.sent() {
        let _ = world.answer(&request, "198.51.100.1:40000");
    }
    let sent = world.next();
    assert!(world.changed());
    let _ = world.answer(&sent[0], "198.51.100.1:50000");
    assert!(world.changed());
    assert_eq!(world.mapped(), Some(addr("198.51.100.1:50000")));
    let sent = world.sent();
    assert_eq!(sent.iter().map(|t| t.to).collect::<Vec<_>>(), [addr(SECOND)]);
    let _ = world.answer(&sent[0], "198.51.100.1:50000");
    assert_eq!(world.client.mapping(Family::V4), Mapping::EndpointIndependent);
}

#[test]
fn after_a_refresh_earlier_answers_do_not_count() {
    let mut world = World::new(&[FIRST], "192.168.1.2");
    let before = world.sent();
    world.client.refresh(world.now);
    let after = world.sent();
    assert_eq!(after.len(), 1);
    assert_eq!(world.answer(&before[0], "198.51.100.1:40000"), Handled::NotOurs);
    assert_eq!(world.mapped(), None);
    assert_eq!(world.answer(&after[0], "198.51.100.1:41000"), Handled::Answered);
}

#[test]
fn a_silent_server_is_replaced_within_a_second() {
    let mut world = World::new(&[FIRST, "203.0.113.1:3479", SECOND], "192.168.1.2");
    let mut asked = Vec::new();
    asked.extend(world.sent());
    while world.elapsed_ms() < 1000 {
        asked.extend(world.next());
    }
    let stand_in = asked.iter().rfind(|t| t.to == addr("203.0.113.1:3479")).unwrap().clone();
    assert_eq!(world.answer(&stand_in, "198.51.100.1:40000"), Handled::Answered);
    assert_eq!(world.mapped(), Some(addr("198.51.100.1:40000")));
    while world.elapsed_ms() < 30_000 {
        world.next();
    }
    assert_eq!(world.mapped(), Some(addr("198.51.100.1:40000")));
}

#[test]
fn an_answer_from_elsewhere_or_damaged_is_refused() {
    let mut world = World::new(&[FIRST], "192.168.1.2");
    let sent = world.sent();
    let id = Message::parse(&sent[0].contents).unwrap().transaction_id();
    let mut forged = Vec::new();
    Builder::new(&mut forged, Class::Success, Method::BINDING, id)
        .xor_mapped_address(addr("198.51.100.66:6"))
        .fingerprint();
    let message = Message::parse(&forged).unwrap();
    let refused = world.client.handle_response(addr(SECOND), &message, world.now);
    assert_eq!(refused, Handled::Refused);
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let message = Message::parse(&forged).unwrap();
    assert_eq!(world.client.handle_response(addr(FIRST), &message, world.now), Handled::Refused);
    assert_eq!(world.mapped(), None);
    assert_eq!(world.answer(&sent[0], "198.51.100.1:40000"), Handled::Answered);
}

#[test]
fn a_family_without_an_address_is_not_asked() {
    let mut world = World::new(&[FIRST, "[2001:db8::1]:3478"], "192.168.1.2");
    assert!(world.sent().iter().all(|t| t.to.is_ipv4()));
    let dual = [ip("192.168.1.2"), ip("2001:db8:1::2"), ip("fe80::1")];
    world.client.handle_local_addresses(&dual, world.now);
    let sent = world.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].to, addr("[2001:db8::1]:3478"));
    world.client.handle_local_addresses(&dual, world.now);
    assert!(world.sent().is_empty(), "nothing has changed");
    world.client.handle_local_addresses(&[ip("fe80::1")], world.now);
    assert!(world.sent().is_empty());
    assert_eq!(world.client.poll_timeout(), None);
}
