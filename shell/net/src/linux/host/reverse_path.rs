//! Whether the host would drop what peers send it while its default route leads into the mesh.

use std::fs;

use super::super::netlink::Netlink;
use super::super::watch::default_interface4;
use super::link_name;
use crate::config::Finding;

/// Takes a packet only by the interface that its sender is routed to (RFC 3704 §2.2); peers' packets come by
/// the default route of marked sockets, which this look-up doesn't know.
const STRICT: u8 = 1;

/// The finding, where the interface by which peers are reached filters strictly.
pub(super) fn finding(netlink: &mut Netlink) -> Option<Finding> {
    let index = default_interface4(netlink)?;
    let link = netlink.link(index).ok().flatten()?;
    let interface = link_name(&link)?.to_owned();
    // The larger one counts (the kernel's ip-sysctl).
    let strictness = ["all", &interface].into_iter().filter_map(setting).max()?;
    (strictness == STRICT).then_some(Finding::StrictReversePath { interface })
}

fn setting(interface: &str) -> Option<u8> {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter");
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
