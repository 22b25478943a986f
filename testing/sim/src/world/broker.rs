//! What the broker's shell does: requests in, events out, timers.

use warren_coord::{Account, Ctx, Prepared, Refused};
use warren_proto::{DeviceId, SessionEvent};

use super::{Happening, NodeId, World};
use crate::broker::UNIX_START;
use crate::control::{ConnId, Down, Up};

impl World {
    /// Kills the broker's process, which is the STUN server too.
    pub fn kill_broker(&mut self) {
        self.stun_is_up = false;
        self.broker.kill();
        self.broker_wake = None;
        self.reset_all();
    }

    /// Starts the broker again from its disk.
    pub fn restart_broker(&mut self) {
        assert!(!self.broker.is_up(), "kill it first");
        self.stun_is_up = true;
        self.broker.start(self.now);
        self.settle_broker();
    }

    /// Removes a device as an admin does.
    ///
    /// # Panics
    /// When the broker is down or refuses.
    pub fn remove_device(&mut self, device: DeviceId) {
        self.broker.remove_device(device, self.now).expect("the device exists");
        self.settle_broker();
    }

    /// Has the broker do what an admin or the operator asks for.
    ///
    /// # Panics
    /// When the broker is down or refuses.
    pub fn decide<R>(
        &mut self,
        decide: impl FnOnce(&Account, &Ctx) -> Result<Prepared<R>, Refused>,
    ) -> R {
        let reply = self.broker.decide(decide, self.now).expect("the account grants it");
        self.settle_broker();
        reply
    }

    /// Puts a policy in force as an admin does.
    ///
    /// # Panics
    /// When the broker is down or the text has an error.
    pub fn set_policy(&mut self, text: &str) {
        self.broker.set_policy(text, self.now).expect("a good text");
        self.settle_broker();
    }

    /// How many control sessions stand.
    pub fn sessions(&self) -> usize {
        self.broker.account().map_or(0, Account::session_count)
    }

    pub(super) fn heard(&mut self, conn: ConnId, node: NodeId, up: Up) {
        if !self.accepted.contains(&conn) {
            return;
        }
        let now = self.now;
        let registered = self.nodes[node.0].registered.as_ref();
        let token = registered.map_or("", |registered| registered.token.as_str());
        let Some(device) = self.broker.authenticate(token) else {
            self.answer(conn, Down::Revoked);
            return;
        };
        let instance = self.nodes[node.0].daemon.as_ref().map(|daemon| daemon.instance);
        let unix = UNIX_START + self.elapsed();
        let Some(process) = self.broker.process() else { return };
        let answer = match up {
            Up::Events { last_event_id } => {
                let Some(instance) = instance else { return };
                match process.open(conn, device, instance, last_event_id, now) {
                    Ok(replaced) => {
                        if let Some(old) = replaced {
                            self.answer(old, Down::Closed);
                            self.accepted.remove(&old);
                        }
                        self.settle_broker();
                        return;
                    }
                    Err(refused) => refusal(&refused),
                }
            }
            Up::CheckIn(check_in) => match process.check_in(device, &check_in, now) {
                Ok(reply) => Down::CheckedIn { reply, unix },
                Err(Refused::Revoked) => Down::Revoked,
                Err(_) => Down::CheckInRefused,
            },
            Up::Connect(request) => match process.account.handle_connect(device, &request, now) {
                Ok(()) => Down::Done,
                Err(refused) => refusal(&refused),
            },
            Up::FetchNetmap => match process.account.netmap(device) {
                Ok(netmap) => Down::Netmap(Box::new(netmap)),
                Err(refused) => refusal(&refused),
            },
        };
        self.answer(conn, answer);
        self.settle_broker();
    }

    pub(super) fn close_at_broker(&mut self, conn: ConnId) {
        let now = self.now;
        if let Some(process) = self.broker.process() {
            process.close(conn, now);
        }
        self.settle_broker();
    }

    pub(super) fn wake_broker(&mut self) {
        if self.broker_wake != Some(self.now) {
            return;
        }
        self.broker_wake = None;
        let now = self.now;
        if let Some(process) = self.broker.process() {
            process.account.handle_timeout(now);
            self.broker.housekeeping(now);
        }
        self.settle_broker();
        if let Some((due, why)) = self.broker.account().and_then(Account::poll_timeout) {
            assert!(due > now, "the account wants to be woken again at once for '{why}'");
        }
    }

    /// Drains the account into the sessions' streams and notes when it is to be woken.
    pub fn settle_broker(&mut self) {
        let now = self.now;
        loop {
            let Some(process) = self.broker.process() else { return };
            let Some((session, event)) = process.account.poll_event() else { break };
            let Some(conn) = process.conn_by_session.get(&session).copied() else { continue };
            let revoked = event == SessionEvent::Revoked;
            if revoked {
                process.conn_by_session.remove(&session);
                process.session_by_conn.remove(&conn);
            }
            self.answer(conn, Down::Event(event));
            if revoked {
                self.accepted.remove(&conn);
            }
        }
        let Some(account) = self.broker.account() else { return };
        let Some((due, _)) = account.poll_timeout() else { return };
        let due = due.max(now);
        if self.broker_wake.is_none_or(|scheduled| due < scheduled) {
            self.broker_wake = Some(due);
            self.at(due, Happening::WakeBroker);
        }
    }
}

fn refusal(refused: &Refused) -> Down {
    match refused {
        Refused::Revoked => Down::Revoked,
        Refused::JoinKeyUnknown
        | Refused::JoinKeyUsed
        | Refused::JoinKeyExpired
        | Refused::ProofFailed
        | Refused::ChallengeExpired
        | Refused::UpgradeRequired
        | Refused::AccountFull
        | Refused::RateLimited
        | Refused::PeerOffline
        | Refused::Invalid(_)
        | Refused::InvalidRange(_)
        | Refused::NotFound(_)
        | Refused::NameTaken(_)
        | Refused::NoRelay(_)
        | Refused::AmbiguousRelay(_)
        | Refused::RangeTaken(_)
        | Refused::AccountSuspended
        | Refused::TooManyPeople
        | Refused::Forbidden
        | Refused::NotYourDevice
        | Refused::EmailTaken(_)
        | Refused::SignInFailed
        | Refused::CodeWrong
        | Refused::TookTooLong
        | Refused::UserSuspended
        | Refused::LinkInvalid
        | Refused::LastOwner
        | Refused::LastOperator
        | Refused::IdentityUnknown
        | Refused::IdentityNotLinked
        | Refused::Conflict(_)
        | Refused::EdgeInvalid(_)
        | Refused::EdgeConflict(_)
        | Refused::PolicyChanged(_)
        | Refused::PolicyBroken(_) => Down::Done,
    }
}
