//! The flags of `warren admin relays`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use warren_proto::DeviceName;

use super::values::parse_name;

/// Whose relays a command is about.
#[derive(Debug, Args)]
pub(crate) struct Owner {
    /// The account
    #[arg(long, value_name = "NAME", default_value = "home")]
    account: String,
    /// The relays that are offered to all accounts, instead of an account's
    #[arg(long, conflicts_with = "account")]
    operator: bool,
}

impl Owner {
    /// The account, or `None` for the operator's.
    pub(crate) fn account(&self) -> Option<&str> {
        (!self.operator).then_some(self.account.as_str())
    }
}

/// A secret, given or in a file.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("given").required(true).args(["secret", "secret_file", "password", "password_file"]))]
pub(crate) struct TurnSecret {
    /// The secret that the server shares (coturn's static-auth-secret): a credential for each device
    #[arg(long, value_name = "SECRET", hide_env_values = true, conflicts_with = "username")]
    pub(crate) secret: Option<String>,
    /// File with that secret
    #[arg(long, value_name = "FILE", conflicts_with = "username")]
    pub(crate) secret_file: Option<PathBuf>,
    /// The user that all devices are, where the server has a list of users
    #[arg(long, value_name = "NAME", requires = "given")]
    pub(crate) username: Option<String>,
    /// That user's password
    #[arg(long, value_name = "PASSWORD", hide_env_values = true, requires = "username")]
    pub(crate) password: Option<String>,
    /// File with that password
    #[arg(long, value_name = "FILE", requires = "username")]
    pub(crate) password_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Relays {
    /// List the relays that an account's devices use or could use, in order of preference
    List(Owner),
    /// Show a relay, and what speaks against it
    Show {
        #[command(flatten)]
        owner: Owner,
        /// The relay's or device's name
        name: String,
    },
    /// Make a relay server's token; on its machine: warren relay --broker URL --token-file FILE
    #[command(after_help = "Examples:\n  \
        warren admin relays create frankfurt\n  \
        warren admin relays create frankfurt --operator    (for all accounts)")]
    Create {
        #[command(flatten)]
        owner: Owner,
        /// A name for it
        #[arg(value_parser = parse_name)]
        name: DeviceName,
    },
    /// Use somebody's TURN server
    #[command(after_help = "Examples:\n  \
        warren admin relays add-turn turn:turn.example.org --secret-file secret\n  \
        warren admin relays add-turn turns:turn.example.org:443 --username me --password-file pw")]
    AddTurn {
        #[command(flatten)]
        owner: Owner,
        /// turn:HOST or turn:HOST:PORT (with ?transport=tcp for TCP), or turns:HOST:PORT for TLS
        url: String,
        /// A name for it [default: its host's]
        #[arg(long, value_name = "NAME", value_parser = parse_name)]
        name: Option<DeviceName>,
        #[command(flatten)]
        secret: TurnSecret,
    },
    /// Name the connection relays of an account, in order of preference
    #[command(group = ArgGroup::new("list").required(true).args(["names", "default"]))]
    #[command(after_help = "The first relay that both sides reach is used. Names joined by = are \
        equal: the one with the shortest way is used.\n\nExamples:\n  \
        warren admin relays set office\n  \
        warren admin relays set office frankfurt=paris broker")]
    Set {
        /// The account
        #[arg(long, value_name = "NAME", default_value = "home")]
        account: String,
        /// Devices and relays
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// Name none: the account's relay servers are used, then the operator's, then the broker
        #[arg(long)]
        default: bool,
    },
    /// Give a relay a new secret; credentials made with the old one are good until they end
    Rotate {
        #[command(flatten)]
        owner: Owner,
        /// The relay's name
        name: String,
    },
    /// Remove a relay: a relay server's token is void at once, a device stays a device
    Remove {
        #[command(flatten)]
        owner: Owner,
        /// The relay's name
        name: String,
        /// Don't ask
        #[arg(long, short)]
        yes: bool,
    },
}
