//! STUN and ChannelData on TCP and TLS (RFC 8656 §3.1, §12.5).
//!
//! A message ends where its own length says; ChannelData is padded to a multiple of four bytes
//! that its length doesn't count. Both are told by their first two bits.

use std::ops::Range;

use thiserror::Error;

use crate::codec::{CHANNEL_HEADER_LEN, HEADER_LEN, MAGIC_COOKIE};

/// The longest message with its padding: ChannelData of 65,535 bytes, or STUN of 65,532.
pub const MAX_FRAME: usize = HEADER_LEN + 65_536;

/// What isn't STUN or ChannelData: the stream can't be followed any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StreamError {
    /// The first bits are neither STUN's nor a channel's, or STUN's cookie is missing.
    #[error("neither STUN nor ChannelData")]
    Unknown,
    /// STUN whose length is no multiple of four.
    #[error("the length of a message is wrong")]
    Length,
    /// A message longer than the receiver takes.
    #[error("a message is too long")]
    TooLong,
}

/// One message at the beginning of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Its length without padding.
    pub len: usize,
    /// Where the next one begins.
    pub padded_len: usize,
}

/// The message at the beginning of `bytes`; `None` as long as its length isn't known.
///
/// # Errors
/// [`StreamError::Unknown`], [`StreamError::Length`].
pub fn frame(bytes: &[u8]) -> Result<Option<Frame>, StreamError> {
    let Some((&[first, _, high, low], _)) = bytes.split_first_chunk::<4>() else {
        return match bytes.first() {
            Some(first) if first & 0x80 != 0 => Err(StreamError::Unknown),
            Some(_) | None => Ok(None),
        };
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if first & 0xC0 == 0 {
        if bytes.get(4..8).is_some_and(|cookie| cookie != MAGIC_COOKIE.to_be_bytes()) {
            return Err(StreamError::Unknown);
        }
        if !length.is_multiple_of(4) {
            return Err(StreamError::Length);
        }
        let len = HEADER_LEN + length;
        Ok(Some(Frame { len, padded_len: len }))
    } else if first & 0xC0 == 0x40 {
        let len = CHANNEL_HEADER_LEN + length;
        Ok(Some(Frame { len, padded_len: len.next_multiple_of(4) }))
    } else {
        Err(StreamError::Unknown)
    }
}

/// Zero bytes after a ChannelData message of so many bytes of data on a stream.
pub fn channel_padding(data_len: usize) -> usize {
    data_len.next_multiple_of(4) - data_len
}

/// Collects what a stream brings and gives it message by message.
///
/// It holds at most one message that isn't whole, and what came behind it in the same read.
#[derive(Debug)]
pub struct StreamDecoder {
    buffer: Vec<u8>,
    start: usize,
    max_frame: usize,
}

impl StreamDecoder {
    /// A decoder of messages of at most `max_frame` bytes, which is at most [`MAX_FRAME`].
    pub fn new(max_frame: usize) -> Self {
        Self { buffer: Vec::new(), start: 0, max_frame: max_frame.min(MAX_FRAME) }
    }

    /// Sets the limit for what follows: small before a client is known, large afterwards.
    pub fn set_max_frame(&mut self, max_frame: usize) {
        self.max_frame = max_frame.min(MAX_FRAME);
    }

    /// Takes what a read has brought. Call [`Self::next_frame`] until it gives none before the
    /// next read, or what is held grows.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, without padding; `None` when more has to be read.
    ///
    /// # Errors
    /// When the stream can't be followed any further; it then stays so.
    pub fn next_frame(&mut self) -> Result<Option<&mut [u8]>, StreamError> {
        match self.next_range()? {
            Some(range) => Ok(Some(&mut self.buffer[range])),
            None => Ok(None),
        }
    }

    fn next_range(&mut self) -> Result<Option<Range<usize>>, StreamError> {
        let rest = &self.buffer[self.start..];
        let Some(frame) = frame(rest)? else { return Ok(None) };
        if frame.padded_len > self.max_frame {
            return Err(StreamError::TooLong);
        }
        if rest.len() < frame.padded_len {
            return Ok(None);
        }
        let range = self.start..self.start + frame.len;
        self.start += frame.padded_len;
        Ok(Some(range))
    }

    /// How many bytes it holds.
    pub fn buffered(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Gives memory back that an idle stream doesn't need.
    pub fn shrink(&mut self) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_whole_however_they_arrive() {
        let stun = [&[0, 1, 0, 4][..], &[0x21, 0x12, 0xA4, 0x42], &[7; 12], &[1, 2, 3, 4]].concat();
        let data = [&[0x40, 0, 0, 5][..], b"hello"].concat();
        let padded = [data.as_slice(), &[0; 3]].concat();
        let stream = [stun.as_slice(), &padded, &stun, &padded].concat();
        for step in 1..stream.len() {
            let mut decoder = StreamDecoder::new(MAX_FRAME);
            let mut frames = Vec::new();
            for piece in stream.chunks(step) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    frames.push(frame.to_vec());
                }
            }
            assert_eq!(frames, [stun.as_slice(), &data, &stun, &data]);
            assert_eq!(decoder.buffered(), 0);
        }
    }

    #[test]
    fn what_cannot_be_followed_is_an_error() {
        let error = |bytes: &[u8]| {
            let mut decoder = StreamDecoder::new(1000);
            decoder.push(bytes);
            decoder.next_frame().map(|_| ()).unwrap_err()
        };
        assert_eq!(error(&[0x80]), StreamError::Unknown);
        assert_eq!(error(&[0xC0, 0, 0, 0]), StreamError::Unknown);
        let client_hello = [0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
        assert_eq!(error(&client_hello), StreamError::Unknown);
        assert_eq!(error(b"GET / HTTP/1.1"), StreamError::TooLong);
        assert_eq!(error(&[0, 1, 0, 3]), StreamError::Length);
        assert_eq!(error(&[0x40, 0, 0xFF, 0xFF]), StreamError::TooLong);
        assert_eq!(error(&[0, 1, 0x10, 0]), StreamError::TooLong);
    }
}
