//! The pages in a real browser: they work by keyboard and click, look well, pass axe, and nothing that
//! the LAN says runs.

use serde_json::json;
use warren_browser::Browser;

use crate::world::World;

fn script() -> String {
    format!("{}/tests/pages/looks.mjs", env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_look_well_and_do_what_they_say() {
    let (world, empty) = (World::new(true, true), World::new(true, false));
    let viewer = World::new(false, true);
    let arguments = json!({ "url": world.url(), "empty": empty.url(), "viewer": viewer.url() });
    let job = Browser::find().unwrap().script(script()).arguments(arguments);
    let job = job.within(std::time::Duration::from_secs(150));
    let running = tokio::task::spawn_blocking(move || job.run());
    // As soon as the forward is set, the engine opens it.
    let opening = async {
        loop {
            let made = world.account.spec.lock().unwrap().forwards.first().map(|it| it.id);
            if let Some(id) = made {
                world.report(id);
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let result = tokio::select! {
        result = running => result.unwrap().unwrap(),
        () = opening => unreachable!("it opens for ever"),
    };
    assert_eq!(result["findings"], json!([]), "what axe finds");
    assert_eq!(result["errors"], json!([]));
    let devices = world.account.spec.lock().unwrap().virtual_devices.clone();
    assert_eq!(devices[0].name.as_str(), "front-door");
    assert_eq!(devices[0].target.mac.unwrap().to_string(), "3c:52:82:01:02:03");
}
