use std::fmt;

/// Why a pair has no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// No STUN server answered this device over UDP.
    UdpBlockedHere,
    /// The peer has no control session with the broker, and didn't answer either.
    PeerOffline,
    /// No STUN server answered the peer over UDP.
    UdpBlockedThere,
    /// The peer has published no endpoint that this device could use.
    NoUsableEndpoint,
    /// Both NATs make a mapping of their own for each destination, so neither side can know the
    /// other's.
    BothMapPerDestination,
    /// One NAT makes a mapping of its own for each destination, and nothing came through the other,
    /// which is what a filter by port does: the port that it waits for is never the one that comes.
    OneMapsPerDestination {
        /// Whether it is the NAT in front of this device.
        here: bool,
    },
    /// None of the peer's endpoints answered.
    NoAnswer {
        /// How many probes were sent.
        probes: u32,
        /// To how many endpoints.
        endpoints: u32,
    },
    /// A path answers, but the tunnel's handshake doesn't complete.
    NoHandshake,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UdpBlockedHere => f.write_str("UDP is blocked here: no STUN server answered"),
            Self::PeerOffline => f.write_str("the peer is offline"),
            Self::UdpBlockedThere => f.write_str("UDP is blocked at the peer"),
            Self::NoUsableEndpoint => f.write_str("the peer has no endpoint usable from here"),
            Self::BothMapPerDestination => f.write_str("both NATs map per destination"),
            Self::OneMapsPerDestination { here: true } => {
                f.write_str("the NAT here maps per destination, and the peer's filters by port")
            }
            Self::OneMapsPerDestination { here: false } => {
                f.write_str("the peer's NAT maps per destination, and the one here filters by port")
            }
            Self::NoAnswer { probes, endpoints } => {
                write!(f, "no answer to {probes} probes on {endpoints} endpoints")
            }
            Self::NoHandshake => f.write_str("a path answers, but the handshake doesn't complete"),
        }
    }
}
