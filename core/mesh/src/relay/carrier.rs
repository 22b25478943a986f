//! What carries messages between this device and a relay.

use std::collections::VecDeque;
use std::net::SocketAddr;

use warren_proto::RelayTls;
use warren_turn::stream::{MAX_FRAME, StreamDecoder, channel_padding};
use warren_turn::{CHANNEL_HEADER_LEN, ChannelNumber};

use crate::path::RelayHandle;

/// The most bytes that wait to be written to a stream; what doesn't fit is dropped, as a full
/// queue on the way would.
const MAX_WAITING: usize = 256 * 1024;

/// How much of it is handed out at a time.
const CHUNK: usize = 16 * 1024;

/// Names a stream to a relay; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub(crate) u64);

/// Where a stream to a relay can be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamTarget {
    /// TLS, with `stun.turn` as its ALPN protocol ([`warren_proto::TURN_ALPN`]).
    Tls(RelayTls),
    /// Plain TCP.
    Tcp(SocketAddr),
}

/// How messages to a relay travel.
#[derive(Debug)]
pub(crate) enum Carrier {
    /// As datagrams of the data socket, to this address.
    Udp(SocketAddr),
    Stream(Box<Stream>),
}

/// A connection that the shell keeps.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) open: bool,
    pub(crate) is_tls: bool,
    pub(crate) decoder: StreamDecoder,
    waiting: VecDeque<u8>,
    /// Messages that didn't fit.
    pub(crate) dropped: u64,
}

impl Stream {
    pub(crate) fn new(id: StreamId) -> Self {
        Self {
            id,
            open: false,
            is_tls: true,
            decoder: StreamDecoder::new(MAX_FRAME),
            waiting: VecDeque::new(),
            dropped: 0,
        }
    }

    /// Queues one whole message, padded as a stream wants it (RFC 8656 §12.5).
    pub(crate) fn write(&mut self, message: &[u8]) -> bool {
        if self.waiting.len() + message.len() > MAX_WAITING {
            self.dropped += 1;
            return false;
        }
        self.waiting.extend(message);
        // STUN messages are multiples of four long.
        self.waiting.extend(&[0; 3][..channel_padding(message.len())]);
        true
    }

    /// The next bytes to be written.
    pub(crate) fn read(&mut self) -> Option<Vec<u8>> {
        let len = self.waiting.len().min(CHUNK);
        if len == 0 || !self.open {
            return None;
        }
        Some(self.waiting.drain(..len).collect())
    }
}

/// How one datagram leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carriage {
    /// By the data socket, behind a channel header where there is a channel.
    Datagram { remote: SocketAddr, channel: Option<ChannelNumber> },
    /// By a relay's stream.
    Stream { relay: RelayHandle, channel: ChannelNumber },
}

impl Carriage {
    fn channel(self) -> Option<ChannelNumber> {
        match self {
            Self::Datagram { remote: _, channel } => channel,
            Self::Stream { relay: _, channel } => Some(channel),
        }
    }

    /// The room that is wanted before a datagram.
    pub(crate) fn headroom(self) -> usize {
        if self.channel().is_some() { CHANNEL_HEADER_LEN } else { 0 }
    }

    /// Fills that room.
    pub(crate) fn write_header(self, contents: &mut [u8]) {
        let Some(channel) = self.channel() else { return };
        let Some((header, data)) = contents.split_first_chunk_mut::<CHANNEL_HEADER_LEN>() else {
            return;
        };
        *header = channel.header(u16::try_from(data.len()).unwrap_or(u16::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_padded_and_come_out_in_order() {
        let mut stream = Stream::new(StreamId(1));
        assert!(stream.write(&[0x40, 0, 0, 1, 9]));
        assert_eq!(stream.read(), None, "it isn't open");
        stream.open = true;
        assert!(stream.write(&[0x40, 0, 0, 4, 1, 2, 3, 4]));
        let bytes = stream.read().unwrap();
        assert_eq!(bytes, [0x40, 0, 0, 1, 9, 0, 0, 0, 0x40, 0, 0, 4, 1, 2, 3, 4]);
        assert_eq!(stream.read(), None);
    }

    #[test]
    fn a_stream_that_is_not_read_takes_no_more_than_its_share() {
        let mut stream = Stream::new(StreamId(1));
        let message = [0; 1400];
        for _ in 0..1000 {
            stream.write(&message);
        }
        assert!(stream.waiting.len() <= MAX_WAITING && stream.dropped > 0);
        stream.open = true;
        let mut taken = 0;
        while let Some(bytes) = stream.read() {
            taken += bytes.len();
        }
        assert_eq!(taken as u64, (1000 - stream.dropped) * 1400);
    }

    #[test]
    fn the_header_says_how_long_the_data_is() {
        let channel = ChannelNumber::new(0x4001).unwrap();
        let carriage = Carriage::Stream { relay: RelayHandle(0), channel };
        let mut contents = vec![0; carriage.headroom() + 5];
        carriage.write_header(&mut contents);
        assert_eq!(contents[..4], [0x40, 1, 0, 5]);
    }
}
