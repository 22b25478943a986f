//! A relay on virtual time, with clients that are nothing but addresses.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_pair::{
    Authenticator, ClientSocket, Config, Drop, Event, Guid, Key, Proof, Relay, Verdict,
};

/// The wall clock when a test begins.
pub(crate) const UNIX: Duration = Duration::from_secs(1_800_000_000);

pub(crate) struct World {
    pub(crate) relay: Relay,
    pub(crate) authenticator: Authenticator,
    pub(crate) now: Instant,
    pub(crate) start: Instant,
}

pub(crate) fn client(number: u16) -> ClientSocket {
    let [high, low] = number.to_be_bytes();
    ClientSocket::new(SocketAddr::from(([192, 0, 2 + high, low], 1000)))
}

pub(crate) fn guid(number: u32) -> Guid {
    Guid::from_words([0, 0, 1, number]).unwrap()
}

pub(crate) fn to(number: u16) -> Verdict {
    Verdict::Forward(client(number))
}

pub(crate) fn dropped(reason: Drop) -> Verdict {
    Verdict::Dropped(reason)
}

#[expect(clippy::disallowed_methods, reason = "a test starts at some instant")]
fn some_instant() -> Instant {
    Instant::now()
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(crate) fn with(config: Config) -> Self {
        let now = some_instant();
        let key = Key::from_base64("c2VjcmV0").unwrap();
        Self {
            relay: Relay::new(config, [5; 16], now, UNIX),
            authenticator: Authenticator::new(Some(key)),
            now,
            start: now,
        }
    }

    /// Passes time, as a driver would: each timer on its instant.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, why)) = self.relay.poll_timeout()
            && at <= end
        {
            assert!(at >= self.now, "{why} lay in the past");
            self.now = at;
            self.relay.handle_timeout(at);
            assert!(self.relay.poll_timeout().is_none_or(|(next, _)| next > at), "{why}: busy");
        }
        self.now = end;
    }

    pub(crate) fn pass_ms(&mut self, time: u64) {
        self.pass(Duration::from_millis(time));
    }

    /// One datagram.
    pub(crate) fn send(&mut self, from: u16, datagram: &[u8]) -> Verdict {
        let authenticator = self.authenticator.clone();
        let mut parts = authenticator.parts(datagram, datagram.len());
        let part = parts.next().unwrap();
        assert_eq!((part.range.clone(), part.datagrams), (0..datagram.len(), 1));
        assert_eq!(parts.next(), None);
        self.relay.handle_part(client(from), &part, self.now)
    }

    pub(crate) fn data(&mut self, from: u16) -> Verdict {
        self.send(from, b"data")
    }

    /// A handshake as clients of the original send it.
    pub(crate) fn hello(&mut self, from: u16, pair: u32) -> Verdict {
        let datagram = self.authenticator.write(guid(pair), &[]);
        self.send(from, &datagram)
    }

    /// A handshake with a proof, and the handshake itself.
    pub(crate) fn fresh(&mut self, from: u16, pair: u32, nonce: u8) -> (Verdict, Vec<u8>) {
        let proof = Proof { time: self.unix_us(), nonce: [nonce; 16] };
        let datagram = self.authenticator.write(guid(pair), &proof.to_bytes());
        (self.send(from, &datagram), datagram)
    }

    pub(crate) fn unix_us(&self) -> u64 {
        u64::try_from((UNIX + (self.now - self.start)).as_micros()).unwrap()
    }

    /// Joins two clients.
    pub(crate) fn pair(&mut self, first: u16, second: u16, pair: u32) {
        assert_eq!(self.hello(first, pair), Verdict::Waits);
        assert_eq!(self.hello(second, pair), to(first));
        self.assert_paired(first, second);
    }

    pub(crate) fn assert_paired(&mut self, first: u16, second: u16) {
        assert_eq!(self.data(first), to(second));
        assert_eq!(self.data(second), to(first));
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.relay.poll_event()).collect()
    }
}
