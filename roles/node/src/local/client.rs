use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::edge::{EdgeReply, EdgeRequest};
use super::exit::{ExitNodeChange, ExitNodes};
use super::message::{
    DebugCounters, FailureCode, ListenPort, ListenPortChange, NetcheckReport, PingReport,
    PingRequest, Reply, Request,
};
use super::status::Status;
use super::why::{WhyReport, WhyRequest};

/// The daemon could not be asked, or said no.
#[derive(Debug, Error)]
pub enum LocalError {
    /// No daemon listens there.
    #[error(
        "no warren node is running (nothing listens at {path}); start one with 'warren node' or install it with 'warren service install'"
    )]
    NoDaemon {
        /// The socket that was tried.
        path: PathBuf,
    },
    /// The socket may not be used by this user.
    #[error("no permission for {path}; use sudo, or become a member of the group 'warren'")]
    Permission {
        /// The socket that was tried.
        path: PathBuf,
    },
    /// The connection broke.
    #[error("the daemon went away: {0}")]
    Io(#[from] io::Error),
    /// The daemon sent something else than expected: another version.
    #[error("the daemon's answer was not understood; is it of another version? ({0})")]
    Protocol(String),
    /// The daemon refused, or failed.
    #[error("{text}")]
    Refused {
        /// Why, for programs.
        code: FailureCode,
        /// Why and what to do next, for people.
        text: String,
    },
}

/// A connection to a node's daemon; one request each.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

/// The replies of one streaming request.
#[derive(Debug)]
pub struct Replies {
    lines: tokio::io::Lines<BufReader<UnixStream>>,
}

impl Client {
    /// A client of the daemon whose state folder is `state`. Connects with each request.
    pub fn new(state: &Path) -> Self {
        Self { socket: socket_path(state) }
    }

    /// Whether a daemon answers at all.
    pub async fn is_running(&self) -> bool {
        UnixStream::connect(&self.socket).await.is_ok()
    }

    /// [`Request::Status`].
    ///
    /// # Errors
    /// See [`LocalError`]; so for all the others.
    pub async fn status(&self) -> Result<Status, LocalError> {
        let reply = self.ask(&Request::Status).await?;
        let Reply::Status(status) = reply else { return Err(unexpected(&reply)) };
        Ok(*status)
    }

    /// [`Request::Up`]: connects, joining first with a link.
    ///
    /// # Errors
    /// Those of [`LocalError`]: the daemon can't be asked, or refuses.
    pub async fn up(
        &self,
        join: Option<String>,
        name: Option<String>,
    ) -> Result<Status, LocalError> {
        let reply = self.ask(&Request::Up { join, name }).await?;
        let Reply::Status(status) = reply else { return Err(unexpected(&reply)) };
        Ok(*status)
    }

    /// [`Request::Edge`].
    ///
    /// # Errors
    /// Those of [`LocalError`]: the daemon can't be asked, or it or the broker refuses.
    pub async fn edge(&self, edge: EdgeRequest) -> Result<EdgeReply, LocalError> {
        let reply = self.ask(&Request::Edge { edge }).await?;
        let Reply::Edge { edge } = reply else { return Err(unexpected(&reply)) };
        Ok(*edge)
    }

    /// [`Request::Down`].
    ///
    /// # Errors
    /// Those of [`LocalError`]: the daemon can't be asked, or refuses.
    pub async fn down(&self) -> Result<(), LocalError> {
        self.ask_done(&Request::Down).await
    }

    /// [`Request::Logout`]. Returns why the broker could not be told, if so, and what to do.
    ///
    /// # Errors
    /// Those of [`LocalError`]: the daemon can't be asked, or refuses.
    pub async fn logout(&self, new_identity: bool) -> Result<Option<String>, LocalError> {
        let reply = self.ask(&Request::Logout { new_identity }).await?;
        let Reply::LoggedOut { untold } = reply else { return Err(unexpected(&reply)) };
        Ok(untold)
    }

    /// [`Request::Netcheck`].
    ///
    /// # Errors
    /// Those of [`LocalError`]: the daemon can't be asked, or refuses.
    pub async fn netcheck(&self) -> Result<NetcheckReport, LocalError> {
        let reply = self.ask(&Request::Netcheck).await?;
        let Reply::Netcheck(report) = reply else { return Err(unexpected(&reply)) };
        Ok(report)
    }

    /// [`Request::Why`].
    ///
    /// # Errors
    /// Those of [`LocalError`]: the daemon can't be asked, or refuses.
    pub async fn why(&self, request: WhyRequest) -> Result<WhyReport, LocalError> {
        let reply = self.ask(&Request::Why(request)).await?;
        let Reply::Why(report) = reply else { return Err(unexpected(&reply)) };
        Ok(*report)
    }

    /// [`Request::ListenPort`].
    ///
    /// # Errors
    /// Those of [`LocalError`]: the daemon can't be asked, or refuses.
    pub async fn listen_port(
        &self,
        set: Option<ListenPort>,
    ) -> Result<ListenPortChange, LocalError> {
        let reply = self.ask(&Request::ListenPort { set }).await?;
        let Reply::ListenPort(change) = reply else { return Err(unexpected(&reply)) };
        Ok(change)
    }

