//! What an owner does on her first day, in a browser on a machine of its own, with real devices.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use common::running_ping::pair;
use common::{Lab, SECOND, kernel_ping, mesh_ipv4};
use serde_json::json;
use warren_browser::Browser;
use warren_lab::warren::Node;
use warren_lab::{Plug, isolated, wait_for};

/// The last of the devices joins by a code.
#[test]
fn a_first_day_from_an_invitation_to_a_ping_that_a_policy_cuts() {
    let browser = Browser::find();
    isolated(|world| {
        let browser = browser?;
        let lab = Lab::start(world)?;
        let (desk, _) = lab.host("desk", world.internet(), &Plug::ipv4())?;
        let (laptop, _server, _router, ping) = pair(&lab)?;
        let (phone, _) = lab.host("phone", world.internet(), &Plug::ipv4())?;
        let mut phone = Node::start(&lab.warren, &phone, &[])?;
        phone.wait_status("runs", 10 * SECOND, |_| true)?;
        let url = format!("https://{}", lab.broker_ipv4()[0]);
        let invite = ["users", "invite", "ada@example.org", "--role", "owner"];
        let invitation = lab.broker.admin(&invite)?["link"].clone();
        let state = phone.state().to_string_lossy().into_owned();
        let mut asking = lab.warren.on(phone.host());
        let flags = ["--state", &state, "up", "--server", &url, "--name", "Kitchen Pi"];
        let mut asking = asking.args(flags).label("kitchen-pi-up").spawn()?;
        let code = wait_for("the code", 15 * SECOND, || Ok(code_in(&asking.log())))?;

        let signals = tempfile::tempdir()?;
        let job = browser
            .script(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/first_day.mjs"))
            .arguments(
                json!({ "url": url, "invitation": invitation, "code": code, "signals": signals.path() }),
            )
            .within(180 * SECOND);
        let line = job.command_line();
        let mut running = desk.command(&line[0]);
        running.args(&line[1..]);
        std::thread::scope(|scope| {
            let output = scope.spawn(move || running.output());
            let judged = (|| {
                at(&signals.path().join("cut"), &output)?;
                ping.is_cut()?;
                std::fs::write(signals.path().join("is-cut"), "")?;
                at(&signals.path().join("allowed"), &output)?;
                ping.flows(10 * SECOND)?;
                std::fs::write(signals.path().join("flows"), "")?;
                Ok(())
            })();
            let output = output.join().expect("no panic")?;
            let said = job.result(&output)?;
            ensure!(said == json!([]), "the browser complains: {said}");
            judged
        })?;
        ensure!(asking.wait(10 * SECOND)?.success(), "`up` failed: {}", asking.log());
        phone.wait_connected()?;
        kernel_ping(laptop.host(), mesh_ipv4(&phone)?, 10 * SECOND)?;
        Ok(())
    });
}

/// Waits for the script to come so far, or to end.
fn at<T>(signal: &Path, script: &std::thread::ScopedJoinHandle<'_, T>) -> Result<()> {
    let begun = Instant::now();
    while !signal.exists() {
        if script.is_finished() || begun.elapsed() > 120 * SECOND {
            bail!("the script ended before {}", signal.display());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// `K7QF-2M9T`, as `up` prints it.
fn code_in(log: &str) -> Option<String> {
    let (_, rest) = log.split_once("code there:")?;
    let code = rest.split_whitespace().next()?;
    (code.len() == 9).then(|| code.to_owned())
}
