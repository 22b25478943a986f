//! Runs in, runs out: where the bytes of a run go.
//!
//! ```text
//! client -> peer      [head|data][head|data]…   the pieces `data`, as one run
//! client -> client    [head|data][head|data]…   the heads' first two bytes rewritten, as they lie
//! peer   -> client    [data][data]…             copied with a head before each of them, as one run
//! ```

use std::io::IoSlice;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::{BufMut as _, Bytes, BytesMut};
use warren_net::{Destination, MAX_BATCH_SEGMENTS, Run, ServerSocket};
use warren_turn::server::{
    self, ClientAddr, Delivery, Handled, Heading, Listener, RelayedPort, Route, StreamId,
};
use warren_turn::stream::channel_padding;
use warren_turn::{CHANNEL_HEADER_LEN, ChannelNumber, channel_data};

use super::hub::State;

const ZEROS: [u8; 3] = [0; 3];

/// Datagrams of one channel that lie one behind the other, all but the last of one length.
#[derive(Debug, PartialEq, Eq)]
struct ChannelRun {
    number: ChannelNumber,
    /// Where in the buffer.
    range: Range<usize>,
    /// Bytes of data in each but the last.
    data_len: usize,
    /// Bytes of data in the last.
    last_len: usize,
    /// From one to the next.
    stride: usize,
    packets: usize,
}

impl ChannelRun {
    /// Whether nothing but heads and data lies in it.
    fn is_dense(&self) -> bool {
        let last = self.range.end - self.range.start - (self.packets - 1) * self.stride;
        self.last_len + CHANNEL_HEADER_LEN == last
            && (self.packets == 1 || self.data_len + CHANNEL_HEADER_LEN == self.stride)
    }

    fn data(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (start, stride) = (self.range.start + CHANNEL_HEADER_LEN, self.stride);
        let (packets, data_len, last_len) = (self.packets, self.data_len, self.last_len);
        (0..packets).map(move |n| {
            let at = start + n * stride;
            at..at + if n + 1 == packets { last_len } else { data_len }
        })
    }

    fn run(&self) -> server::Run {
        let bytes = (self.packets - 1) * self.data_len + self.last_len;
        server::Run {
            packets: u32::try_from(self.packets).unwrap_or(u32::MAX),
            bytes: bytes as u64,
        }
    }
}

/// The datagrams at the beginning of `bytes` (from `at` on) that are ChannelData of one channel;
/// `None` when the first isn't any. One may be padded by at most three bytes.
fn channel_run(bytes: &[u8], at: usize, stride: usize) -> Option<ChannelRun> {
    let rest = bytes.get(at..)?;
    let first = &rest[..stride.min(rest.len())];
    let (number, data) = channel_data(first)?;
    if first.len() - data.end > ZEROS.len() {
        return None;
    }
    let mut run = ChannelRun {
        number,
        range: at..at + first.len(),
        data_len: data.len(),
        last_len: data.len(),
        stride,
        packets: 1,
    };
    let head = &first[..CHANNEL_HEADER_LEN];
    while run.packets < MAX_BATCH_SEGMENTS && rest.len() > run.packets * stride {
        let next = &rest[run.packets * stride..];
        let next = &next[..stride.min(next.len())];
        let is_alike = next.len() == stride && next.starts_with(head);
        let last_len = if is_alike {
            run.data_len
        } else {
            // A shorter one may end the run.
            match channel_data(next) {
                Some((other, data))
                    if other == number
                        && data.len() <= run.data_len
                        && next.len() - data.end <= ZEROS.len() =>
                {
                    data.len()
                }
                Some(_) | None => break,
            }
        };
        run.range.end += next.len();
        run.last_len = last_len;
        run.packets += 1;
        if !is_alike {
            break;
        }
    }
    Some(run)
}

impl State {
    /// Handles what one client has sent to a socket.
    pub(super) fn handle_client_run(&mut self, socket: Listener, run: &mut Run<'_>, now: Instant) {
        let listener = self.listeners.at(socket, run.local);
        let client = ClientAddr::Udp { listener, addr: run.remote };
        let mut at = 0;
        while at < run.bytes.len() {
            if let Some(found) = channel_run(run.bytes, at, run.stride) {
                at = found.range.end;
                let route = self.server.route_channel(client, found.number, found.run(), now);
                if let Ok(route) = route {
                    self.forward_channel(route, run.bytes, &found);
                }
                continue;
            }
            let end = run.bytes.len().min(at + run.stride);
            self.handle_message(client, &mut run.bytes[at..end], now);
            at = end;
        }
    }

