//! Sockets that are listened at, and what to do where that doesn't go.

use std::io::ErrorKind;
use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Ipv6V6Only;
use tokio::net::{TcpListener, TcpSocket};
use warren_net::{ServerSocket, ServerSocketConfig};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

const ELSEWHERE: &str = "is it an address of this machine?";

/// `flag` chooses another port.
pub(crate) fn udp(config: &ServerSocketConfig, flag: &str) -> anyhow::Result<ServerSocket> {
    let address = config.address;
    match ServerSocket::bind(config) {
        Err(warren_net::Error::PortInUse { port }) => bail!(
            "UDP port {port} is in use by another program: choose another with {flag} \
             (`ss -ulpn` shows who has it)"
        ),
        Err(warren_net::Error::NoAddressFamily(error)) => {
            Err(error).with_context(|| format!("can't listen at {address}: {ELSEWHERE}"))
        }
        result => result.with_context(|| format!("can't listen at {address}")),
    }
}

/// As with UDP, IPv6's unspecified address means IPv6 alone: IPv4's may have a listener beside it.
pub(crate) fn tcp(what: &str, address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let bind = || -> std::io::Result<TcpListener> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        if address.is_ipv6() {
            setsockopt(&socket, Ipv6V6Only, &true)?;
        }
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    let error = match bind() {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    let port = address.port();
    let kind = error.kind();
    if kind == ErrorKind::AddrInUse {
        bail!(
            "can't listen for {what}: TCP port {port} is in use by another program: choose another \
             with {flag} (`ss -tlpn` shows who has it)"
        )
    }
    if kind == ErrorKind::PermissionDenied {
        bail!(
            "can't listen for {what}: TCP port {port} needs privilege: choose one from 1024 with \
             {flag}, or run with CAP_NET_BIND_SERVICE"
        )
    }
    let more = match kind == ErrorKind::AddrNotAvailable {
        true => format!(": {ELSEWHERE}"),
        false => String::new(),
    };
    Err(error).with_context(|| format!("can't listen for {what} at {address}{more}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_cannot_listen_hears_what_to_do() {
        let taken = tcp("TURN over TLS", ([127, 0, 0, 1], 0).into(), "--tls").unwrap();
        let address = taken.local_addr().unwrap();
        let complaint = |address| tcp("TURN over TLS", address, "--tls").unwrap_err();
        let text = complaint(address).to_string();
        assert!(text.contains("another with --tls") && text.contains("ss -tlpn"), "{text}");
        let text = complaint("203.0.113.200:0".parse().unwrap()).to_string();
        assert!(text.contains(ELSEWHERE), "{text}");
    }
}
