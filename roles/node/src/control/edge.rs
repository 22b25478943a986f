//! Asking the broker for what is set of this device as an edge, and for changes of it.

use http::Method;
use tokio::sync::oneshot;
use warren_control::{ControlError, Http, REQUEST_TIMEOUT};
use warren_proto::{ASKED_FROM, DeviceId, EdgeChange, EdgeChanged, EdgeSpec};

use crate::daemon::Failure;
use crate::local::{EdgeReply, FailureCode};

const PATH: &str = "/v1/node/edge";

/// A question, and who waits for the answer.
#[derive(Debug)]
pub(crate) struct EdgeAsk {
    /// `None`: all that is set is asked for.
    pub(crate) change: Option<EdgeChange>,
    /// The device from which somebody has asked this one for it. `None`: this one itself.
    pub(crate) from: Option<DeviceId>,
    pub(crate) answer: oneshot::Sender<Result<EdgeReply, Failure>>,
}

impl EdgeAsk {
    /// Says that the broker can't be asked now.
    pub(crate) fn refuse(self) {
        let _ = self.answer.send(Err(broker_away()));
    }

    pub(super) async fn ask(self, http: &Http) {
        let asked = match &self.change {
            None => http
                .json::<EdgeSpec>(Method::GET, PATH, None::<&()>, REQUEST_TIMEOUT)
                .await
                .map(|answer| EdgeReply::Spec(answer.body)),
            Some(change) => http
                .json::<EdgeChanged>(Method::POST, &self.path(), Some(change), REQUEST_TIMEOUT)
                .await
                .map(|answer| EdgeReply::Changed(answer.body)),
        };
        let _ = self.answer.send(asked.map_err(|error| failure(&error)));
    }

    fn path(&self) -> String {
        match self.from {
            Some(device) => format!("{PATH}?{ASKED_FROM}={device}"),
            None => PATH.to_owned(),
        }
    }
}

pub(crate) fn broker_away() -> Failure {
    Failure::new(
        FailureCode::BrokerAway,
        "the broker is out of reach: what is open stays so, and can be changed when it is back",
    )
}

fn failure(error: &ControlError) -> Failure {
    match error {
        ControlError::Refused(problem) => Failure::new(FailureCode::Invalid, problem.title.clone()),
        ControlError::Url(_)
        | ControlError::WrongPin { .. }
        | ControlError::Resolve { .. }
        | ControlError::Connect { .. }
        | ControlError::Tls { .. }
        | ControlError::Http(_)
        | ControlError::Protocol(_)
        | ControlError::Timeout(_)
        | ControlError::Silent(_)
        | ControlError::Ended
        | ControlError::NetworkChanged => Failure::new(FailureCode::BrokerAway, error.to_string()),
    }
}
