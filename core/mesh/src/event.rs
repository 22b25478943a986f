use warren_proto::{CheckInState, ConnectRequest, DeviceId, RelayId};

use crate::{Path, Reason, StreamId, StreamTarget};

/// What the core wants from its shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The own endpoints or the NAT report changed: check in with this state, at once.
    CheckIn(CheckInState),
    /// A path is sought: ask the broker to tell the peer, at once.
    Connect(ConnectRequest),
    /// A delta didn't fit: fetch the whole netmap.
    FetchNetmap,
    /// A peer's path was found, replaced, or given up.
    PathChanged {
        /// Which peer.
        peer: DeviceId,
        /// The path in use, if any.
        path: Option<Path>,
    },
    /// A path was sought in vain.
    Unreachable {
        /// Which peer.
        peer: DeviceId,
        /// Why.
        reason: Reason,
    },
    /// A tunnel has been established: the handshake is done.
    Established {
        /// With which peer.
        peer: DeviceId,
    },
    /// Set the interface's MTU to this many bytes.
    Mtu(u16),
    /// Open a stream to a relay, by the first target that works, and say so with
    /// [`crate::Mesh::handle_stream_opened`] or [`crate::Mesh::handle_stream_closed`].
    OpenStream {
        /// Names it from now on.
        stream: StreamId,
        /// To which relay.
        relay: RelayId,
        /// Where, in order of preference.
        targets: Vec<StreamTarget>,
    },
    /// Close a stream, or stop opening it.
    CloseStream {
        /// Which.
        stream: StreamId,
    },
}
