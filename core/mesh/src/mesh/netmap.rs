//! Taking over netmaps and deltas: only what differs acts.

use std::collections::BTreeSet;
use std::time::Instant;

use warren_proto::{
    Apply, Change, Delta, DeviceId, Endpoint, NatReport, Netmap, Peer as Entry, SelfEntry,
};

use super::{Mesh, Ranges};
use crate::behind::Behind;
use crate::peer::is_plain;
use crate::{Event, MapSource, OutboundDrop, PeerHandle};

impl Mesh {
    /// Takes a whole netmap; only what differs from the one before acts. A cached one is ignored
    /// once the broker has sent one, and so is one that deltas have overtaken.
    pub fn handle_netmap(&mut self, netmap: Netmap, source: MapSource, now: Instant) {
        match (source, self.source) {
            (MapSource::Cache, Some(MapSource::Broker)) => return,
            (MapSource::Broker | MapSource::Cache, _) => self.source = Some(source),
        }
        let overtaken = |present: &Netmap| {
            present.version.epoch == netmap.version.epoch
                && present.version.sequence > netmap.version.sequence
        };
        if self.netmap.as_ref().is_some_and(overtaken) {
            return;
        }
        let mut netmap = netmap;
        netmap.peers.sort_by_key(|peer| peer.id);
        netmap.peers.dedup_by_key(|peer| peer.id);
        netmap.peers.retain(|peer| peer.id != netmap.this.id && peer.key.0 != self.public);

        self.ranges = Ranges { v4: Some(netmap.ipv4_range), v6: Some(netmap.ipv6_range) };
        let present: BTreeSet<DeviceId> = netmap.peers.iter().map(|peer| peer.id).collect();
        let gone: Vec<PeerHandle> = self
            .peers
            .ids()
            .filter(|(id, _)| !present.contains(id))
            .map(|(_, handle)| handle)
            .collect();
        for handle in gone {
            self.remove_peer(handle, now);
        }
        self.take_filter(netmap.filter.as_ref(), now);
        for entry in &netmap.peers {
            self.take_entry(entry, now);
        }
        let this = netmap.this.clone();
        let relays = netmap.relays.clone();
        self.netmap = Some(netmap);
        self.take_self(&this, now);
        self.take_duty(now);
        self.take_relays(&relays, now);
        self.choose_stun(now);
        self.schedule_tags(now);
        self.publish_changes(now);
        self.cold_round(now);
        self.pump(now);
    }

    /// Takes a delta. Emits [`Event::FetchNetmap`] when it doesn't fit.
    pub fn handle_delta(&mut self, delta: &Delta, now: Instant) -> Apply {
        let Some(version) =
            self.netmap.as_ref().map(|netmap| netmap.version).filter(|v| delta.builds_on(*v))
        else {
            if !self.events.contains(&Event::FetchNetmap) {
                self.events.push_back(Event::FetchNetmap);
            }
            return Apply::BaseMismatch;
        };
        if !delta.is_news_to(version) {
            return Apply::Applied;
        }
        for change in &delta.changes {
            self.apply(change, now);
        }
        if let Some(netmap) = &mut self.netmap {
            netmap.version = delta.version;
        }
        self.pump(now);
        Apply::Applied
    }

    /// The netmap as it is, deltas applied; to be kept on disk.
    pub fn netmap(&self) -> Option<&Netmap> {
        self.netmap.as_ref()
    }

    fn apply(&mut self, change: &Change, now: Instant) {
        match change {
            Change::Peer { peer } => {
                if self.is_own_entry(peer) {
                    return;
                }
                self.put_entry(peer);
                self.take_entry(peer, now);
            }
            Change::Removed { id } => {
                if let Some(netmap) = &mut self.netmap
                    && let Ok(at) = netmap.peers.binary_search_by_key(id, |peer| peer.id)
                {
                    netmap.peers.remove(at);
                }
                if let Some(handle) = self.peers.by_id(*id) {
                    self.remove_peer(handle, now);
                }
            }
            Change::Presence { id, online, endpoints, nat } => {
                if let Some(entry) = self.entry_mut(*id) {
                    entry.online = *online;
                    entry.endpoints.clone_from(endpoints);
                    entry.nat = *nat;
                }
                if let Some(handle) = self.peers.by_id(*id) {
                    self.take_presence(handle, endpoints, *nat, *online, now);
                }
            }
            Change::This { this } => {
                if let Some(netmap) = &mut self.netmap {
                    netmap.this = this.clone();
                }
                self.take_self(this, now);
            }
            Change::Stun { stun } => {
                if let Some(netmap) = &mut self.netmap {
                    netmap.stun.clone_from(stun);
                }
                self.choose_stun(now);
                self.publish_changes(now);
            }
            Change::Dns { dns } => {
                if let Some(netmap) = &mut self.netmap {
                    netmap.dns = dns.clone();
                }
            }
            Change::Relays { relays } => {
                if let Some(netmap) = &mut self.netmap {
                    netmap.relays.clone_from(relays);
                }
                self.take_relays(relays, now);
            }
            Change::RelayDuty { duty } => {
                if let Some(netmap) = &mut self.netmap {
                    netmap.relay_duty.clone_from(duty);
                }
            }
            Change::PeerRelays { id, relays } => {
                if let Some(entry) = self.entry_mut(*id) {
                    entry.relays.clone_from(relays);
                }
                let Some(handle) = self.peers.by_id(*id) else { return };
                if let Some(peer) = self.peers.get_mut(handle) {
                    peer.relaying.reach.clone_from(relays);
                }
                self.relay_found_for(handle, now);
            }
            Change::Filter { filter } => {
                if let Some(netmap) = &mut self.netmap {
                    netmap.filter.clone_from(filter);
                }
                self.take_filter(filter.as_ref(), now);
            }
            Change::Edge { duty, asked } => {
                if let Some(netmap) = &mut self.netmap {
                    netmap.edge.clone_from(duty);
                    netmap.edge_asked = *asked;
                }
                self.take_duty(now);
            }
            Change::Unknown => {}
            Change::NextPin { pin } => {
                if let Some(netmap) = &mut self.netmap {
                    netmap.next_pin = *pin;
                }
            }
        }
    }

