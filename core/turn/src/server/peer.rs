//! Data from peers, and the rules for peers' addresses.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use super::allocation::{Allocation, Relayed};
use super::request::Refused;
use super::table::Handle;
use super::{Delivery, Dropped, Heading, RelayedPort, Route, Run, Server};
use crate::binding::Family;
use crate::rest::{VIRTUAL_PORT, is_virtual};

/// The most that stands in front of a datagram for a client, and behind it: of a Data indication.
const HEAD: u64 = 64;

impl Server {
    pub(super) fn find_peer_route(
        &mut self,
        port: RelayedPort,
        peer: SocketAddr,
        run: Run,
        now: Instant,
    ) -> Result<Delivery, Dropped> {
        let handle = self.table.find_port(port).ok_or(Dropped::NoAllocation)?;
        // Our own relayed addresses are served inside: this source is forged.
        if Some(peer.ip()) == self.relayed_ip(port.family) {
            return Err(Dropped::Peer);
        }
        let allocation = self.table.get(handle).ok_or(Dropped::NoAllocation)?;
        if allocation.relayed.port(port.family) != Some(port.port) {
            return Err(Dropped::NoAllocation);
        }
        let delivery = self.deliver(handle, peer, run, now)?;
        self.charge(handle, run, now)?;
        self.counters.to_clients.add(run);
        Ok(delivery)
    }

    /// Where what an allocation sends to a peer goes: out, or inside to another client.
    pub(super) fn forward(
        &mut self,
        handle: Handle,
        peer: SocketAddr,
        dont_fragment: bool,
        run: Run,
        now: Instant,
    ) -> Result<Route, Dropped> {
        let allocation = self.table.get(handle).ok_or(Dropped::NoAllocation)?;
        let is_unproven = allocation.credit.is_some();
        let route = match (allocation.relayed, peer.ip()) {
            (Relayed::Virtual(from), IpAddr::V6(to)) => {
                let from = SocketAddr::from((from, VIRTUAL_PORT));
                let to = self.table.find_virtual(to).filter(|_| peer.port() == VIRTUAL_PORT);
                Route::Client(self.deliver_inside(to, from, run, now)?)
            }
            (Relayed::Virtual(_), IpAddr::V4(_)) => return Err(Dropped::Peer),
            (Relayed::Ports { .. }, ip) => {
                let family = Family::of(&ip);
                let port = allocation.relayed.port(family).ok_or(Dropped::Peer)?;
                match self.relayed_ip(family) {
                    Some(own) if own == ip => {
                        let from = SocketAddr::new(own, port);
                        let to = RelayedPort { family, port: peer.port() };
                        let to = self.table.find_port(to);
                        Route::Client(self.deliver_inside(to, from, run, now)?)
                    }
                    Some(_) | None => {
                        Route::Peer { from: RelayedPort { family, port }, to: peer, dont_fragment }
                    }
                }
            }
        };
        self.charge(handle, run, now)?;
        if is_unproven {
            self.earn(handle, run);
        }
        match route {
            Route::Peer { .. } => self.counters.to_peers.add(run),
            Route::Client(_) => self.counters.between_clients.add(run),
        }
        Ok(route)
    }

    fn deliver_inside(
        &mut self,
        to: Option<Handle>,
        from: SocketAddr,
        run: Run,
        now: Instant,
    ) -> Result<Delivery, Dropped> {
        self.deliver(to.ok_or(Dropped::NoAllocation)?, from, run, now)
    }

    /// How a peer's data reaches the client of an allocation, if it may (RFC 8656 §11.3, §12.7).
    fn deliver(
        &mut self,
        handle: Handle,
        peer: SocketAddr,
        run: Run,
        now: Instant,
    ) -> Result<Delivery, Dropped> {
        let allocation = self.table.get(handle).ok_or(Dropped::NoAllocation)?;
        if allocation.opening.is_some() {
            return Err(Dropped::NoAllocation);
        }
        let seconds = self.seconds(now);
        if !allocation.peers.is_permitted(peer.ip(), seconds) {
            return Err(Dropped::NoPermission);
        }
        let heading = match allocation.peers.channel(peer, seconds) {
            Some(number) => Heading::Channel(number),
            None => Heading::Indication(peer),
        };
        let delivery = Delivery { to: allocation.client, heading };
        if allocation.credit.is_some() {
            self.spend(handle, run)?;
        }
        Ok(delivery)
    }

