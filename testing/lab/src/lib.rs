//! Namespaces, kernel NATs and a userspace wire around the real binary.
//!
//! A [`World`] is a small internet on one machine, made without root: the process re-executes itself in
//! user, network, mount and pid namespaces of its own ([`isolated`] for a test), and there builds hosts
//! (a network, mount and UTS namespace each), routers that translate addresses as RFC 4787 names it
//! ([`NatKind`]), and wires with delay, jitter and loss ([`Wire`]). Nothing outside is touched, and when
//! the first process of the world ends, by whatever signal, the kernel ends everything in it.
//!
//! | module | what |
//! | --- | --- |
//! | [`isolate`] | entering the namespaces; saying why where the system forbids it |
//! | [`world`], [`host`], [`process`] | the world, a machine in it, a program on that machine |
//! | [`segment`] | what a host is plugged into: the internet or a LAN; roaming |
//! | [`nat`] | routers and their nftables rules |
//! | [`wire`] | the line between two TAP devices |
//! | [`warren`] | the real program on the hosts: brokers, nodes, relay servers |
//! | [`demo`] | `warren demo` |
//! | [`wait`] | waiting on conditions with a deadline |

pub mod demo;
pub mod host;
pub mod isolate;
pub mod nat;
pub mod process;
pub mod segment;
pub mod wait;
pub mod warren;
pub mod wire;
pub mod world;

pub use host::{Host, HostCommand};
pub use isolate::isolated;
pub use nat::{NatKind, NatSpec, Router};
pub use process::Process;
pub use segment::{Link, Plug, Segment};
pub use wait::{wait_for, wait_until};
pub use wire::{Wire, WireSpec};
pub use world::World;
