use std::io;
use std::time::Instant;

use warren_mesh::{Inbound, Mesh, Outbound, OutboundDrop};
use warren_net::{
    Coalescer, Outgoing, SlotLayout, SuperPacket, Tun, TunReader, UdpReceiver, UdpSockets,
};

use super::echo::Echoes;
use super::relay::{PendingRun, PrivateRelay};
use super::{BATCH, Echo};

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
        let Self { mesh, tun, sockets, receiver, coalescer, echoes, relay, .. } = self;
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
                        if echoes.is_idle() || !echoes.take(packet, now) {
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
            if self.echoes.is_idle() || !self.echoes.take(packet, now) {
                writes.push(packet);
            }
        }
        writes.flush();
    }
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
