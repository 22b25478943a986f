//! Wake-on-LAN: six bytes of ones and sixteen times the card's address (AMD's 'Magic Packet
//! Technology', 20213), in a UDP broadcast to the discard port.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use warren_net::{Lan, LanInterface};
use warren_proto::{LanCap, MacAddr};
use warren_scan::Woken;

/// A broadcast may be lost: it is said so often.
const TIMES: u32 = 3;
/// From one to the next.
const PAUSE: Duration = Duration::from_millis(100);
/// Where nobody listens (RFC 863); cards look at the contents.
const DISCARD: u16 = 9;

/// Why nobody was called.
#[derive(Debug, Error)]
pub enum WakeError {
    /// A made-up or group address has no card.
    #[error("{0} is no card's address")]
    NoCard(MacAddr),
    /// The device's owner doesn't let this one call there.
    #[error("{0} was seen outside of what this device's owner lets it open ({1})")]
    Capped(MacAddr, LanCap),
    /// Nowhere to call.
    #[error(
        "this device stands in no Ethernet network with the one to wake: magic packets don't pass \
         routers"
    )]
    NoLan,
    /// The system says no.
    #[error(transparent)]
    System(#[from] warren_net::Error),
    /// The system doesn't send it.
    #[error("the magic packet can't be sent on {interface}: {error}")]
    NotSent {
        /// On which interface.
        interface: String,
        /// Why.
        error: io::Error,
    },
}

pub(super) async fn wake(
    mac: MacAddr,
    seen: Option<Ipv4Addr>,
    mesh: &str,
    cap: &LanCap,
) -> Result<Woken, WakeError> {
    if mac.0[0] & 1 == 1 || mac.0 == [0; 6] {
        return Err(WakeError::NoCard(mac));
    }
    if seen.is_some_and(|seen| !cap.admits(seen)) {
        return Err(WakeError::Capped(mac, cap.clone()));
    }
    let mut interfaces = Lan::open()?.interfaces()?;
    interfaces.retain(|it| it.mac.is_some() && it.name != mesh && own(it, seen).is_some());
    interfaces.retain(|it| is_let(it, cap));
    if interfaces.is_empty() {
        return Err(WakeError::NoLan);
    }
    let packet = magic(mac);
    for round in 0..TIMES {
        if round > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        for interface in &interfaces {
            send(&packet, interface, seen)
                .map_err(|error| WakeError::NotSent { interface: interface.name.clone(), error })?;
        }
    }
    Ok(Woken { mac, interfaces: interfaces.into_iter().map(|it| it.name).collect() })
}

/// The interface's own address in the network of `seen`; any, if nobody was seen.
fn own(interface: &LanInterface, seen: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
    interface.addresses.iter().find_map(|net| match net {
        IpNet::V4(net) if seen.is_none_or(|seen| net.contains(&seen)) => Some(net.addr()),
        IpNet::V4(_) | IpNet::V6(_) => None,
    })
}

/// Whether some of the interface's networks may be called into.
fn is_let(interface: &LanInterface, cap: &LanCap) -> bool {
    interface.addresses.iter().any(|net| match net {
        IpNet::V4(net) => !cap.within(net.trunc()).is_empty(),
        IpNet::V6(_) => false,
    })
}

fn send(packet: &[u8], interface: &LanInterface, seen: Option<Ipv4Addr>) -> io::Result<()> {
    let own = own(interface, seen).unwrap_or(Ipv4Addr::UNSPECIFIED);
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_broadcast(true)?;
    socket.bind_device(Some(interface.name.as_bytes()))?;
    socket.bind(&SocketAddrV4::new(own, 0).into())?;
    socket.send_to(packet, &SocketAddrV4::new(Ipv4Addr::BROADCAST, DISCARD).into())?;
    Ok(())
}

fn magic(mac: MacAddr) -> Vec<u8> {
    [[0xff; 6]].into_iter().chain([mac.0; 16]).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_magic_packet_says_the_address_sixteen_times() {
        let packet = magic(MacAddr([0x3c, 0x52, 0x82, 1, 2, 3]));
        assert_eq!(packet.len(), 102);
        assert_eq!(packet[..8], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3c, 0x52]);
        assert_eq!(packet[96..], [0x3c, 0x52, 0x82, 1, 2, 3]);
    }
}