    /// [`Request::ExitNode`].
    ///
    /// # Errors
    /// Those of [`LocalError`]: the daemon can't be asked, or refuses.
    pub async fn exit_node(&self, set: Option<ExitNodeChange>) -> Result<ExitNodes, LocalError> {
        let reply = self.ask(&Request::ExitNode { set }).await?;
        let Reply::ExitNodes(nodes) = reply else { return Err(unexpected(&reply)) };
        Ok(nodes)
    }

    /// [`Request::Counters`].
    ///
    /// # Errors
    /// Those of [`LocalError`]: the daemon can't be asked, or refuses.
    pub async fn counters(&self) -> Result<DebugCounters, LocalError> {
        let reply = self.ask(&Request::Counters).await?;
        let Reply::Counters(counters) = reply else { return Err(unexpected(&reply)) };
        Ok(counters)
    }

    /// [`Request::Log`].
    ///
    /// # Errors
    /// Those of [`LocalError`]: the daemon can't be asked, or refuses.
    pub async fn log(&self, filter: impl Into<String>) -> Result<(), LocalError> {
        self.ask_done(&Request::Log { filter: filter.into() }).await
    }

    /// [`Request::Ping`]: read with [`Replies::next_ping`].
    ///
    /// # Errors
    /// Those of [`LocalError`]: the daemon can't be asked, or refuses.
    pub async fn ping(&self, request: PingRequest) -> Result<Replies, LocalError> {
        self.send(&Request::Ping(request)).await
    }

    /// [`Request::Watch`]: read with [`Replies::next_status`].
    ///
    /// # Errors
    /// Those of [`LocalError`]: the daemon can't be asked, or refuses.
    pub async fn watch(&self) -> Result<Replies, LocalError> {
        self.send(&Request::Watch).await
    }

    /// Sends any request and returns its first reply; a refusal becomes an error.
    ///
    /// # Errors
    /// Those of [`LocalError`]: the daemon can't be asked, or refuses.
    pub async fn ask(&self, request: &Request) -> Result<Reply, LocalError> {
        match self.send(request).await?.next().await? {
            Some(reply) => Ok(reply),
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    async fn ask_done(&self, request: &Request) -> Result<(), LocalError> {
        let reply = self.ask(request).await?;
        if reply == Reply::Done { Ok(()) } else { Err(unexpected(&reply)) }
    }

    /// Sends any request and returns the stream of its replies.
    ///
    /// # Errors
    /// Those of [`LocalError`]: the daemon can't be asked, or refuses.
    pub async fn send(&self, request: &Request) -> Result<Replies, LocalError> {
        let mut stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            let path = self.socket.clone();
            #[expect(clippy::wildcard_enum_match_arm, reason = "the standard library's enum")]
            match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    LocalError::NoDaemon { path }
                }
                io::ErrorKind::PermissionDenied => LocalError::Permission { path },
                _ => LocalError::Io(error),
            }
        })?;
        let mut line =
            serde_json::to_vec(request).map_err(|error| LocalError::Protocol(error.to_string()))?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        Ok(Replies { lines: BufReader::new(stream).lines() })
    }
}

impl Replies {
    /// The next reply; `None` at the end of the stream. A refusal becomes an error.
    ///
    /// # Errors
    /// Those of [`LocalError`]: the daemon can't be asked, or refuses.
    pub async fn next(&mut self) -> Result<Option<Reply>, LocalError> {
        let Some(line) = self.lines.next_line().await? else { return Ok(None) };
        match serde_json::from_str(&line) {
            Ok(Reply::Error { code, text }) => Err(LocalError::Refused { code, text }),
            Ok(reply) => Ok(Some(reply)),
            Err(error) => Err(LocalError::Protocol(error.to_string())),
        }
    }

    /// The next attempt of a ping; `None` after the last.
    ///
    /// # Errors
    /// Those of [`LocalError`]: the daemon can't be asked, or refuses.
    pub async fn next_ping(&mut self) -> Result<Option<PingReport>, LocalError> {
        match self.next().await? {
            Some(Reply::Ping(report)) => Ok(Some(report)),
            Some(Reply::Done) | None => Ok(None),
            Some(other) => Err(unexpected(&other)),
        }
    }

    /// The next status of a watch; `None` when the daemon ends.
    ///
    /// # Errors
    /// Those of [`LocalError`]: the daemon can't be asked, or refuses.
    pub async fn next_status(&mut self) -> Result<Option<Status>, LocalError> {
        match self.next().await? {
            Some(Reply::Status(status)) => Ok(Some(*status)),
            Some(Reply::Done) | None => Ok(None),
            Some(other) => Err(unexpected(&other)),
        }
    }
}

/// Where the daemon with the state folder `state` listens.
pub(crate) fn socket_path(state: &Path) -> PathBuf {
    state.join("node.sock")
}

fn unexpected(reply: &Reply) -> LocalError {
    LocalError::Protocol(format!("unexpected {reply:?}"))
}
