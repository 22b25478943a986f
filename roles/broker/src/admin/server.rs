//! The admin socket: binds it, checks who is there, serves the routes.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::unistd::{Gid, Group, Uid, User, chown};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tower_service::Service as _;
use tracing::{debug, warn};

use super::{GROUP, rest};
use crate::api::problem::tell_operator;
use crate::broker::Broker;
use crate::people::Grant;

const CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for requests under way at shutdown.
const GRACE: Duration = Duration::from_secs(2);

/// The bound socket.
pub(crate) struct AdminServer {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminServer {
    /// Binds the socket, in place of one that a crash has left behind.
    ///
    /// # Errors
    /// Something else is at that path, or the folder can't be written.
    pub(crate) fn bind(path: &Path) -> Result<Self> {
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
            Ok(_) => bail!("{} is in the way of the admin socket", path.display()),
            Err(_) => {}
        }
        // Who gets in before the mode is right is told by his credentials that he may not.
        let listener = UnixListener::bind(path).with_context(|| {
            format!(
                "can't make the admin socket {} (a path longer than 107 bytes doesn't do)",
                path.display()
            )
        })?;
        let shared = Group::from_name(GROUP)
            .ok()
            .flatten()
            .is_some_and(|group| chown(path, None, Some(group.gid)).is_ok());
        let mode = if shared { 0o660 } else { 0o600 };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves until `shutdown` turns true.
    pub(crate) async fn run(self, broker: Arc<Broker>, mut shutdown: watch::Receiver<bool>) {
        let router = rest::router(broker)
            .merge(rest::description())
            .layer(axum::middleware::map_response(tell_operator));
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut tasks = tokio::task::JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
                _ = shutdown.wait_for(|stop| *stop) => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    debug!(%error, "can't accept on the admin socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().try_acquire_owned() else { continue };
            let (router, shutdown) = (router.clone(), shutdown.clone());
            tasks.spawn(async move {
                if let Err(error) = serve(stream, router, shutdown).await {
                    debug!(%error, "an admin connection ended");
                }
                drop(place);
            });
        }
        let all_done = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(GRACE, all_done).await;
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(
    stream: UnixStream,
    router: Router,
    mut shutdown: watch::Receiver<bool>,
) -> Result<()> {
    let peer = stream.peer_cred()?;
    let (uid, gid) = (Uid::from_raw(peer.uid()), Gid::from_raw(peer.gid()));
    if !may_administrate(uid, gid) {
        warn!(uid = uid.as_raw(), "refused an admin connection");
        return Ok(());
    }
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut router = router.clone();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Grant::local(uid.as_raw()));
        async move { router.call(request).await }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        done = connection.as_mut() => return Ok(done?),
        _ = shutdown.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

/// Root, the broker's own user, or a member of the group.
fn may_administrate(uid: Uid, gid: Gid) -> bool {
    if uid.is_root() || uid == Uid::effective() {
        return true;
    }
    let Ok(Some(group)) = Group::from_name(GROUP) else { return false };
    let listed = |user: User| group.mem.contains(&user.name) || group.gid == user.gid;
    group.gid == gid || User::from_uid(uid).ok().flatten().is_some_and(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_broker_itself_may_administrate_and_a_stranger_may_not() {
        assert!(may_administrate(Uid::from_raw(0), Gid::from_raw(0)));
        assert!(may_administrate(Uid::effective(), Gid::from_raw(65_000)));
        let stranger = Uid::from_raw(Uid::effective().as_raw() + 54_321);
        assert!(!may_administrate(stranger, Gid::from_raw(65_000)));
    }

    #[tokio::test]
    async fn a_left_behind_socket_is_replaced_and_anything_else_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        drop(AdminServer::bind(&path).unwrap());
        assert!(path.exists());
        let server = AdminServer::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o007, 0);
        drop(server);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(AdminServer::bind(&path).is_err());
    }
}
