//! The LAN's side of a flow: sockets of this host.

use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::rc::Rc;
use std::time::Instant;

use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_local, yield_now};
use warren_net::Lan;
use warren_proxy::{FlowId, Proxy};

use crate::kernel::opening::Opened;

/// The longest datagram.
const DATAGRAM: usize = 65_535;

/// What the tasks of one thread share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) core: Rc<RefCell<Proxy<Opened>>>,
    /// Has the driver look at the core.
    pub(super) kick: Rc<Notify>,
}

impl Shared {
    /// The LAN won't have a flow.
    pub(super) fn refuse(&self, flow: FlowId) {
        self.core.borrow_mut().handle_refused(flow, Instant::now());
        self.kick.notify_one();
    }
}

/// A TCP connection to the LAN, which a task carries.
#[derive(Debug)]
pub(super) struct Stream {
    ready: Rc<Notify>,
}

impl Stream {
    pub(super) fn connect(
        shared: Shared,
        flow: FlowId,
        target: SocketAddrV4,
        mesh: Ipv4Addr,
    ) -> Self {
        let ready = Rc::new(Notify::new());
        spawn_local(carry(shared, flow, (target, mesh), Rc::clone(&ready)));
        Self { ready }
    }

    /// Something has happened to its flow.
    pub(super) fn wake(&self) {
        self.ready.notify_one();
    }
}

async fn carry(
    shared: Shared,
    flow: FlowId,
    (target, mesh): (SocketAddrV4, Ipv4Addr),
    ready: Rc<Notify>,
) {
    let connected = async {
        source(target, mesh)?;
        TcpStream::connect(SocketAddr::V4(target)).await
    };
    let connected = tokio::select! {
        connected = connected => connected,
        // The peer has given up, or the core has.
        () = ready.notified() => return,
    };
    let stream = match connected {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "a device of the LAN doesn't take a connection");
            shared.refuse(flow);
            return;
        }
    };
    // What is small is meant to be sent at once: the peer has decided that already.
    let _ = stream.set_nodelay(true);
    shared.core.borrow_mut().handle_connected(flow, Instant::now());
    shared.kick.notify_one();
    let carrier = Carrier { shared, flow, stream, lan_ended: false, peer_ended: false };
    carrier.run(&ready).await;
}

/// A connection on both sides.
struct Carrier {
    shared: Shared,
    flow: FlowId,
    stream: TcpStream,
    lan_ended: bool,
    peer_ended: bool,
}

impl Carrier {
    async fn run(mut self, ready: &Notify) {
        if self.carry(ready).await.is_none() {
            self.shared.core.borrow_mut().abort(self.flow, Instant::now());
            // Without what is still on its way: the device is to see that it was broken off.
            let _ = self.stream.set_zero_linger();
        }
        self.shared.kick.notify_one();
    }

    /// Until both sides have ended. `None`: one of them has broken it off.
    async fn carry(&mut self, ready: &Notify) -> Option<()> {
        while !(self.lan_ended && self.peer_ended) {
            let look = self.shared.core.borrow_mut().stream(self.flow, Instant::now())?;
            if look.ended && !self.peer_ended {
                self.peer_ended = true;
                // One that has gone has ended, too.
                let _ = self.stream.shutdown().await;
                continue;
            }
            let reads = !self.lan_ended && look.room > 0;
            let writes = look.received > 0;
            let written = writes && self.write_lan()?;
            let read = reads && self.read_lan()?;
            if written || read {
                self.shared.kick.notify_one();
                yield_now().await;
                continue;
            }
            tokio::select! {
                () = ready.notified() => {}
                _ = self.stream.readable(), if reads => {}
                _ = self.stream.writable(), if writes => {}
            }
        }
        Some(())
    }

    /// Moves what the peer has sent, as far as the LAN takes it: whether it was anything.
    fn write_lan(&mut self) -> Option<bool> {
        let mut written = Ok(0);
        let stream = &self.stream;
        self.shared.core.borrow_mut().take(self.flow, Instant::now(), |bytes| {
            written = stream.try_write(bytes);
            *written.as_ref().unwrap_or(&0)
        });
        is_moved(&written)
    }

    /// Moves what the LAN has sent, as far as there is room: whether it was anything, its end included.
    fn read_lan(&mut self) -> Option<bool> {
        let mut read = Err(io::ErrorKind::WouldBlock.into());
        let stream = &self.stream;
        let mut core = self.shared.core.borrow_mut();
        core.give(self.flow, Instant::now(), |room| {
            read = stream.try_read(room);
            *read.as_ref().unwrap_or(&0)
        });
        if let Ok(0) = read {
            self.lan_ended = true;
            core.finish(self.flow, Instant::now());
            return Some(true);
        }
        is_moved(&read)
    }
}

fn is_moved(result: &io::Result<usize>) -> Option<bool> {
    match result {
        Ok(count) => Some(*count > 0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(false),
        Err(_) => None,
    }
}

/// A UDP socket that is connected to a device of the LAN, and a task that reads it.
#[derive(Debug)]
pub(super) struct Datagrams {
    shared: Shared,
    flow: FlowId,
    socket: Rc<UdpSocket>,
    task: AbortHandle,
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Datagrams {
    pub(super) fn open(
        shared: Shared,
        flow: FlowId,
        target: SocketAddrV4,
        mesh: Ipv4Addr,
    ) -> io::Result<Self> {
        let socket = source(target, mesh)?;
        socket.set_nonblocking(true)?;
        let socket = Rc::new(UdpSocket::from_std(socket)?);
        let reader = hear(shared.clone(), flow, Rc::clone(&socket));
        let task = spawn_local(reader).abort_handle();
        Ok(Self { shared, flow, socket, task })
    }

    /// Sends; what finds no room is lost, as on the wire.
    pub(super) fn send(&self, payload: &[u8]) {
        // Not by tokio: it would take a socket that was just opened for one without room.
        if let Err(error) = SockRef::from(&*self.socket).send(payload)
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            self.shared.refuse(self.flow);
        }
    }
}

async fn hear(shared: Shared, flow: FlowId, socket: Rc<UdpSocket>) {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        match socket.recv(&mut buffer).await {
            Ok(length) => {
                let datagram = buffer.get(..length).unwrap_or_default();
                shared.core.borrow_mut().handle_datagram(flow, datagram, Instant::now());
                shared.kick.notify_one();
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                shared.refuse(flow);
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "a device of the LAN can't be heard");
                // What comes next begins anew.
                shared.core.borrow_mut().abort(flow, Instant::now());
                shared.kick.notify_one();
                return;
            }
        }
    }
}

/// A UDP socket that is connected to `target`, by which nothing has been sent yet.
///
/// # Errors
///
/// There is no way to it, or none by a LAN: an address may have become this host's own since it was
/// looked at, and the way to it one through the mesh.
fn source(target: SocketAddrV4, mesh: Ipv4Addr) -> io::Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(target)?;
    // The way is looked up, too: an address of the host's need not be the one that it would be asked from.
    let route = Lan::open().map_err(io::Error::other)?.route(*target.ip());
    if route.is_none_or(|route| route.local) || socket.local_addr()?.ip() == mesh {
        return Err(io::Error::other("the target is no device of a LAN any more"));
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_itself_is_no_device_of_a_lan() {
        for own in [[127, 0, 0, 1], [127, 0, 0, 2]] {
            let target = SocketAddrV4::new(own.into(), 9);
            assert!(source(target, Ipv4Addr::new(100, 80, 0, 1)).is_err(), "{target}");
        }
    }
}
