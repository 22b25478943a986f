//! The stream that says when what a page shows may have changed. It carries no data: the page is
//! fetched again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream::unfold;
use tokio::time::{sleep, timeout};

use crate::surround::Shared;

/// Changes that come sooner after one are told together.
const TOGETHER: Duration = Duration::from_millis(400);
/// Counters grow without being news: the page is to fetch them this often.
const COUNTERS: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(15);

pub(super) async fn stream(State(site): Shared) -> Response {
    let news = site.news.subscribe();
    let stream = unfold((Arc::clone(&site), news), |(site, mut news)| async move {
        if matches!(timeout(COUNTERS, news.changed()).await, Ok(Err(_))) {
            return None;
        }
        sleep(TOGETHER).await;
        news.mark_unchanged();
        let event = Event::default().event("changed").data("-");
        Some((Ok::<Event, Infallible>(event), (site, news)))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(SILENCE)).into_response()
}
