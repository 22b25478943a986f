//! The permissions and channels of one allocation (RFC 8656 §9, §12).
//!
//! Look-ups are binary searches. What has expired is passed over, and thrown out when something is
//! added; nothing wakes up for it.

use std::net::{IpAddr, SocketAddr};

use crate::codec::ChannelNumber;

/// How long a permission lasts, seconds (RFC 8656 §9).
const PERMISSION: u32 = 300;
/// How long a channel lasts, seconds (RFC 8656 §12).
const CHANNEL: u32 = 600;

#[derive(Debug, Clone, Copy)]
struct Permission {
    ip: u128,
    expires: u32,
}

#[derive(Debug, Clone, Copy)]
struct Channel {
    ip: u128,
    port: u16,
    number: ChannelNumber,
    expires: u32,
}

/// Why a channel can't be bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The number is another peer's, or the peer has another number.
    Conflict,
    Full,
}

/// Times are seconds since the server's start.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// By address.
    permissions: Vec<Permission>,
    channels: Vec<Channel>,
    /// Places in `channels`, by number.
    by_number: Vec<u16>,
    /// Places in `channels`, by peer.
    by_peer: Vec<u16>,
    /// Nothing expires before.
    permissions_until: u32,
    channels_until: u32,
}

impl Peers {
    pub(super) fn channels(&self) -> usize {
        self.channels.len()
    }

    pub(super) fn is_permitted(&self, ip: IpAddr, now: u32) -> bool {
        let place = self.permissions.binary_search_by_key(&bits(ip), |permission| permission.ip);
        place.is_ok_and(|place| now < self.permissions[place].expires)
    }

    /// The peer that a channel is bound to.
    pub(super) fn peer(&self, number: ChannelNumber, now: u32) -> Option<SocketAddr> {
        let place = self.place_of_number(number).ok()?;
        let channel = &self.channels[usize::from(self.by_number[place])];
        (now < channel.expires).then(|| channel.peer())
    }

    /// The channel that a peer is bound to.
    pub(super) fn channel(&self, peer: SocketAddr, now: u32) -> Option<ChannelNumber> {
        let place = self.place_of_peer(peer).ok()?;
        let channel = &self.channels[usize::from(self.by_peer[place])];
        (now < channel.expires).then_some(channel.number)
    }

    /// Whether so many more addresses can be permitted.
    pub(super) fn has_room(&mut self, ips: &[IpAddr], most: u16, now: u32) -> bool {
        self.purge_permissions(now);
        let is_new = |ip: &&IpAddr| {
            self.permissions.binary_search_by_key(&bits(**ip), |known| known.ip).is_err()
        };
        self.permissions.len() + ips.iter().filter(is_new).count() <= usize::from(most)
    }

    /// Installs or refreshes a permission. [`Self::has_room`] was asked.
    pub(super) fn permit(&mut self, ip: IpAddr, now: u32) {
        let (ip, expires) = (bits(ip), now + 1 + PERMISSION);
        match self.permissions.binary_search_by_key(&ip, |permission| permission.ip) {
            Ok(place) => self.permissions[place].expires = expires,
            Err(place) => {
                grow(&mut self.permissions);
                self.permissions.insert(place, Permission { ip, expires });
            }
        }
    }

    /// Binds or refreshes a channel.
    pub(super) fn bind(
        &mut self,
        number: ChannelNumber,
        peer: SocketAddr,
        most: u16,
        now: u32,
    ) -> Result<(), Refused> {
        self.purge_channels(now);
        let expires = now + 1 + CHANNEL;
        match (self.place_of_number(number), self.place_of_peer(peer)) {
            (Ok(by_number), Ok(by_peer)) => {
                let place = self.by_number[by_number];
                if place != self.by_peer[by_peer] {
                    return Err(Refused::Conflict);
                }
                self.channels[usize::from(place)].expires = expires;
                Ok(())
            }
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => Err(Refused::Conflict),
            (Err(by_number), Err(by_peer)) => {
                let place = u16::try_from(self.channels.len()).map_err(|_| Refused::Full)?;
                if place >= most {
                    return Err(Refused::Full);
                }
                grow(&mut self.channels);
                grow(&mut self.by_number);
                grow(&mut self.by_peer);
                let (ip, port) = (bits(peer.ip()), peer.port());
                self.channels.push(Channel { ip, port, number, expires });
                self.by_number.insert(by_number, place);
                self.by_peer.insert(by_peer, place);
                Ok(())
            }
        }
    }

    /// Ends the permission and the channels of an address.
    pub(super) fn forget(&mut self, ip: IpAddr) {
        let ip = bits(ip);
        if let Ok(place) = self.permissions.binary_search_by_key(&ip, |known| known.ip) {
            self.permissions.remove(place);
        }
        let before = self.channels.len();
        self.channels.retain(|channel| channel.ip != ip);
        if self.channels.len() < before {
            self.sort_places();
        }
    }

    fn place_of_number(&self, number: ChannelNumber) -> Result<usize, usize> {
        self.by_number
            .binary_search_by_key(&number, |place| self.channels[usize::from(*place)].number)
    }

    fn place_of_peer(&self, peer: SocketAddr) -> Result<usize, usize> {
        self.by_peer.binary_search_by_key(&(bits(peer.ip()), peer.port()), |place| {
            let channel = &self.channels[usize::from(*place)];
            (channel.ip, channel.port)
        })
    }

