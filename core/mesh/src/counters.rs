use crate::{InboundDrop, OutboundDrop};

/// What a [`crate::Mesh`] has counted since its creation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    inbound: [u64; InboundDrop::ALL.len()],
    outbound: [u64; OutboundDrop::ALL.len()],
    /// Packets handed to the own host.
    pub delivered: u64,
    /// Packets (or super-packets) that were given a sealer.
    pub sealed: u64,
    /// Probes sent, MTU probes among them.
    pub probes_sent: u64,
    /// Probes not sent because a budget was used up.
    pub probes_withheld: u64,
    /// Valid probes received and answered.
    pub probes_answered: u64,
    /// Valid answers to our probes.
    pub answers_received: u64,
    /// Connect signals from devices that are not peers.
    pub signals_ignored: u64,
    /// Allocations begun at relays, repeated attempts by another carrier among them.
    pub allocations: u64,
    /// Relays that were given up.
    pub relay_failures: u64,
    /// Packets that relays have passed on to this device.
    pub relayed_in: u64,
    /// Packets (or super-packets) that were given a sealer with a relay's channel header.
    pub relayed_out: u64,
    /// ICMP errors not written because of the rate limit.
    pub icmp_withheld: u64,
}

impl Counters {
    /// How many incoming datagrams were dropped for this reason.
    pub fn inbound(&self, reason: InboundDrop) -> u64 {
        self.inbound[reason as usize]
    }

    /// How many outgoing packets were dropped for this reason.
    pub fn outbound(&self, reason: OutboundDrop) -> u64 {
        self.outbound[reason as usize]
    }

    pub(crate) fn drop_inbound(&mut self, reason: InboundDrop) {
        self.inbound[reason as usize] += 1;
    }

    pub(crate) fn drop_outbound(&mut self, reason: OutboundDrop, packets: u64) {
        self.outbound[reason as usize] += packets;
    }
}
