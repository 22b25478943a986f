//! Allocations that are carried by a stream (TLS, or TCP), where datagrams don't pass: opening one,
//! its bytes in and out, and back to datagrams.

use std::time::{Duration, Instant};

use warren_turn::client::{Client, Failure, Transport};
use warren_turn::stream::StreamDecoder;

use super::Mesh;
use super::allocation::turn_config;
use crate::peer::is_recent;
use crate::relay::carrier::Stream;
use crate::relay::{Allocation, Carrier};
use crate::timers::Timer;
use crate::{Event, Inbound, RelayHandle, StreamId, StreamTarget};

/// How long opening a stream, with TLS and perhaps a proxy, may take.
pub(super) const STREAM_OPENING: Duration = Duration::from_secs(5);

/// How long an answer on a stream may take: TCP repeats lost segments.
pub(super) const STREAM_PATIENCE: Duration = Duration::from_secs(2);

/// After datagrams went unanswered, a stream is kept for so long at least.
const UDP_AGAIN: Duration = Duration::from_secs(60);

impl Mesh {
    pub(super) fn allocate_by_stream(&mut self, relay: RelayHandle, now: Instant) {
        self.counters.allocations += 1;
        let id = self.relays.next_stream();
        let Some(entry) = self.relays.get_mut(relay) else { return };
        let carrier = || Carrier::Stream(Box::new(Stream::new(id)));
        let mut allocation =
            entry.allocation.take().unwrap_or_else(|| Allocation::new(carrier(), now));
        allocation.carrier = carrier();
        allocation.begun = now;
        allocation.client = None;
        entry.allocation = Some(allocation);
        let tls = entry.info.tls.iter().cloned().map(StreamTarget::Tls);
        let tcp = entry.info.tcp.iter().copied().map(StreamTarget::Tcp);
        let (relay_id, targets) = (entry.info.id, tls.chain(tcp).collect());
        self.events.push_back(Event::OpenStream { stream: id, relay: relay_id, targets });
        self.timers.set(Timer::Relay(relay), now + STREAM_OPENING);
    }

    /// A relay answers datagrams: an allocation by a stream moves there. What is to be sent waits for
    /// the round trip that it takes.
    pub(super) fn return_to_udp(&mut self, relay: RelayHandle, now: Instant) {
        if self.is_udp_blocked(now) {
            return;
        }
        let Some(entry) = self.relays.get(relay) else { return };
        let Some(Carrier::Stream(stream)) = entry.allocation.as_ref().map(|there| &there.carrier)
        else {
            return;
        };
        let Some(server) = entry.measurement.address() else { return };
        if !is_recent(entry.udp_failed, UDP_AGAIN, now) {
            self.events.push_back(Event::CloseStream { stream: stream.id });
            self.allocate_by_udp(relay, server, now);
            self.pump_relay(relay, now);
        }
    }

    /// The shell has opened a stream that [`Event::OpenStream`] asked for; `tls` says by which kind
    /// of target.
    pub fn handle_stream_opened(&mut self, stream: StreamId, tls: bool, now: Instant) {
        let Some(relay) = self.relays.by_stream(stream) else {
            self.events.push_back(Event::CloseStream { stream });
            return;
        };
        let seed = self.random.seed();
        let this = self.this_device();
        let Some(entry) = self.relays.get_mut(relay) else { return };
        let config = turn_config(entry, Transport::Stream, this);
        let Some(allocation) = entry.allocation.as_mut() else { return };
        if let Carrier::Stream(present) = &mut allocation.carrier {
            present.open = true;
            present.is_tls = tls;
        }
        allocation.begun = now;
        allocation.client = Some(Client::new(config, seed, now));
        self.timers.set(Timer::Relay(relay), now + STREAM_PATIENCE);
        self.restore_bindings(relay, now);
        self.pump_relay(relay, now);
        self.pump(now);
    }

    /// A stream could not be opened, or has ended.
    pub fn handle_stream_closed(&mut self, stream: StreamId, now: Instant) {
        if let Some(relay) = self.relays.by_stream(stream) {
            self.relay_failed(relay, Failure::Timeout, now);
            self.pump(now);
        }
    }

    /// The next bytes for a stream. To be called when the shell can write more, and not before, so
    /// that what waits is bounded.
    pub fn poll_stream(&mut self, stream: StreamId) -> Option<Vec<u8>> {
        let relay = self.relays.by_stream(stream)?;
        match &mut self.relays.allocation_mut(relay)?.carrier {
            Carrier::Stream(stream) => stream.read(),
            Carrier::Udp(_) => None,
        }
    }

    /// Takes bytes that a stream has brought. IP packets for the own host wait in
    /// [`Self::poll_tun`].
    pub fn handle_stream(&mut self, stream: StreamId, bytes: &[u8], now: Instant) {
        let Some(relay) = self.relays.by_stream(stream) else { return };
        let Some(mut decoder) = self.take_decoder(relay, stream) else { return };
        decoder.push(bytes);
        let broken = loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => match self.handle_from_relay(relay, frame, now) {
                    Inbound::Deliver { range } => {
                        self.counters.delivered += 1;
                        self.tun.push_back(frame[range].to_vec());
                    }
                    Inbound::Consumed | Inbound::Relay => {}
                    Inbound::Dropped(reason) => self.counters.drop_inbound(reason),
                },
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        if broken {
            self.handle_stream_closed(stream, now);
        } else {
            self.put_decoder(relay, stream, decoder);
        }
        self.pump(now);
    }

    fn take_decoder(&mut self, relay: RelayHandle, stream: StreamId) -> Option<StreamDecoder> {
        match &mut self.relays.allocation_mut(relay)?.carrier {
            Carrier::Stream(present) if present.id == stream => {
                let empty = StreamDecoder::new(0);
                Some(std::mem::replace(&mut present.decoder, empty))
            }
            Carrier::Stream(_) | Carrier::Udp(_) => None,
        }
    }

    fn put_decoder(&mut self, relay: RelayHandle, stream: StreamId, decoder: StreamDecoder) {
        if let Some(Carrier::Stream(present)) =
            self.relays.allocation_mut(relay).map(|there| &mut there.carrier)
            && present.id == stream
        {
            present.decoder = decoder;
        }
    }
}
