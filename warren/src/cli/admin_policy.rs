//! The flags of `warren admin policy` and `warren admin why`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::admin::AccountArg;

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Print the policy's text
    Show(AccountArg),
    /// Change the policy in an editor ($VISUAL, $EDITOR, else vi)
    Edit {
        #[command(flatten)]
        account: AccountArg,
        /// Don't ask before it is put in force
        #[arg(long, short)]
        yes: bool,
    },
    /// Put a text in force, if it has no error and its tests hold
    #[command(after_help = "Examples:\n  \
        warren admin policy show > policy.toml\n  \
        warren admin policy set policy.toml\n  \
        warren admin policy show --json   (says the version)\n  \
        warren admin policy set policy.toml --if-version 3")]
    Set {
        #[command(flatten)]
        account: AccountArg,
        /// File with the text; `-`: standard input
        file: PathBuf,
        /// Only in place of this version, so that nobody else's change is lost
        #[arg(long, value_name = "N")]
        if_version: Option<u64>,
    },
    /// Say what is wrong with a text, whether its tests hold, and who would gain or lose access
    Check {
        #[command(flatten)]
        account: AccountArg,
        /// File with the text; `-`: standard input
        file: PathBuf,
    },
}

/// Why two devices do or don't talk.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    warren admin why laptop nas\n  \
    warren admin why laptop nas 22\n  \
    warren admin why laptop nas udp:53")]
pub(crate) struct Why {
    #[command(flatten)]
    pub(crate) account: AccountArg,
    /// The device that asks
    pub(crate) from: String,
    /// The device that is asked
    pub(crate) to: String,
    /// Where: 22 (TCP), tcp:22, udp:53, icmp
    pub(crate) port: Option<String>,
}
