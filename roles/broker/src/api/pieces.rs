//! An event as text, piece by piece.
//!
//! A whole map of a large account is hundreds of kilobytes. Its peers are written as they go out,
//! a few at a time, so that it is never in memory as text as a whole: a thousand nodes that come
//! back at once would leave a trail of large holes in the heap.

use std::io::Write as _;
use std::vec;

use bytes::Bytes;
use warren_proto::{Netmap, Peer, SessionEvent};

/// About as many bytes are in one piece.
const PIECE: usize = 1024;
/// Room for the last peer of a piece.
const ROOM: usize = 1024;
/// Where a netmap without peers has its list of them. No text before it can hold a quote.
const NO_PEERS: &[u8] = b"\"peers\":[]";

/// What is left of an event.
#[derive(Default)]
pub(crate) struct Pieces {
    /// Text that goes out next.
    text: Bytes,
    map: Option<MapRest>,
}

struct MapRest {
    peers: vec::IntoIter<Peer>,
    is_first: bool,
    tail: Vec<u8>,
}

impl Pieces {
    /// A text as it is.
    pub(crate) fn text(text: &'static [u8]) -> Self {
        Self { text: Bytes::from_static(text), map: None }
    }

    /// A map alone, as JSON.
    pub(crate) fn of_netmap(map: Netmap) -> Self {
        Self::of_map(Vec::new(), map, b"")
    }

    /// An event as the stream has it: `id`, `event`, `data`, an empty line.
    pub(crate) fn of(event: SessionEvent) -> Self {
        let mut text = Vec::with_capacity(512);
        if let Some(version) = event.version() {
            text.extend_from_slice(format!("id: {version}\n").as_bytes());
        }
        text.extend_from_slice(format!("event: {}\ndata: ", event.name()).as_bytes());
        match event {
            SessionEvent::Netmap(map) => Self::of_map(text, *map, b"\n\n"),
            event @ (SessionEvent::Delta(_)
            | SessionEvent::Current(_)
            | SessionEvent::Connect(_)
            | SessionEvent::Reach(_)
            | SessionEvent::Wake(_)
            | SessionEvent::Revoked) => {
                event.write_data(&mut text);
                text.extend_from_slice(b"\n\n");
                Self { text: text.into(), map: None }
            }
        }
    }

    fn of_map(mut text: Vec<u8>, mut map: Netmap, end: &[u8]) -> Self {
        let peers = std::mem::take(&mut map.peers);
        let mut rest = Vec::with_capacity(1024);
        SessionEvent::Netmap(Box::new(map)).write_data(&mut rest);
        rest.extend_from_slice(end);
        let place = rest
            .windows(NO_PEERS.len())
            .position(|window| window == NO_PEERS)
            .expect("a netmap without peers has an empty list of them");
        // Behind the opening bracket.
        let tail = rest.split_off(place + NO_PEERS.len() - 1);
        text.append(&mut rest);
        let map = MapRest { peers: peers.into_iter(), is_first: true, tail };
        Self { text: text.into(), map: Some(map) }
    }

    /// Whether all of it went out.
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.map.is_none()
    }

    /// What goes out next; empty when there is nothing left.
    pub(crate) fn next(&mut self) -> Bytes {
        if self.text.is_empty()
            && let Some(map) = &mut self.map
        {
            let (text, is_last) = map.next();
            if is_last {
                self.map = None;
            }
            return text;
        }
        let piece = self.text.split_to(self.text.len().min(PIECE));
        if self.text.is_empty() {
            // Lets go of the whole text, which the pieces share.
            self.text = Bytes::new();
        }
        piece
    }
}

impl MapRest {
    /// The next peers, and whether that was all.
    fn next(&mut self) -> (Bytes, bool) {
        let mut text = Vec::with_capacity(PIECE + ROOM);
        while text.len() < PIECE {
            let Some(peer) = self.peers.next() else {
                text.append(&mut self.tail);
                return (text.into(), true);
            };
            if !std::mem::take(&mut self.is_first) {
                text.push(b',');
            }
            write_peer(&mut text, &peer);
        }
        (text.into(), false)
    }
}

fn write_peer(text: &mut Vec<u8>, peer: &Peer) {
    let json = serde_json::to_writer(text.by_ref(), peer);
    json.expect("a peer has string keys and no failing serializer, and a buffer takes all");
}

#[cfg(test)]
mod tests {
    use warren_proto::{MapVersion, Pin, SelfEntry};

    use super::*;
    use crate::fixture;

    fn all(event: SessionEvent) -> Vec<u8> {
        all_of(Pieces::of(event))
    }

    fn all_of(mut pieces: Pieces) -> Vec<u8> {
        let mut all = Vec::new();
        while !pieces.is_empty() {
            let piece = pieces.next();
            assert!(!piece.is_empty() && piece.len() <= PIECE + ROOM);
            all.extend_from_slice(&piece);
        }
        all
    }

    fn whole(event: &SessionEvent) -> Vec<u8> {
        let id = event.version().map(|version| format!("id: {version}\n")).unwrap_or_default();
        format!("{id}event: {}\ndata: {}\n\n", event.name(), event.data()).into_bytes()
    }

    fn map(peers: u64) -> SessionEvent {
        let peer = |id| Peer {
            online: true,
            capabilities: vec!["\"peers\":[]".to_owned()],
            ..fixture::peer(id, &format!("device-{id}"))
        };
        let map = fixture::map((0..peers).map(peer).collect());
        SessionEvent::Netmap(Box::new(Netmap {
            version: MapVersion { epoch: 1, sequence: 7 },
            this: SelfEntry {
                static_endpoint: Some("203.0.113.1:5".parse().unwrap()),
                admission: warren_proto::Admission::Member,
                expires_unix: None,
                approvers: Vec::new(),
                ..map.this.clone()
            },
            stun: vec!["203.0.113.1:3478".parse().unwrap()],
            next_pin: Some(Pin([3; 32])),
            ..map
        }))
    }

    #[test]
    fn the_pieces_of_a_map_are_the_map() {
        for peers in [0, 1, 2, 11, 12, 13, 300] {
            assert_eq!(all(map(peers)), whole(&map(peers)), "{peers} peers");
            let SessionEvent::Netmap(alone) = map(peers) else { panic!("it is a map") };
            let json = serde_json::to_vec(&alone).unwrap();
            assert_eq!(all_of(Pieces::of_netmap(*alone)), json, "{peers} peers");
        }
    }

    #[test]
    fn an_event_has_the_fields_that_its_kind_has() {
        let version = MapVersion { epoch: 0xabc, sequence: 5 };
        let current = all(SessionEvent::Current(version));
        assert_eq!(current, b"event: current\ndata: \"abc-5\"\n\n");
        assert_eq!(all(SessionEvent::Revoked), b"event: revoked\ndata: null\n\n");
        assert_eq!(Pieces::text(b":\n\n").next(), &b":\n\n"[..]);
    }
}
