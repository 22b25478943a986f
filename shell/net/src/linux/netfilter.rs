//! The kernel's packet filter as nfnetlink shows it: what stands in nftables, and the connections
//! that are tracked. Rules are written by `nft`; this reads, deletes and watches, which costs a
//! system call or two where a process would cost milliseconds.

mod connections;
mod message;
mod tables;

pub use connections::{Connection, Connections, Tuple};
pub use tables::{ChainPolicy, Counter, ForwardChain, Nftables, TableMark};
