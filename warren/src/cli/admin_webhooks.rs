//! The flags of `warren admin webhooks`.

use clap::{ArgGroup, Subcommand};
use warren_proto::{DeliveryId, WebhookId};

use super::admin::AccountArg;

/// What becomes of a webhook's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Switch {
    /// They are sent
    On,
    /// They are not
    Off,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Webhooks {
    /// List an account's webhooks
    List(AccountArg),
    /// Make a webhook, and print the secret that its messages are signed with
    #[command(after_help = "Examples:\n  \
        warren admin webhooks create https://example.org/hook --event device --event policy.changed\n  \
        warren admin webhooks create https://example.org/hook --event device.online,device.offline")]
    Create {
        #[command(flatten)]
        account: AccountArg,
        /// Where messages go: an HTTPS URL on the internet, or what `serve --allow-webhook` allows
        url: String,
        /// What it is told of: an action of Activity or what it begins with, device.online,
        /// device.offline
        #[arg(long = "event", value_name = "EVENT", value_delimiter = ',', required = true)]
        events: Vec<String>,
    },
    /// Change a webhook
    #[command(group = ArgGroup::new("change").required(true).multiple(true)
        .args(["url", "events", "messages"]))]
    Set {
        #[command(flatten)]
        account: AccountArg,
        /// The webhook's id
        id: WebhookId,
        /// Where messages go
        #[arg(long)]
        url: Option<String>,
        /// What it is told of, instead of what it was
        #[arg(long = "event", value_name = "EVENT", value_delimiter = ',')]
        events: Option<Vec<String>>,
        /// Whether it gets messages
        #[arg(long, value_enum)]
        messages: Option<Switch>,
    },
    /// Make another secret; for a day messages are signed with both
    Rotate {
        #[command(flatten)]
        account: AccountArg,
        /// The webhook's id
        id: WebhookId,
    },
    /// Send a message that means nothing
    Test {
        #[command(flatten)]
        account: AccountArg,
        /// The webhook's id
        id: WebhookId,
    },
    /// List the last messages, and what has become of them
    Log {
        #[command(flatten)]
        account: AccountArg,
        /// The webhook's id
        id: WebhookId,
    },
    /// Send a message again
    SendAgain {
        #[command(flatten)]
        account: AccountArg,
        /// The webhook's id
        id: WebhookId,
        /// The message's id, as `log` shows it
        message: DeliveryId,
    },
    /// Delete a webhook with its log
    Remove {
        #[command(flatten)]
        account: AccountArg,
        /// The webhook's id
        id: WebhookId,
    },
}
