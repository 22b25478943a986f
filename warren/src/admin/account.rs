use warren_broker::admin::{Account, AccountChange, Client, NewAccount};

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
        Accounts::Set { name, device_approval, key_expiry, activity, max_devices, max_users } => {
            let change = AccountChange {
                device_approval,
                key_expiry_days: key_expiry.map(|it| it.0),
                activity_days: activity.map(|it| it.0),
                max_devices: max_devices.map(|it| it.0),
                max_users: max_users.map(|it| it.0),
                suspended: None,
            };
            super::show(client.change_account(&name, &change), json, one).await
        }
        Accounts::Suspend { name } => suspend(client, &name, true, json).await,
        Accounts::Resume { name } => suspend(client, &name, false, json).await,
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

async fn suspend(client: &Client, name: &str, suspended: bool, json: bool) -> anyhow::Result<()> {
    let change = AccountChange { suspended: Some(suspended), ..AccountChange::default() };
    super::show(client.change_account(name, &change), json, |account| {
        if suspended {
            say!(
                "{} is suspended: its devices have no mesh, its people are locked out.",
                account.name
            );
            say!("Next: warren admin accounts resume {}", account.name);
        } else {
            say!("{} goes on as it was.", account.name);
        }
    })
    .await
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
    let online = account.online;
    say!("  devices  {} of {} ({online} online)", account.devices, account.max_devices);
    if account.waiting > 0 {
        say!("  waiting  {} (`warren admin devices approve NAME`)", account.waiting);
    }
    if let Some(limit) = account.max_users {
        say!("  people   {limit} at most");
    }
    let approval = if account.device_approval { "an admin approves them" } else { "not asked for" };
    say!("  approval of new devices: {approval}");
    match account.key_expiry_days {
        Some(days) => say!("  devices expire after {days} days"),
        None => say!("  devices don't expire"),
    }
    match account.activity_days {
        Some(days) => say!("  activity is kept for {days} days"),
        None => say!("  activity is kept for ever"),
    }
    if account.suspended {
        say!("  ! suspended: `warren admin accounts resume {}`", account.name);
    }
}
