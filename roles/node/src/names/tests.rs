use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use warren_proto::{
    AccountId, DeviceId, DnsConfig, EdgeOffer, MapVersion, NatReport, Netmap, Peer, PublicKey,
    SelfEntry, VirtualPeer,
};

use super::server::Context;
use super::zone::Answer;
use super::*;

fn netmap() -> Netmap {
    Netmap {
        version: MapVersion { epoch: 1, sequence: 7 },
        account: AccountId(1),
        account_name: "home".parse().unwrap(),
        ipv4_range: "100.70.0.0/16".parse().unwrap(),
        ipv6_range: "fd12:3456:789a::/48".parse().unwrap(),
        this: SelfEntry {
            id: DeviceId(1),
            name: "laptop".parse().unwrap(),
            ipv4: "100.70.0.1".parse().unwrap(),
            ipv6: "fd12:3456:789a::1".parse().unwrap(),
            static_endpoint: None,
            admission: warren_proto::Admission::Member,
            expires_unix: None,
            approvers: Vec::new(),
        },
        peers: vec![Peer {
            id: DeviceId(2),
            name: "kitchen-pi".parse().unwrap(),
            key: PublicKey([2; 32]),
            ipv4: "100.70.3.4".parse().unwrap(),
            ipv6: "fd12:3456:789a::304".parse().unwrap(),
            endpoints: Vec::new(),
            nat: NatReport::default(),
            online: false,
            capabilities: Vec::new(),
            relays: Vec::new(),
            edge: None,
            signature: None,
        }],
        stun: Vec::new(),
        dns: DnsConfig { domain: "home.warren.internal".to_owned() },
        next_pin: None,
        relays: Vec::new(),
        relay_duty: None,
        filter: None,
        edge: None,
        edge_asked: false,
    }
}

