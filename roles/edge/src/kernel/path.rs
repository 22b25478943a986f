//! Doing it, and undoing it.
//!
//! The order keeps doors shut: the table is in force before an interface forwards, and interfaces
//! forward no more before the table goes. What was changed is in the [`Ledger`] first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use warren_net::{
    Connection, Connections, Counter, Nftables, TableMark, forwards_packets, set_forwards_packets,
};

use super::bounds::{Shares, shares};
use super::ledger::Ledger;
use super::opening::{Opening, Translation};
use super::render::{LET_IN, REFUSED, REFUSED_PART, Surface, WENT_OUT, render, table_name};

/// How long `nft` may take.
const LIMIT: Duration = Duration::from_secs(20);

/// The mesh interface, unless somebody has named another.
const USUAL_MESH: &str = "warren0";

/// The switch of all interfaces: on, where another program has the host forward.
const ALL: &str = "all";

/// The edge's table, and what goes with it.
#[derive(Debug)]
pub struct KernelPath {
    folder: PathBuf,
    mesh: String,
    table: String,
    nftables: Nftables,
    ledger: Ledger,
    in_force: Option<InForce>,
    helpers: bool,
    /// Whether the kernel counts connections.
    counts: bool,
    /// What the counters of earlier tables had counted.
    earlier: BTreeMap<String, Counter>,
}

/// Undoes what a killed process has left behind, as `folder` says; touches nothing if that is nothing.
///
/// # Errors
///
/// As [`KernelPath::open`]; what can be undone is undone all the same.
pub fn clean_up(folder: &Path) -> Result<()> {
    if Ledger::is_absent(folder) {
        return Ok(());
    }
    KernelPath::open(folder, USUAL_MESH)?.close_now()
}

/// What tells whether somebody has touched the table.
#[derive(Debug)]
struct InForce {
    opening: Opening,
    generation: u32,
    mark: TableMark,
    lan: BTreeSet<String>,
    shares: Shares,
}

/// New connections that were refused.
#[derive(Debug, Clone, Copy, Default)]
pub struct Refused {
    /// To devices of the mesh that have too many, or begin too many.
    pub to_one: u64,
    /// To a part of the mesh that has too many together.
    pub to_part: u64,
    /// How many may be open; absent: nothing is.
    pub shares: Option<Shares>,
}

impl KernelPath {
    /// Undoes what a killed process has left behind, as `folder` says. Connections by what was open
    /// then go on if the first [`Self::apply`] opens it again.
    ///
    /// # Errors
    ///
    /// The kernel has no nftables, or no privilege.
    pub fn open(folder: &Path, mesh: &str) -> Result<Self> {
        let nftables = Nftables::open()?;
        let mut path = Self {
            folder: folder.to_owned(),
            mesh: mesh.to_owned(),
            table: table_name(mesh),
            nftables,
            ledger: Ledger::load(folder),
            in_force: None,
            helpers: true,
            counts: true,
            earlier: BTreeMap::new(),
        };
        path.take_back(&BTreeSet::new());
        // By its name too: the note of it may be damaged.
        let noted = path.ledger.table.take();
        for table in noted.into_iter().chain([path.table.clone()]) {
            path.nftables.delete_table(&table)?;
        }
        path.save_now()?;
        Ok(path)
    }

    /// Whether FTP's and SIP's second connections are helped.
    pub fn helps(&self) -> bool {
        self.helpers
    }

    /// Whether each device of the mesh is held to its share of connections.
    pub fn shares(&self) -> bool {
        self.counts
    }

    /// The generation of the host's ruleset, as it was seen last with the table in force.
    pub fn generation(&self) -> Option<u32> {
        self.in_force.as_ref().map(|in_force| in_force.generation)
    }

    /// The table's name.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// What is open.
    pub fn opening(&self) -> Option<&Opening> {
        self.in_force.as_ref().map(|in_force| &in_force.opening)
    }

