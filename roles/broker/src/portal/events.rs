//! The stream that says when what a page of an account shows may have changed.
//!
//! It carries no data: the page's script fetches the page again and takes over what differs, so
//! that there is one way only to what a person may see.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::watch;
use tokio::time::sleep;

use super::viewer::Member;
use super::{Portal, Shared};

/// Changes that come sooner after one are told together.
const TOGETHER: Duration = Duration::from_millis(400);
/// A silent connection is closed by many a proxy after a minute.
const SILENCE: Duration = Duration::from_secs(20);
/// How often it is checked that the person is still signed in.
const CHECK: Duration = Duration::from_secs(5);
/// Counters grow without being news: the page is to fetch them this often.
const COUNTERS: Duration = Duration::from_secs(60);

struct Listening {
    portal: Arc<Portal>,
    member: Member,
    changes: watch::Receiver<u64>,
    told: Instant,
    is_over: bool,
}

/// Tells of changes until the session ends.
pub(super) async fn stream(State(portal): Shared, member: Member) -> Response {
    let changes = member.account.changes();
    let listening = Listening { portal, member, changes, told: Instant::now(), is_over: false };
    Sse::new(events(listening)).keep_alive(KeepAlive::new().interval(SILENCE)).into_response()
}

fn events(listening: Listening) -> impl Stream<Item = Result<Event, Infallible>> {
    unfold(listening, |mut this| async move {
        if this.is_over {
            return None;
        }
        loop {
            let (changed, is_gone) = tokio::select! {
                changed = this.changes.changed() => (changed.is_ok(), changed.is_err()),
                () = sleep(CHECK) => (false, false),
            };
            if is_gone || !this.member.is_still_in(&this.portal) {
                this.is_over = true;
                return Some((Ok(Event::default().event("over").data("-")), this));
            }
            if changed || this.told.elapsed() > COUNTERS {
                sleep(TOGETHER).await;
                this.changes.mark_unchanged();
                this.told = Instant::now();
                return Some((Ok(Event::default().event("changed").data("-")), this));
            }
        }
    })
}
