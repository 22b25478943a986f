//! The flags of `warren admin edges`.

use clap::Subcommand;
use warren_proto::MacAddr;

use super::admin::AccountArg;

#[derive(Debug, Subcommand)]
pub(crate) enum Edges {
    /// List an account's edges
    List(AccountArg),
    /// Show what is set for an edge
    Show {
        #[command(flatten)]
        account: AccountArg,
        /// The device's name or id
        edge: String,
    },
    /// Have an edge wake a device of its LAN (Wake-on-LAN)
    Wake {
        #[command(flatten)]
        account: AccountArg,
        /// The edge's name or id
        edge: String,
        /// The device's card, as in 3c:52:82:01:02:03
        mac: MacAddr,
    },
    /// Ask a device to be an edge: its owner has the last word, unless he has left it to the account
    /// (`warren edge enable --when-asked`)
    Ask {
        #[command(flatten)]
        account: AccountArg,
        /// The device's name or id
        edge: String,
        /// Ask no more
        #[arg(long)]
        off: bool,
    },
}
