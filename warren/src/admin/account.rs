use warren_broker::admin::{Account, Client, NewAccount};

use crate::cli::Accounts;
use crate::output::{self, say};

pub(crate) async fn run(client: &Client, command: Accounts, json: bool) -> anyhow::Result<()> {
    match command {
        Accounts::List => super::show(client.accounts(), json, |accounts| list(accounts)).await,
        Accounts::Show { name } => super::show(client.account(&name), json, one).await,
        Accounts::Create { name, ipv4_range } => {
            let new = NewAccount { name, ipv4_range };
            super::show(client.create_account(&new), json, |account| {
                one(account);
                say!("Next: warren admin join-keys create --account {}", account.name);
            })
            .await
        }
        Accounts::Remove { name, yes } => {
            let account = client.account(&name).await?;
            let question = format!(
                "Remove the account {} with its {} devices? They are cut off at once.",
                account.name, account.devices
            );
            super::confirm(&question, yes)?;
            client.remove_account(&name).await?;
            output::done(json, "Removed.")
        }
    }
}

fn list(accounts: &[Account]) {
    let mut table = output::table(&["ACCOUNT", "IPV4", "IPV6", "DEVICES", "ONLINE"]);
    for account in accounts {
        table.add_row([
            account.name.to_string(),
            account.ipv4_range.to_string(),
            account.ipv6_range.to_string(),
            account.devices.to_string(),
            account.online.to_string(),
        ]);
    }
    output::print_table(&table);
}

fn one(account: &Account) {
    say!("{}", account.name);
    say!("  id       {}", account.id);
    say!("  IPv4     {}", account.ipv4_range);
    say!("  IPv6     {}", account.ipv6_range);
    say!("  devices  {} ({} online)", account.devices, account.online);
}
