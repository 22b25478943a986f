//! A node's state machine: peers, paths, probing, roaming, demultiplexing.
//!
//! [`Mesh`] is driven as `docs/sans-io.md` says. It knows the netmap, holds one tunnel per peer (in
//! `warren-wg`) and is the only one that decides where a datagram goes.
//!
//! # From a packet to a path
//!
//! Nothing is sent to a peer that nobody talks to. A packet for it ([`Mesh::handle_outbound`]) or
//! [`Mesh::connect`] starts a **seek**: [`Event::Connect`] asks the broker to tell the peer, and
//! probes leave at once to every endpoint that the peer published, each 100 ms at first, then more
//! seldom, for five seconds. The peer, once told, does the same, and that is what opens the NATs on
//! both sides. A probe is a STUN Binding request that only the two can make (module `probe`). A
//! valid request from an address makes that address a *candidate*, and is answered; only an answer
//! to **our own** request makes a candidate a path. The first answer chooses the path and starts
//! WireGuard's handshake; a better one (module `path`) replaces it later. The packets that came
//! before wait in a bounded queue.
//!
//! A path in use is probed each 20 s and let go after 5 minutes without traffic. When something was
//! sent and nothing authenticated came back, the path is **suspect** and probed each 100 ms; two
//! unanswered probes make it **dead**: the reflexive address is asked for anew, the peer is told,
//! and all candidates are probed, until one answers or the seek fails with a [`Reason`].
//!
//! # Through a relay
//!
//! Direct paths have a head start. When none has answered by then, or both sides know that none
//! can, both allocate at a relay of the netmap (module `relay`): the initiator's choice travels with
//! its word to the peer. At relays of ours each binds a channel to the other's virtual address; what
//! comes by a channel is unwrapped and classified again, once. The tunnel uses the relayed path at
//! once; direct ones are sought beside it, ever more seldom, and preferred when they answer. A relay
//! that doesn't answer is tried by a stream ([`Event::OpenStream`]), or left for the next one.
//! Allocations are shared by all peers, few, and let go when nobody needs them.
//!
//! # Who may do what
//!
//! - A decrypted packet is delivered only if its source is the address of the peer whose tunnel it
//!   came through, and its destination is this device.
//! - No address is ever sent anything but probes before it has answered one; authenticated data
//!   from elsewhere only causes a probe. Through a relay that has let this device in, a handshake
//!   may go to a peer before it has answered: the relay passes on only what the peer has asked for.
//! - A relay is trusted with nothing but forwarding: what it damages, repeats or misdirects is
//!   dropped as it would be from anybody.
//! - Probes to addresses that haven't answered are limited per destination and in total, so that
//!   published endpoints can't aim a network of nodes at a victim.
//!
//! # Cost
//!
//! A packet costs one hash look-up out, and none in. Timers, transactions, candidates and queues
//! are bounded; nothing scans the peers for each packet or wake-up.

mod behind;
mod candidates;
mod clock;
mod config;
mod counters;
mod demux;
mod event;
mod filter;
mod flows;
mod icmp;
mod ip;
mod mesh;
mod mtu;
mod outcome;
mod outside;
mod path;
mod peer;
mod probe;
mod queue;
mod random;
mod reason;
mod relay;
mod status;
mod timers;
mod transport;

pub use config::{BrokerState, Config, LocalAddress, MapSource};
pub use counters::Counters;
pub use event::Event;
pub use mesh::Mesh;
pub use outcome::{
    CHANNEL_HEADROOM, HEADROOM, Inbound, InboundDrop, Outbound, OutboundDrop, OutboundSealer,
    PeerHandle, QUEUE_PER_PEER, TAILROOM, Transmit,
};
pub use path::{Path, Rank, RelayHandle, Via};
pub use reason::Reason;
pub use relay::{StreamId, StreamTarget};
pub use status::{
    CandidateStatus, Netcheck, PathState, PeerStatus, RelayStatus, RelayUse, StunStatus,
};
pub use warren_turn::Mapping;
pub use warren_turn::client::Failure as RelayFailure;

#[cfg(test)]
mod testing {
    use std::time::Instant;

    #[expect(clippy::disallowed_methods, reason = "a test's instants count from any instant")]
    pub(crate) fn start() -> Instant {
        Instant::now()
    }
}
