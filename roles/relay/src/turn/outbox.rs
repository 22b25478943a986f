//! What waits to be written to a connection: bounded in messages and in bytes, so that a client who
//! doesn't read costs little memory. What is beyond is lost, as datagrams are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

const MAX_MESSAGES: usize = 512;
const MAX_BYTES: usize = 1 << 20;

/// Where messages are put.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: mpsc::Sender<Bytes>,
    waiting: Arc<AtomicUsize>,
}

/// Where they are taken out.
#[derive(Debug)]
pub(super) struct Waiting {
    queue: mpsc::Receiver<Bytes>,
    waiting: Arc<AtomicUsize>,
}

impl Outbox {
    pub(super) fn new() -> (Self, Waiting) {
        let (sender, receiver) = mpsc::channel(MAX_MESSAGES);
        let waiting = Arc::new(AtomicUsize::new(0));
        let outbox = Self { queue: sender, waiting: Arc::clone(&waiting) };
        (outbox, Waiting { queue: receiver, waiting })
    }

    /// Whether there was room.
    pub(super) fn put(&self, message: Bytes) -> bool {
        let len = message.len();
        // Only one puts at a time, under the lock of the state; taking out makes it less.
        if self.waiting.load(Ordering::Relaxed) + len > MAX_BYTES {
            return false;
        }
        self.waiting.fetch_add(len, Ordering::Relaxed);
        let is_put = self.queue.try_send(message).is_ok();
        if !is_put {
            self.waiting.fetch_sub(len, Ordering::Relaxed);
        }
        is_put
    }
}

impl Waiting {
    /// The next one; `None` when there will be none any more.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        let message = self.queue.recv().await?;
        self.waiting.fetch_sub(message.len(), Ordering::Relaxed);
        Some(message)
    }

    /// The next one, if it is there.
    pub(super) fn try_next(&mut self) -> Option<Bytes> {
        let message = self.queue.try_recv().ok()?;
        self.waiting.fetch_sub(message.len(), Ordering::Relaxed);
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_does_not_read_costs_no_more_than_so_much() {
        let (outbox, mut waiting) = Outbox::new();
        let long = Bytes::from(vec![0; 60_000]);
        let put = (0..1000).filter(|_| outbox.put(long.clone())).count();
        assert_eq!(put, MAX_BYTES / long.len());
        assert!(waiting.next().await.is_some());
        assert!(outbox.put(long.clone()) && !outbox.put(long.clone()));
        while waiting.try_next().is_some() {}
        let short = Bytes::from_static(b"short");
        assert_eq!((0..1000).filter(|_| outbox.put(short.clone())).count(), MAX_MESSAGES);
        while waiting.try_next().is_some() {}
        assert_eq!(waiting.waiting.load(Ordering::Relaxed), 0);
        drop(outbox);
        assert!(waiting.next().await.is_none());
    }
}
