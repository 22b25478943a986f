//! The flags of `warren admin edges`.

use clap::Subcommand;

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
}
