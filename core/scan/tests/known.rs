//! What is known while a scan goes on, held once, beside the plain way that holds everything twice: what
//! was known, and what the scan has found.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::Ipv4Net;
use proptest::prelude::*;
use warren_proto::MacAddr;
use warren_scan::{
    Finding, Inventory, Ipv6Neighbour, Known, NameSource, ScanEvent, Scope, Transport,
};

fn network(third: u8) -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::new(10, 9, third, 0), 24).unwrap()
}

fn card() -> impl Strategy<Value = MacAddr> {
    (1_u8..6).prop_map(|last| MacAddr([0x54, 0x8c, 0x81, 0, 0, last]))
}

fn text() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["camera", "printer", "door", "nas"]).prop_map(str::to_owned)
}

fn event(third: u8) -> impl Strategy<Value = ScanEvent> {
    let ip = (1_u8..8).prop_map(move |last| Ipv4Addr::new(10, 9, third, last));
    let rtt = prop::option::of((1_u64..9).prop_map(Duration::from_micros));
    let device = (ip.clone(), prop::option::of(card()), rtt);
    let port = prop::sample::select(vec![22_u16, 80, 554]);
    let said = (prop::option::of(text()), prop::option::of(text()));
    let source = prop::sample::select(vec![NameSource::Ptr, NameSource::Mdns]);
    prop_oneof![
        device.prop_map(|(ip, mac, rtt)| ScanEvent::Device { ip, mac, rtt }),
        (ip.clone(), port, said).prop_map(|(ip, port, (banner, title))| {
            let finding = Finding { banner, title, ..Finding::default() };
            ScanEvent::Service { ip, transport: Transport::Tcp, port, finding }
        }),
        (ip, source, text()).prop_map(|(ip, source, name)| ScanEvent::Name { ip, source, name }),
    ]
}

fn neighbours(third: u8) -> impl Strategy<Value = ScanEvent> {
    let addresses = prop::collection::btree_set(
        (1_u16..9).prop_map(|last| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last)),
        1..3,
    );
    let neighbours = prop::collection::btree_map(card(), addresses, 0..4);
    neighbours.prop_map(move |all| {
        let link = network(third);
        let heard = all.into_iter();
        ScanEvent::Ipv6(
            heard.map(|(mac, addresses)| Ipv6Neighbour { link, mac, addresses }).collect(),
        )
    })
}

/// One scan: its network, what it tells in turn, the leases at its end, and whether it is cancelled.
#[derive(Debug, Clone)]
struct Told {
    third: u8,
    events: Vec<ScanEvent>,
    ipv6: ScanEvent,
    leases: Vec<(MacAddr, String)>,
    is_cancelled: bool,
}

fn told() -> impl Strategy<Value = Told> {
    (8_u8..10, any::<bool>()).prop_flat_map(|(third, is_cancelled)| {
        let events = prop::collection::vec(event(third), 0..40);
        let leases = prop::collection::vec((card(), text()), 0..3);
        (events, neighbours(third), leases).prop_map(move |(events, ipv6, leases)| Told {
            third,
            events,
            ipv6,
            leases,
            is_cancelled,
        })
    })
}

/// What is known after a scan, holding all twice.
fn plainly(known: &mut Inventory, told: &Told, unix: u64) {
    let (before, mut fresh) = (known.clone(), Inventory::default());
    for (event, at) in told.events.iter().zip(unix..) {
        fresh.take(event.clone(), at);
        known.take(event.clone(), at);
    }
    if told.is_cancelled {
        return;
    }
    fresh.take(told.ipv6.clone(), unix + 99);
    for (mac, name) in told.leases.clone() {
        let mut devices = fresh.devices.values();
        let device = devices.find(|it| it.mac == Some(mac) && it.ipv4().is_some());
        if let Some(ip) = device.and_then(|device| device.ipv4()) {
            fresh.take(ScanEvent::Name { ip, source: NameSource::Dhcp, name }, unix + 99);
        }
    }
    *known = before;
    known.merge(fresh, &scope(told), unix + 99);
}

fn scope(told: &Told) -> Scope {
    Scope { networks: vec![network(told.third)], links: vec![network(told.third)] }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn holding_it_once_is_as_good_as_holding_it_twice(
        scans in prop::collection::vec(told(), 1..5),
    ) {
        let (mut known, mut plain) = (Known::default(), Inventory::default());
        for (told, unix) in scans.iter().zip((1000..).step_by(100)) {
            for (number, event) in told.events.iter().enumerate() {
                known.take(event.clone(), unix + number as u64);
            }
            let meanwhile = Told { is_cancelled: true, ..told.clone() };
            let mut overlaid = plain.clone();
            plainly(&mut overlaid, &meanwhile, unix);
            prop_assert_eq!(known.inventory(), &overlaid, "while it goes on");
            if told.is_cancelled {
                known.cancel();
            } else {
                known.take(told.ipv6.clone(), unix + 99);
                known.end(&scope(told), told.leases.clone(), unix + 99);
            }
            plainly(&mut plain, told, unix);
            prop_assert_eq!(known.inventory(), &plain);
        }
    }
}
