//! What a script is given and what a test gets back.

use serde_json::json;
use std::time::Duration;
use warren_browser::{Browser, screenshots};

#[test]
fn a_script_sees_a_page_returns_what_it_found_and_leaves_a_picture() {
    let picture = screenshots().join("harness.png");
    let _ = std::fs::remove_file(&picture);
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("title.mjs");
    let text = "export default async ({ page, args, screenshot }) => {
        await page.setContent(`<title>${args.title}</title><h1>It works</h1>`);
        await screenshot('harness');
        return { title: await page.title() };
    };";
    std::fs::write(&script, text).unwrap();
    let job = Browser::find().unwrap().script(script).arguments(json!({ "title": "Burrow" }));
    assert_eq!(job.run().unwrap(), json!({ "title": "Burrow" }));
    assert!(std::fs::read(picture).unwrap().starts_with(b"\x89PNG"));
}

#[test]
fn a_script_that_fails_or_hangs_fails_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("fault.mjs");
    let browser = Browser::find().unwrap();
    std::fs::write(&script, "export default async () => { throw new Error('no burrow'); };")
        .unwrap();
    let error = browser.script(&script).run().unwrap_err().to_string();
    assert!(error.contains("no burrow"), "{error}");
    std::fs::write(&script, "export default () => new Promise((_) => setTimeout(_, 1e9));")
        .unwrap();
    let job = browser.script(&script).within(Duration::from_secs(3));
    let error = job.run().unwrap_err().to_string();
    assert!(error.contains("takes longer"), "{error}");
}
