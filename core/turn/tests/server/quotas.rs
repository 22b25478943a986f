use std::num::NonZeroU64;
use std::time::Duration;

use warren_turn::Message;
use warren_turn::server::{Config, Dropped, Quotas, Run};

use crate::world::{Who, World, addr, client, config, number};

fn world(quotas: Quotas) -> World {
    World::new(Config { quotas, ..config() })
}

#[test]
fn one_credential_has_only_so_many_allocations() {
    let mut world = world(Quotas { allocations: 2, ..Quotas::default() });
    let mut first = Who::rest("a", client(1));
    world.allocated(&mut first);
    world.allocated(&mut Who::rest("a", client(2)));
    assert_eq!(world.allocate(&mut Who::rest("a", client(3)), |_| {}), Err(486));
    world.allocated(&mut Who::rest("b", client(4)));
    assert_eq!(world.refresh(&mut first, Some(0)), Ok(0));
    world.allocated(&mut Who::rest("a", client(3)));
    assert_eq!(world.server.gauges().credentials, 2);
}

#[test]
fn ports_that_are_reserved_count() {
    let mut world = world(Quotas { allocations: 4, total_allocations: 5, ..Quotas::default() });
    let pair = |world: &mut World, who: &mut Who| {
        let answer = world.allocate(who, |b| {
            b.even_port(true);
        })?;
        Ok::<_, u16>(Message::parse(&answer).unwrap().reservation_token().unwrap())
    };
    let mut first = Who::rest("a", client(1));
    let token = pair(&mut world, &mut first).unwrap();
    let second = pair(&mut world, &mut Who::rest("a", client(2))).unwrap();
    // Letting go of the allocations doesn't let go of the ports.
    assert_eq!(world.refresh(&mut first, Some(0)), Ok(0));
    assert!(pair(&mut world, &mut first).is_ok());
    assert_eq!(pair(&mut world, &mut Who::rest("a", client(3))), Err(486));
    assert_eq!(world.allocate(&mut Who::rest("b", client(4)), |_| {}).map(drop), Err(508));
    // To fetch one takes nothing more.
    for (n, token) in [(5, token), (6, second)] {
        let mut who = Who::rest("a", client(n));
        let fetched = world.allocate(&mut who, |b| {
            b.reservation_token(token);
        });
        assert!(fetched.is_ok(), "{fetched:?}");
    }
    world.pass(Duration::from_secs(31));
    world.allocated(&mut Who::rest("b", client(4)));
    world.pass(Duration::from_secs(700));
    assert_eq!(world.server.gauges().credentials, 0);
    assert_eq!(world.server.poll_timeout(), None);
}

#[test]
fn a_virtual_one_that_replaces_itself_does_not_count_twice() {
    let mut world = world(Quotas { allocations: 1, total_allocations: 1, ..Quotas::default() });
    for n in 1..5 {
        world.allocated_virtual(&mut Who::rest("a", client(n)));
    }
    assert_eq!(world.allocate(&mut Who::rest("a", client(9)), |_| {}), Err(486));
    assert_eq!(world.allocate(&mut Who::rest("b", client(9)), |_| {}), Err(508));
}

#[test]
fn the_server_has_only_so_many_allocations() {
    let mut world = world(Quotas { total_allocations: 3, ..Quotas::default() });
    for n in 1..=3 {
        world.allocated(&mut Who::rest(&n.to_string(), client(n)));
    }
    assert_eq!(world.allocate(&mut Who::rest("x", client(9)), |_| {}), Err(508));
    world.pass(Duration::from_secs(601));
    world.allocated(&mut Who::rest("x", client(9)));
    assert_eq!(world.server.gauges().credentials, 1);
}

#[test]
fn bandwidth_is_shared_by_the_allocations_of_a_credential() {
    let bandwidth = NonZeroU64::new(10_000);
    let mut world = world(Quotas { bandwidth, ..Quotas::default() });
    let mut whos = [Who::rest("a", client(1)), Who::rest("a", client(2))];
    let mut other = Who::rest("b", client(3));
    for who in whos.iter_mut().chain([&mut other]) {
        world.allocated(who);
        world.bind(who, number(0), addr("8.8.8.8:1")).unwrap();
    }
    let run = Run { packets: 1, bytes: 500 };
    let mut sent = 0;
    for _ in 0..10_000 {
        world.pass(Duration::from_millis(1));
        for who in &whos {
            match world.server.route_channel(who.at, number(0), run, world.now) {
                Ok(_) => sent += run.bytes,
                Err(dropped) => assert_eq!(dropped, Dropped::Bandwidth),
            }
        }
    }
    assert!((100_000..=112_000).contains(&sent), "{sent}");
    assert!(world.server.route_channel(other.at, number(0), run, world.now).is_ok());
}

#[test]
fn total_bandwidth_is_shared_by_all() {
    let total_bandwidth = NonZeroU64::new(1000);
    let mut world = world(Quotas { total_bandwidth, ..Quotas::default() });
    let mut whos = [Who::rest("a", client(1)), Who::rest("b", client(2))];
    for who in &mut whos {
        world.allocated(who);
        world.bind(who, number(0), addr("8.8.8.8:1")).unwrap();
    }
    let run = Run { packets: 1, bytes: 2500 };
    assert!(world.server.route_channel(whos[0].at, number(0), run, world.now).is_ok());
    let refused = world.server.route_channel(whos[1].at, number(0), run, world.now);
    assert_eq!(refused, Err(Dropped::Bandwidth));
    world.pass(Duration::from_secs(2));
    assert!(world.server.route_channel(whos[1].at, number(0), run, world.now).is_ok());
}

#[test]
fn allocating_afresh_does_not_refill_the_bandwidth() {
    let bandwidth = NonZeroU64::new(1000);
    let mut world = world(Quotas { bandwidth, ..Quotas::default() });
    let mut who = Who::rest("a", client(1));
    let run = Run { packets: 1, bytes: 5000 };
    let mut send = |world: &mut World| {
        world.allocated(&mut who);
        world.bind(&mut who, number(0), addr("8.8.8.8:1")).unwrap();
        let sent = world.server.route_channel(who.at, number(0), run, world.now);
        assert_eq!(world.refresh(&mut who, Some(0)), Ok(0));
        sent
    };
    assert!(send(&mut world).is_ok());
    assert_eq!(send(&mut world), Err(Dropped::Bandwidth));
    world.pass(Duration::from_secs(5));
    assert_eq!(world.server.gauges().credentials, 0, "forgotten when paid");
    assert!(send(&mut world).is_ok());
}

#[test]
fn who_spends_more_while_the_bandwidth_is_being_paid_is_forgotten_too() {
    let bandwidth = NonZeroU64::new(1000);
    let mut world = world(Quotas { bandwidth, ..Quotas::default() });
    let mut who = Who::rest("a", client(1));
    let mut send = |world: &mut World, bytes: u64| {
        world.allocated(&mut who);
        world.bind(&mut who, number(0), addr("8.8.8.8:1")).unwrap();
        let run = Run { packets: 1, bytes };
        let sent = world.server.route_channel(who.at, number(0), run, world.now);
        assert_eq!(world.refresh(&mut who, Some(0)), Ok(0));
        sent
    };
    assert!(send(&mut world, 5000).is_ok());
    world.pass(Duration::from_millis(4500));
    // The timer for the five seconds is set; this debt outlasts it.
    assert!(send(&mut world, 2000).is_ok());
    world.pass(Duration::from_secs(10));
    assert_eq!(world.server.gauges().credentials, 0);
    assert_eq!(world.server.poll_timeout(), None);
}
