//! Which card something is bound to.

use std::time::SystemTime;

use anyhow::{Result, ensure};
use tokio::sync::watch;
use warren_edge::Edge;
use warren_lab::isolated;

use crate::common::{Site, config};
use crate::engine::CAMERA;
use crate::following::NEXT;

#[test]
fn what_a_scan_saw_days_ago_is_asked_for_and_whoever_answers_is_bound() {
    isolated(|world| {
        let site = Site::build(world)?;
        let camera = site.device(world, "camera", CAMERA)?;
        camera.ip(&["link set eth0 address 3c:52:82:00:00:09"])?;
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let device = |ip, mac: &str, ago: u64| {
            let seen = unix - ago;
            format!(
                r#""{ip}":{{"ip":"{ip}","mac":"{mac}","present":true,"first_seen_unix":1,"last_seen_unix":{seen}}}"#
            )
        };
        let fresh = [192, 168, 1, 30].into();
        let devices = [
            device(CAMERA, "3c:52:82:00:00:01", 2 * 86_400),
            device(NEXT, "3c:52:82:00:00:02", 2 * 86_400),
            device(fresh, "3c:52:82:00:00:03", 60),
        ];
        let inventory = format!(r#"{{"devices":{{{}}}}}"#, devices.join(","));
        std::fs::write(site.state.join("edge-devices.json"), inventory)?;
        site.edge.enter(|| -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let (_duty, receiver) = watch::channel(None);
                let edge = Edge::start(config(&site.state), receiver);
                let tools = edge.tools();
                ensure!(tools.known(|it| it.devices.len()) == 3);
                let at = tools.card(CAMERA).await?;
                ensure!(at.mac == "3c:52:82:00:00:09".parse().ok(), "somebody else's now: {at:?}");
                let nobody = tools.card(NEXT).await?;
                ensure!(nobody.mac.is_none() && nobody.why.contains("2 days ago"), "{nobody:?}");
                let seen = tools.card(fresh).await?;
                ensure!(seen.mac == "3c:52:82:00:00:03".parse().ok(), "{seen:?}");
                let unknown = tools.card([192, 168, 1, 31].into()).await?;
                ensure!(unknown.mac.is_none() && unknown.why.is_empty(), "{unknown:?}");
                edge.stop().await;
                Ok(())
            })
        })?
    });
}
