mod devices;
mod edges;
mod people;
mod policy;
mod relays;
mod webhooks;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, LINK};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use warren_proto::{JoinKeyId, Problem};

use super::download::Download;
use super::{
    Account, AccountChange, BrokerStatus, JoinKey, JoinKeyCreated, NewAccount, NewJoinKey, Pins,
    SetLog, socket_path,
};
use crate::backup::Manifest;

type Content = UnsyncBoxBody<Bytes, std::io::Error>;

/// Why an admin request failed; the text says what to do next.
#[derive(Debug)]
pub enum Error {
    /// No broker answers on the socket.
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The socket is there, but not for this user.
    Forbidden(PathBuf),
    /// The broker refused.
    Problem(Problem),
    /// The conversation broke off or made no sense.
    Broken(String),
    /// A file of ours couldn't be read or written.
    File(PathBuf, std::io::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotRunning { socket, source } => write!(
                f,
                "no broker answers at {} ({source}); is `warren serve` running, and is --data its \
                 data folder?",
                socket.display()
            ),
            Self::Forbidden(socket) => write!(
                f,
                "{} is for root, the broker's own user and the group `{}`",
                socket.display(),
                super::GROUP
            ),
            Self::Problem(problem) => f.write_str(&problem.title),
            Self::Broken(what) => write!(f, "the broker's answer can't be used: {what}"),
            Self::File(path, source) => write!(f, "{}: {source}", path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotRunning { source, .. } | Self::File(_, source) => Some(source),
            Self::Forbidden(_) | Self::Problem(_) | Self::Broken(_) => None,
        }
    }
}

/// How long an answer may take, but for a backup or restore.
const PATIENCE: Duration = Duration::from_secs(60);

