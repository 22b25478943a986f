//! The data thread's side of streams to relays: the connections themselves live on the control
//! runtime, so that TLS delays no datagram.

use std::collections::BTreeMap;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use warren_mesh::{Mesh, StreamId, StreamTarget};

use crate::carrier::{StreamEvent, carry};

/// Chunks that wait for a connection to take them; the rest waits in the mesh, which bounds it.
const CHUNKS: usize = 4;

/// Events that wait for the data thread.
const EVENTS: usize = 64;

/// All streams.
pub(super) struct Streams {
    runtime: Handle,
    sender: mpsc::Sender<StreamEvent>,
    events: mpsc::Receiver<StreamEvent>,
    open: BTreeMap<StreamId, Open>,
}

struct Open {
    outgoing: mpsc::Sender<Vec<u8>>,
    task: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Streams {
    pub(super) fn new(runtime: Handle) -> Self {
        let (sender, events) = mpsc::channel(EVENTS);
        Self { runtime, sender, events, open: BTreeMap::new() }
    }

    pub(super) fn open(&mut self, stream: StreamId, targets: Vec<StreamTarget>) {
        let (outgoing, incoming) = mpsc::channel(CHUNKS);
        let events = self.sender.clone();
        let task = self.runtime.spawn(carry(stream, targets, events, incoming)).abort_handle();
        self.open.insert(stream, Open { outgoing, task });
    }

    pub(super) fn close(&mut self, stream: StreamId) {
        self.open.remove(&stream);
    }

    /// The next thing that happens to one of them.
    pub(super) async fn next(&mut self) -> StreamEvent {
        match self.events.recv().await {
            Some(event) => event,
            // Its own sender keeps the channel open.
            None => std::future::pending().await,
        }
    }

    /// Hands over what the mesh has for streams that take more.
    pub(super) fn drain(&self, mesh: &mut Mesh) {
        for (stream, open) in &self.open {
            while let Ok(room) = open.outgoing.try_reserve() {
                let Some(bytes) = mesh.poll_stream(*stream) else { break };
                room.send(bytes);
            }
        }
    }
}
