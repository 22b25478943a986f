use std::time::Duration;

use warren_coord::{Refused, TRAFFIC_STEP, TRAFFIC_STEPS};
use warren_proto::{DeviceId, MAX_PATH_REPORTS, PathKind, PathReport, PathReports};

use crate::world::World;

fn report(peer: DeviceId, path: PathKind, bytes: u64) -> PathReport {
    PathReport {
        peer,
        path,
        reason: None,
        endpoint: None,
        relay: None,
        rtt_us: Some(20_000),
        rx_bytes: bytes,
        tx_bytes: bytes.saturating_mul(2),
    }
}

fn tell(world: &mut World, from: DeviceId, paths: Vec<PathReport>) -> Result<(), Refused> {
    world.account.handle_paths(from, PathReports { paths }, world.now)
}

fn received(world: &World, device: DeviceId) -> Vec<u64> {
    world.account.traffic(device, world.now, world.unix).map(|point| point.rx_bytes).collect()
}

#[test]
fn paths_are_shown_while_they_last_and_cost_the_peers_nothing() {
    let mut world = World::new("home");
    let (pi, laptop) = (world.join(1, "pi"), world.join(2, "laptop"));
    let (on_pi, on_laptop) = (world.open(pi), world.open(laptop));
    world.advance(Duration::from_secs(1));
    let (events, revision) = (world.clients[&on_laptop].events.len(), world.account.revision());
    let unknown = DeviceId(999);
    let paths = [laptop, unknown, pi].map(|peer| report(peer, PathKind::Direct, 0)).to_vec();
    tell(&mut world, pi, paths).unwrap();
    world.advance(Duration::from_secs(1));
    let shown: Vec<_> = world.account.paths(pi).collect();
    assert_eq!(shown.len(), 1, "neither itself nor a stranger: {shown:?}");
    assert_eq!((shown[0].peer, shown[0].path), (laptop, PathKind::Direct));
    assert!(world.account.revision() > revision, "a page must hear of it");
    assert_eq!(world.clients[&on_laptop].events.len(), events, "no device does");

    let revision = world.account.revision();
    tell(&mut world, pi, vec![report(laptop, PathKind::Direct, 10)]).unwrap();
    assert_eq!(world.account.revision(), revision, "counters alone are no news");
    tell(&mut world, pi, vec![report(laptop, PathKind::Idle, 10)]).unwrap();
    assert_eq!(world.account.paths(pi).count(), 0);
    tell(&mut world, pi, vec![report(laptop, PathKind::Relayed, 10)]).unwrap();
    world.close(on_pi);
    world.advance(Duration::from_secs(10));
    assert_eq!(world.account.paths(pi).count(), 0, "it is offline");
}

#[test]
fn traffic_is_counted_in_steps_from_the_first_word_on_and_over_restarts_of_the_node() {
    let mut world = World::new("home");
    let (pi, laptop) = (world.join(1, "pi"), world.join(2, "laptop"));
    world.open(pi);
    let say = |world: &mut World, bytes| {
        tell(world, pi, vec![report(laptop, PathKind::Direct, bytes)]).unwrap();
    };
    say(&mut world, 1_000);
    assert!(received(&world, pi).is_empty(), "what was before may have been counted before");
    say(&mut world, 1_500);
    world.advance(3 * TRAFFIC_STEP);
    say(&mut world, 1_700);
    assert_eq!(received(&world, pi), [500, 0, 0, 200]);
    let point = world.account.traffic(pi, world.now, world.unix).next().unwrap();
    assert_eq!((point.tx_bytes, point.rtt), (1_000, Some(Duration::from_millis(20))));
    assert_eq!(Duration::from_secs(point.since.0) + 3 * TRAFFIC_STEP, world.unix);

    // The node starts anew: its counters, too.
    world.open(pi);
    say(&mut world, 40);
    assert_eq!(received(&world, pi), [500, 0, 0, 240]);
    world.advance(TRAFFIC_STEP * TRAFFIC_STEPS as u32);
    say(&mut world, 41);
    let all = received(&world, pi);
    assert_eq!((all.len(), all[0], all[TRAFFIC_STEPS - 1]), (TRAFFIC_STEPS, 0, 1));
    world.advance(TRAFFIC_STEP * 10 * TRAFFIC_STEPS as u32);
    say(&mut world, 42);
    assert_eq!(received(&world, pi).iter().sum::<u64>(), 1);
}

#[test]
fn a_device_that_reports_without_end_is_bounded() {
    let mut world = World::new("home");
    let (pi, laptop) = (world.join(1, "pi"), world.join(2, "laptop"));
    world.open(pi);
    let flood = vec![report(laptop, PathKind::Direct, u64::MAX); 10 * MAX_PATH_REPORTS];
    let mut outcomes = Vec::new();
    for _ in 0..40 {
        outcomes.push(tell(&mut world, pi, flood.clone()));
    }
    assert!(outcomes[0].is_ok() && outcomes.contains(&Err(Refused::RateLimited)), "{outcomes:?}");
    assert_eq!(world.account.paths(pi).count(), 1);
    assert_eq!(tell(&mut world, DeviceId(999), Vec::new()), Err(Refused::Revoked));
}
