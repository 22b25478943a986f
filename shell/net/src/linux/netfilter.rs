//! The kernel's packet filter by nfnetlink: what stands in nftables, the connections that are tracked, and
//! tables for what the host itself sends. An edge's rules are written by `nft`; here they are watched and
//! deleted, which costs a system call or two where a process would cost milliseconds.

mod connections;
mod message;
mod output;
mod tables;

pub use connections::{Connection, Connections, Tuple};
pub(super) use output::{OutputChain, OutputRule, Test, Verdict};
pub use tables::{ChainPolicy, Counter, ForwardChain, Nftables, TableMark};
