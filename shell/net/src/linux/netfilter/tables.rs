//! What stands in nftables.

use std::io;

use super::message::{ACK, Attributes, DUMP, Nfnetlink, Request};
use crate::error::Error;

/// `NFNL_SUBSYS_NFTABLES`, in the upper byte of a message's type.
pub(super) const NFTABLES: u16 = 10 << 8;
const GET_TABLE: u16 = NFTABLES | 1;
const GET_CHAIN: u16 = NFTABLES | 4;
pub(super) const DELETE_TABLE: u16 = NFTABLES | 2;
const GET_RULE: u16 = NFTABLES | 7;
const GET_GENERATION: u16 = NFTABLES | 16;
const GET_OBJECT: u16 = NFTABLES | 19;
pub(super) const BATCH_BEGIN: u16 = 0x10;
pub(super) const BATCH_END: u16 = 0x11;

/// `NFPROTO_INET`: a table for both versions of IP.
pub(super) const INET: u8 = 1;
const FORWARD_HOOK: u32 = 2;
const OBJECT_COUNTER: u32 = 1;

/// The state of one table: two marks differ if anybody changed its rules in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableMark {
    /// Counts up with each table that is made; a table's rules count from one again.
    table: u64,
    rules: Vec<(String, u64)>,
}

impl TableMark {
    /// Whether rules stand in that chain of it.
    pub(crate) fn has_rules(&self, chain: &str) -> bool {
        self.rules.iter().any(|(of, _)| of == chain)
    }
}

/// A named counter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets so far.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a chain does with what no rule has judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainPolicy {
    /// Lets it go on.
    Accept,
    /// Drops it.
    Drop,
}

/// A chain that all forwarded packets run through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardChain {
    /// `ip`, `ip6` or `inet`.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// What becomes of what it doesn't judge.
    pub policy: ChainPolicy,
}

/// Questions to nftables, in the network namespace of the thread that opened it. A question is
/// answered at once.
#[derive(Debug)]
pub struct Nftables {
    pub(super) netlink: Nfnetlink,
}

impl Nftables {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// The kernel has no nfnetlink, or no privilege.
    pub fn open() -> Result<Self, Error> {
        let netlink = Nfnetlink::new().map_err(|error| Error::os("open nfnetlink", error))?;
        Ok(Self { netlink })
    }

    /// Changes whenever anybody has changed anything.
    ///
    /// # Errors
    ///
    /// The kernel has no nftables, or no privilege.
    pub fn generation(&mut self) -> Result<u32, Error> {
        self.netlink
            .list(
                || Request::new(GET_GENERATION, ACK, 0),
                |generation: &mut u32, _, attributes| {
                    *generation = attributes.be32(1).unwrap_or(*generation);
                },
            )
            .map_err(|error| Error::os("ask nftables for its generation", error))
    }

    /// The state of a table of family `inet`; of one that isn't there, an empty one.
    ///
    /// # Errors
    ///
    /// As [`Self::generation`].
    pub fn mark(&mut self, table: &str) -> Result<TableMark, Error> {
        let handle = self.handle(table)?;
        self.netlink
            .list(
                || Request::new(GET_RULE, DUMP, INET).text(1, table),
                |rules: &mut Vec<(String, u64)>, _, rule| {
                    // Kernels before 4.17 ignore the question's table.
                    if rule.text(1).as_deref() == Some(table)
                        && let (Some(chain), Some(handle)) = (rule.text(2), rule.be64(3))
                    {
                        rules.push((chain, handle));
                    }
                },
            )
            .map(|rules| TableMark { table: handle, rules })
            .map_err(|error| Error::os("list the rules of a table", error))
    }

    /// The names of the tables of family `inet`.
    ///
    /// # Errors
    ///
    /// As [`Self::generation`].
    pub(crate) fn tables(&mut self) -> Result<Vec<String>, Error> {
        self.netlink
            .list(
                || Request::new(GET_TABLE, DUMP, INET),
                |names: &mut Vec<String>, _, table| names.extend(table.text(1)),
            )
            .map_err(|error| Error::os("list the tables of nftables", error))
    }

