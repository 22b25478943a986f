//! The broker: the real `coord`, a disk that keeps what was committed, and its control sessions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::Rng as _;
use rand::rngs::StdRng;
use warren_coord::{
    Account, AccountRecord, AccountSettings, BrokerSettings, Change, Ctx, Directory, Gatekeeper,
    JoinKeyCreated, LeaseEpoch, NewJoinKey, Prepared, Refused, SessionId, Snapshot, UnixTime,
    prove,
};
use warren_proto::{
    AccountId, BrokerIdentity, CheckIn, DeviceId, InstanceId, PROTOCOL, Pin, PublicKey, Register,
    Registered,
};

use crate::control::ConnId;
use crate::net::HostId;

/// What devices verify of the broker.
const IDENTITY: BrokerIdentity = BrokerIdentity::Pin(Pin([1; 32]));

/// The wall clock at the start of every simulation.
pub const UNIX_START: Duration = Duration::from_secs(1_790_000_000);

/// A disk: what survives the broker's death.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// All that was committed.
    pub snapshot: Snapshot,
    /// The last lease.
    pub lease: u64,
}

/// The broker's process and what it stands on.
#[derive(Debug)]
pub struct Broker {
    /// Its host in the network.
    pub host: HostId,
    /// Its disk.
    pub disk: Disk,
    settings: BrokerSettings,
    start: Instant,
    rng: StdRng,
    process: Option<Process>,
}

pub(crate) struct Process {
    pub(crate) account: Account,
    directory: Directory,
    gatekeeper: Gatekeeper,
    pub(crate) conn_by_session: BTreeMap<SessionId, ConnId>,
    pub(crate) session_by_conn: BTreeMap<ConnId, SessionId>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("account", &self.account.id()).finish_non_exhaustive()
    }
}

impl Broker {
    /// A broker with one account, running.
    pub(crate) fn new(host: HostId, settings: BrokerSettings, rng: StdRng, now: Instant) -> Self {
        let account = AccountRecord {
            id: AccountId(0xA),
            name: "home".parse().expect("a DNS label"),
            ipv4_range: "100.90.0.0/16".parse().expect("a network"),
            ipv6_range: "fd12:3456:789a::/48".parse().expect("a network"),
            next_host: 1,
            created: UnixTime(UNIX_START.as_secs()),
            settings: AccountSettings::default(),
        };
        let disk = Disk { snapshot: Snapshot::empty(account), lease: 0 };
        let mut broker = Self { host, disk, settings, start: now, rng, process: None };
        broker.start(now);
        broker
    }

    /// Starts the process from the disk, under a new lease.
    pub fn start(&mut self, now: Instant) {
        self.disk.lease += 1;
        let epoch = LeaseEpoch(self.disk.lease);
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let mut directory = Directory::new();
        directory.insert(&self.disk.snapshot);
        self.process = Some(Process {
            directory,
            account: Account::new(
                self.disk.snapshot.clone(),
                epoch,
                &self.settings,
                now,
                UNIX_START + now.duration_since(self.start),
            ),
            gatekeeper: Gatekeeper::new(seed, now),
            conn_by_session: BTreeMap::new(),
            session_by_conn: BTreeMap::new(),
        });
    }

    /// Kills the process: memory is gone, the disk stays.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Whether the process runs.
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// The account's state machine, while the process runs.
    pub fn account(&self) -> Option<&Account> {
        self.process.as_ref().map(|process| &process.account)
    }

    pub(crate) fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// The device that a bearer token belongs to, as the running process knows.
    pub fn authenticate(&self, token: &str) -> Option<DeviceId> {
        let (_, device) = self.process.as_ref()?.directory.authenticate(token)?;
        Some(device)
    }

    /// Fresh randomness and the time.
    pub fn ctx(&mut self, now: Instant) -> Ctx {
        let mut entropy = [0; 32];
        self.rng.fill_bytes(&mut entropy);
        Ctx { now, unix: UNIX_START + now.duration_since(self.start), entropy }
    }

    /// Writes changes to the disk, durably.
    pub fn commit(&mut self, changes: &[Change]) {
        self.disk.snapshot.apply(changes);
    }

    /// Carries out a decision that was committed.
    ///
    /// # Panics
    /// When the broker is down.
    pub fn apply<R>(&mut self, prepared: Prepared<R>, now: Instant) -> R {
        let process = self.process.as_mut().expect("decisions come from a running process");
        process.directory.apply(process.account.id(), &prepared.changes);
        process.account.apply(prepared, now)
    }

    /// Commits and carries out.
    pub(crate) fn settle<R>(&mut self, prepared: Prepared<R>, now: Instant) -> R {
        self.commit(&prepared.changes);
        self.apply(prepared, now)
    }

