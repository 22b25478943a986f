//! The local socket of a running relay: whoever may open it (its owner and root) changes what is
//! logged. One line there, one line back:
//!
//! ```text
//! log info,warren_relay=debug
//! ok
//! ```

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// Changes what is logged; an error says what is wrong with the filter.
pub type SetLogFilter = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// The longest line.
const MAX_LINE: u64 = 4096;
/// Clients that wait to be accepted; they are served one after the other.
const BACKLOG: u32 = 16;
/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The socket; removed when this is dropped.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    task: AbortHandle,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Control {
    /// Listens at `path`, a socket of mode 0600. To be called within a tokio runtime.
    ///
    /// # Errors
    /// Another relay has its socket there, or it can't be made.
    pub fn listen(path: &Path, set_log_filter: SetLogFilter) -> anyhow::Result<Self> {
        let shown = path.display();
        if let Some(folder) = path.parent() {
            warren_tls::secret::create_folder(folder)?;
        }
        remove_stale(path)?;
        let open = || {
            let socket = UnixSocket::new_stream()?;
            socket.bind(path)?;
            // Nobody can connect before it listens.
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            socket.listen(BACKLOG)
        };
        let listener = open().with_context(|| format!("can't make the socket {shown}"))?;
        let task = tokio::spawn(accept(listener, set_log_filter)).abort_handle();
        Ok(Self { path: path.to_owned(), task })
    }
}

/// Removes what a relay that was killed has left.
fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("can't look at {shown}")),
        Ok(found) => ensure!(found.file_type().is_socket(), "{shown} is no socket"),
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        bail!("another relay has its socket at {shown}");
    }
    std::fs::remove_file(path).with_context(|| format!("can't remove {shown}"))
}

async fn accept(listener: UnixListener, set_log_filter: SetLogFilter) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Ok(Err(error)) = timeout(PATIENCE, serve(stream, &set_log_filter)).await {
                    tracing::debug!(%error, "a local client went away");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the local socket takes no client");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn serve(mut stream: UnixStream, set_log_filter: &SetLogFilter) -> std::io::Result<()> {
    let mut line = String::new();
    BufReader::new((&mut stream).take(MAX_LINE)).read_line(&mut line).await?;
    let answer = match line.trim_end().split_once(' ') {
        Some(("log", filter)) => set_log_filter(filter),
        Some(_) | None => Err("it takes: log LEVEL".to_owned()),
    };
    let answer = match answer {
        Ok(()) => "ok\n".to_owned(),
        Err(complaint) => format!("{}\n", complaint.replace('\n', " ")),
    };
    stream.write_all(answer.as_bytes()).await
}

/// Has the relay behind the socket at `path` log by another filter.
///
/// # Errors
/// No relay is there, or it doesn't take the filter.
pub async fn set_log_filter(path: &Path, filter: &str) -> anyhow::Result<()> {
    let shown = path.display();
    let mut stream = UnixStream::connect(path).await.with_context(|| {
        format!("there is no relay of yours at {shown}: say which by --state, or use sudo")
    })?;
    let talk = async {
        stream.write_all(format!("log {filter}\n").as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new((&mut stream).take(MAX_LINE)).read_line(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(PATIENCE, talk).await.context("the relay doesn't answer")??;
    ensure!(answer.trim_end() == "ok", "{}", answer.trim_end());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn the_owner_changes_the_filter_and_hears_what_is_wrong_with_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/relay.sock");
        let set = Arc::new(Mutex::new(Vec::new()));
        let take = set.clone();
        let set_filter: SetLogFilter = Arc::new(move |filter| {
            if filter == "wrong" {
                return Err("no\nsuch level".to_owned());
            }
            take.lock().unwrap().push(filter.to_owned());
            Ok(())
        });
        let control = Control::listen(&path, set_filter.clone()).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        set_log_filter(&path, "info,warren_relay=trace").await.unwrap();
        let complaint = set_log_filter(&path, "wrong").await.unwrap_err().to_string();
        assert_eq!(complaint, "no such level");
        assert_eq!(*set.lock().unwrap(), ["info,warren_relay=trace"]);

        let complaint = Control::listen(&path, set_filter.clone()).unwrap_err().to_string();
        assert!(complaint.contains("another relay"), "{complaint}");
        drop(control);
        assert!(set_log_filter(&path, "info").await.is_err());
        // What a killed relay leaves behind is no obstacle.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let _control = Control::listen(&path, set_filter).unwrap();
        set_log_filter(&path, "info").await.unwrap();
    }
}
