use std::time::Duration;

use super::Context;
use crate::daemon::{Failure, Order, View};
use crate::local::message::FailureCode;
use crate::local::status::{HealthCode, NodeState, Status};

/// How long `up` waits for a connection before it says that the daemon goes on trying.
const PATIENCE: Duration = Duration::from_secs(30);

/// Has the daemon connect, and waits until it has, or can't.
pub(super) async fn up(
    context: &mut Context,
    join: Option<String>,
    name: Option<String>,
) -> Result<Status, Failure> {
    context.order(|answer| Order::Up { join, name, answer }).await?;
    let waiting = async {
        loop {
            let view = context.view.borrow_and_update().clone();
            if let Some(result) = outcome(&view) {
                return result.map(|()| view);
            }
            if context.view.changed().await.is_err() {
                return Err(Failure::new(FailureCode::Other, "the daemon is shutting down"));
            }
        }
    };
    match tokio::time::timeout(PATIENCE, waiting).await {
        Ok(Ok(view)) => Ok(view.status().await),
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(timed_out(&context.view.borrow())),
    }
}

/// Whether it is settled, and how.
fn outcome(view: &View) -> Option<Result<(), Failure>> {
    if let Some((code, text)) = &view.join_failure {
        return Some(Err(Failure::new(*code, text.clone())));
    }
    let obstacles = [
        (HealthCode::Interface, FailureCode::Interface),
        (HealthCode::WrongPin, FailureCode::WrongPin),
        (HealthCode::UpgradeRequired, FailureCode::Other),
    ];
    for (trouble, code) in obstacles {
        if let Some(health) = view.health.iter().find(|health| health.code == trouble) {
            return Some(Err(Failure::new(code, health.text.clone())));
        }
    }
    // With the mesh up it is the kept port that is taken, and another is used meanwhile.
    let port = view.health.iter().find(|health| health.code == HealthCode::ListenPort);
    if let Some(health) = port.filter(|_| view.data.is_none()) {
        return Some(Err(Failure::new(FailureCode::PortInUse, health.text.clone())));
    }
    match view.state {
        // The mesh is up from its last map.
        NodeState::Connected | NodeState::Offline => Some(Ok(())),
        NodeState::MustJoinAgain => Some(Err(Failure::new(
            FailureCode::NotJoined,
            "this device must join again: ask for a new join link, then: warren up --join LINK",
        ))),
        NodeState::Down | NodeState::NotJoined => {
            Some(Err(Failure::new(FailureCode::Down, "told to disconnect in the meantime")))
        }
        NodeState::Joining | NodeState::Connecting => None,
    }
}

fn timed_out(view: &View) -> Failure {
    let why = view.broker.error.clone().unwrap_or_else(|| "no answer yet".to_owned());
    let code = if view.lost || view.broker.error.is_some() {
        FailureCode::BrokerAway
    } else {
        FailureCode::Timeout
    };
    Failure::new(
        code,
        format!("not connected after {} s, the daemon goes on trying: {why}", PATIENCE.as_secs()),
    )
}
