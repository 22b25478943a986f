//! Whether a response makes progress, and its end when it doesn't.
//!
//! HTTP asks a body for its next piece only once the client has taken the one before. A client that
//! takes none (an HTTP/2 window of zero) would keep the body, with all that waits in it, for ever.
//! So who drives the response (a stream's task, or the connection's for HTTP/1) also polls a
//! [`Watch`]: it ends the response when the client hasn't taken a piece for a while, or when the
//! broker has no more use for it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep};
use tracing::debug;

tokio::task_local! {
    static CURRENT: Arc<Flow>;
}

/// The course of one response at a time.
#[derive(Default)]
pub(crate) struct Flow(Mutex<State>);

#[derive(Default)]
struct State {
    is_over: bool,
    /// Since when it has been the client's turn to take something.
    waiting_since: Option<Instant>,
    waker: Option<Waker>,
}

impl Flow {
    /// The flow of the HTTP/2 stream whose task this is.
    pub(super) fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Ends the response, or whatever else it is that is watched, whether the client reads or not.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.is_over = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    #[cfg(test)]
    pub(crate) fn is_over(&self) -> bool {
        self.lock().is_over
    }

    /// Notes that something was handed over: the client is to take it.
    pub(super) fn wait_for_client(&self) {
        self.lock().waiting_since = Some(Instant::now());
    }

    /// Notes that the client has taken everything.
    pub(super) fn wait_for_body(&self) {
        self.lock().waiting_since = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Completes when a flow is to end. To be polled by the task that drives the response, after it.
pub(super) struct Watch {
    flow: Arc<Flow>,
    patience: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    pub(super) fn new(flow: Arc<Flow>, patience: Duration) -> Self {
        Self { flow, patience, timer: None }
    }
}

impl Future for Watch {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let waiting_since = {
            let mut state = this.flow.lock();
            if state.is_over {
                return Poll::Ready(());
            }
            if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                state.waker = Some(cx.waker().clone());
            }
            state.waiting_since
        };
        let Some(since) = waiting_since else {
            this.timer = None;
            return Poll::Pending;
        };
        let deadline = since + this.patience;
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).map(|()| debug!("a client takes nothing of its response"))
    }
}

/// Runs each HTTP/2 stream as a task of its own that ends with its [`Flow`].
#[derive(Clone)]
pub(super) struct Streams {
    pub(super) patience: Duration,
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let flow = Arc::<Flow>::default();
        let watch = Watch::new(flow, self.patience);
        tokio::spawn(Watched { stream: Box::pin(stream), watch });
    }
}

struct Watched<F> {
    stream: Pin<Box<F>>,
    watch: Watch,
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let flow = this.watch.flow.clone();
        if CURRENT.sync_scope(flow, || this.stream.as_mut().poll(cx)).is_ready() {
            return Poll::Ready(());
        }
        Pin::new(&mut this.watch).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_flow_ends_when_the_client_takes_nothing_and_not_while_nothing_is_due() {
        let flow = Arc::<Flow>::default();
        let mut impatient = Watch::new(flow.clone(), Duration::ZERO);
        let mut patient = Watch::new(flow.clone(), PATIENCE);
        assert!((&mut impatient).now_or_never().is_none(), "it is the body's turn");

        flow.wait_for_client();
        assert!((&mut patient).now_or_never().is_none());
        flow.wait_for_body();
        assert!((&mut impatient).now_or_never().is_none(), "the client took it in time");

        flow.wait_for_client();
        impatient.await;
        assert!((&mut patient).now_or_never().is_none());
        flow.end();
        patient.await;
    }

    #[tokio::test]
    async fn a_stream_that_is_ended_is_dropped_at_once() {
        use hyper::rt::Executor as _;
        let (sender, dropped) = tokio::sync::oneshot::channel::<()>();
        let (tell, told) = tokio::sync::oneshot::channel();
        Streams { patience: PATIENCE }.execute(async move {
            let _sender = sender;
            let flow = Flow::current().expect("a stream's task has its flow");
            assert!(tell.send(flow).is_ok());
            std::future::pending::<()>().await;
        });
        told.await.unwrap().end();
        assert!(dropped.await.is_err());
    }
}