fn zone() -> Zone {
    Zone::new(&netmap()).unwrap()
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

fn ask(name: &str, kind: RecordType) -> Option<Message> {
    match zone().answer(&question(name, kind)) {
        Answer::Reply(bytes) => {
            let message = Message::from_vec(&bytes).unwrap();
            assert_eq!(message.metadata.id, 0x1234);
            assert_eq!(message.metadata.message_type, MessageType::Response);
            assert!(bytes.len() <= 512);
            Some(message)
        }
        Answer::Forward => None,
        Answer::Ignore => panic!("{name} {kind} was ignored"),
    }
}

fn data(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

/// Negative answers carry the SOA of their zone, whose name this is (RFC 2308).
fn denied(message: &Message) -> String {
    assert!(message.answers.is_empty());
    let [soa] = message.authorities.as_slice() else { panic!("{message:?}") };
    assert!(matches!(soa.data, RData::SOA(_)), "{soa:?}");
    soa.name.to_ascii()
}

#[test]
fn a_domain_that_is_none_makes_no_zone() {
    for domain in ["", ".", "a b", "home\nnameserver 6.6.6.6", "x..y", "\\046"] {
        let mut netmap = netmap();
        netmap.dns.domain = domain.to_owned();
        assert_eq!(Zone::new(&netmap), None, "{domain:?}");
    }
}

#[test]
fn a_device_is_found_by_its_full_and_by_its_bare_name() {
    for name in
        ["kitchen-pi.home.warren.internal.", "Kitchen-PI.Home.warren.INTERNAL.", "kitchen-pi."]
    {
        assert_eq!(data(&ask(name, RecordType::A).unwrap()), ["100.70.3.4"]);
        assert_eq!(data(&ask(name, RecordType::AAAA).unwrap()), ["fd12:3456:789a::304"]);
        assert_eq!(data(&ask(name, RecordType::ANY).unwrap()).len(), 2);
    }
    assert_eq!(data(&ask("laptop.", RecordType::A).unwrap()), ["100.70.0.1"]);
}

#[test]
fn what_stands_behind_an_edge_has_its_name_below_the_edges() {
    let mut netmap = netmap();
    let camera =
        VirtualPeer { name: "camera".parse().unwrap(), ipv4: "100.70.9.9".parse().unwrap() };
    netmap.peers[0].edge =
        Some(EdgeOffer { virtual_devices: vec![camera], ..EdgeOffer::default() });
    let zone = Zone::new(&netmap).unwrap();
    let ask = |name: &str, kind| match zone.answer(&question(name, kind)) {
        Answer::Reply(bytes) => Message::from_vec(&bytes).unwrap(),
        Answer::Forward | Answer::Ignore => panic!("{name}"),
    };
    let name = "camera.kitchen-pi.home.warren.internal.";
    assert_eq!(data(&ask(name, RecordType::A)), ["100.70.9.9"]);
    assert_eq!(denied(&ask(name, RecordType::AAAA)), "home.warren.internal.");
    assert_eq!(data(&ask("9.9.70.100.in-addr.arpa.", RecordType::PTR)), [name]);
    for missing in ["camera.laptop", "camera", "x.camera.kitchen-pi", "printer.kitchen-pi"] {
        let reply = ask(&format!("{missing}.home.warren.internal."), RecordType::A);
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain, "{missing}");
    }
}

#[test]
fn the_question_comes_back_in_the_letters_it_was_asked_in() {
    let reply = ask("kItChEn-pI.home.warren.internal.", RecordType::A).unwrap();
    assert_eq!(reply.queries[0].name().to_ascii(), "kItChEn-pI.home.warren.internal.");
    assert_eq!(reply.answers[0].name.to_ascii(), "kItChEn-pI.home.warren.internal.");
}

#[test]
fn an_address_leads_back_to_its_name() {
    let v4 = ask("4.3.70.100.in-addr.arpa.", RecordType::PTR).unwrap();
    assert_eq!(data(&v4), ["kitchen-pi.home.warren.internal."]);
    let digits = "4.0.3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.a.9.8.7.6.5.4.3.2.1.d.f.ip6.arpa.";
    let v6 = ask(digits, RecordType::PTR).unwrap();
    assert_eq!(data(&v6), ["kitchen-pi.home.warren.internal."]);
}

#[test]
fn no_such_name_is_told_from_no_such_record() {
    let domain = "home.warren.internal.";
    let missing = ask("attic.home.warren.internal.", RecordType::A).unwrap();
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(denied(&missing), domain);
    let below = ask("www.laptop.home.warren.internal.", RecordType::A).unwrap();
    assert_eq!(below.metadata.response_code, ResponseCode::NXDomain);
    for (name, kind) in [
        ("laptop.home.warren.internal.", RecordType::MX),
        ("laptop.home.warren.internal.", RecordType::HTTPS),
        ("home.warren.internal.", RecordType::A),
    ] {
        let empty = ask(name, kind).unwrap();
        assert_eq!(empty.metadata.response_code, ResponseCode::NoError, "{name} {kind}");
        assert_eq!(denied(&empty), domain);
    }
    let nobody = ask("9.9.70.100.in-addr.arpa.", RecordType::PTR).unwrap();
    assert_eq!(nobody.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(denied(&nobody), "70.100.in-addr.arpa.");
    let inner = ask("3.70.100.in-addr.arpa.", RecordType::PTR).unwrap();
    assert_eq!(inner.metadata.response_code, ResponseCode::NoError);
}

#[test]
fn browsers_are_told_to_ask_the_host() {
    let canary = ask("use-application-dns.net.", RecordType::A).unwrap();
    assert_eq!(canary.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn other_names_are_left_to_others() {
    for name in [
        "example.org.",
        "attic.",
        "laptop.example.org.",
        "other.warren.internal.",
        "1.0.71.100.in-addr.arpa.",
        "xhome.warren.internal.",
        ".",
    ] {
        assert_eq!(zone().answer(&question(name, RecordType::A)), Answer::Forward, "{name}");
    }
}

#[test]
fn a_newer_edns_is_refused_and_version_0_answered_in_kind() {
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii("laptop.").unwrap(), RecordType::A));
    message.set_edns(Edns::new());
    let Answer::Reply(reply) = zone().answer(&message.to_vec().unwrap()) else { panic!() };
    assert!(Message::from_vec(&reply).unwrap().edns.is_some());
    let mut edns = Edns::new();
    edns.set_version(1);
    message.set_edns(edns);
    let Answer::Reply(reply) = zone().answer(&message.to_vec().unwrap()) else { panic!() };
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(reply.edns.unwrap().rcode_high(), 1, "BADVERS is 16");
}

#[test]
fn what_is_no_question_gets_no_answer_or_an_error() {
    assert_eq!(zone().answer(&[]), Answer::Ignore);
    assert_eq!(zone().answer(&[0; 11]), Answer::Ignore);
    let mut response = question("laptop.", RecordType::A);
    response[2] |= 0x80;
    assert_eq!(zone().answer(&response), Answer::Ignore);
    let mut cut = question("laptop.", RecordType::A);
    cut.truncate(14);
    let Answer::Reply(reply) = zone().answer(&cut) else { panic!() };
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::FormErr);
}

proptest::proptest! {
    #[test]
    fn no_question_makes_the_zone_panic(bytes in proptest::collection::vec(0_u8.., 0..200)) {
        let _ = zone().answer(&bytes);
    }

    #[test]
    fn no_damage_to_a_question_makes_the_zone_panic(at in 0_usize..60, byte in 0_u8..) {
        let mut bytes = question("kitchen-pi.home.warren.internal.", RecordType::A);
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        let _ = zone().answer(&bytes);
    }
}

struct Setup {
    resolver: Resolver,
    _sources: watch::Sender<Sources>,
}

async fn resolver(servers: Vec<SocketAddr>) -> Setup {
    let sources = Sources { zone: Some(Arc::new(zone())), servers, ..Sources::default() };
    let (sender, receiver) = watch::channel(sources);
    let resolver = Resolver::start((Ipv4Addr::LOCALHOST, 0).into(), receiver).await.unwrap();
    Setup { resolver, _sources: sender }
}

async fn ask_over_udp(server: SocketAddr, question: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.send_to(question, server).await.unwrap();
    let mut answer = vec![0; 4_096];
    let receiving = socket.recv(&mut answer);
    let len = tokio::time::timeout(Duration::from_secs(20), receiving).await.unwrap().unwrap();
    answer.truncate(len);
    answer
}

async fn ask_over_tcp(stream: &mut TcpStream, question: &[u8]) -> Vec<u8> {
    stream.write_u16(question.len() as u16).await.unwrap();
    stream.write_all(question).await.unwrap();
    let len = stream.read_u16().await.unwrap();
    let mut answer = vec![0; usize::from(len)];
    stream.read_exact(&mut answer).await.unwrap();
    answer
}

/// What an upstream of these tests answers: the question, marked as a response, and 3 bytes.
fn echo(question: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    answer.extend(b"end");
    answer
}

#[tokio::test]
async fn mesh_names_are_answered_over_udp_and_tcp() {
    let setup = resolver(Vec::new()).await;
    let question = question("laptop.home.warren.internal.", RecordType::A);
    let answer = ask_over_udp(setup.resolver.address(), &question).await;
    assert_eq!(data(&Message::from_vec(&answer).unwrap()), ["100.70.0.1"]);
    let mut stream = TcpStream::connect(setup.resolver.address()).await.unwrap();
    for _ in 0..2 {
        let answer = ask_over_tcp(&mut stream, &question).await;
        assert_eq!(data(&Message::from_vec(&answer).unwrap()), ["100.70.0.1"]);
    }
}

#[tokio::test]
async fn other_names_are_forwarded_untouched_past_a_dead_and_a_lying_server() {
    let dead = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let alive = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let servers = vec![dead.local_addr().unwrap(), alive.local_addr().unwrap()];
    let setup = resolver(servers).await;
    let mut question = question("example.org.", RecordType::TXT);
    // An option nobody knows must arrive as it is.
    question.extend([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 6, 0xff, 0xf0, 0, 2, 1, 2]);
    question[11] = 1;
    let upstream = tokio::spawn(async move {
        let mut seen = vec![0; 4_096];
        let (len, from) = alive.recv_from(&mut seen).await.unwrap();
        seen.truncate(len);
        let mut wrong_id = echo(&seen);
        wrong_id[0] ^= 1;
        let mut wrong_name = echo(&seen);
        wrong_name[13] ^= 1;
        for answer in [wrong_id, wrong_name, seen.clone(), echo(&seen)] {
            alive.send_to(&answer, from).await.unwrap();
        }
        seen
    });
    let answer = ask_over_udp(setup.resolver.address(), &question).await;
    assert_eq!(answer, echo(&question));
    let seen = upstream.await.unwrap();
    assert_eq!(seen[2..], question[2..]);
}

#[tokio::test]
async fn a_question_over_tcp_is_forwarded_over_tcp() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let setup = resolver(vec![listener.local_addr().unwrap()]).await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let len = stream.read_u16().await.unwrap();
        let mut seen = vec![0; usize::from(len)];
        stream.read_exact(&mut seen).await.unwrap();
        let mut answer = echo(&seen);
        answer.resize(3_000, 7);
        stream.write_u16(3_000).await.unwrap();
        stream.write_all(&answer).await.unwrap();
    });
    let question = question("example.org.", RecordType::TXT);
    let mut stream = TcpStream::connect(setup.resolver.address()).await.unwrap();
    let answer = ask_over_tcp(&mut stream, &question).await;
    assert_eq!(answer.len(), 3_000);
    assert_eq!(answer[..2], question[..2]);
}

