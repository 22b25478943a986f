//! What doesn't work, and what to do about it, for people.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use thiserror::Error;
use warren_proto::{LanCap, MacAddr};

use crate::kernel::bounds::PER_SECOND;

/// One thing that doesn't work. Its text says what to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum Problem {
    /// The kernel path can't be had at all.
    #[error("nothing is open: {reason}")]
    Nothing {
        /// Why, and what to do.
        reason: String,
    },
    /// What is open stays so, but nothing can be changed.
    #[error("what is new isn't open: {reason}; what was open stays so")]
    Unchanged {
        /// Why, and what to do.
        reason: String,
    },
    /// The kernel isn't what leads packets.
    #[error("forwards and virtual devices go through the userspace proxy, because {because}")]
    Userspace {
        /// Why.
        because: String,
    },
    /// The userspace proxy leads to no networks.
    #[error(
        "the gateway to {lan} isn't open: the userspace proxy leads to single devices only, a network \
         takes nftables"
    )]
    GatewayByKernel {
        /// The network.
        lan: Ipv4Net,
    },
    /// The userspace proxy speaks for itself.
    #[error(
        "{what} isn't open: it shows the LAN who asks, which takes nftables; with `--source \
         masquerade` the userspace proxy opens it"
    )]
    NotTransparent {
        /// Which one.
        what: String,
    },
    /// The host's own packet filter drops what the edge forwards.
    #[error(
        "this host's firewall ({chain}) drops what the edge forwards: allow it with `{remedy}`"
    )]
    HostDrops {
        /// Whose chain.
        chain: String,
        /// A command.
        remedy: String,
    },
    /// What was let in didn't come out.
    #[error(
        "something on this host drops what the edge forwards: allow forwarding from and to {mesh} \
         in its firewall"
    )]
    SomethingDrops {
        /// The mesh interface.
        mesh: String,
    },
    /// A device of the mesh has its share of the kernel's table of connections.
    #[error(
        "{by} has {held} connections through this device and is refused new ones: one device of the mesh \
         may have {share}, and begin {PER_SECOND} in a second. Find what holds them there; on a host \
         whose net.netfilter.nf_conntrack_max is below 65536, raising that raises the share"
    )]
    TooMany {
        /// Who.
        by: Ipv4Addr,
        /// How many it has.
        held: u32,
        /// How many it may have.
        share: u32,
    },
    /// An eighth of the mesh together has its part of the kernel's table of connections.
    #[error(
        "{by}, which has {held} connections through this device, and an eighth of the mesh's other devices have \
         the {part} that they may have together, and are refused new ones. Find what holds them there; on a \
         host whose net.netfilter.nf_conntrack_max is below 65536, raising that raises them"
    )]
    TooManyTogether {
        /// Who of them has the most.
        by: Ipv4Addr,
        /// How many it has.
        held: u32,
        /// How many they may have.
        part: u32,
    },
    /// The target isn't of the LAN.
    #[error("{what}: {target} is no address of a LAN; choose one from the scan")]
    NotOfTheLan {
        /// Whose target.
        what: String,
        /// The target.
        target: Ipv4Addr,
    },
    /// The target is the edge itself.
    #[error("{what}: {target} is this device itself, which the mesh reaches at {mesh}")]
    Itself {
        /// Whose target.
        what: String,
        /// The target.
        target: Ipv4Addr,
        /// Its mesh address.
        mesh: Ipv4Addr,
    },
    /// There is no way to the target but through the mesh, or none at all.
    #[error(
        "{what}: there is no way to {target} by a LAN of this device; see whether its cable is in or its \
         Wi-Fi up, and what `ip route get {target}` says on it"
    )]
    NoWay {
        /// Whose target.
        what: String,
        /// The target.
        target: Ipv4Addr,
    },
    /// The target's card hasn't been heard yet.
    #[error("{what}: waiting for the chosen device to answer at {target}, a few seconds at most")]
    Awaited {
        /// Whose target.
        what: String,
        /// Where it was last.
        target: Ipv4Addr,
    },
    /// Whether the target's answers come back is being tested.
    #[error("{what}: whether answers of {target} come back to the mesh is being tested")]
    WayBackUntested {
        /// Whose target.
        what: String,
        /// The target.
        target: Ipv4Addr,
    },
    /// The target's answers go elsewhere.
    #[error(
        "{what} isn't open: {target} answers this device, but its answers to the mesh's addresses don't come \
         back here. Give it, or the LAN's router, a route to the mesh by this device; or choose `--source \
         masquerade`"
    )]
    NoWayBack {
        /// Whose target.
        what: String,
        /// The target.
        target: Ipv4Addr,
    },
    /// Whether the target's answers come back can't be told.
    #[error(
        "{what} isn't open: {target} answers no test, so whether it would find back to the mesh isn't known; \
         it is tried again. If its router is known to have a route to the mesh by this device, `--source \
         transparent-untested` opens it; with `--source masquerade` none is needed"
    )]
    NoAnswer {
        /// Whose target.
        what: String,
        /// The target.
        target: Ipv4Addr,
    },
    /// Another device has the target's address.
    #[error("{what}: {target} now belongs to {by}, and the chosen device is nowhere: scan again")]
    Vanished {
        /// Whose target.
        what: String,
        /// The target.
        target: Ipv4Addr,
        /// Who has its address.
        by: MacAddr,
    },
    /// Two take the same.
    #[error("{what}: {other} has taken that already; change the port or address of one of them")]
    Clash {
        /// The second one.
        what: String,
        /// The first one.
        other: String,
    },
    /// Ports that there aren't.
    #[error("{what}: its ports don't go in order from 1 to 65,535 on both sides; change them")]
    Ports {
        /// Which one.
        what: String,
    },
    /// The edge itself needs the port.
    #[error("{what}: the edge's own pages are at port {port}; choose another")]
    Reserved {
        /// Which one.
        what: String,
        /// The port.
        port: u16,
    },
    /// A network can't be mapped to one of another size.
    #[error("{what}: {mesh} and {lan} aren't of one size; remove it and add it again")]
    Sizes {
        /// Which one.
        what: String,
        /// As the mesh knows it.
        mesh: Ipv4Net,
        /// As the LAN knows it.
        lan: Ipv4Net,
    },
    /// A program of the edge itself has the port, too.
    #[error(
        "{what}: a program on this device itself listens at {protocol} port {port}, too, and the mesh doesn't \
         reach it while this forward is open; choose another port if that isn't meant"
    )]
    Shadows {
        /// Which one.
        what: String,
        /// Of which protocol.
        protocol: &'static str,
        /// The port.
        port: u16,
    },
    /// Second connections aren't helped.
    #[error(
        "this kernel has no connection-tracking helpers: FTP works in passive mode with a gateway \
         only, SIP may lack sound (modules nf_conntrack_ftp, nf_conntrack_sip)"
    )]
    NoHelpers,
    /// Nobody is held to a share of the table of connections.
    #[error(
        "this kernel can't count connections (module nft_connlimit): devices of the mesh can fill the host's \
         table of them"
    )]
    NoShares,
    /// Moved devices aren't noticed.
    #[error("devices that get another address aren't followed: {reason}")]
    NotFollowing {
        /// Why.
        reason: String,
    },
    /// The repeated scan wasn't begun when it was time.
    #[error("the repeated scan can't be begun, and is tried again: {reason}")]
    Rescan {
        /// Why.
        reason: String,
    },
    /// The device's owner doesn't let it.
    #[error(
        "{what}: {} is outside of what this device's owner lets it open ({cap}); `warren edge enable \
         --only …` on the device says otherwise", plainly(.target)
    )]
    Capped {
        /// Which one.
        what: String,
        /// Where it leads.
        target: Ipv4Net,
        /// What he lets it open.
        cap: LanCap,
    },
}

/// A network as people call it.
fn plainly(network: &Ipv4Net) -> String {
    match network.prefix_len() {
        0 => "the internet".to_owned(),
        32 => network.addr().to_string(),
        _ => network.to_string(),
    }
}
