//! The flags of `warren admin users`, `warren admin tokens` and `warren admin audit`.

use clap::{Args, Subcommand};
use warren_broker::admin::{Email, Role, Scope, Time};
use warren_proto::ApiTokenId;

use super::admin::AccountArg;
use super::values::{Expiry, parse_expiry, parse_role_change, parse_token_id};

/// What becomes of somebody's role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RoleChange {
    /// He has this one.
    To(Role),
    /// He is in the account no more.
    Leave,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Users {
    /// List all users, or the people of one account
    List {
        /// The account whose people are listed
        #[arg(long, value_name = "NAME")]
        account: Option<String>,
    },
    /// Show a user
    Show {
        /// E-mail address or id
        user: String,
    },
    /// Create a user and print the one-time link by which he sets his password
    #[command(after_help = "Examples:\n  \
        warren admin users create ada@example.org --operator\n  \
        warren admin users set-role ada@example.org owner --account home")]
    Create {
        /// What he signs in with
        email: Email,
        /// What he is called (by default what stands before the @)
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        name: String,
        /// Make him an operator of the broker, with rights over all accounts
        #[arg(long)]
        operator: bool,
    },
    /// Invite somebody to an account and print the one-time link
    Invite {
        #[command(flatten)]
        account: AccountArg,
        /// The only one who may use the link [default: whoever has it]
        email: Option<Email>,
        /// The role that it gives: member, admin or owner
        #[arg(long, default_value = "member")]
        role: Role,
        /// How long it is good, 90d at most
        #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = parse_expiry)]
        expires: Expiry,
        /// Have the broker mail the link to that address
        #[arg(long, requires = "email")]
        mail: bool,
    },
    /// Make a user a member, admin or owner of an account, or take him out of it
    SetRole {
        #[command(flatten)]
        account: AccountArg,
        /// E-mail address or id
        user: String,
        /// member, admin, owner, or none
        #[arg(value_name = "ROLE", value_parser = parse_role_change)]
        role: RoleChange,
    },
    /// Change a user's address, name, or rights over the broker
    Set {
        /// E-mail address or id
        user: String,
        /// What he signs in with
        #[arg(long, value_name = "ADDRESS")]
        email: Option<Email>,
        /// What he is called
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Whether he is an operator of the broker
        #[arg(long, value_name = "true|false")]
        operator: Option<bool>,
    },
    /// Sign a user out everywhere, delete his API tokens and let him in no more
    Suspend {
        /// E-mail address or id
        user: String,
    },
    /// Let a suspended user in again
    Resume {
        /// E-mail address or id
        user: String,
    },
    /// Remove a user with his memberships, sessions and API tokens
    Remove {
        /// E-mail address or id
        user: String,
        /// Don't ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Print a one-time link by which a user sets a new password
    ResetPassword {
        /// E-mail address or id
        user: String,
        /// Take his second factor away, too: he has lost it
        #[arg(long)]
        second_factor: bool,
    },
}

/// What API tokens are about.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ReachArg {
    /// Those of this account
    #[arg(long, value_name = "NAME")]
    pub(crate) account: Option<String>,
    /// Those for the broker and all accounts
    #[arg(long)]
    pub(crate) operator: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tokens {
    /// List API tokens
    List {
        #[command(flatten)]
        reach: ReachArg,
    },
    /// Make an API token and print it
    #[command(after_help = "Examples:\n  \
        warren admin tokens create deploy --account home --scope join-keys:write\n  \
        warren admin tokens create prometheus --operator --scope broker:read")]
    Create {
        #[command(flatten)]
        reach: ReachArg,
        /// What it is called
        name: String,
        /// What it is good for, e.g. account:read; several by commas
        #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',', required = true)]
        scopes: Vec<Scope>,
        /// How long it is good: 90d, 12h, or never
        #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = parse_expiry)]
        expires: Expiry,
    },
    /// Delete an API token; programs that use it are refused at once
    Remove {
        #[command(flatten)]
        reach: ReachArg,
        /// Its id
        #[arg(value_parser = parse_token_id)]
        id: ApiTokenId,
    },
}

/// Which entries are wanted.
#[derive(Debug, Args)]
pub(crate) struct Wanted {
    /// Those that concern this account
    #[arg(long, value_name = "NAME")]
    pub(crate) account: Option<String>,
    /// Those of whoever has this name (an e-mail address, a device's name) or id
    #[arg(long, value_name = "NAME")]
    pub(crate) actor: Option<String>,
    /// Those whose action begins so, e.g. `device` or `device.renamed`
    #[arg(long, value_name = "ACTION")]
    pub(crate) action: Option<String>,
    /// Those about what has this name or id
    #[arg(long, value_name = "NAME")]
    pub(crate) subject: Option<String>,
    /// Not before this, e.g. 2026-11-21T05:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Time>,
    /// Before this
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Time>,
}

/// How Activity is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ExportFormat {
    /// One JSON object on each line; `verify` reads it
    Jsonl,
    /// Comma-separated values
    Csv,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// List who did what, the newest first
    List {
        #[command(flatten)]
        wanted: Wanted,
        /// How many entries at most
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
    },
    /// Check that nothing was changed or taken out, and print the newest hashes
    Verify {
        /// A file that `export` has written as JSON lines, instead of what the broker has
        file: Option<std::path::PathBuf>,
    },
    /// Print all entries in the order of their chains
    Export {
        #[command(flatten)]
        wanted: Wanted,
        /// How: `jsonl`, one JSON object on each line, or `csv` for spreadsheets
        #[arg(long, value_enum, default_value_t = ExportFormat::Jsonl)]
        format: ExportFormat,
    },
}
