//! The way of a packet from the mesh to the LAN without the kernel: through `warren-proxy`, on a thread
//! of its own, so that neither the mesh nor the daemon waits for it.
//!
//! What comes out of the tunnel for something open is led here ([`Diverter`]), and what goes back
//! leaves as if the host had sent it. To the LAN these are ordinary sockets of this host.

mod driver;
mod lan;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::watch;
use warren_net::{Counter, Diverter};

use crate::kernel::opening::{Opened, Opening, Translation};

/// What leads where, as the proxy asks it.
type Leads = Arc<Translation<Arc<Opening>>>;

/// What was used.
type Uses = Arc<Mutex<BTreeMap<Opened, Counter>>>;

/// A running proxy. Dropped, it resets its connections, and everything is the host's again.
#[derive(Debug)]
pub(crate) struct Userspace {
    diverter: Diverter,
    opening: Arc<Opening>,
    leads: watch::Sender<Leads>,
    uses: Uses,
    thread: JoinHandle<()>,
}

impl Userspace {
    /// Begins with what `opening` says.
    ///
    /// # Errors
    ///
    /// The system has no thread left.
    pub(crate) fn start(diverter: &Diverter, opening: Opening) -> io::Result<Self> {
        if let Err(error) = warren_net::raise_open_file_limit() {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
        let opening = Arc::new(opening);
        let leads: Leads = Arc::new(Translation::new(Arc::clone(&opening)));
        let packets = diverter.divert(claims(&leads));
        let (sender, told) = watch::channel(leads);
        let uses = Uses::default();
        let answers = diverter.answers().clone();
        let counted = Arc::clone(&uses);
        let thread = std::thread::Builder::new().name("warren-proxy".to_owned());
        let thread = thread.spawn(move || driver::run(packets, answers, told, counted));
        let thread = thread.inspect_err(|_| diverter.end())?;
        let diverter = diverter.clone();
        Ok(Self { diverter, opening, leads: sender, uses, thread })
    }

    /// Opens this, and nothing else: what leads elsewhere now is ended.
    pub(crate) fn set(&mut self, opening: Opening) {
        if *self.opening == opening {
            return;
        }
        self.opening = Arc::new(opening);
        let leads: Leads = Arc::new(Translation::new(Arc::clone(&self.opening)));
        self.diverter.change(claims(&leads));
        self.leads.send_replace(leads);
    }

    /// What is open.
    pub(crate) fn opening(&self) -> &Opening {
        &self.opening
    }

    /// What was used, since it was started.
    pub(crate) fn uses(&self) -> BTreeMap<Opened, Counter> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }
}

impl Drop for Userspace {
    fn drop(&mut self) {
        self.diverter.end();
    }
}

/// Which packets it takes.
fn claims(leads: &Leads) -> Arc<warren_net::Takes> {
    let leads = Arc::clone(leads);
    Arc::new(move |address: Ipv4Addr, protocol, port| leads.claims(protocol, address, port))
}
