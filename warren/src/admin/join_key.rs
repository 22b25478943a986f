use anyhow::Context as _;
use warren_broker::admin::{Client, JoinKey, JoinKeyStatus, NewJoinKey};

use crate::cli::JoinKeys;
use crate::cli::values::Expiry;
use crate::output::{self, say};

pub(crate) async fn run(client: &Client, command: JoinKeys, json: bool) -> anyhow::Result<()> {
    match command {
        JoinKeys::List(account) => {
            super::show(client.join_keys(&account.account), json, |keys| list(keys)).await
        }
        JoinKeys::Show { account, id } => {
            let keys = client.join_keys(&account.account).await?;
            let key = keys.iter().find(|key| key.id == id).with_context(|| {
                format!("there is no join key {id}; `warren admin join-keys list` shows them")
            })?;
            if json {
                return output::json(key);
            }
            one(key);
            Ok(())
        }
        JoinKeys::Create { account, reusable, ephemeral, approved, expires, tags } => {
            let new = NewJoinKey {
                reusable,
                ephemeral,
                expires_in: match expires {
                    Expiry::Never => None,
                    Expiry::After(duration) => Some(duration.as_secs()),
                },
                tags: tags.into_iter().collect(),
                approves: approved,
            };
            let created = client.create_join_key(&account.account, &new);
            super::show(created, json, |created| say!("{}", created.link)).await
        }
        JoinKeys::Remove { account, id } => {
            client.remove_join_key(&account.account, id).await?;
            output::done(json, "Removed. Devices that joined by it stay.")
        }
    }
}

/// How many devices may join by it, and how long they stay.
fn kind(key: &JoinKey) -> String {
    let times = if key.reusable { "reusable" } else { "once" };
    let ephemeral = if key.ephemeral { ", ephemeral" } else { "" };
    let approved = if key.approves { ", approved" } else { "" };
    format!("{times}{ephemeral}{approved}")
}

fn expires(key: &JoinKey) -> String {
    key.expires.map_or_else(|| "never".to_owned(), |time| time.to_string())
}

fn tags(key: &JoinKey) -> String {
    key.tags.iter().cloned().collect::<Vec<_>>().join(", ")
}

fn one(key: &JoinKey) {
    say!("{}  {}", key.id, status(key.status));
    say!("  use      {}", kind(key));
    say!("  created  {}", key.created);
    say!("  expires  {}", expires(key));
    let last = key.last_used.map(|time| format!(", last {time}")).unwrap_or_default();
    say!("  joined   {} devices{last}", key.uses);
    if !key.tags.is_empty() {
        say!("  tags     {}", tags(key));
    }
}

fn status(status: JoinKeyStatus) -> &'static str {
    match status {
        JoinKeyStatus::Usable => "usable",
        JoinKeyStatus::Used => "used",
        JoinKeyStatus::Expired => "expired",
    }
}

fn list(keys: &[JoinKey]) {
    let mut table = output::table(&["ID", "STATUS", "USE", "EXPIRES", "TAGS"]);
    for key in keys {
        table.add_row([
            key.id.to_string(),
            status(key.status).to_owned(),
            kind(key),
            expires(key),
            tags(key),
        ]);
    }
    output::print_table(&table);
}