    fn handle(&mut self, table: &str) -> Result<u64, Error> {
        self.netlink
            .list(
                || Request::new(GET_TABLE, DUMP, INET),
                |handle: &mut u64, _, found| {
                    if found.text(1).as_deref() == Some(table) {
                        *handle = found.be64(4).unwrap_or(*handle);
                    }
                },
            )
            .map_err(|error| Error::os("list the tables of nftables", error))
    }

    /// The named counters of a table of family `inet`.
    ///
    /// # Errors
    ///
    /// As [`Self::generation`].
    pub fn counters(&mut self, table: &str) -> Result<Vec<(String, Counter)>, Error> {
        self.netlink
            .list(
                || {
                    Request::new(GET_OBJECT, DUMP, INET)
                        .text(1, table)
                        .attribute(3, &OBJECT_COUNTER.to_be_bytes())
                },
                |counters: &mut Vec<(String, Counter)>, _, object| {
                    if object.text(1).as_deref() == Some(table) {
                        counters.extend(counter(object));
                    }
                },
            )
            .map_err(|error| Error::os("read the counters of a table", error))
    }

    /// One named counter.
    ///
    /// # Errors
    ///
    /// There is none of that name, or as [`Self::generation`].
    pub fn counter(&mut self, table: &str, name: &str) -> Result<Counter, Error> {
        self.netlink
            .list(
                || {
                    Request::new(GET_OBJECT, ACK, INET)
                        .text(1, table)
                        .text(2, name)
                        .attribute(3, &OBJECT_COUNTER.to_be_bytes())
                },
                |found: &mut Counter, _, object| {
                    if let Some((_, counter)) = counter(object) {
                        *found = counter;
                    }
                },
            )
            .map_err(|error| Error::os("read a counter", error))
    }

    /// All chains that forwarded packets run through.
    ///
    /// # Errors
    ///
    /// As [`Self::generation`].
    pub fn forward_chains(&mut self) -> Result<Vec<ForwardChain>, Error> {
        self.netlink
            .list(
                || Request::new(GET_CHAIN, DUMP, 0),
                |chains: &mut Vec<ForwardChain>, family, attributes| {
                    chains.extend(forward_chain(family, attributes));
                },
            )
            .map_err(|error| Error::os("list the chains of nftables", error))
    }

    /// Removes a table of family `inet`; whether there was one.
    ///
    /// # Errors
    ///
    /// As [`Self::generation`].
    pub fn delete_table(&mut self, table: &str) -> Result<bool, Error> {
        let frame = |kind| Request::new(kind, 0, 0).resource(NFTABLES >> 8);
        let deletion = Request::new(DELETE_TABLE, ACK, INET).text(1, table);
        let requests = [frame(BATCH_BEGIN), deletion, frame(BATCH_END)];
        match self.netlink.transact(requests, 1) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::os("delete a table of nftables", error)),
        }
    }
}

fn counter(object: Attributes<'_>) -> Option<(String, Counter)> {
    let name = object.text(2)?;
    let data = object.within(4)?;
    Some((name, Counter { bytes: data.be64(1)?, packets: data.be64(2)? }))
}

fn forward_chain(family: u8, chain: Attributes<'_>) -> Option<ForwardChain> {
    let family = match family {
        INET => "inet",
        2 => "ip",
        10 => "ip6",
        _ => return None,
    };
    let hook = chain.within(4)?;
    if hook.be32(1)? != FORWARD_HOOK {
        return None;
    }
    let policy = match chain.be32(5)? {
        0 => ChainPolicy::Drop,
        _ => ChainPolicy::Accept,
    };
    Some(ForwardChain { family, table: chain.text(1)?, chain: chain.text(3)?, policy })
}
