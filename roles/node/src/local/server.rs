//! The daemon's end of the local socket: accepts, and answers each request in a task of its own.

mod netcheck;
mod ping;
mod up;
mod watch;
mod why;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch as channel};
use tokio::task::AbortHandle;

use super::client::socket_path;
use super::message::{DebugCounters, FailureCode, Reply, Request};
use crate::config::SetLogFilter;
use crate::daemon::{Failure, Order, View};

/// The longest request.
const MAX_REQUEST: u64 = 64 << 10;
/// Requests under way at once.
const MAX_CLIENTS: usize = 64;
/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// Members of this group may use the socket.
const GROUP: &str = "warren";

/// The socket; removed when dropped.
#[derive(Debug)]
pub(crate) struct LocalServer {
    path: PathBuf,
    task: AbortHandle,
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What every answer is made from.
#[derive(Clone)]
struct Context {
    view: channel::Receiver<View>,
    orders: mpsc::Sender<Order>,
    set_log_filter: Option<SetLogFilter>,
}

impl LocalServer {
    pub(crate) fn start(
        state: &Path,
        view: channel::Receiver<View>,
        orders: mpsc::Sender<Order>,
        set_log_filter: Option<SetLogFilter>,
    ) -> std::io::Result<Self> {
        let path = socket_path(state);
        // Whoever holds the folder's lock owns the socket; this one is left from a crash.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        restrict(state, &path)?;
        let context = Context { view, orders, set_log_filter };
        let task = tokio::spawn(accept(listener, context)).abort_handle();
        Ok(Self { path, task })
    }
}

/// 0600, or 0660 for the group where that exists; then it may enter the folder too.
fn restrict(state: &Path, path: &Path) -> std::io::Result<()> {
    let mode =
        |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    mode(path, 0o600)?;
    let Ok(Some(group)) = nix::unistd::Group::from_name(GROUP) else { return Ok(()) };
    let given = [path, state]
        .into_iter()
        .all(|path| nix::unistd::chown(path, None, Some(group.gid)).is_ok());
    if given {
        mode(path, 0o660)?;
        mode(state, 0o710)?;
    }
    Ok(())
}

async fn accept(listener: UnixListener, context: Context) {
    let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok(permit) = Arc::clone(&clients).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let context = context.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    if let Err(error) = serve(stream, context).await {
                        tracing::debug!(%error, "a local client went away");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the local socket takes no client");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// One client: one request, then its answers; over as soon as the client closes.
async fn serve(stream: UnixStream, context: Context) -> std::io::Result<()> {
    let (reader, writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    let mut limited = (&mut reader).take(MAX_REQUEST);
    match tokio::time::timeout(PATIENCE, limited.read_line(&mut line)).await {
        Ok(read) => read?,
        Err(_) => return Ok(()),
    };
    let mut replies = Replies { writer };
    let request: Request = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(error) => {
            let text = format!("the request was not understood: {error}");
            return replies.send(&Failure::new(FailureCode::Invalid, text).into()).await;
        }
    };
    let mut rest = [0; 64];
    tokio::select! {
        answered = answer(request, context, &mut replies) => answered,
        // Whatever follows the request is ignored until the client closes.
        () = async { while reader.read(&mut rest).await.is_ok_and(|read| read > 0) {} } => Ok(()),
    }
}

async fn answer(
    request: Request,
    mut context: Context,
    replies: &mut Replies,
) -> std::io::Result<()> {
    match request {
        Request::Status => {
            let view = context.view.borrow().clone();
            replies.send(&Reply::Status(Box::new(view.status().await))).await
        }
        Request::Watch => watch::watch(&mut context.view, replies).await,
        Request::Up { join, name } => {
            let result = up::up(&mut context, join, name).await;
            replies.send_result(result.map(|status| Reply::Status(Box::new(status)))).await
        }
        Request::Down => {
            let result = context.order(|answer| Order::Down { answer }).await;
            replies.send_result(result.map(|()| Reply::Done)).await
        }
        Request::Logout { new_identity } => {
            let result = context.order(|answer| Order::Logout { new_identity, answer }).await;
            replies.send_result(result.map(|untold| Reply::LoggedOut { untold })).await
        }
        Request::Ping(request) => ping::ping(&context.view, &request, replies).await,
        Request::Netcheck => {
            let view = context.view.borrow().clone();
            let result = netcheck::netcheck(&view).await;
            replies.send_result(result.map(Reply::Netcheck)).await
        }
        Request::Why(request) => {
            let view = context.view.borrow().clone();
            let result = why::why(&view, request).await;
            replies.send_result(result.map(|report| Reply::Why(Box::new(report)))).await
        }
        Request::ListenPort { set } => {
            let result = context.order(|answer| Order::ListenPort { set, answer }).await;
            replies.send_result(result.map(Reply::ListenPort)).await
        }
        Request::ExitNode { set } => {
            let result = context.order(|answer| Order::ExitNode { set, answer }).await;
            replies.send_result(result.map(Reply::ExitNodes)).await
        }
        Request::Edge { edge } => {
            let result = context.order(|answer| Order::Edge { request: edge, answer }).await;
            let reply = result.map(|edge| Reply::Edge { edge: Box::new(edge) });
            replies.send_result(reply).await
        }
        Request::Counters => {
            let view = context.view.borrow().clone();
            replies.send(&Reply::Counters(counters(&view).await)).await
        }
        Request::Log { filter } => {
            let result = context.set_log_filter(&filter);
            replies.send_result(result.map(|()| Reply::Done)).await
        }
    }
}

async fn counters(view: &View) -> DebugCounters {
    let snapshot = match &view.data {
        Some(data) => data.snapshot().await.ok(),
        None => None,
    };
    let counters = snapshot.map(|snapshot| snapshot.counters).unwrap_or_default();
    DebugCounters { rss_kib: resident_kib(), ..counters }
}

/// Resident memory, from /proc/self/statm (proc(5)); 0 where there is none.
fn resident_kib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = statm.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

impl Context {
    /// Has the daemon do something.
    async fn order<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<T, Failure>>) -> Order,
    ) -> Result<T, Failure> {
        let gone = || Failure::new(FailureCode::Other, "the daemon is shutting down");
        let (answer, answered) = oneshot::channel();
        self.orders.send(order(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    fn set_log_filter(&self, filter: &str) -> Result<(), Failure> {
        match &self.set_log_filter {
            Some(set) => set(filter).map_err(|text| Failure::new(FailureCode::Invalid, text)),
            None => Err(Failure::new(FailureCode::Other, "this daemon's log can't be changed")),
        }
    }
}

/// The client's end.
struct Replies {
    writer: OwnedWriteHalf,
}

impl Replies {
    async fn send(&mut self, reply: &Reply) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(reply)?;
        line.push(b'\n');
        self.writer.write_all(&line).await
    }

    async fn send_result(&mut self, result: Result<Reply, Failure>) -> std::io::Result<()> {
        match result {
            Ok(reply) => self.send(&reply).await,
            Err(failure) => self.send(&failure.into()).await,
        }
    }
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        Self::Error { code: failure.code, text: failure.text }
    }
}