/// Speaks to a running broker over its admin socket. Accounts and devices are named by name or id.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the broker with this data folder.
    pub fn new(data: &Path) -> Self {
        Self::at(socket_path(data))
    }

    /// A client of whichever broker answers: the one with this data folder, or the machine's
    /// service. Where none does, its errors name the data folder's socket.
    pub fn find(data: &Path) -> Self {
        let own = socket_path(data);
        let service = Path::new(super::SERVICE_SOCKET);
        if !is_served(&own) && is_served(service) { Self::at(service) } else { Self::at(own) }
    }

    /// A client of the broker with this admin socket.
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The broker as a whole.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn status(&self) -> Result<BrokerStatus, Error> {
        self.get("/api/v1/status").await
    }

    /// All accounts, by name.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn accounts(&self) -> Result<Vec<Account>, Error> {
        self.list("/api/v1/accounts").await
    }

    /// One account.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn account(&self, account: &str) -> Result<Account, Error> {
        self.get(&account_path(account)).await
    }

    /// Creates an account.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn create_account(&self, new: &NewAccount) -> Result<Account, Error> {
        self.send(Method::POST, "/api/v1/accounts", Some(new)).await
    }

    /// Changes an account's settings; what is absent stays.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn change_account(
        &self,
        account: &str,
        change: &AccountChange,
    ) -> Result<Account, Error> {
        self.send(Method::PATCH, &account_path(account), Some(change)).await
    }

    /// Removes an account with all its devices and join keys; they are cut off at once.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn remove_account(&self, account: &str) -> Result<(), Error> {
        self.delete(&account_path(account)).await
    }

    /// An account's join keys.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn join_keys(&self, account: &str) -> Result<Vec<JoinKey>, Error> {
        self.list(&format!("{}/join-keys", account_path(account))).await
    }

    /// Creates a join key.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn create_join_key(
        &self,
        account: &str,
        new: &NewJoinKey,
    ) -> Result<JoinKeyCreated, Error> {
        let path = format!("{}/join-keys", account_path(account));
        self.send(Method::POST, &path, Some(new)).await
    }

    /// Removes a join key; devices that have joined with it stay.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn remove_join_key(&self, account: &str, key: JoinKeyId) -> Result<(), Error> {
        self.delete(&format!("{}/join-keys/{key}", account_path(account))).await
    }

    /// The pins by which devices know the broker.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn pins(&self) -> Result<Pins, Error> {
        self.get("/api/v1/pins").await
    }

    /// Makes the next CA and announces its pin to all devices. Idempotent.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn prepare_pin(&self) -> Result<Pins, Error> {
        self.send(Method::POST, "/api/v1/pins/prepare", None::<&()>).await
    }

    /// Puts the prepared CA to use. Devices that have not been online since it was announced must
    /// join again.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn activate_pin(&self) -> Result<Pins, Error> {
        self.send(Method::POST, "/api/v1/pins/activate", None::<&()>).await
    }

    /// Changes what the broker logs until it ends, in `tracing`'s filter syntax.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn set_log(&self, filter: impl Into<String>) -> Result<SetLog, Error> {
        let wanted = SetLog { filter: filter.into() };
        self.send(Method::PUT, "/api/v1/log", Some(&wanted)).await
    }

    /// Writes a backup of the running broker (database, CA, settings) to a new file of mode 0600.
    ///
    /// # Errors
    /// Besides the broker's: the file is there already or can't be written; then nothing is left
    /// of it.
    pub async fn backup(&self, file: &Path) -> Result<u64, Error> {
        let failed = |error| Error::File(file.to_owned(), error);
        let mut target = tokio::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)
            .await
            .map_err(failed)?;
        let request = request(Method::POST, "/api/v1/backup", whole(Bytes::new()))?;
        let mut written = self.stream(request, &mut target, failed).await;
        if written.is_ok() {
            written = target.sync_all().await.map_err(failed).and(written);
        }
        if written.is_err() {
            let _ = tokio::fs::remove_file(file).await;
        }
        written
    }

    /// Replaces all that the running broker holds by a backup. All devices' sessions end; those
    /// that the backup doesn't know must join again. If the backup can't be used, nothing changes.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn restore(&self, file: &Path) -> Result<Manifest, Error> {
        let archive =
            std::fs::File::open(file).map_err(|error| Error::File(file.to_owned(), error))?;
        let content = Download::new(archive).boxed_unsync();
        let (status, body) =
            self.exchange(request(Method::POST, "/api/v1/restore", content)?).await?;
        let body = body.collect().await.map_err(broken)?.to_bytes();
        if !status.is_success() {
            return Err(problem(status, &body));
        }
        serde_json::from_slice(&body).map_err(broken)
    }

    /// Writes an answer as it comes.
    async fn stream(
        &self,
        request: Request<Content>,
        target: &mut (impl AsyncWrite + Unpin),
        failed: impl Fn(std::io::Error) -> Error,
    ) -> Result<u64, Error> {
        let (status, mut body) = self.exchange(request).await?;
        if status != StatusCode::OK {
            let body = body.collect().await.map_err(broken)?.to_bytes();
            return Err(problem(status, &body));
        }
        let mut written = 0;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
            target.write_all(&data).await.map_err(&failed)?;
            written += data.len() as u64;
        }
        target.flush().await.map_err(failed)?;
        Ok(written)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.send(Method::GET, path, None::<&()>).await
    }

    /// A list, all pages of it.
    async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Error> {
        let mut all = Vec::new();
        let mut next = Some("?limit=1000".to_owned());
        while let Some(query) = next {
            let path = format!("{path}{query}");
            let request = request(Method::GET, &path, whole(Bytes::new()))?;
            let page = async {
                let response = self.respond(request).await?;
                let (parts, body) = response.into_parts();
                Ok((parts, body.collect().await.map_err(broken)?.to_bytes()))
            };
            let (parts, body) = in_time(page).await?;
            if !parts.status.is_success() {
                return Err(problem(parts.status, &body));
            }
            all.append(&mut serde_json::from_slice(&body).map_err(broken)?);
            let link = parts.headers.get(LINK).and_then(|link| link.to_str().ok());
            next = link.and_then(|it| Some(it.strip_prefix('<')?.split_once('>')?.0.to_owned()));
        }
        Ok(all)
    }

    async fn delete(&self, path: &str) -> Result<(), Error> {
        let request = request(Method::DELETE, path, whole(Bytes::new()))?;
        let (status, body) = self.answer(request).await?;
        if status.is_success() { Ok(()) } else { Err(problem(status, &body)) }
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        content: Option<&impl Serialize>,
    ) -> Result<T, Error> {
        let content = match content {
            Some(content) => whole(serde_json::to_vec(content).map_err(broken)?),
            None => whole(Bytes::new()),
        };
        let (status, body) = self.answer(request(method, path, content)?).await?;
        if !status.is_success() {
            return Err(problem(status, &body));
        }
        serde_json::from_slice(&body).map_err(broken)
    }

    async fn answer(&self, request: Request<Content>) -> Result<(StatusCode, Bytes), Error> {
        in_time(async {
            let (status, body) = self.exchange(request).await?;
            Ok((status, body.collect().await.map_err(broken)?.to_bytes()))
        })
        .await
    }

    async fn exchange(&self, request: Request<Content>) -> Result<(StatusCode, Incoming), Error> {
        let response = self.respond(request).await?;
        Ok((response.status(), response.into_body()))
    }

    async fn respond(&self, request: Request<Content>) -> Result<Response<Incoming>, Error> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| {
            if source.kind() == std::io::ErrorKind::PermissionDenied {
                Error::Forbidden(self.socket.clone())
            } else {
                Error::NotRunning { socket: self.socket.clone(), source }
            }
        })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(broken)
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let patience = tokio::time::timeout(PATIENCE, answer).await;
    patience.map_err(|_| Error::Broken("it took too long".to_owned()))?
}

/// Whether somebody listens there, if only for others.
fn is_served(socket: &Path) -> bool {
    match std::os::unix::net::UnixStream::connect(socket) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
    }
}

fn account_path(account: &str) -> String {
    format!("/api/v1/accounts/{}", escape(account))
}

/// Percent-encodes a path segment (RFC 3986 §2.1).
fn escape(segment: &str) -> String {
    let mut escaped = String::new();
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

fn request(method: Method, path: &str, content: Content) -> Result<Request<Content>, Error> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "warren")
        .header(CONTENT_TYPE, "application/json")
        .body(content)
        .map_err(broken)
}

fn whole(content: impl Into<Bytes>) -> Content {
    Full::new(content.into()).map_err(|never| match never {}).boxed_unsync()
}

fn problem(status: StatusCode, body: &[u8]) -> Error {
    match serde_json::from_slice(body) {
        Ok(problem) => Error::Problem(problem),
        Err(_) => Error::Broken(format!("HTTP status {status}")),
    }
}

fn broken(error: impl std::fmt::Display) -> Error {
    Error::Broken(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_place_in_the_path() {
        assert_eq!(account_path("home"), "/api/v1/accounts/home");
        assert_eq!(escape("../x y/ü?"), "%2E%2E%2Fx%20y%2F%C3%BC%3F");
    }

    #[tokio::test]
    async fn without_a_broker_the_error_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let error = Client::new(folder.path()).status().await.unwrap_err();
        assert!(error.to_string().contains("warren serve"), "{error}");
    }
}
