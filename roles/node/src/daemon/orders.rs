//! What the local socket has the daemon do.

use tokio::sync::oneshot;
use warren_net::{Error, UdpConfig, UdpSockets};
use warren_proto::JoinLink;

use super::Daemon;
use crate::control::{Command, leave};
use crate::local::{
    EdgeReply, EdgeRequest, ExitNodeChange, ExitNodes, FailureCode, HealthCode, ListenPort,
    ListenPortChange,
};
use crate::state::Identity;

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: FailureCode,
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(code: FailureCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// The system's refusal of an interface or a socket.
    fn of_system(error: &Error) -> Self {
        let is_port = health_of(error) == HealthCode::ListenPort;
        let code = if is_port { FailureCode::PortInUse } else { FailureCode::Interface };
        Self::new(code, error.to_string())
    }
}

/// Whether an error of the system is about the listen port or about the interface.
pub(super) fn health_of(error: &Error) -> HealthCode {
    match error {
        Error::PortInUse { .. } | Error::PortPrivileged { .. } | Error::NoFreePort => {
            HealthCode::ListenPort
        }
        Error::NoTunDevice
        | Error::NoPrivilege { .. }
        | Error::TunNameTaken { .. }
        | Error::TunNameInvalid { .. }
        | Error::NoAddressFamily(_)
        | Error::Os { .. } => HealthCode::Interface,
    }
}

type Answer<T> = oneshot::Sender<Result<T, Failure>>;

/// Something to do.
#[derive(Debug)]
pub(crate) enum Order {
    Up {
        join: Option<String>,
        name: Option<String>,
        answer: Answer<()>,
    },
    Down {
        answer: Answer<()>,
    },
    /// The answer is why the broker could not be told, if so.
    Logout {
        new_identity: bool,
        answer: Answer<Option<String>>,
    },
    Edge {
        request: EdgeRequest,
        answer: Answer<EdgeReply>,
    },
    ListenPort {
        set: Option<ListenPort>,
        answer: Answer<ListenPortChange>,
    },
    ExitNode {
        set: Option<ExitNodeChange>,
        answer: Answer<ExitNodes>,
    },
}

/// What the edge role has kept for the account that is left: its scans, what it follows.
const OF_THE_ACCOUNT: [&str; 3] = ["edge-devices.json", "edge-places.json", "edge-rescan.json"];

impl Daemon {
    pub(super) async fn obey(&mut self, order: Order) {
        // Whoever has asked and gone doesn't undo what was asked.
        match order {
            Order::Up { join, name, answer } => {
                let result = self.up(join, name).await;
                self.publish();
                let _ = answer.send(result);
            }
            Order::Down { answer } => {
                let result = self.down().await;
                self.publish();
                let _ = answer.send(result);
            }
            Order::Logout { new_identity, answer } => {
                let result = self.logout(new_identity).await;
                self.publish();
                let _ = answer.send(result);
            }
            Order::Edge { request, answer } => self.obey_edge(request, None, answer).await,
            Order::ExitNode { set, answer } => {
                let result = self.exit_node(set).await;
                self.publish();
                let _ = answer.send(result);
            }
            Order::ListenPort { set, answer } => {
                let result = self.listen_port(set).await;
                self.publish();
                let _ = answer.send(result);
            }
        }
    }

    async fn up(&mut self, join: Option<String>, name: Option<String>) -> Result<(), Failure> {
        if name.is_some() {
            self.identity.name = name;
        }
        if let Some(link) = join {
            return self.join(link);
        }
        self.broker.join_failure = None;
        if self.identity.joining.is_some() {
            return Ok(());
        }
        self.healths.clear(HealthCode::JoinFailed);
        if self.identity.joined.is_none() || self.identity.revoked {
            let text = if self.identity.revoked {
                "this device must join again: ask for a new join link, then: warren up --join LINK"
            } else {
                "this device has not joined an account yet: warren up --join LINK"
            };
            return Err(Failure::new(FailureCode::NotJoined, text));
        }
        self.identity.up = true;
        self.try_save_identity().map_err(unsaved)?;
        self.start_control();
        // A session that waits between two attempts makes the next one now.
        self.tell_broker(Command::NetworkChanged(self.host_addresses()));
        self.bring_up().await.map_err(|error| Failure::of_system(&error))
    }

    fn join(&mut self, link: String) -> Result<(), Failure> {
        let parsed: JoinLink =
            link.parse().map_err(|error| Failure::new(FailureCode::Invalid, format!("{error}")))?;
        crate::control::BrokerUrl::parse(&parsed.url)
            .map_err(|error| Failure::new(FailureCode::Invalid, error.to_string()))?;
        self.prepare_joining(link)
            .map_err(|error| Failure::new(FailureCode::Invalid, error.to_string()))?;
        self.broker.join_failure = None;
        self.broker.error = None;
        self.healths.clear(HealthCode::JoinFailed);
        self.try_save_identity().map_err(unsaved)?;
        self.start_joining().map_err(|error| Failure::new(FailureCode::Other, error.to_string()))
    }

