use anyhow::anyhow;
use warren_broker::admin::{Client, JoinKey, JoinKeyStatus, NewJoinKey};

use crate::cli::JoinKeys;
use crate::output::{self, say};

pub(crate) async fn run(client: &Client, command: JoinKeys, json: bool) -> anyhow::Result<()> {
    match command {
        JoinKeys::List(account) => {
            super::show(client.join_keys(&account.account), json, |keys| list(keys)).await
        }
        JoinKeys::Create { account, reusable, ephemeral, expires, tags } => {
            let new = NewJoinKey {
                reusable,
                ephemeral,
                expires_in: expires_in(&expires)?,
                tags: tags.into_iter().collect(),
            };
            let created = client.create_join_key(&account.account, &new);
            super::show(created, json, |created| say!("{}", created.link)).await
        }
        JoinKeys::Remove { account, id } => {
            client.remove_join_key(&account.account, id.parse()?).await?;
            output::done(json, "Removed. Devices that joined by it stay.")
        }
    }
}

fn expires_in(text: &str) -> anyhow::Result<Option<u64>> {
    if text == "never" {
        return Ok(None);
    }
    let duration =
        output::parse_duration(text).map_err(|text| anyhow!("--expires {text}, or `never`"))?;
    Ok(Some(duration.as_secs()))
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
        let mut kind = if key.reusable { "reusable" } else { "once" }.to_owned();
        if key.ephemeral {
            kind.push_str(", ephemeral");
        }
        table.add_row([
            key.id.to_string(),
            status(key.status).to_owned(),
            kind,
            key.expires.map_or_else(|| "never".to_owned(), |time| time.to_string()),
            key.tags.iter().cloned().collect::<Vec<_>>().join(", "),
        ]);
    }
    output::print_table(&table);
}
