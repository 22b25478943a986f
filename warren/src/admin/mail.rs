use warren_broker::admin::{Client, MailTest};

use crate::cli::Mail;
use crate::output;

pub(crate) async fn run(client: &Client, command: Mail, json: bool) -> anyhow::Result<()> {
    match command {
        Mail::Test { address } => {
            let sent = client.test_mail(&MailTest { to: address }).await?;
            output::done(json, &format!("The mail server has taken a mail to {}.", sent.to))
        }
    }
}
