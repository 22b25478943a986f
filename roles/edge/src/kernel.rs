//! The way of a packet from the mesh to the LAN and back: through the kernel alone, by one nftables
//! table of ours. Nothing else of the host's packet filter is touched.
//!
//! | module | what |
//! | --- | --- |
//! | [`opening`] | what is open, with every address decided; which packet leads where (pure) |
//! | [`resolve`] | from the broker's duty and what this host sees to what can be opened (pure) |
//! | [`bounds`] | what one device of the mesh may have the kernel keep |
//! | [`render`] | the table's text (pure) |
//! | [`ledger`] | what was changed on the host, on disk before it is changed |
//! | [`path`] | doing it, and undoing it |
//! | [`obstacles`] | what of the host's own stands in the way |

pub mod bounds;
pub mod ledger;
pub mod obstacles;
pub mod opening;
pub mod path;
pub mod render;
pub mod resolve;

/// Where `nft` is looked for: on some systems not where daemons look.
fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin:/usr/bin:/bin")
}
