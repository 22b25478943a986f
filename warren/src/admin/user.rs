use warren_broker::admin::{
    Client, Link, NewInvitation, NewPasswordLink, NewUser, Role, User, UserChange,
};

use crate::cli::values::Expiry;
use crate::cli::{RoleChange, Users};
use crate::output::{self, say};

pub(crate) async fn run(client: &Client, command: Users, json: bool) -> anyhow::Result<()> {
    match command {
        Users::List { account: None } => super::show(client.users(), json, |it| list(it)).await,
        Users::List { account: Some(account) } => {
            super::show(client.members(&account), json, |it| list(it)).await
        }
        Users::Show { user } => super::show(client.user(&user), json, one).await,
        Users::Create { email, name, operator } => {
            let new = NewUser { email, name, operator };
            super::show(client.create_user(&new), json, |created| {
                one(&created.user);
                say!(
                    "He sets his password here, once, by {}:\n\n  {}",
                    created.expires,
                    created.link
                );
            })
            .await
        }
        Users::Invite { account, email, role, expires, mail } => {
            invite(
                client,
                &account.account,
                NewInvitation { role, email, expires_in: seconds(expires), mail },
                json,
            )
            .await
        }
        Users::SetRole { account, user, role } => match role {
            RoleChange::To(role) => {
                super::show(client.set_role(&account.account, &user, role), json, one).await
            }
            RoleChange::Leave => {
                client.remove_member(&account.account, &user).await?;
                output::done(
                    json,
                    &format!("{user} is in the account {} no more.", account.account),
                )
            }
        },
        Users::Set { user, email, name, operator } => {
            let change = UserChange { email, name, operator, suspended: None };
            super::show(client.change_user(&user, &change), json, one).await
        }
        Users::Suspend { user } => suspend(client, &user, true, json).await,
        Users::Resume { user } => suspend(client, &user, false, json).await,
        Users::Remove { user, yes } => {
            let found = client.user(&user).await?;
            let question = format!(
                "Remove the user {} with his memberships and API tokens? He is signed out at once.",
                found.email
            );
            super::confirm(&question, yes)?;
            client.remove_user(&user).await?;
            output::done(json, &format!("{} is removed.", found.email))
        }
        Users::ResetPassword { user, second_factor } => {
            let link = client.password_link(&user, NewPasswordLink { second_factor });
            super::show(link, json, |Link { link, expires }| {
                say!("He sets a new password here, once, by {expires}:\n\n  {link}");
            })
            .await
        }
    }
}

async fn invite(
    client: &Client,
    account: &str,
    new: NewInvitation,
    json: bool,
) -> anyhow::Result<()> {
    super::show(client.invite(account, &new), json, |created| {
        say!("Good for one {}, by {}:\n\n  {}", new.role, created.expires, created.link);
        match (new.mail, created.mailed) {
            (true, true) => say!("\nA mail with it is on its way."),
            (true, false) => say!("\nIt is not mailed, as too many mails wait: hand it over."),
            (false, _) => {}
        }
    })
    .await
}

/// `never` is for the broker to refuse: it says what is possible.
fn seconds(expires: Expiry) -> Option<u64> {
    match expires {
        Expiry::Never => Some(u64::MAX),
        Expiry::After(duration) => Some(duration.as_secs()),
    }
}

async fn suspend(client: &Client, user: &str, suspended: bool, json: bool) -> anyhow::Result<()> {
    let change = UserChange { suspended: Some(suspended), ..UserChange::default() };
    super::show(client.change_user(user, &change), json, one).await
}

fn state(user: &User) -> &'static str {
    match (user.suspended, user.has_password) {
        (true, _) => "suspended",
        (false, true) => "active",
        (false, false) => "no password yet",
    }
}

fn accounts(user: &User) -> String {
    let roles = user.accounts.iter().map(|(account, role)| format!("{account} ({role})"));
    let operator = user.operator.then(|| "broker (operator)".to_owned());
    operator.into_iter().chain(roles).collect::<Vec<_>>().join(", ")
}

fn list(users: &[User]) {
    let mut table =
        output::table(&["USER", "NAME", "STATE", "2ND FACTOR", "ACCOUNTS", "LAST SEEN"]);
    for user in users {
        table.add_row([
            user.email.to_string(),
            user.name.clone(),
            state(user).to_owned(),
            if user.has_second_factor { "yes" } else { "no" }.to_owned(),
            accounts(user),
            user.last_seen.map_or_else(|| "never".to_owned(), |at| at.to_string()),
        ]);
    }
    output::print_table(&table);
}

fn one(user: &User) {
    say!("{}  {}", user.email, state(user));
    say!("  id             {}", user.id);
    say!("  name           {}", user.name);
    say!("  operator       {}", if user.operator { "yes" } else { "no" });
    say!("  second factor  {}", if user.has_second_factor { "yes" } else { "no" });
    for (account, role) in &user.accounts {
        let role: &Role = role;
        say!("  account        {account} ({role})");
    }
    say!("  signed in      in {} browsers", user.sessions);
    say!("  created        {}", user.created);
}
