//! What people on the device have the edge do, by `warren edge`.

use tokio::sync::oneshot;
use warren_edge::EdgeTools;
use warren_node::local::{EdgeFound, EdgeWork};

use crate::node::edge_lan::card;

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
    let scanning = || EdgeFound::Scanning(*tools.scanning().borrow());
    match work {
        EdgeWork::Scan(plan) => {
            tools.scan(plan).map_err(|error| error.to_string())?;
            Ok(scanning())
        }
        EdgeWork::CancelScan => {
            tools.cancel();
            Ok(scanning())
        }
        EdgeWork::Scanning => Ok(scanning()),
        EdgeWork::Rescan => Ok(EdgeFound::Rescan(tools.rescan())),
        EdgeWork::SetRescan(rescan) => {
            tools.set_rescan(rescan).map_err(|error| error.to_string())?;
            Ok(EdgeFound::Rescan(tools.rescan()))
        }
        EdgeWork::Open => Ok(EdgeFound::Open(tools.open())),
        EdgeWork::Card(ip) => {
            tools.card(ip).await.map(EdgeFound::Card).map_err(|error| error.to_string())
        }
        EdgeWork::Devices => Ok(EdgeFound::Devices(tools.inventory())),
        EdgeWork::Wake(who) => {
            let mac = card(&tools.inventory(), &who)?;
            tools.wake(mac).await.map(EdgeFound::Woken).map_err(|error| error.to_string())
        }
        EdgeWork::Check(forward) => {
            tools.check(forward).await.map(EdgeFound::Looked).map_err(|error| error.to_string())
        }
    }
}