    fn purge_permissions(&mut self, now: u32) {
        if now < self.permissions_until {
            return;
        }
        self.permissions.retain(|permission| now < permission.expires);
        let first = self.permissions.iter().map(|permission| permission.expires).min();
        self.permissions_until = first.unwrap_or(now + 1 + PERMISSION);
    }

    fn purge_channels(&mut self, now: u32) {
        if now < self.channels_until {
            return;
        }
        let before = self.channels.len();
        self.channels.retain(|channel| now < channel.expires);
        let first = self.channels.iter().map(|channel| channel.expires).min();
        self.channels_until = first.unwrap_or(now + 1 + CHANNEL);
        if self.channels.len() < before {
            self.sort_places();
        }
    }

    fn sort_places(&mut self) {
        let channels = &self.channels;
        let places = || (0..).take(channels.len()).collect::<Vec<u16>>();
        self.by_number = places();
        self.by_number.sort_unstable_by_key(|place| channels[usize::from(*place)].number);
        self.by_peer = places();
        self.by_peer.sort_unstable_by_key(|place| {
            let channel = &channels[usize::from(*place)];
            (channel.ip, channel.port)
        });
    }
}

impl Channel {
    fn peer(&self) -> SocketAddr {
        let ip = std::net::Ipv6Addr::from_bits(self.ip).to_canonical();
        SocketAddr::new(ip, self.port)
    }
}

/// Most allocations have one peer, so that the first place isn't made four.
fn grow<T>(vec: &mut Vec<T>) {
    if vec.capacity() == 0 {
        vec.reserve_exact(1);
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(n: u16) -> ChannelNumber {
        ChannelNumber::new(0x4000 + n).unwrap()
    }

    fn peer(n: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n.to_be_bytes()[1]], 1000 + n))
    }

    #[test]
    fn a_permission_lasts_five_minutes() {
        let mut peers = Peers::default();
        let ip = peer(1).ip();
        assert!(!peers.is_permitted(ip, 0));
        peers.permit(ip, 0);
        assert!(peers.is_permitted(ip, 300) && !peers.is_permitted(ip, 301));
        assert!(!peers.is_permitted(peer(2).ip(), 0));
        peers.permit(ip, 200);
        assert!(peers.is_permitted(ip, 500));
    }

    #[test]
    fn a_channel_is_found_from_both_ends_for_ten_minutes() {
        let mut peers = Peers::default();
        for n in [5, 1, 9, 3, 7] {
            peers.bind(number(n), peer(10 - n), 10, 0).unwrap();
        }
        for n in [1, 3, 5, 7, 9] {
            assert_eq!(peers.peer(number(n), 600), Some(peer(10 - n)));
            assert_eq!(peers.channel(peer(10 - n), 600), Some(number(n)));
            assert_eq!(peers.peer(number(n), 601), None);
            assert_eq!(peers.channel(peer(10 - n), 601), None);
        }
        assert_eq!(peers.peer(number(2), 0), None);
        assert_eq!(peers.channel(peer(2), 0), None);
    }

    #[test]
    fn a_number_or_peer_in_use_can_be_bound_elsewhere_only_after_it_expired() {
        let mut peers = Peers::default();
        peers.bind(number(1), peer(1), 2, 0).unwrap();
        assert_eq!(peers.bind(number(1), peer(2), 2, 0), Err(Refused::Conflict));
        assert_eq!(peers.bind(number(2), peer(1), 2, 0), Err(Refused::Conflict));
        peers.bind(number(2), peer(2), 2, 300).unwrap();
        assert_eq!(peers.bind(number(1), peer(2), 2, 300), Err(Refused::Conflict));
        assert_eq!(peers.bind(number(3), peer(3), 2, 300), Err(Refused::Full));
        peers.bind(number(1), peer(3), 2, 601).unwrap();
        assert_eq!(peers.channel(peer(1), 601), None);
        assert_eq!(peers.channel(peer(2), 601), Some(number(2)));
        assert_eq!(peers.peer(number(1), 601), Some(peer(3)));
        assert_eq!(peers.channels(), 2);
    }

    #[test]
    fn an_address_is_forgotten_with_all_its_channels() {
        let mut peers = Peers::default();
        let [a, b] = [peer(1), peer(2)];
        let elsewhere = SocketAddr::new(a.ip(), 9);
        for (n, peer) in [(1, a), (2, b), (3, elsewhere)] {
            peers.permit(peer.ip(), 0);
            peers.bind(number(n), peer, 10, 0).unwrap();
        }
        peers.forget(a.ip());
        assert!(!peers.is_permitted(a.ip(), 0) && peers.is_permitted(b.ip(), 0));
        assert_eq!([1, 2, 3].map(|n| peers.peer(number(n), 0)), [None, Some(b), None]);
        assert_eq!([a, b, elsewhere].map(|p| peers.channel(p, 0)), [None, Some(number(2)), None]);
        assert_eq!(peers.channels(), 1);
    }

    #[test]
    fn permissions_are_limited_but_refreshing_one_is_not() {
        let mut peers = Peers::default();
        let [a, b, c] = [1, 2, 3].map(|n| peer(n).ip());
        peers.permit(a, 0);
        peers.permit(b, 0);
        assert!(peers.has_room(&[a, b], 2, 0));
        assert!(!peers.has_room(&[a, c], 2, 0));
        assert!(peers.has_room(&[c], 2, 301));
    }
}
