use std::time::Duration;

use crate::world::World;

#[test]
fn a_thousand_devices_converge_and_a_roam_costs_each_peer_one_delta() {
    const DEVICES: u64 = 1000;
    let mut world = World::new("home");
    let key = world.reusable_key();
    let devices: Vec<_> =
        (0..DEVICES).map(|seed| world.register(seed, "pi", &key).unwrap().device).collect();
    let sessions: Vec<_> = devices.iter().map(|device| world.open(*device)).collect();
    for (n, device) in devices.iter().enumerate() {
        world.check_in(*device, &[&format!("198.51.100.{}:{}", n % 250 + 1, 1000 + n)]).unwrap();
        world.advance(Duration::from_millis(1));
    }
    world.settle();
    world.assert_converged();
    let start_up = world.event_count;
    assert!(start_up < DEVICES * 30, "coalesced: {start_up} events for {DEVICES} devices");

    world.check_in(devices[17], &["203.0.113.5:7777"]).unwrap();
    world.advance(Duration::from_secs(5));
    assert_eq!(world.event_count - start_up, DEVICES - 1, "one delta for each peer");
    world.assert_converged();

    let before = world.event_count;
    world.close(sessions[17]);
    world.advance(Duration::from_secs(5));
    assert_eq!(world.event_count - before, DEVICES - 1);
    let removal = world.account.prepare_remove(devices[18]).unwrap();
    world.commit(removal);
    world.advance(Duration::from_secs(5));
    let told = DEVICES - 2;
    assert_eq!(world.event_count - before, DEVICES - 1 + told + 1, "and one revocation");
    for session in &sessions[..17] {
        assert_eq!(world.clients[session].whole_maps(), 1);
    }
    world.assert_converged();
}
