//! One account with a store that is a variable, and the devices' ends of its sessions.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_coord::{
    Account, BrokerSettings, Ctx, DeviceEdit, Directory, Gatekeeper, JoinKeyCreated, LeaseEpoch,
    NewJoinKey, Opened, Prepared, Refused, SessionId, SettingsEdit, Snapshot, prove,
};
use warren_proto::{
    Admission, Apply, BrokerIdentity, CheckIn, CheckInState, DeviceId, Endpoint, EndpointKind,
    InstanceId, MapVersion, Netmap, PROTOCOL, Pin, PublicKey, Register, Registered, SessionEvent,
};

/// What devices verify of this world's broker.
pub(crate) const BROKER: BrokerIdentity = BrokerIdentity::Pin(Pin([6; 32]));

/// The device's end of a session.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) map: Option<Netmap>,
    pub(crate) events: Vec<SessionEvent>,
}

impl Client {
    pub(crate) fn deltas(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, SessionEvent::Delta(_))).count()
    }

    pub(crate) fn whole_maps(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, SessionEvent::Netmap(_))).count()
    }
}

pub(crate) struct World {
    pub(crate) account: Account,
    pub(crate) directory: Directory,
    pub(crate) stored: Snapshot,
    pub(crate) gate: Gatekeeper,
    pub(crate) settings: BrokerSettings,
    pub(crate) now: Instant,
    pub(crate) unix: Duration,
    pub(crate) clients: BTreeMap<SessionId, Client>,
    pub(crate) event_count: u64,
    dice: u64,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "virtual time begins at some instant")]
    pub(crate) fn new(name: &str) -> Self {
        let now = Instant::now();
        let unix = Duration::from_secs(1_800_000_000);
        let settings =
            BrokerSettings { dns_suffix: "warren.internal".to_owned(), ..Default::default() };
        let mut directory = Directory::new();
        let ctx = Ctx { now, unix, entropy: [name.len() as u8; 32] };
        let record = directory.prepare_account(name.parse().unwrap(), None, &ctx).unwrap();
        let stored = Snapshot::empty(record);
        directory.insert(&stored);
        Self {
            account: Account::new(stored.clone(), LeaseEpoch(7), &settings, now, unix),
            directory,
            stored,
            gate: Gatekeeper::new([3; 32], now),
            settings,
            now,
            unix,
            clients: BTreeMap::new(),
            event_count: 0,
            dice: 0,
        }
    }

    /// The broker dies and another takes over what was committed.
    pub(crate) fn restart(&mut self) {
        let epoch = LeaseEpoch(self.account.epoch().0 + 1);
        self.account =
            Account::new(self.stored.clone(), epoch, &self.settings, self.now, self.unix);
        self.directory = Directory::new();
        self.directory.insert(&self.stored);
        self.clients.clear();
    }

    pub(crate) fn ctx(&mut self) -> Ctx {
        self.dice += 1;
        let mut entropy = [0; 32];
        entropy[..8].copy_from_slice(&self.dice.to_be_bytes());
        entropy[8..16].copy_from_slice(&self.account.id().0.to_be_bytes());
        Ctx { now: self.now, unix: self.unix, entropy }
    }

    pub(crate) fn commit<R>(&mut self, prepared: Prepared<R>) -> R {
        self.stored.apply(&prepared.changes);
        self.directory.apply(self.account.id(), &prepared.changes);
        let reply = self.account.apply(prepared, self.now);
        if self.stored.devices.len() < 100 {
            assert_eq!(self.account.snapshot(), self.stored, "memory and store are one");
        }
        self.drain();
        reply
    }

    pub(crate) fn join_key(&mut self, new: NewJoinKey) -> JoinKeyCreated {
        let ctx = self.ctx();
        let prepared = self.account.prepare_join_key(new, &ctx).unwrap();
        self.commit(prepared)
    }

    /// Decides on a change of a device.
    pub(crate) fn change(
        &mut self,
        device: DeviceId,
        edit: DeviceEdit,
    ) -> Result<Prepared<()>, Refused> {
        let ctx = self.ctx();
        self.account.prepare_change(device, edit, &ctx)
    }

    /// Decides to expire a device.
    pub(crate) fn expire(&mut self, device: DeviceId) -> Result<Prepared<()>, Refused> {
        let ctx = self.ctx();
        self.account.prepare_expire(device, &ctx)
    }

    /// Changes the account's settings.
    pub(crate) fn set(&mut self, edit: SettingsEdit) {
        let ctx = self.ctx();
        let prepared = self.account.prepare_settings(edit, &ctx).unwrap();
        self.commit(prepared);
    }

    pub(crate) fn admission(&self, device: DeviceId) -> Admission {
        self.account.device(device, self.now, self.unix).unwrap().admission
    }

    pub(crate) fn reusable_key(&mut self) -> String {
        self.join_key(NewJoinKey { reusable: true, ..Default::default() }).secret
    }

    pub(crate) fn register(
        &mut self,
        seed: u64,
        name: &str,
        key: &str,
    ) -> Result<Registered, Refused> {
        let private = private_key(seed);
        let challenge = self.gate.challenge([0; 16], self.now);
        let register = Register {
            protocol: PROTOCOL,
            join_key: key.to_owned(),
            key: public_key(seed),
            proof: prove(&private, &BROKER, &challenge, key),
            challenge: challenge.challenge,
            name: name.to_owned(),
            os: "linux".to_owned(),
            software: "0.1.0".to_owned(),
        };
        let proven = self.gate.verify(register, &BROKER, self.now)?;
        let ctx = self.ctx();
        let prepared = self.account.prepare_register(&proven, &ctx)?;
        Ok(self.commit(prepared))
    }

    /// Joins a device by a key of its own.
    pub(crate) fn join(&mut self, seed: u64, name: &str) -> DeviceId {
        let key = self.join_key(NewJoinKey::default()).secret;
        self.register(seed, name, &key).unwrap().device
    }

    pub(crate) fn open(&mut self, device: DeviceId) -> SessionId {
        self.open_with(device, None, None).unwrap().session
    }

    pub(crate) fn open_with(
        &mut self,
        device: DeviceId,
        instance: Option<u64>,
        last: Option<MapVersion>,
    ) -> Result<Opened, Refused> {
        let instance = instance.map(InstanceId);
        let opened = self.account.open_session(device, instance, last, self.now)?;
        if let Some(replaced) = opened.replaced {
            self.clients.remove(&replaced);
        }
        self.clients.insert(opened.session, Client::default());
        self.drain();
        Ok(opened)
    }

    /// A client that reconnects with the map that it has.
    pub(crate) fn reopen(&mut self, device: DeviceId, map: Netmap) -> SessionId {
        let opened = self.account.open_session(device, None, Some(map.version), self.now).unwrap();
        if let Some(replaced) = opened.replaced {
            self.clients.remove(&replaced);
        }
        self.clients.insert(opened.session, Client { map: Some(map), events: Vec::new() });
        self.drain();
        opened.session
    }

    pub(crate) fn close(&mut self, session: SessionId) -> Client {
        self.account.close_session(session, self.now);
        self.drain();
        self.clients.remove(&session).unwrap()
    }

    pub(crate) fn check_in(
        &mut self,
        device: DeviceId,
        endpoints: &[&str],
    ) -> Result<bool, Refused> {
        let endpoints = endpoints.iter().map(|text| endpoint(text)).collect();
        let state = CheckInState { endpoints, ..CheckInState::default() };
        let check_in = CheckIn { state: Some(state) };
        let reply = self.account.handle_check_in(device, &check_in, self.now)?;
        self.drain();
        Ok(reply.resend)
    }

    pub(crate) fn drain(&mut self) {
        while let Some((session, mut event)) = self.account.poll_event() {
            self.event_count += 1;
            let client = self.clients.get_mut(&session).expect("events go to open sessions");
            match &mut event {
                SessionEvent::Netmap(map) => {
                    client.map = Some((**map).clone());
                    // A thousand copies of a thousand peers would be remembered for nothing.
                    map.peers.truncate(100);
                }
                SessionEvent::Delta(delta) => {
                    let map = client.map.as_mut().expect("a delta follows a map");
                    assert_eq!(map.version, delta.base, "a delta builds on what was sent before");
                    assert_eq!(map.apply(delta), Apply::Applied);
                    assert!(!delta.changes.is_empty());
                }
                SessionEvent::Current(version) => {
                    assert_eq!(client.map.as_ref().map(|map| map.version), Some(*version));
                }
                SessionEvent::Connect(_)
                | SessionEvent::Reach(_)
                | SessionEvent::Wake(_)
                | SessionEvent::Revoked => {}
            }
            client.events.push(event);
        }
    }

    /// Lets time pass, and everything happen that falls due.
    pub(crate) fn advance(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some((at, reason)) = self.account.poll_timeout().filter(|(at, _)| *at <= end) {
            assert!(at > self.now || reason == "delta window", "a timer in the past: {reason}");
            self.step_to(at.max(self.now));
            self.account.handle_timeout(self.now);
            self.drain();
            let next = self.account.poll_timeout();
            assert!(next.is_none_or(|(next, _)| next > self.now), "a busy loop: {next:?}");
            let ctx = self.ctx();
            while let Some(prepared) = self.account.poll_housekeeping(&ctx) {
                self.commit(prepared);
            }
        }
        self.step_to(end);
    }

    /// Lets the window after a delta pass.
    pub(crate) fn settle(&mut self) {
        self.advance(Duration::from_millis(100));
    }

    fn step_to(&mut self, at: Instant) {
        self.unix += at.duration_since(self.now);
        self.now = at;
    }

    pub(crate) fn name(&self, device: DeviceId) -> String {
        self.account.device(device, self.now, self.unix).unwrap().name.to_string()
    }

    /// Every session has exactly the map that it would get anew.
    pub(crate) fn assert_converged(&self) {
        for (session, client) in &self.clients {
            let Some(device) = self.account.session_device(*session) else { continue };
            let map = client.map.as_ref().expect("every session began with a map");
            let mut fresh = self.account.netmap(device).unwrap();
            assert!(map.version.sequence <= fresh.version.sequence);
            fresh.version = map.version;
            assert_eq!(*map, fresh, "{session:?}");
        }
    }
}

pub(crate) fn private_key(seed: u64) -> [u8; 32] {
    let mut key = [0x5a; 32];
    key[8..16].copy_from_slice(&seed.to_be_bytes());
    key
}

pub(crate) fn public_key(seed: u64) -> PublicKey {
    let secret = x25519_dalek::StaticSecret::from(private_key(seed));
    PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
}

pub(crate) fn endpoint(text: &str) -> Endpoint {
    Endpoint { addr: text.parse::<SocketAddr>().unwrap(), kind: EndpointKind::Reflexive }
}
