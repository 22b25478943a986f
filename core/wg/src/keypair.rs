//! Sessions: the keys that a handshake agreed on, and the slots that they move through.
//!
//! `next` is a session that the peer initiated and hasn't used yet; its first packet proves that
//! the peer has it too and makes it `current`, the one that is sent with. `previous` ones are only
//! received with, until they die of age or are pushed out, so that nothing under way is lost.

use std::time::Instant;

use ring::aead::LessSafeKey;

use crate::constants::{
    REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME, REKEY_LAST_MINUTE,
};
use crate::crypto::aead_key;
use crate::noise::TransportKeys;
use crate::replay::ReplayWindow;

/// Which side initiated a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Initiator,
    Responder,
}

/// One session.
pub(crate) struct Keypair {
    /// The index that we chose, in packets to us.
    pub(crate) local: u32,
    /// The index that the peer chose, in packets to it.
    pub(crate) remote: u32,
    pub(crate) role: Role,
    pub(crate) born: Instant,
    pub(crate) sending: LessSafeKey,
    /// The counter of the next packet to send.
    pub(crate) counter: u64,
    pub(crate) receiving: LessSafeKey,
    pub(crate) window: ReplayWindow,
}

impl Keypair {
    pub(crate) fn new(
        local: u32,
        remote: u32,
        role: Role,
        born: Instant,
        keys: &TransportKeys,
    ) -> Box<Self> {
        Box::new(Self {
            local,
            remote,
            role,
            born,
            sending: aead_key(&keys.sending),
            counter: 0,
            receiving: aead_key(&keys.receiving),
            window: ReplayWindow::new(),
        })
    }

    pub(crate) fn dies(&self) -> Instant {
        self.born + REJECT_AFTER_TIME
    }

    pub(crate) fn is_alive(&self, now: Instant) -> bool {
        now < self.dies()
    }

    /// Whether who sends with this session should renew it.
    pub(crate) fn is_due_when_sending(&self, now: Instant) -> bool {
        let age = match self.role {
            Role::Initiator => REKEY_AFTER_TIME,
            Role::Responder => REKEY_LAST_MINUTE,
        };
        self.counter > REKEY_AFTER_MESSAGES || now >= self.born + age
    }

    /// Whether who receives with this session should renew it.
    pub(crate) fn is_due_when_receiving(&self, now: Instant) -> bool {
        self.role == Role::Initiator && now >= self.born + REKEY_LAST_MINUTE
    }
}

/// Which slot a session is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    Current,
    Next,
    Previous,
}

/// The sessions with one peer.
#[derive(Default)]
pub(crate) struct Keypairs {
    pub(crate) current: Option<Box<Keypair>>,
    next: Option<Box<Keypair>>,
    previous: [Option<Box<Keypair>>; 2],
}

impl Keypairs {
    /// The session with this local index.
    pub(crate) fn find(&mut self, local: u32) -> Option<(Slot, &mut Keypair)> {
        let is_it = |keypair: &&mut Box<Keypair>| keypair.local == local;
        if let Some(keypair) = self.current.as_mut().filter(is_it) {
            return Some((Slot::Current, keypair));
        }
        if let Some(keypair) = self.next.as_mut().filter(is_it) {
            return Some((Slot::Next, keypair));
        }
        let keypair = self.previous.iter_mut().flatten().find(is_it)?;
        Some((Slot::Previous, keypair))
    }

    /// Sends with a session that we initiated from here on. Returns the local index of a session
    /// that had to go.
    ///
    /// A `next` one means that both sides initiated at once. The one that is to win stays where it
    /// is: `next` if the peer's, so that its first packet makes it current; otherwise it is only
    /// received with.
    pub(crate) fn use_initiated(&mut self, keypair: Box<Keypair>, ours_wins: bool) -> Vec<u32> {
        let mut gone = Vec::new();
        if ours_wins {
            gone.extend(self.next.take().and_then(|next| self.retire(next)));
        }
        gone.extend(self.current.replace(keypair).and_then(|old| self.retire(old)));
        gone
    }

    /// Receives with a session that the peer initiated. Returns the local index of the unused one
    /// that it supersedes.
    pub(crate) fn expect_responded(&mut self, keypair: Box<Keypair>) -> Option<u32> {
        self.next.replace(keypair).map(|old| old.local)
    }

    /// Sends with `next` from here on: the peer has used it. Returns the local index of a session
    /// that had to go.
    pub(crate) fn promote_next(&mut self) -> Option<u32> {
        let next = self.next.take()?;
        self.current.replace(next).and_then(|old| self.retire(old))
    }

    fn retire(&mut self, keypair: Box<Keypair>) -> Option<u32> {
        let [newer, older] = &mut self.previous;
        let pushed_out = std::mem::replace(older, newer.replace(keypair));
        pushed_out.map(|keypair| keypair.local)
    }

    /// Forgets the sessions that have died. Returns their local indices.
    pub(crate) fn bury(&mut self, now: Instant) -> Vec<u32> {
        let mut gone = Vec::new();
        for slot in self.slots_mut() {
            if let Some(dead) = slot.take_if(|keypair| !keypair.is_alive(now)) {
                gone.push(dead.local);
            }
        }
        gone
    }

    /// When the next session dies.
    pub(crate) fn next_death(&self) -> Option<Instant> {
        let [newer, older] = &self.previous;
        let all = [&self.current, &self.next, newer, older];
        all.into_iter().flatten().map(|keypair| keypair.dies()).min()
    }

    /// The local indices of all sessions.
    pub(crate) fn locals(&mut self) -> Vec<u32> {
        self.slots_mut().into_iter().flatten().map(|keypair| keypair.local).collect()
    }

    fn slots_mut(&mut self) -> [&mut Option<Box<Keypair>>; 4] {
        let [newer, older] = &mut self.previous;
        [&mut self.current, &mut self.next, newer, older]
    }
}

#[cfg(test)]
mod tests {
    use std::mem::size_of;

    use super::*;
    use crate::peer::Peer;

    #[test]
    fn a_peer_with_its_session_takes_under_4_kib_besides_the_replay_window() {
        let session = size_of::<Keypair>() - size_of::<ReplayWindow>();
        println!(
            "peer {}, session {session}, window {}",
            size_of::<Peer>(),
            size_of::<ReplayWindow>()
        );
        // A rekey's two sessions, the handshake's state, and the maps' entries at their worst.
        assert!(size_of::<Peer>() + 2 * session + 512 < 4096);
    }
}
