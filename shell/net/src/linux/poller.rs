//! Waits for many sockets at once (epoll(7)); a relay has one for each port that it gives.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::{check, check_len};

/// The most sockets that one wait names; the others are named by the next.
const EVENTS: usize = 256;

/// Tells which of many descriptors have something to read. Several threads may add and remove.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    /// Watches nothing yet.
    ///
    /// # Errors
    ///
    /// What the system says, such as too many open files.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointers, and its result is checked.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor was just made and belongs to nobody else.
        Ok(Self { epoll: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Names `fd` as `token` whenever it has something to read, until it is closed.
    ///
    /// # Errors
    ///
    /// What the system says; `fd` isn't watched then.
    pub fn add(&self, fd: &impl AsFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        let (epoll, fd) = (self.epoll.as_raw_fd(), fd.as_fd().as_raw_fd());
        // SAFETY: both descriptors are open, and the call only reads `event`.
        check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut event) }).map(drop)
    }

    /// Fills `ready` with the tokens of those that have something to read; with none after
    /// `timeout`.
    ///
    /// # Errors
    ///
    /// What the system says; interruptions are none.
    pub fn wait(&self, ready: &mut Vec<u64>, timeout: Duration) -> io::Result<()> {
        ready.clear();
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let millis = timeout.as_micros().div_ceil(1000).min(60_000) as libc::c_int;
        let capacity = EVENTS as libc::c_int;
        // SAFETY: `events` has room for `capacity` events.
        let result = check_len(unsafe {
            libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), capacity, millis) as isize
        });
        match result {
            Ok(count) => ready.extend(events.iter().take(count).map(|event| event.u64)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn who_has_something_to_read_is_named_until_it_is_read_or_closed() {
        let poller = Poller::new().unwrap();
        let sockets = [0, 1].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
        for (socket, token) in sockets.iter().zip([7, 8]) {
            poller.add(socket, token).unwrap();
        }
        let mut ready = vec![1];
        poller.wait(&mut ready, Duration::ZERO).unwrap();
        assert!(ready.is_empty());
        let [first, second] = sockets;
        first.send_to(b"x", second.local_addr().unwrap()).unwrap();
        for _ in 0..2 {
            poller.wait(&mut ready, Duration::from_secs(10)).unwrap();
            assert_eq!(ready, [8]);
        }
        drop(second);
        poller.wait(&mut ready, Duration::ZERO).unwrap();
        assert!(ready.is_empty());
    }
}