    /// Data has come from a client that nothing proves to hear what is sent to it.
    fn earn(&mut self, handle: Handle, run: Run) {
        if let Some(allocation) = self.table.get_mut(handle) {
            let bytes = u32::try_from(run.bytes).unwrap_or(u32::MAX);
            allocation.credit = allocation.credit.map(|credit| credit.saturating_add(bytes));
        }
    }

    /// Data goes to such a client: no more than came from it.
    fn spend(&mut self, handle: Handle, run: Run) -> Result<(), Dropped> {
        let Some(allocation) = self.table.get_mut(handle) else { return Ok(()) };
        let bytes = run.bytes.saturating_add(u64::from(run.packets) * HEAD);
        let left = |credit: u32| u64::from(credit).checked_sub(bytes)?.try_into().ok();
        if let Some(credit) = allocation.credit {
            allocation.credit = Some(left(credit).ok_or(Dropped::Unproven)?);
        }
        Ok(())
    }

    fn charge(&mut self, handle: Handle, run: Run, now: Instant) -> Result<(), Dropped> {
        let quotas = self.config.quotas;
        if quotas.bandwidth.is_none() && quotas.total_bandwidth.is_none() {
            return Ok(());
        }
        let owner = self.table.get(handle).ok_or(Dropped::NoAllocation)?.owner;
        let elapsed = self.elapsed(now);
        let (rate, total) = (quotas.bandwidth, quotas.total_bandwidth);
        if self.owners.charge(owner, run.bytes, rate, total, elapsed) {
            Ok(())
        } else {
            Err(Dropped::Bandwidth)
        }
    }

    /// Whether an allocation may have a peer with this address, or the error that says no.
    pub(super) fn check_peer(&self, allocation: &Allocation, ip: IpAddr) -> Result<(), Refused> {
        let family = Family::of(&ip);
        match (allocation.relayed, ip) {
            (Relayed::Virtual(_), IpAddr::V4(_)) => Err(Refused::Code(443)),
            (Relayed::Virtual(_), IpAddr::V6(ip)) if is_virtual(ip) => Ok(()),
            (Relayed::Virtual(_), IpAddr::V6(_)) => Err(Refused::Code(403)),
            (Relayed::Ports { .. }, _) if allocation.relayed.port(family).is_none() => {
                Err(Refused::Code(443))
            }
            (Relayed::Ports { .. }, ip) => {
                let is_virtual = matches!(ip, IpAddr::V6(ip) if is_virtual(ip));
                let is_inside = self.relayed_ip(family) == Some(ip);
                if is_inside || !is_virtual && self.policy.allows(ip) {
                    Ok(())
                } else {
                    Err(Refused::Code(403))
                }
            }
        }
    }

    /// The relayed addresses of an allocation: IPv4 first.
    pub(super) fn relayed_addresses(&self, relayed: Relayed) -> [Option<SocketAddr>; 2] {
        match relayed {
            Relayed::Virtual(ip) => [Some(SocketAddr::from((ip, VIRTUAL_PORT))), None],
            Relayed::Ports { .. } => Family::ALL.map(|family| {
                let (ip, port) = (self.relayed_ip(family)?, relayed.port(family)?);
                Some(SocketAddr::new(ip, port))
            }),
        }
    }

    fn relayed_ip(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.config.relayed_ipv4.map(IpAddr::V4),
            Family::V6 => self.config.relayed_ipv6.map(|ip: Ipv6Addr| IpAddr::V6(ip)),
        }
    }

    /// Seconds since the start, as permissions and channels count them.
    pub(super) fn seconds(&self, now: Instant) -> u32 {
        u32::try_from(self.elapsed(now).as_secs()).unwrap_or(u32::MAX / 2)
    }
}
