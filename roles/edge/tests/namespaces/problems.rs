//! Problems begin and end by themselves, without a change of what is to be open.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use warren_edge::{EdgeReport, Problem};
use warren_lab::{isolated, wait_for};
use warren_proto::ForwardProtocol;

use crate::common::{Running, Site, serve};
use crate::engine::{CAMERA, forward, forwards};

/// The LAN and the host are looked at each ten seconds.
const A_LOOK: Duration = Duration::from_secs(15);

fn until(
    running: &Running,
    what: &str,
    limit: Duration,
    is_so: impl Fn(&EdgeReport) -> bool,
) -> Result<()> {
    let found = wait_for(what, limit, || Ok(is_so(&running.report.borrow()).then_some(())));
    found.with_context(|| format!("{:?}", running.report.borrow()))
}

#[test]
fn a_program_that_takes_a_forwards_port_is_told_of_and_so_is_its_end() {
    isolated(|world| {
        let site = Site::build(world)?;
        let camera = site.device(world, "camera", CAMERA)?;
        serve(&camera, 80)?;
        let running =
            site.start(forwards(vec![forward(1, ForwardProtocol::Tcp, 2222, CAMERA, 80)]))?;
        running.until("the duty", |report| report.applied > 0 && report.problems.is_empty())?;
        let applied = running.report.borrow().applied;
        let is_shadow = |problem: &Problem| matches!(problem, Problem::Shadows { port: 2222, .. });
        let listener = site.edge.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 2222)))??;
        until(&running, "the listener", A_LOOK, |report| report.problems.iter().any(is_shadow))?;
        drop(listener);
        until(&running, "its end", A_LOOK, |report| report.problems.is_empty())?;
        ensure!(running.report.borrow().applied == applied, "the table was made anew for it");
        running.stop()
    });
}

#[test]
fn a_firewall_that_begins_to_drop_is_told_of_at_once_and_so_is_its_end() {
    isolated(|world| {
        let site = Site::build(world)?;
        let camera = site.device(world, "camera", CAMERA)?;
        serve(&camera, 80)?;
        let running =
            site.start(forwards(vec![forward(1, ForwardProtocol::Tcp, 8080, CAMERA, 80)]))?;
        running.until("the duty", |report| report.applied > 0 && report.problems.is_empty())?;
        let is_drop = |problem: &Problem| matches!(problem, Problem::HostDrops { .. });
        for round in 0..2 {
            // Far from the look around of each ten seconds at least once.
            std::thread::sleep(Duration::from_millis(500 * round));
            site.drop_forwarding()?;
            let limit = Duration::from_secs(3);
            until(&running, "the firewall", limit, |report| report.problems.iter().any(is_drop))?;
            site.edge.run(&["nft", "delete", "table", "ip", "filter"])?;
            until(&running, "its end", limit, |report| report.problems.is_empty())?;
        }
        running.stop()
    });
}
