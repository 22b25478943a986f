//! Webhooks as the account keeps them.

use std::time::Duration;

use warren_coord::{By, NewWebhook, Refused, WebhookEdit, WebhookOff, WebhookRecord};
use warren_proto::WebhookId;

use crate::world::World;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn new(url: &str, events: &[&str]) -> NewWebhook {
    let events = events.iter().map(|event| (*event).to_owned()).collect();
    NewWebhook { url: url.to_owned(), events }
}

fn create(world: &mut World, events: &[&str]) -> WebhookId {
    let ctx = world.ctx();
    let made = world.account.prepare_webhook(new("https://example.org/h", events), &ctx).unwrap();
    world.commit(made).id
}

fn record(world: &World, id: WebhookId) -> WebhookRecord {
    world.account.webhooks().find(|it| it.id == id).unwrap().clone()
}

fn outcome(world: &mut World, id: WebhookId, arrived: bool) -> Vec<String> {
    let ctx = world.ctx();
    let noted = world.account.prepare_webhook_outcome(id, arrived, &ctx).unwrap();
    let entries = world.account.activity(&noted.changes, &By::BROKER, 0);
    world.commit(noted);
    entries.into_iter().map(|entry| entry.action).collect()
}

#[test]
fn a_webhook_where_nothing_arrives_for_five_days_is_switched_off_and_says_so() {
    let mut world = World::new("home");
    let id = create(&mut world, &["device"]);
    assert_eq!(outcome(&mut world, id, false), [""; 0], "one failure is no news");
    world.advance(4 * DAY);
    outcome(&mut world, id, false);
    assert!(record(&world, id).wants("device.joined"));
    outcome(&mut world, id, true);
    assert_eq!(record(&world, id).failing_since, None, "it begins anew");
    outcome(&mut world, id, false);
    world.advance(5 * DAY);
    world.restart();
    assert_eq!(outcome(&mut world, id, false), ["webhook.disabled"]);
    assert_eq!(record(&world, id).off, Some(WebhookOff::Failing));
    assert!(!record(&world, id).wants("device.joined"));
    let on = WebhookEdit { on: Some(true), ..WebhookEdit::default() };
    let on = world.account.prepare_edit_webhook(id, on).unwrap();
    world.commit(on);
    assert_eq!((record(&world, id).off, record(&world, id).failing_since), (None, None));
}

#[test]
fn who_comes_and_goes_is_noted_where_somebody_asks_for_it() {
    let mut world = World::new("home");
    let device = world.join(1, "pi");
    let session = world.open(device);
    assert!(!world.account.has_presences(), "nobody asks");
    world.close(session);
    world.advance(Duration::from_secs(10));
    create(&mut world, &["device.online"]);
    let session = world.open(device);
    let came = world.account.poll_presence().unwrap();
    assert_eq!((came.event(), came.name.as_str()), ("device.online", "pi"));
    world.close(session);
    world.advance(Duration::from_secs(10));
    assert_eq!(world.account.poll_presence(), None, "that it goes, nobody asks for");
}

#[test]
fn secrets_change_over_and_nonsense_is_refused() {
    let mut world = World::new("home");
    let id = create(&mut world, &["device", "policy.changed"]);
    let before = record(&world, id).secret;
    let ctx = world.ctx();
    let rotated = world.account.prepare_rotate_webhook(id, &ctx).unwrap();
    let entries = world.account.activity(&rotated.changes, &By::BROKER, 0);
    assert_eq!(entries[0].action, "webhook.rotated");
    assert!(!format!("{entries:?}").contains(&before.to_string()));
    let created = world.commit(rotated);
    let now = record(&world, id);
    assert_eq!((now.secret, now.previous.map(|it| it.0)), (created.secret, Some(before)));
    assert_ne!(created.secret, before);
    for (url, events) in [
        ("http:/x", &["device"][..]),
        ("https://a b/", &["device"]),
        ("https://example.org/", &[]),
        ("https://example.org/", &["Device"]),
    ] {
        let refused = world.account.prepare_webhook(new(url, events), &ctx);
        assert!(matches!(refused, Err(Refused::Invalid(_))), "{url} {events:?}");
    }
    for _ in 1..20 {
        create(&mut world, &["device"]);
    }
    let refused = world.account.prepare_webhook(new("https://example.org/", &["device"]), &ctx);
    assert!(matches!(refused, Err(Refused::Invalid(_))), "there are enough");
    let removed = world.account.prepare_remove_webhook(id).unwrap();
    world.commit(removed);
    assert!(matches!(world.account.prepare_remove_webhook(id), Err(Refused::NotFound(_))));
}
