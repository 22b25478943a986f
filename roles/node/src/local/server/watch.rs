use std::time::Duration;

use tokio::sync::watch::Receiver;

use super::Replies;
use crate::daemon::View;
use crate::local::message::Reply;
use crate::local::status::Status;

/// How often the mesh is looked at: it reports paths by itself, figures not.
const LOOK: Duration = Duration::from_millis(250);

/// Sends the status whenever something other than a byte counter or a clock changes.
pub(super) async fn watch(view: &mut Receiver<View>, replies: &mut Replies) -> std::io::Result<()> {
    let mut shown = None;
    loop {
        let current = view.borrow_and_update().clone();
        let status = current.status().await;
        let essence = essence(&status);
        if shown.as_ref() != Some(&essence) {
            replies.send(&Reply::Status(Box::new(status))).await?;
            shown = Some(essence);
        }
        tokio::select! {
            changed = view.changed() => if changed.is_err() {
                return replies.send(&Reply::Done).await;
            },
            () = tokio::time::sleep(LOOK) => {}
        }
        // Changes come in bursts.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A status without what changes all the time.
fn essence(status: &Status) -> Status {
    let mut status = status.clone();
    status.broker.last_check_in = None;
    status.broker.netmap_age_s = None;
    status.broker.rtt_ms = None;
    for peer in &mut status.peers {
        peer.rx_bytes = 0;
        peer.tx_bytes = 0;
        peer.last_handshake = None;
        // A tenth of a millisecond is noise.
        peer.rtt_ms = peer.rtt_ms.map(f64::round);
    }
    status
}
