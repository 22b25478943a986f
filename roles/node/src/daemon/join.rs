use std::time::Duration;

use anyhow::Context as _;
use rand::RngExt as _;
use tokio::task::JoinHandle;
use warren_proto::{JoinLink, Registered};

use super::Daemon;
use crate::control::{ControlError, Named as _, leave, register};
use crate::local::HealthCode;
use crate::state::{CachedMap, Joined, Joining};

/// The longest pause between two attempts while the broker is out of reach.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What became of one attempt to register.
pub(super) type Outcome = Result<Registered, ControlError>;

/// A registration under way.
#[derive(Debug)]
pub(super) struct JoinAttempt {
    task: JoinHandle<Outcome>,
    attempts: u32,
}

impl Drop for JoinAttempt {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) async fn next_outcome(join: &mut Option<JoinAttempt>) -> Outcome {
    match join {
        Some(attempt) => match (&mut attempt.task).await {
            Ok(outcome) => outcome,
            Err(error) => Err(ControlError::Protocol(error.to_string())),
        },
        None => std::future::pending().await,
    }
}

impl Daemon {
    /// Puts a registration into the identity, to be saved before it begins: whatever happens to
    /// this process from then on, the next one repeats it with the same key.
    pub(super) fn prepare_joining(&mut self, link: String) -> anyhow::Result<()> {
        link.parse::<JoinLink>()?;
        let name = self.identity.name.clone().unwrap_or_else(host_name);
        self.identity.joining = Some(Joining { link, name });
        self.identity.up = true;
        Ok(())
    }

    pub(super) fn start_joining(&mut self) -> anyhow::Result<()> {
        self.try_joining(Duration::ZERO, 1)
    }

    fn try_joining(&mut self, pause: Duration, attempts: u32) -> anyhow::Result<()> {
        let joining = self.identity.joining.clone().context("there is nothing to join")?;
        let link: JoinLink = joining.link.parse()?;
        let key = self.identity.private_key();
        let task = tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            register(&link, &key, &joining.name).await
        });
        self.join = Some(JoinAttempt { task, attempts });
        Ok(())
    }

    pub(super) async fn take_join_outcome(&mut self, outcome: Outcome) {
        let attempts = self.join.take().map_or(1, |attempt| attempt.attempts);
        match outcome {
            Ok(registered) => self.joined(registered).await,
            Err(error) if error.is_definitive() => {
                self.identity.joining = None;
                self.save_identity();
                self.broker.join_failure = Some((error.failure(), error.to_string()));
                self.healths.set(HealthCode::JoinFailed, format!("joining failed: {error}"));
            }
            Err(error) => {
                let text = format!("joining has not succeeded yet: {error}");
                self.broker.error = Some(error.to_string());
                self.healths.set(HealthCode::JoinFailed, text);
                let cap = Duration::from_millis(500).saturating_mul(1 << attempts.min(8));
                let pause = rand::rng().random_range(Duration::ZERO..=cap.min(LONGEST_PAUSE));
                // The link was parsed before.
                let _ = self.try_joining(pause, attempts + 1);
            }
        }
    }

    async fn joined(&mut self, registered: Registered) {
        let Some(joining) = self.identity.joining.take() else { return };
        let Ok(link) = joining.link.parse::<JoinLink>() else { return };
        tracing::info!("this device has joined");
        let another = self.identity.joined.as_ref().is_some_and(|old| {
            old.account != registered.account || old.device != registered.device
        });
        if another || self.identity.revoked {
            self.take_down().await;
            self.forget_map();
            self.forget_exit();
        }
        self.stop_control();
        if let Some(old) = self.identity.joined.take().filter(|_| another && !self.identity.revoked)
        {
            // It moves: nobody should look for it in the old account.
            tokio::spawn(async move {
                if let Err(error) = leave(&old).await {
                    tracing::warn!(%error, "the old account's broker could not be told; an admin can remove the device there");
                }
            });
        }
        self.identity.joined = Some(Joined {
            url: link.url,
            pins: link.pin.into_iter().collect(),
            token: registered.token,
            device: registered.device,
            account: registered.account,
            account_name: registered.account_name,
            name: registered.name,
        });
        self.identity.revoked = false;
        self.save_identity();
        for code in [HealthCode::JoinFailed, HealthCode::MustJoinAgain, HealthCode::WrongPin] {
            self.healths.clear(code);
        }
        self.broker.join_failure = None;
        if self.wants_mesh() {
            self.start_control();
            // After a crash in between, the map may be there already; a failure is health.
            let _ = self.bring_up().await;
        }
    }

    pub(super) fn forget_map(&mut self) {
        self.map = None;
        if let Err(error) = CachedMap::remove(self.folder.path()) {
            self.note_unsaved(&error);
        }
    }
}

/// What this machine calls itself.
pub(crate) fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "device".to_owned())
}
