use std::io;

/// What the operating system refused, in words that say what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no TUN driver.
    #[error(
        "/dev/net/tun is missing: load it with `modprobe tun`; in a container add \
         `--device /dev/net/tun --cap-add NET_ADMIN`"
    )]
    NoTunDevice,
    /// The process may not open or configure network devices.
    #[error(
        "no permission to {action}: run as root or with CAP_NET_ADMIN (the unit of `warren service \
         install` has it; in a container add `--cap-add NET_ADMIN --device /dev/net/tun`)"
    )]
    NoPrivilege {
        /// What was being done.
        action: &'static str,
    },
    /// Another process holds the TUN device of that name.
    #[error(
        "the network interface {name} is in use by another process: stop that one (is a second \
         `warren node` running?) or choose another name with --tun"
    )]
    TunNameTaken {
        /// The interface's name.
        name: String,
    },
    /// The name can't be an interface's.
    #[error("{name:?} can't be an interface name: 1 to 15 characters, no space, `/` or `%`")]
    TunNameInvalid {
        /// The refused name.
        name: String,
    },
    /// Another socket holds the UDP port.
    #[error(
        "UDP port {port} is in use by another program: choose another with `warren lport PORT` or \
         `warren lport auto` (`ss -ulpn` shows who has it)"
    )]
    PortInUse {
        /// The port that was asked for.
        port: u16,
    },
    /// The port is one that the system keeps for privileged programs.
    #[error(
        "UDP port {port} needs privilege: choose one from 1024, or run with CAP_NET_BIND_SERVICE"
    )]
    PortPrivileged {
        /// The port that was asked for.
        port: u16,
    },
    /// No free UDP port was found in the dynamic range.
    #[error("no free UDP port in 49152-65535 after many tries: set one with `warren lport PORT`")]
    NoFreePort,
    /// Neither IPv4 nor IPv6 sockets can be opened.
    #[error("this system has neither IPv4 nor IPv6: {0}")]
    NoAddressFamily(#[source] io::Error),
    /// Any other refusal.
    #[error("{action}: {source}")]
    Os {
        /// What was being done.
        action: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Wraps a refusal of the system; a missing privilege gets its own text.
    pub(crate) fn os(action: &'static str, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::PermissionDenied {
            Self::NoPrivilege { action }
        } else {
            Self::Os { action: action.to_owned(), source }
        }
    }
}
