//! Two TCP connections made one.

use std::net::{Shutdown, TcpStream};

use anyhow::Result;

/// Passes on what comes from either side, on threads of its own.
pub(crate) fn join(left: TcpStream, right: TcpStream) -> Result<()> {
    for (mut from, mut to) in [(left.try_clone()?, right.try_clone()?), (right, left)] {
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
    Ok(())
}
