//! The hot path in: data messages (paper §5.4.6).

use std::time::Instant;

use ring::aead::Aad;

use super::{Event, Interface, PeerIndex, Received};
use crate::constants::{KEEPALIVE_TIMEOUT, REJECT_AFTER_MESSAGES};
use crate::crypto::nonce;
use crate::keypair::Slot;
use crate::message::{array, ip_packet_len, u32_at};
use crate::timers::Timer;
use crate::{DropReason, HEADROOM, TAG};

impl Interface {
    pub(super) fn handle_data(
        &mut self,
        datagram: &mut [u8],
        now: Instant,
    ) -> Result<Received, DropReason> {
        let local = u32_at(datagram, 4);
        let counter = u64::from_le_bytes(array(datagram, 8));
        let index = self.indices.peer(local).ok_or(DropReason::UnknownIndex)?;
        let peer = self.peers.get_mut(index).ok_or(DropReason::UnknownIndex)?;
        let (slot, keypair) = peer.keypairs.find(local).ok_or(DropReason::Unexpected)?;
        if !keypair.is_alive(now) || counter >= REJECT_AFTER_MESSAGES {
            return Err(DropReason::SessionExpired);
        }
        if !keypair.window.is_fresh(counter) {
            return Err(DropReason::Replay);
        }
        let opened = keypair.receiving.open_in_place(
            nonce(counter),
            Aad::empty(),
            &mut datagram[HEADROOM..],
        );
        opened.map_err(|_| DropReason::Authentication)?;
        keypair.window.mark(counter);
        let is_due = slot == Slot::Current && keypair.is_due_when_receiving(now);

        if slot == Slot::Next {
            self.session_confirmed(index);
        }
        self.heard_of(index, datagram.len(), now);
        if is_due {
            self.initiate(index, now);
        }
        let plaintext = &datagram[HEADROOM..datagram.len() - TAG];
        if plaintext.is_empty() {
            return Ok(Received::Keepalive { peer: index });
        }
        let packet_len = ip_packet_len(plaintext).ok_or(DropReason::NotIp)?;
        self.data_received(index, now);
        Ok(Received::Data { peer: index, range: HEADROOM..HEADROOM + packet_len })
    }

    /// The peer has used the session that it initiated: it is sent with from here on.
    fn session_confirmed(&mut self, index: PeerIndex) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        if let Some(gone) = peer.keypairs.promote_next() {
            self.indices.free(gone);
        }
        self.events.push_back(Event::Established { peer: index });
    }

    /// Notes that something authenticated came.
    pub(super) fn heard_of(&mut self, index: PeerIndex, bytes: usize, now: Instant) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        peer.stats.last_received = Some(now);
        peer.stats.rx_bytes += bytes as u64;
        peer.deadlines.cancel(Timer::Silence);
        if let Some(every) = peer.persistent_keepalive {
            let deadlines = &mut peer.deadlines;
            self.timers.arm(index, deadlines, Timer::PersistentKeepalive, now + every);
        }
    }

    /// Notes that data came, which wants an answer in time.
    fn data_received(&mut self, index: PeerIndex, now: Instant) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        peer.stats.rx_packets += 1;
        if peer.deadlines.is_armed(Timer::Keepalive) {
            peer.needs_another_keepalive = true;
        } else {
            let at = now + KEEPALIVE_TIMEOUT;
            self.timers.arm(index, &mut peer.deadlines, Timer::Keepalive, at);
        }
    }
}