#[tokio::test]
async fn without_servers_other_names_are_refused() {
    let setup = resolver(Vec::new()).await;
    let question = question("example.org.", RecordType::A);
    let answer = ask_over_udp(setup.resolver.address(), &question).await;
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn a_taken_port_is_an_error() {
    let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (_sender, receiver) = watch::channel(Sources::default());
    let error = Resolver::start(taken.local_addr().unwrap(), receiver).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}

/// A name server that answers and counts what it was asked.
async fn upstream(address: Ipv4Addr) -> (SocketAddr, Arc<std::sync::atomic::AtomicUsize>) {
    let socket = UdpSocket::bind((address, 0)).await.unwrap();
    let (server, asked) = (socket.local_addr().unwrap(), Arc::default());
    let count: Arc<std::sync::atomic::AtomicUsize> = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut question = vec![0; 4_096];
        while let Ok((len, from)) = socket.recv_from(&mut question).await {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let _ = socket.send_to(&echo(&question[..len]), from).await;
        }
    });
    (server, asked)
}

fn code(answer: &[u8]) -> u8 {
    answer[3] & 0x0F
}

#[tokio::test]
async fn with_an_exit_node_only_what_the_tunnel_is_built_with_is_asked_of_the_own_network() {
    let (own, own_asked) = upstream(Ipv4Addr::LOCALHOST).await;
    let (exit, exit_asked) = upstream(Ipv4Addr::LOCALHOST).await;
    let counts =
        || [&own_asked, &exit_asked].map(|it| it.load(std::sync::atomic::Ordering::SeqCst));
    let besides = ["broker.example.org".to_owned()].into();
    let sources = |servers| Sources {
        zone: Some(Arc::new(zone())),
        servers: vec![own],
        uplinks: vec![own],
        exit: Some(Exit { servers, besides: Clone::clone(&besides) }),
        ..Sources::default()
    };
    let (sender, receiver) = watch::channel(sources(vec![exit]));
    let resolver = Resolver::start((Ipv4Addr::LOCALHOST, 0).into(), receiver).await.unwrap();
    let ask =
        async |name: &str| ask_over_udp(resolver.address(), &question(name, RecordType::A)).await;
    ask("example.org.").await;
    assert_eq!(counts(), [0, 1]);
    ask("Broker.Example.ORG.").await;
    assert_eq!(counts(), [1, 1]);
    let laptop = Message::from_vec(&ask("laptop.home.warren.internal.").await).unwrap();
    assert_eq!(data(&laptop), ["100.70.0.1"], "the mesh's names are answered here");
    sender.send_replace(sources(Vec::new()));
    assert_eq!(code(&ask("example.org.").await), 2, "no exit node: nobody is asked");
    assert_eq!(counts(), [1, 1]);
}

#[tokio::test]
async fn an_exit_node_answers_those_that_use_it_but_not_with_the_meshs_names() {
    let (own, own_asked) = upstream(Ipv4Addr::LOCALHOST).await;
    let guest = Ipv4Addr::new(127, 0, 0, 2);
    let sources = Sources {
        zone: Some(Arc::new(zone())),
        uplinks: vec![own],
        guests: [guest.into()].into(),
        ..Sources::default()
    };
    let (_sender, sources) = watch::channel(sources);
    let asker = Context::for_test(Ipv4Addr::new(100, 70, 0, 1).into(), sources);
    let other = question("example.org.", RecordType::A);
    assert_eq!(asker.ask_from(guest.into(), &other).await, Some(echo(&other)));
    let name = question("laptop.home.warren.internal.", RecordType::A);
    let refused = asker.ask_from(guest.into(), &name).await.unwrap();
    assert_eq!(code(&refused), 5);
    assert_eq!(asker.ask_from([100, 70, 9, 9].into(), &other).await, None, "a stranger");
    assert_eq!(own_asked.load(std::sync::atomic::Ordering::SeqCst), 1);
}
