use std::fs::File;
use std::io::{self, Read as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;
use tokio::task::JoinHandle;

const PIECE: usize = 256 * 1024;

/// A file as a response's body, read piece by piece off the runtime's threads.
pub(crate) struct Download {
    reading: JoinHandle<io::Result<(File, Vec<u8>)>>,
}

impl Download {
    pub(crate) fn new(file: File) -> Self {
        Self { reading: read_on(file) }
    }
}

fn read_on(mut file: File) -> JoinHandle<io::Result<(File, Vec<u8>)>> {
    tokio::task::spawn_blocking(move || {
        let mut piece = Vec::with_capacity(PIECE);
        file.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
        Ok((file, piece))
    })
}

impl http_body::Body for Download {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let read = ready!(Pin::new(&mut self.reading).poll(cx)).map_err(io::Error::other)?;
        Poll::Ready(match read {
            Ok((_, piece)) if piece.is_empty() => None,
            Ok((file, piece)) => {
                self.reading = read_on(file);
                Some(Ok(Frame::data(piece.into())))
            }
            Err(error) => Some(Err(error)),
        })
    }
}