    /// Creates a join key as `warren admin` does.
    ///
    /// # Panics
    /// When the broker is down or refuses.
    pub fn create_join_key(&mut self, new: NewJoinKey, now: Instant) -> JoinKeyCreated {
        let ctx = self.ctx(now);
        let account = self.account().expect("the broker runs");
        let prepared = account.prepare_join_key(new, &ctx).expect("a fresh key is fine");
        self.settle(prepared, now)
    }

    /// A device's registration, decided but not committed.
    ///
    /// # Errors
    /// What the account refuses.
    pub fn prepare_register(
        &mut self,
        private_key: &[u8; 32],
        name: &str,
        join_key: &str,
        now: Instant,
    ) -> Result<Prepared<Registered>, Refused> {
        let ctx = self.ctx(now);
        let mut nonce = [0; 16];
        self.rng.fill_bytes(&mut nonce);
        let process = self.process.as_ref().expect("the broker runs");
        let challenge = process.gatekeeper.challenge(nonce, now);
        let secret = x25519_dalek::StaticSecret::from(*private_key);
        let register = Register {
            protocol: PROTOCOL,
            join_key: join_key.to_owned(),
            key: PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes()),
            proof: prove(private_key, &IDENTITY, &challenge, join_key),
            challenge: challenge.challenge,
            name: name.to_owned(),
            os: "sim".to_owned(),
            software: "sim".to_owned(),
        };
        let proven = process.gatekeeper.verify(register, &IDENTITY, now)?;
        process.account.prepare_register(&proven, &ctx)
    }

    /// Registers a device, commit included.
    ///
    /// # Errors
    /// What the account refuses.
    pub fn register(
        &mut self,
        private_key: &[u8; 32],
        name: &str,
        join_key: &str,
        now: Instant,
    ) -> Result<Registered, Refused> {
        let prepared = self.prepare_register(private_key, name, join_key, now)?;
        Ok(self.settle(prepared, now))
    }

    /// Has the account decide something, and carries it out.
    ///
    /// # Errors
    /// What the account refuses.
    pub fn decide<R>(
        &mut self,
        decide: impl FnOnce(&Account, &Ctx) -> Result<Prepared<R>, Refused>,
        now: Instant,
    ) -> Result<R, Refused> {
        let ctx = self.ctx(now);
        let prepared = decide(self.account().expect("the broker runs"), &ctx)?;
        Ok(self.settle(prepared, now))
    }

    /// Removes a device as `warren admin` does.
    ///
    /// # Errors
    /// What the account refuses.
    pub fn remove_device(&mut self, device: DeviceId, now: Instant) -> Result<(), Refused> {
        let account = self.account().expect("the broker runs");
        let prepared = account.prepare_remove(device)?;
        self.settle(prepared, now);
        Ok(())
    }

    /// Puts a policy in force as `warren admin` does.
    ///
    /// # Errors
    /// What the account refuses.
    pub fn set_policy(&mut self, text: &str, now: Instant) -> Result<(), Refused> {
        let account = self.account().expect("the broker runs");
        let prepared = account.prepare_policy(text, None)?;
        self.settle(prepared, now);
        Ok(())
    }

    /// Commits and carries out what fell due.
    pub(crate) fn housekeeping(&mut self, now: Instant) {
        let ctx = self.ctx(now);
        let Some(process) = self.process.as_mut() else { return };
        if let Some(prepared) = process.account.poll_housekeeping(&ctx) {
            self.settle(prepared, now);
        }
    }
}

impl Process {
    /// Opens the session of a connection; the connection whose place it takes.
    pub(crate) fn open(
        &mut self,
        conn: ConnId,
        device: DeviceId,
        instance: InstanceId,
        last_event_id: Option<warren_proto::MapVersion>,
        now: Instant,
    ) -> Result<Option<ConnId>, Refused> {
        let opened = self.account.open_session(device, Some(instance), last_event_id, now)?;
        let replaced = opened.replaced.and_then(|old| self.conn_by_session.remove(&old));
        if let Some(old) = replaced {
            self.session_by_conn.remove(&old);
        }
        self.conn_by_session.insert(opened.session, conn);
        self.session_by_conn.insert(conn, opened.session);
        Ok(replaced)
    }

    /// Notes that a connection has ended.
    pub(crate) fn close(&mut self, conn: ConnId, now: Instant) {
        if let Some(session) = self.session_by_conn.remove(&conn) {
            self.conn_by_session.remove(&session);
            self.account.close_session(session, now);
        }
    }

    pub(crate) fn check_in(
        &mut self,
        device: DeviceId,
        check_in: &CheckIn,
        now: Instant,
    ) -> Result<warren_proto::CheckInReply, Refused> {
        self.account.handle_check_in(device, check_in, now)
    }
}