    async fn down(&mut self) -> Result<(), Failure> {
        self.identity.up = false;
        self.join = None;
        self.identity.joining = None;
        self.stop_control();
        self.take_down().await;
        self.try_save_identity().map_err(|error| {
            Failure::new(
                FailureCode::State,
                format!("disconnected, but only until the next start: {error}"),
            )
        })
    }

    async fn logout(&mut self, new_identity: bool) -> Result<Option<String>, Failure> {
        let joined = self.identity.joined.take();
        if joined.is_none() && !new_identity && self.identity.joining.is_none() {
            return Err(Failure::new(FailureCode::NotJoined, "this device belongs to no account"));
        }
        self.join = None;
        self.stop_control();
        self.take_down().await;
        // A new identity is the cure for a cloned disk: the old one may live on in the other machine.
        let untold = match joined {
            Some(joined) if !new_identity && !self.identity.revoked => match leave(&joined).await {
                Err(error) if !error.is_revoked() => Some(format!(
                    "the broker could not be told, so {} still stands in {}; an admin can remove it: {error}",
                    joined.name, joined.account_name
                )),
                Err(_) | Ok(()) => None,
            },
            Some(_) | None => None,
        };
        self.forget_map();
        if new_identity {
            let fresh = Identity::generate();
            let old = std::mem::replace(&mut self.identity, fresh);
            self.identity.name = old.name;
            self.identity.listen_port = old.listen_port;
            self.identity.listen_port_auto = old.listen_port_auto;
            self.identity.auto_port = old.auto_port;
        }
        self.identity.joining = None;
        self.identity.revoked = false;
        // Another account was not meant when this one was let into the LAN.
        self.identity.edge = false;
        self.identity.edge_when_asked = false;
        self.identity.edge_userspace = false;
        self.identity.edge_cap = Default::default();
        for file in OF_THE_ACCOUNT {
            let _ = std::fs::remove_file(self.folder.path().join(file));
        }
        self.forget_exit();
        self.broker = Default::default();
        for code in [HealthCode::MustJoinAgain, HealthCode::JoinFailed, HealthCode::WrongPin] {
            self.healths.clear(code);
        }
        self.try_save_identity().map_err(unsaved)?;
        Ok(untold)
    }

    async fn listen_port(&mut self, set: Option<ListenPort>) -> Result<ListenPortChange, Failure> {
        let present = match &self.mesh {
            Some(mesh) => Some(mesh.port),
            None => self.identity.listen_port,
        };
        let (wanted, auto) = match set {
            None => {
                let port = match present {
                    Some(port) => port,
                    None => self.rebind(None).await?,
                };
                if self.identity.listen_port.is_none() {
                    self.keep_port(port, true)?;
                }
                let auto = self.identity.listen_port_auto;
                return Ok(ListenPortChange { port, auto, changed: false });
            }
            Some(ListenPort::Fixed(0)) => {
                let text = "port 0 is none; choose 1 to 65535, or 'auto'";
                return Err(Failure::new(FailureCode::Invalid, text));
            }
            Some(ListenPort::Fixed(port)) => (Some(port), false),
            // The node's own choice is kept for life, so that a NAT keeps its mapping.
            Some(ListenPort::Auto) if self.identity.listen_port_auto => (present, true),
            Some(ListenPort::Auto) => (self.identity.auto_port, true),
        };
        let changed = wanted.is_none() || wanted != present;
        let port = match wanted {
            Some(port) if !changed => port,
            wanted => match self.rebind(wanted).await {
                Err(failure) if auto && failure.code == FailureCode::PortInUse => {
                    self.rebind(None).await?
                }
                result => result?,
            },
        };
        self.keep_port(port, auto)?;
        if self.retry_mesh.is_some() {
            // The old port may be what the mesh has waited for.
            let _ = self.bring_up().await;
        }
        Ok(ListenPortChange { port, auto, changed })
    }

    /// Moves the sockets to another port; the old ones stay if that can't be had.
    async fn rebind(&mut self, port: Option<u16>) -> Result<u16, Failure> {
        let config = UdpConfig { port, ..UdpConfig::default() };
        let Some(mesh) = &mut self.mesh else {
            let sockets = UdpSockets::bind(&config).map_err(|error| Failure::of_system(&error))?;
            return Ok(sockets.port());
        };
        let (port, findings) = mesh
            .client()
            .rebind(config)
            .await
            .map_err(|error| Failure::new(FailureCode::Other, error.to_string()))?
            .map_err(|error| Failure::of_system(&error))?;
        mesh.port = port;
        tracing::debug!(port, ?findings, "listening on another port");
        self.remap();
        self.healths.clear(HealthCode::ListenPort);
        Ok(port)
    }

    fn keep_port(&mut self, port: u16, auto: bool) -> Result<(), Failure> {
        if auto {
            self.identity.choose_port(port);
        } else {
            self.identity.listen_port = Some(port);
            self.identity.listen_port_auto = false;
        }
        self.try_save_identity().map_err(unsaved)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn unsaved(error: crate::StateError) -> Failure {
    Failure::new(FailureCode::State, error.to_string())
}