    fn is_own_entry(&self, entry: &Entry) -> bool {
        entry.key.0 == self.public
            || self.netmap.as_ref().is_some_and(|netmap| netmap.this.id == entry.id)
    }

    fn entry_mut(&mut self, id: DeviceId) -> Option<&mut Entry> {
        let netmap = self.netmap.as_mut()?;
        let at = netmap.peers.binary_search_by_key(&id, |peer| peer.id).ok()?;
        netmap.peers.get_mut(at)
    }

    fn put_entry(&mut self, entry: &Entry) {
        let Some(netmap) = &mut self.netmap else { return };
        match netmap.peers.binary_search_by_key(&entry.id, |peer| peer.id) {
            Ok(at) => netmap.peers[at] = entry.clone(),
            Err(at) => netmap.peers.insert(at, entry.clone()),
        }
    }

    /// Adds a peer, or brings it up to date. Another key or address makes it another peer.
    fn take_entry(&mut self, entry: &Entry, now: Instant) {
        if let Some(handle) = self.peers.by_id(entry.id) {
            let same = self.peers.get(handle).is_some_and(|peer| {
                (peer.key, peer.ipv4, peer.ipv6, peer.plain)
                    == (entry.key.0, entry.ipv4, entry.ipv6, is_plain(entry))
            });
            if same {
                if let Some(peer) = self.peers.get_mut(handle) {
                    peer.relaying.reach.clone_from(&entry.relays);
                }
                self.peers.set_behind(handle, self.behind(entry));
                self.take_presence(handle, &entry.endpoints, entry.nat, entry.online, now);
                self.relay_found_for(handle, now);
                return;
            }
            self.remove_peer(handle, now);
        }
        let handle = self.peers.insert(entry, now);
        self.peers.set_behind(handle, self.behind(entry));
        self.restrict(handle, now);
        if is_plain(entry) {
            self.peers.give_up_deriving(handle);
            self.ensure_tunnel(handle, now);
        }
    }

    /// What of a peer's offer is believed.
    pub(super) fn behind(&self, entry: &Entry) -> Behind {
        let offer = entry.edge.as_ref().zip(self.ranges.v4);
        let behind = |(offer, range)| Behind::new(offer, range, self.as_exit(entry.id, offer));
        offer.map(behind).unwrap_or_default()
    }

    /// Takes the soft part of a peer.
    fn take_presence(
        &mut self,
        handle: PeerHandle,
        endpoints: &[Endpoint],
        nat: NatReport,
        online: bool,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        let came_online = online && !peer.online;
        peer.online = online;
        peer.nat = nat;
        let moved = peer.endpoints != endpoints;
        if moved {
            peer.endpoints = endpoints.to_vec();
        }
        if moved || came_online {
            self.peer_moved(handle, came_online, now);
        }
    }

    fn take_self(&mut self, this: &SelfEntry, now: Instant) {
        if self.outside.static_endpoint != this.static_endpoint {
            self.outside.static_endpoint = this.static_endpoint;
            self.publish_changes(now);
        }
    }

    /// Cuts a peer off: its tunnel, its queue, everything.
    fn remove_peer(&mut self, handle: PeerHandle, now: Instant) {
        self.leave_relays(handle, now);
        let Some(peer) = self.peers.remove(handle) else { return };
        if let Some(tunnel) = peer.tunnel {
            self.wg.remove_peer(tunnel);
        }
        while self.queues.pop(handle).is_some() {
            self.counters.drop_outbound(OutboundDrop::QueueFull, 1);
        }
        self.timers.clear_peer(handle);
        if peer.path.is_some() {
            self.events.push_back(Event::PathChanged { peer: peer.id, path: None });
        }
    }
}