    /// Puts `opening` in the place of what was open: all of it, or nothing changes. Connections that
    /// lead where they led go on, those too that lead where `held` says, which opens nothing new; the others
    /// are forgotten.
    ///
    /// # Errors
    ///
    /// There is no `nft`, it refuses, or no privilege.
    pub async fn apply(
        &mut self,
        opening: &Opening,
        held: &Opening,
        lan: &BTreeSet<String>,
    ) -> Result<()> {
        let held = self.ledger.opening.as_ref().map(|before| held.also_in(before));
        let kept = held.map_or_else(|| opening.clone(), |held| opening.with(&held));
        if kept.is_empty() {
            return self.close().await;
        }
        if forwards_packets(ALL).unwrap_or(false) {
            // The host forwards by itself now: that is another's to keep and to end.
            self.ledger.forwarding.clear();
        }
        let is_reopened = self.opening() != Some(opening);
        let mut forwarding: BTreeSet<String> = lan.clone();
        forwarding.insert(self.mesh.clone());
        for interface in &forwarding {
            if !self.ledger.forwarding.contains_key(interface)
                && !forwards_packets(interface).unwrap_or(true)
            {
                self.ledger.forwarding.insert(interface.clone(), false);
            }
        }
        self.ledger.table = Some(self.table.clone());
        self.save().await?;
        let counts = self.counts().ok();
        let shares = shares();
        self.replace(opening, lan, shares).await?;
        self.earlier = counts.unwrap_or_default();
        let generation = self.nftables.generation()?;
        let mark = self.nftables.mark(&self.table)?;
        let (opening, lan) = (opening.clone(), lan.clone());
        self.in_force = Some(InForce { opening, generation, mark, lan, shares });
        let before = self.ledger.opening.replace(kept.clone());
        if is_reopened || before.as_ref() != Some(&kept) {
            forget(before, Some(kept)).await?;
        }
        let saved = self.save().await;
        // What is closed is closed by now, whatever becomes of an interface that was just unplugged.
        let switched = self.ledger.forwarding.keys().filter(|i| forwarding.contains(*i));
        let failed = switched.filter_map(|i| set_forwards_packets(i, true).err()).next();
        self.take_back(&forwarding);
        self.save().await.and(saved)?;
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Closes everything, unless what is open is so in `wanted` too: what can't be replaced must not stay
    /// open for those from whom it was taken. Whether it has closed anything.
    ///
    /// # Errors
    ///
    /// As [`Self::close`].
    pub async fn revoke(&mut self, wanted: Option<&Opening>) -> Result<bool> {
        let covered = self.opening().zip(wanted).is_some_and(|(open, now)| now.covers(open));
        if covered || self.ledger.table.is_none() {
            return Ok(false);
        }
        self.close().await.map(|()| true)
    }

    /// Whether the interfaces are still as [`Self::apply`] left them, for targets that are reached by
    /// `lan`.
    pub fn is_fitting(&self, lan: &BTreeSet<String>) -> bool {
        let Some(in_force) = &self.in_force else { return true };
        let all = lan.iter().chain([&self.mesh]);
        let forward = |interface: &String| forwards_packets(interface).unwrap_or(true);
        let is_ours = !self.ledger.forwarding.is_empty();
        in_force.lan == *lan
            && in_force.shares == shares()
            && all.into_iter().all(forward)
            && !(is_ours && forwards_packets(ALL).unwrap_or(false))
    }

    async fn replace(
        &mut self,
        opening: &Opening,
        lan: &BTreeSet<String>,
        shares: Shares,
    ) -> Result<()> {
        let mut surface = Surface {
            table: self.table.clone(),
            mesh: self.mesh.clone(),
            switched_on: lan
                .iter()
                .filter(|interface| self.ledger.forwarding.contains_key(*interface))
                .cloned()
                .collect(),
            lan: lan.clone(),
            shares: None,
            helpers: false,
        };
        // What an optional part of the kernel does, is left out where it lacks that.
        let mut refused = None;
        for (helpers, counts) in [(true, true), (false, true), (true, false), (false, false)] {
            if (helpers && !self.helpers) || (counts && !self.counts) {
                continue;
            }
            (surface.helpers, surface.shares) = (helpers, counts.then_some(shares));
            match nft(&render(opening, &surface)).await {
                Ok(()) => {
                    if let Some(error) = refused {
                        tracing::info!(%error, helpers, counts, "the kernel has less than wanted");
                    }
                    (self.helpers, self.counts) = (helpers, counts);
                    return Ok(());
                }
                // The first says most: of the whole.
                Err(error) => refused = Some(refused.unwrap_or(error)),
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Whether another program has changed the table since [`Self::apply`].
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn is_touched(&mut self) -> Result<bool> {
        let Some(in_force) = &mut self.in_force else { return Ok(false) };
        let generation = self.nftables.generation()?;
        if generation == in_force.generation {
            return Ok(false);
        }
        if self.nftables.mark(&self.table)? != in_force.mark {
            // Connections that began meanwhile lead astray: they are looked at when it is made anew.
            self.in_force = None;
            return Ok(true);
        }
        in_force.generation = generation;
        Ok(false)
    }

    /// Packets and bytes by counter, since this process began.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn counts(&mut self) -> Result<BTreeMap<String, Counter>> {
        let mut counts = self.earlier.clone();
        if self.in_force.is_some() {
            for (name, counter) in self.nftables.counters(&self.table)? {
                let sum = counts.entry(name).or_default();
                sum.packets += counter.packets;
                sum.bytes += counter.bytes;
            }
        }
        Ok(counts)
    }

    /// Packets that were let in from the mesh, and how many of them have passed the host's own
    /// chains, since the table was made.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn passage(&mut self) -> Result<(u64, u64)> {
        if self.in_force.is_none() {
            return Ok((0, 0));
        }
        let let_in = self.nftables.counter(&self.table, LET_IN)?.packets;
        Ok((let_in, self.nftables.counter(&self.table, WENT_OUT)?.packets))
    }

    /// How many first packets were refused since the table was made.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn refused(&mut self) -> Result<Refused> {
        let Some(InForce { shares, .. }) = self.in_force else { return Ok(Refused::default()) };
        Ok(Refused {
            to_one: self.nftables.counter(&self.table, REFUSED)?.packets,
            to_part: self.nftables.counter(&self.table, REFUSED_PART)?.packets,
            shares: Some(shares),
        })
    }

    /// Closes everything, and leaves the host as it was.
    ///
    /// # Errors
    ///
    /// What the system says; what can be undone is undone all the same, the rest at the next start.
    pub async fn close(&mut self) -> Result<()> {
        let before = self.shut()?;
        forget(before, None).await?;
        self.save().await
    }

    /// As [`Self::close`], but the thread waits for it.
    fn close_now(&mut self) -> Result<()> {
        let before = self.shut()?;
        forget_connections(before.as_ref(), None);
        self.save_now()
    }

    /// Closes everything, but for the connections by what was open, which it returns.
    fn shut(&mut self) -> Result<Option<Opening>> {
        let counts = self.counts().ok();
        self.take_back(&BTreeSet::new());
        if let Some(table) = self.ledger.table.take() {
            let deleted = self.nftables.delete_table(&table);
            if let Err(error) = deleted {
                self.ledger.table = Some(table);
                return Err(error.into());
            }
        }
        if self.in_force.take().is_some() {
            self.earlier = counts.unwrap_or_default();
        }
        Ok(self.ledger.opening.take())
    }

    /// Writing to a card may take its time.
    async fn save(&self) -> Result<()> {
        let (ledger, folder) = (self.ledger.clone(), self.folder.clone());
        tokio::task::spawn_blocking(move || save(&ledger, &folder)).await?
    }

    fn save_now(&self) -> Result<()> {
        save(&self.ledger, &self.folder)
    }

    /// Sets interfaces back that don't have to forward.
    fn take_back(&mut self, needed: &BTreeSet<String>) {
        let host_forwards = forwards_packets(ALL).unwrap_or(false);
        self.ledger.forwarding.retain(|interface, before| {
            if host_forwards {
                // Somebody else has switched it on for all since: it isn't ours to take away.
                return false;
            }
            if needed.contains(interface) {
                return true;
            }
            // An interface that is gone has nothing to be set back.
            if let Err(error) = set_forwards_packets(interface, *before) {
                tracing::debug!(%error, interface, "not set back");
            }
            false
        });
    }
}

impl Drop for KernelPath {
    fn drop(&mut self) {
        if let Err(error) = self.close_now() {
            tracing::warn!(%error, "not all that the edge opened is closed");
        }
    }
}

fn save(ledger: &Ledger, folder: &Path) -> Result<()> {
    ledger.save(folder).with_context(|| format!("can't write to {}", folder.display()))
}

/// All tracked connections of the host: too many for the thread that carries the mesh.
async fn forget(before: Option<Opening>, now: Option<Opening>) -> Result<()> {
    let forgotten =
        tokio::task::spawn_blocking(move || forget_connections(before.as_ref(), now.as_ref()));
    Ok(forgotten.await?)
}

/// Forgets tracked connections that lead elsewhere now than they did, or should.
fn forget_connections(before: Option<&Opening>, now: Option<&Opening>) {
    if before.is_none() && now.is_none() {
        return;
    }
    let nothing = Opening::nothing(std::net::Ipv4Addr::UNSPECIFIED);
    let before = Translation::new(before.unwrap_or(&nothing));
    let now = Translation::new(now.unwrap_or(&nothing));
    let forgotten = Connections::open()
        .and_then(|mut connections| connections.forget(|c| is_stale(c, &before, &now)));
    match forgotten {
        Ok(0) => {}
        Ok(count) => tracing::debug!(count, "forgot connections that lead elsewhere now"),
        Err(error) => tracing::warn!(%error, "connections by closed forwards may go on"),
    }
}

/// Whether a tracked connection leads where it led before, but shouldn't any more, or isn't
/// translated although it should be.
fn is_stale(
    connection: &Connection,
    before: &Translation<&Opening>,
    now: &Translation<&Opening>,
) -> bool {
    let lead = |of: &Translation<&Opening>, tuple: &warren_net::Tuple| {
        of.target(tuple.protocol, tuple.destination, tuple.destination_port)
    };
    if let Some(master) = &connection.master {
        let led = lead(before, master);
        return led.is_some() && lead(now, master) != led;
    }
    let original = &connection.original;
    let leads = Some((connection.reply.source, connection.reply.source_port));
    let should = lead(now, original);
    let untranslated = leads == Some((original.destination, original.destination_port));
    should != leads && (lead(before, original) == leads || untranslated && should.is_some())
}

/// Has `nft` take a text, as one transaction.
async fn nft(text: &str) -> Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).kill_on_drop(true);
    command.env("PATH", super::search_path());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context(
        "`nft` can't be run: install the package nftables (`sudo apt-get install nftables`)",
    )?;
    let mut stdin = child.stdin.take().context("a piped standard input")?;
    let text = text.to_owned();
    let work = async {
        // A refusal closes the pipe early; what it says matters more than that.
        let _ = stdin.write_all(text.as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(LIMIT, work).await.context("`nft` doesn't end")??;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        let line = reason.lines().next().unwrap_or("no reason given");
        bail!("nftables refuses: {line}");
    }
    Ok(())
}
