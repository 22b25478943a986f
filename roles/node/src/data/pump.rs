use std::io;
use std::time::Instant;

use warren_mesh::{Inbound, Mesh, Outbound, OutboundDrop};
use warren_net::{
    Coalescer, Intake, Outgoing, SlotLayout, SuperPacket, Tun, TunReader, UdpReceiver, UdpSockets,
};

use super::echo::Echoes;
use super::relay::{PendingRun, PrivateRelay};
use super::{BATCH, Echo};

/// Packets of who answers in the host's place that are taken before everything else gets its turn.
const DIVERTED: usize = 64;

/// Everything that a packet meets on its way through.
pub(super) struct Pump {
    pub(super) mesh: Mesh,
    pub(super) tun: Tun,
    pub(super) sockets: UdpSockets,
    pub(super) reader: TunReader,
    pub(super) receiver: UdpReceiver,
    pub(super) outgoing: Outgoing,
    pub(super) coalescer: Coalescer,
    pub(super) echoes: Echoes,
    pub(super) relay: PrivateRelay,
    /// What isn't the host's, though it comes out of a tunnel.
    pub(super) intake: Option<Intake>,
}

impl Pump {
    /// From the host to the network, until the TUN is empty or [`BATCH`] reads are done.
    ///
    /// # Errors
    /// The interface is gone.
    pub(super) fn outbound(&mut self) -> io::Result<()> {
        let Self { mesh, tun, sockets, reader, outgoing, .. } = self;
        let now = Instant::now();
        let mut failure = None;
        for _ in 0..BATCH {
            let packet = match tun.try_recv(reader) {
                Ok(packet) => packet,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            };
            send(mesh, outgoing, sockets, &packet, now);
            if outgoing.is_blocked() {
                break;
            }
        }
        outgoing.flush(sockets);
        failure.map_or(Ok(()), Err)
    }

    /// From the network to the host, until the sockets are empty or [`BATCH`] receives are done.
    pub(super) fn inbound(&mut self) {
        let Self { mesh, tun, sockets, receiver, coalescer, echoes, relay, intake, .. } = self;
        let now = Instant::now();
        for _ in 0..BATCH {
            let Ok(received) = sockets.try_recv(receiver) else { break };
            let mut writes = coalescer.begin(&*tun);
            let mut run = PendingRun::default();
            for (remote, datagram) in received {
                if run.continues(remote, datagram) {
                    run.push(remote, datagram, (relay, sockets), now);
                    continue;
                }
                match mesh.handle_datagram(remote, datagram, now) {
                    Inbound::Deliver { range } => {
                        let packet = &datagram[range];
                        if !is_taken(echoes, intake, packet, now) {
                            writes.push(packet);
                        }
                    }
                    Inbound::Consumed => {}
                    Inbound::Relay if warren_turn::is_stun(datagram) => {
                        run.flush((relay, sockets), now);
                        relay.handle_message(remote, datagram, sockets, now);
                    }
                    Inbound::Relay => run.push(remote, datagram, (relay, sockets), now),
                    Inbound::Dropped(reason) => {
                        tracing::trace!(%remote, ?reason, "a datagram was dropped");
                    }
                }
            }
            run.flush((relay, sockets), now);
            writes.flush();
        }
    }

    /// Sends an echo request of our own.
    pub(super) fn echo(&mut self, echo: Echo, now: Instant) {
        let Echo { source, destination, answer } = echo;
        let Some(packet) = self.echoes.begin(source, destination, answer, now) else { return };
        let packet = SuperPacket::complete(&packet);
        let Self { mesh, sockets, outgoing, .. } = self;
        if let Some(reason) = send(mesh, outgoing, sockets, &packet, now) {
            self.echoes.refuse_last(reason);
        }
        self.outgoing.flush(&self.sockets);
    }

    /// From who answers in the host's place to the network: `packet`, and what has come after it.
    pub(super) fn divert(&mut self, mut packet: Vec<u8>) {
        let Self { mesh, sockets, outgoing, intake, .. } = self;
        let now = Instant::now();
        for _ in 0..DIVERTED {
            // The slots are of that size; whoever sends more isn't told, as by a router of old.
            if packet.len() <= usize::from(mesh.mtu()) {
                send(mesh, outgoing, sockets, &SuperPacket::complete(&packet), now);
            }
            if outgoing.is_blocked() {
                break;
            }
            let Some(next) = intake.as_mut().and_then(Intake::try_answer) else { break };
            packet = next;
        }
        outgoing.flush(sockets);
    }

    /// Carries out what the mesh has queued beside its events.
    pub(super) fn drain_packets(&mut self) {
        while let Some(transmit) = self.mesh.poll_transmit() {
            let remote = transmit.remote;
            let sent = self.sockets.try_send(remote, &transmit.contents, transmit.dont_fragment);
            if let Err(error) = sent {
                tracing::trace!(%remote, %error, "a datagram was not sent");
            }
        }
        // ICMP errors, and what came by a stream.
        let packets: Vec<Vec<u8>> = std::iter::from_fn(|| self.mesh.poll_tun()).collect();
        if packets.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut writes = self.coalescer.begin(&self.tun);
        for packet in &packets {
            if !is_taken(&mut self.echoes, &mut self.intake, packet, now) {
                writes.push(packet);
            }
        }
        writes.flush();
    }
}

/// Whether a packet out of a tunnel isn't the host's.
fn is_taken(echoes: &mut Echoes, intake: &mut Option<Intake>, packet: &[u8], now: Instant) -> bool {
    !echoes.is_idle() && echoes.take(packet, now)
        || intake.as_mut().is_some_and(|intake| intake.take(packet))
}

/// Seals a packet into the outgoing batch, or has the mesh keep it until there is a tunnel.
fn send(
    mesh: &mut Mesh,
    outgoing: &mut Outgoing,
    sockets: &UdpSockets,
    packet: &SuperPacket<'_>,
    now: Instant,
) -> Option<OutboundDrop> {
    let mtu = usize::from(mesh.mtu());
    let peer = match mesh.handle_outbound(packet.bytes(), packet.segment_len(0), now) {
        Outbound::Seal { remote, headroom, mut sealer } => {
            let layout = SlotLayout {
                headroom: headroom + warren_wg::HEADROOM,
                tailroom: warren_wg::TAG,
                align: 16,
                mtu,
            };
            outgoing.push(sockets, packet, remote, layout, |slot, len| sealer.seal(slot, len));
            return None;
        }
        Outbound::Wait(peer) => peer,
        Outbound::Dropped(reason) => {
            tracing::trace!(?reason, "a packet of the host was dropped");
            return Some(reason);
        }
    };
    let mut segment = vec![0; packet.segment_len(0)];
    for index in 0..packet.segments() {
        let len = packet.write_segment(index, &mut segment);
        mesh.enqueue(peer, &segment[..len], now);
    }
    None
}
