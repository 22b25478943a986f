//! What people on the device have the edge do, by `warren edge`.

use tokio::sync::oneshot;
use warren_edge::{EdgeTools, ScanError};
use warren_node::local::{EdgeFound, EdgeWork};

use crate::node::edge_lan::card;

/// How many devices are told at once: all together may be some megabytes.
const AT_ONCE: usize = 500;

/// Does it in a task of its own: a check or a call may take seconds.
pub(super) fn start(
    tools: EdgeTools,
    work: EdgeWork,
    answer: oneshot::Sender<Result<EdgeFound, String>>,
) {
    tokio::spawn(async move {
        // Whoever has asked and gone needs no answer.
        let _ = answer.send(work_on(&tools, work).await);
    });
}

async fn work_on(tools: &EdgeTools, work: EdgeWork) -> Result<EdgeFound, String> {
    let scanning = || EdgeFound::Scanning(tools.scanning().borrow().clone());
    let text = |error: ScanError| error.to_string();
    match work {
        EdgeWork::Scan(plan) => {
            tools.scan(plan).map_err(text)?;
            Ok(scanning())
        }
        EdgeWork::ScanAndRepeat(rescan) => {
            tools.scan_and_repeat(rescan).await.map_err(text)?;
            Ok(scanning())
        }
        EdgeWork::CancelScan => {
            tools.cancel();
            Ok(scanning())
        }
        EdgeWork::Scanning => Ok(scanning()),
        EdgeWork::Rescan => Ok(EdgeFound::Rescan(tools.rescan())),
        EdgeWork::EndRescan => {
            tools.set_rescan(None).await.map_err(text)?;
            Ok(EdgeFound::Rescan(tools.rescan()))
        }
        EdgeWork::Open => Ok(EdgeFound::Open(tools.open())),
        EdgeWork::Card(ip) => {
            tools.card(ip).await.map(EdgeFound::Card).map_err(|error| error.to_string())
        }
        EdgeWork::Devices(after) => {
            let (part, more) = tools.known(|inventory| inventory.part(after, AT_ONCE));
            Ok(EdgeFound::Devices { part, more })
        }
        EdgeWork::Wake(who) => {
            let mac = tools.known(|inventory| card(inventory, &who))?;
            tools.wake(mac).await.map(EdgeFound::Woken).map_err(|error| error.to_string())
        }
        EdgeWork::Check(forward) => {
            tools.check(forward).await.map(EdgeFound::Looked).map_err(|error| error.to_string())
        }
    }
}
