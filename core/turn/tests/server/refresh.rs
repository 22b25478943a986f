use std::time::Duration;

use warren_turn::server::{Config, Quotas};
use warren_turn::{Family, Message, Method};

use crate::world::{Who, World, client, config};

#[test]
fn when_refreshed_in_time_an_allocation_does_not_expire() {
    let mut world = World::new(config());
    let mut who = Who::alice(client(1));
    world.allocated(&mut who);
    for _ in 0..5 {
        world.pass(Duration::from_secs(599));
        assert_eq!(world.refresh(&mut who, None), Ok(600));
    }
    world.pass(Duration::from_secs(600));
    assert_eq!(world.refresh(&mut who, None), Err(437));
    assert!(world.open.is_empty());
    assert_eq!(world.server.counters().released, 1);
}

#[test]
fn a_client_that_roams_begins_afresh_and_what_it_had_runs_out() {
    let quotas = Quotas { allocations: 2, ..Quotas::default() };
    let mut world = World::new(Config { quotas, ..config() });
    let mut at_home = Who::rest("a", client(1));
    world.allocated(&mut at_home);
    let mut roamed = Who { at: client(2), ..at_home.clone() };
    assert_eq!(world.refresh(&mut roamed, None), Err(438), "the nonce is for the old address");
    roamed.nonce = None;
    assert_eq!(world.refresh(&mut roamed, None), Err(437));
    world.allocated(&mut roamed);
    let mut farther = Who::rest("a", client(3));
    assert_eq!(world.allocate(&mut farther, |_| {}).map(drop), Err(486));
    world.pass(Duration::from_secs(599));
    assert_eq!(world.refresh(&mut roamed, None), Ok(600));
    world.pass(Duration::from_secs(1));
    assert!(!world.server.has_allocation(at_home.at));
    world.allocated(&mut farther);
    assert_eq!(world.server.gauges().allocations, 2);
}

#[test]
fn a_lifetime_of_zero_ends_it_at_once() {
    let mut world = World::new(config());
    let mut who = Who::alice(client(1));
    world.allocated(&mut who);
    assert_eq!(world.refresh(&mut who, Some(0)), Ok(0));
    assert!(world.open.is_empty());
    assert_eq!(world.refresh(&mut who, Some(0)), Err(437));
    world.allocated(&mut who);
}

#[test]
fn somebody_elses_allocation_is_a_441() {
    let mut world = World::new(config());
    world.allocated(&mut Who::alice(client(1)));
    let mut other = Who::rest("alice", client(1));
    assert_eq!(world.refresh(&mut other, Some(0)), Err(441));
    assert_eq!(world.permit(&mut other, &["8.8.8.8:1".parse().unwrap()]), Err(441));
    assert_eq!(world.server.gauges().allocations, 1);
}

#[test]
fn one_of_two_families_can_be_given_back() {
    let mut world = World::new(config());
    let mut who = Who::alice(client(1));
    let _ = world
        .allocate(&mut who, |b| {
            b.additional_address_family(Family::V6);
        })
        .unwrap();
    let mut refresh = |world: &mut World, family, lifetime| {
        let answer = world.request(&mut who, Method::REFRESH, |b| {
            b.lifetime(lifetime).requested_address_family(family);
        })?;
        Ok(Message::parse(&answer).unwrap().lifetime().unwrap())
    };
    assert_eq!(refresh(&mut world, Family::V6, 0), Ok(0));
    assert_eq!(world.open.iter().map(|port| port.family).collect::<Vec<_>>(), [Family::V4]);
    assert_eq!(refresh(&mut world, Family::V6, 600), Err(443));
    assert_eq!(refresh(&mut world, Family::V4, 700), Ok(700));
    assert_eq!(refresh(&mut world, Family::V4, 0), Ok(0));
    assert!(world.open.is_empty());
    assert_eq!(world.server.gauges().allocations, 0);
}
