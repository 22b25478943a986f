//! The requests under way beside the control session's stream.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use warren_control::{Answer, ControlError, Http, REQUEST_TIMEOUT};
use warren_proto::{CheckIn, CheckInReply, CheckInState, ConnectRequest, Netmap, PathReports};

use super::edge::EdgeAsk;

/// The broker serves 16 requests of one connection at once.
const TELLING_AT_ONCE: usize = 8;

/// A request that has ended.
pub(super) enum Done {
    CheckIn(Result<Answer<CheckInReply>, ControlError>),
    Netmap(Result<Answer<Box<Netmap>>, ControlError>),
    /// What needs no answer: a connect request, path reports.
    Told(Result<(), ControlError>),
}

/// The requests under way beside the stream: one check-in at a time, the latest state wins.
pub(super) struct Requests {
    pub(super) http: Http,
    tasks: JoinSet<Done>,
    telling: Arc<Semaphore>,
    checking_in: bool,
    fetching: bool,
    /// Fetch once more when the map under way is there: a delta has overtaken it.
    fetch_again: bool,
    /// The broker has refused a check-in: the next one is in full.
    pub(super) owed: bool,
    /// Check in once more when the present one is answered.
    again: Option<(Option<CheckInState>, Duration)>,
}

impl Requests {
    pub(super) fn new(http: Http) -> Self {
        let telling = Arc::new(Semaphore::new(TELLING_AT_ONCE));
        Self {
            http,
            tasks: JoinSet::new(),
            telling,
            checking_in: false,
            fetching: false,
            fetch_again: false,
            owed: false,
            again: None,
        }
    }

    /// Checks in; without a state, 'as before'.
    pub(super) fn check_in(&mut self, state: Option<CheckInState>, patience: Duration) {
        if self.checking_in {
            let pending = self.again.take().and_then(|(state, _)| state);
            self.again = Some((state.or(pending), patience));
            return;
        }
        self.checking_in = true;
        let http = self.http.clone();
        self.tasks.spawn(async move {
            let body = CheckIn { state };
            Done::CheckIn(http.json(Method::POST, "/v1/node/check-in", Some(&body), patience).await)
        });
    }

    pub(super) fn checked_in(&mut self) {
        self.checking_in = false;
        if let Some((state, patience)) = self.again.take() {
            self.check_in(state, patience);
        }
    }

    pub(super) fn fetch_netmap(&mut self) {
        if std::mem::replace(&mut self.fetching, true) {
            self.fetch_again = true;
            return;
        }
        let http = self.http.clone();
        self.tasks.spawn(async move {
            let path = "/v1/node/netmap";
            Done::Netmap(http.json(Method::GET, path, None::<&()>, REQUEST_TIMEOUT).await)
        });
    }

    pub(super) fn fetched(&mut self) {
        self.fetching = false;
        if std::mem::take(&mut self.fetch_again) {
            self.fetch_netmap();
        }
    }

    pub(super) fn connect(&mut self, request: ConnectRequest) {
        self.tell("/v1/node/connect", request);
    }

    pub(super) fn tell_paths(&mut self, reports: PathReports) {
        self.tell("/v1/node/paths", reports);
    }

    pub(super) fn ask_edge(&mut self, ask: EdgeAsk) {
        let http = self.http.clone();
        self.tasks.spawn(async move {
            ask.ask(&http).await;
            Done::Told(Ok(()))
        });
    }

    fn tell(&mut self, path: &'static str, body: impl Serialize + Send + Sync + 'static) {
        let Ok(permit) = Arc::clone(&self.telling).try_acquire_owned() else {
            tracing::debug!(path, "too many requests at once; this one is left out");
            return;
        };
        let http = self.http.clone();
        self.tasks.spawn(async move {
            let answer = http
                .json::<serde_json::Value>(Method::POST, path, Some(&body), REQUEST_TIMEOUT)
                .await;
            drop(permit);
            Done::Told(answer.map(|_| ()))
        });
    }

    /// The next request that has ended; `None` while there is none under way.
    pub(super) async fn next(&mut self) -> Option<Done> {
        match self.tasks.join_next().await? {
            Ok(done) => Some(done),
            Err(error) => {
                Some(Done::Told(Err(ControlError::Protocol(format!("a request: {error}")))))
            }
        }
    }
}