    /// Handles one datagram of a client, or one message of its stream.
    pub(super) fn handle_message(&mut self, client: ClientAddr, message: &mut [u8], now: Instant) {
        let Handled::Relay { route, range } = self.server.handle_datagram(client, message, now)
        else {
            return;
        };
        let data = &message[range];
        match route {
            Route::Peer { from, to, dont_fragment: true } => {
                if let Some(socket) = self.ports.get(&from) {
                    socket.send_unfragmented(to, data);
                }
            }
            Route::Peer { from, to, dont_fragment: false } => {
                if let Some(socket) = self.ports.get(&from) {
                    socket.send_run(to, data, data.len());
                }
            }
            Route::Client(delivery) => self.deliver(delivery, data, data.len().max(1)),
        }
    }

    fn forward_channel(&mut self, route: Route, bytes: &mut [u8], run: &ChannelRun) {
        match route {
            Route::Peer { from, to, .. } => {
                let Some(socket) = self.ports.get(&from) else { return };
                let pieces = run.data().map(|data| IoSlice::new(&bytes[data]));
                socket.send_pieces(to, &pieces.collect::<Pieces<'_>>());
            }
            Route::Client(Delivery {
                to: ClientAddr::Udp { listener, addr },
                heading: Heading::Channel(number),
            }) if run.is_dense() => {
                let Some((socket, to)) = self.listeners.reach(listener, addr) else { return };
                let run_bytes = &mut bytes[run.range.clone()];
                for datagram in run_bytes.chunks_mut(run.stride) {
                    datagram[..2].copy_from_slice(&number.number().to_be_bytes());
                }
                socket.send_run(to, run_bytes, run.stride);
            }
            Route::Client(delivery) => {
                for data in run.data() {
                    let data = &bytes[data];
                    self.deliver(delivery, data, data.len().max(1));
                }
            }
        }
    }

    /// Handles what one peer has sent to a relayed port.
    pub(super) fn handle_peer_run(&mut self, port: RelayedPort, run: &Run<'_>, now: Instant) {
        let packets = u32::try_from(run.datagrams()).unwrap_or(u32::MAX);
        let of_server = server::Run { packets, bytes: run.bytes.len() as u64 };
        if let Ok(delivery) = self.server.route_peer(port, run.remote, of_server, now) {
            self.deliver(delivery, run.bytes, run.stride);
        }
    }

    /// Sends data to a client, with what has to stand in front of it.
    fn deliver(&mut self, delivery: Delivery, bytes: &[u8], stride: usize) {
        match delivery.to {
            ClientAddr::Udp { listener, addr } => {
                let Some((socket, to)) = self.listeners.reach(listener, addr) else { return };
                match delivery.heading {
                    Heading::Channel(number) => {
                        with_heads(&mut self.headed, number, bytes, stride);
                        socket.send_run(to, &self.headed, stride + CHANNEL_HEADER_LEN);
                    }
                    Heading::Indication(peer) => {
                        let socket = Arc::clone(socket);
                        for data in datagrams(bytes, stride) {
                            self.send_indication(&socket, to, peer, data);
                        }
                    }
                }
            }
            ClientAddr::Stream(stream) => {
                for data in datagrams(bytes, stride) {
                    if let Some(message) = self.stream_message(delivery.heading, data) {
                        self.send_to_stream(stream, message);
                    }
                }
            }
        }
    }

    fn send_indication(
        &mut self,
        socket: &ServerSocket,
        to: Destination,
        peer: SocketAddr,
        data: &[u8],
    ) {
        let Some(head) = self.server.indication(peer, data.len()) else { return };
        let parts = [head.bytes(), data, &ZEROS[..head.padding()]].map(IoSlice::new);
        socket.send_parts(to, &parts, parts.len());
    }

    fn stream_message(&mut self, heading: Heading, data: &[u8]) -> Option<Bytes> {
        let mut message = BytesMut::with_capacity(data.len() + 64);
        let padding = match heading {
            Heading::Channel(number) => {
                message.put_slice(&number.header(u16::try_from(data.len()).ok()?));
                channel_padding(data.len())
            }
            Heading::Indication(peer) => {
                let head = self.server.indication(peer, data.len())?;
                message.put_slice(head.bytes());
                head.padding()
            }
        };
        message.put_slice(data);
        message.put_slice(&ZEROS[..padding]);
        Some(message.freeze())
    }

    pub(super) fn port(&self, port: RelayedPort) -> Option<Arc<ServerSocket>> {
        self.ports.get(&port).cloned()
    }

    /// Whether a connection's client has an allocation, so that it may send long messages.
    pub(super) fn is_known(&self, stream: StreamId) -> bool {
        self.server.has_allocation(ClientAddr::Stream(stream))
    }
}

type Pieces<'b> = Vec<IoSlice<'b>>;

/// The datagrams of a run; none at all is one empty datagram.
fn datagrams(bytes: &[u8], stride: usize) -> impl Iterator<Item = &[u8]> {
    let empty = bytes.is_empty().then_some(bytes);
    empty.into_iter().chain(bytes.chunks(stride.max(1)))
}

/// Writes a run to `out` with a channel's head before each datagram.
///
/// A copy of some KiB costs less than 32 short pieces, each of which the kernel checks for itself: of
/// the way down it took a tenth (docs/measurements.md).
fn with_heads(out: &mut Vec<u8>, number: ChannelNumber, bytes: &[u8], stride: usize) {
    out.clear();
    for data in datagrams(bytes, stride) {
        let Ok(len) = u16::try_from(data.len()) else { return };
        out.extend_from_slice(&number.header(len));
        out.extend_from_slice(data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(n: u16) -> ChannelNumber {
        ChannelNumber::new(0x4000 + n).unwrap()
    }

    fn datagram(n: u16, len: usize, padding: usize) -> Vec<u8> {
        let data = vec![n as u8; len];
        [&number(n).header(len as u16)[..], &data, &ZEROS[..padding]].concat()
    }

    #[test]
    fn a_run_goes_on_while_channel_and_length_stay() {
        let bytes = [datagram(1, 10, 0), datagram(1, 10, 0), datagram(1, 7, 0)].concat();
        let run = channel_run(&bytes, 0, 14).unwrap();
        assert_eq!((run.number, run.packets, run.range.clone()), (number(1), 3, 0..39));
        assert!(run.is_dense());
        assert_eq!(run.data().collect::<Vec<_>>(), [4..14, 18..28, 32..39]);
        assert_eq!(run.run(), server::Run { packets: 3, bytes: 27 });
    }

    #[test]
    fn another_channel_ends_a_run() {
        let bytes = [datagram(1, 10, 0), datagram(2, 10, 0), datagram(2, 10, 0)].concat();
        let first = channel_run(&bytes, 0, 14).unwrap();
        assert_eq!((first.packets, first.range.clone()), (1, 0..14));
        let second = channel_run(&bytes, 14, 14).unwrap();
        assert_eq!((second.number, second.packets, second.range), (number(2), 2, 14..42));
    }

    #[test]
    fn a_shorter_message_in_a_padded_datagram_ends_a_run() {
        let bytes = [datagram(1, 9, 3), datagram(1, 10, 2), datagram(1, 9, 3)].concat();
        let run = channel_run(&bytes, 0, 16).unwrap();
        assert_eq!(run.packets, 1, "a longer one doesn't belong to it");
        let run = channel_run(&bytes, 16, 16).unwrap();
        assert_eq!((run.packets, run.is_dense()), (2, false));
        assert_eq!(run.data().collect::<Vec<_>>(), [20..30, 36..45]);
    }

    #[test]
    fn each_datagram_gets_its_head() {
        let mut out = vec![1, 2, 3];
        with_heads(&mut out, number(1), &[7; 25], 10);
        let of = |len: usize| [&number(1).header(len as u16)[..], &vec![7; len]].concat();
        assert_eq!(out, [of(10), of(10), of(5)].concat());
        with_heads(&mut out, number(2), &[], 1);
        assert_eq!(out, number(2).header(0), "one empty datagram");
    }

    #[test]
    fn what_is_more_than_padding_is_no_channel_data() {
        assert_eq!(channel_run(&[datagram(1, 4, 0), vec![0; 4]].concat(), 0, 12), None);
        assert_eq!(channel_run(&[0, 1, 0, 0, 0x21], 0, 5), None);
        assert_eq!(channel_run(&[0x40, 0, 0, 9, 1], 0, 5), None);
        assert_eq!(channel_run(&[], 0, 1), None);
        let mixed = [datagram(1, 6, 0), vec![0; 10]].concat();
        assert_eq!(channel_run(&mixed, 0, 10).unwrap().packets, 1);
    }

    #[test]
    fn a_run_is_no_longer_than_one_send_takes() {
        let bytes = datagram(3, 8, 0).repeat(100);
        let run = channel_run(&bytes, 0, 12).unwrap();
        assert_eq!((run.packets, run.range.end), (64, 64 * 12));
    }
}
