//! Whether the host forwards IPv4 packets that come in by an interface.
//!
//! The switch is per interface (`net.ipv4.conf.NAME.forwarding`); `net.ipv4.ip_forward` only sets
//! them all. Under systemd's `ProtectKernelTunables=` the files can't be written; rtnetlink can.

use std::io;

use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{AfSpecInet, AfSpecUnspec, LinkAttribute, LinkMessage};

use super::netlink::Netlink;
use crate::error::Error;

/// `IFLA_INET_CONF`.
const INET_CONF: u16 = 1;
/// `IPV4_DEVCONF_FORWARDING`.
const FORWARDING: u16 = 1;

/// Whether packets that come in by `interface` are forwarded.
///
/// # Errors
///
/// There is no such interface.
pub fn forwards_packets(interface: &str) -> Result<bool, Error> {
    std::fs::read_to_string(path(interface))
        .map(|text| text.trim() != "0")
        .map_err(|error| Error::os("read whether an interface forwards", error))
}

/// Has packets that come in by `interface` forwarded, or not.
///
/// # Errors
///
/// There is no such interface, or no privilege.
pub fn set_forwards_packets(interface: &str, on: bool) -> Result<(), Error> {
    let failed = |error| Error::os("set whether an interface forwards", error);
    match std::fs::write(path(interface), if on { "1" } else { "0" }) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(failed(error)),
        Err(_) => set_by_netlink(interface, on).map_err(failed),
    }
}

fn path(interface: &str) -> String {
    // An interface's name holds no slash.
    format!("/proc/sys/net/ipv4/conf/{}/forwarding", interface.replace('/', ""))
}

fn set_by_netlink(interface: &str, on: bool) -> io::Result<()> {
    let mut netlink = Netlink::new()?;
    let link = netlink.links()?.into_iter().find(|link| {
        link.attributes
            .iter()
            .any(|attribute| matches!(attribute, LinkAttribute::IfName(name) if name == interface))
    });
    let index = link.ok_or(io::ErrorKind::NotFound)?.header.index;
    let mut conf = 8_u16.to_ne_bytes().to_vec();
    conf.extend(FORWARDING.to_ne_bytes());
    conf.extend(u32::from(on).to_ne_bytes());
    let inet = AfSpecUnspec::Inet(vec![AfSpecInet::Other(DefaultNla::new(INET_CONF, conf))]);
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::AfSpecUnspec(vec![inet]));
    netlink.change(RouteNetlinkMessage::SetLink(message))
}
