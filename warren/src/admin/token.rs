use warren_broker::admin::{ApiToken, Client, NewApiToken};

use crate::cli::values::Expiry;
use crate::cli::{ReachArg, Tokens};
use crate::output::{self, say};

pub(crate) async fn run(client: &Client, command: Tokens, json: bool) -> anyhow::Result<()> {
    match command {
        Tokens::List { reach } => {
            super::show(client.tokens(account(&reach)), json, |tokens| list(tokens)).await
        }
        Tokens::Create { reach, name, scopes, expires } => {
            let new = NewApiToken {
                name,
                scopes: scopes.into_iter().collect(),
                expires_in: match expires {
                    Expiry::Never => None,
                    Expiry::After(duration) => Some(duration.as_secs()),
                },
            };
            let created = client.create_token(account(&reach), &new);
            super::show(created, json, |created| say!("{}", created.token)).await
        }
        Tokens::Remove { reach, id } => {
            client.remove_token(account(&reach), id).await?;
            output::done(json, "Deleted. Programs that use it are refused.")
        }
    }
}

/// Whose tokens are meant; `None`: the operators'.
fn account(reach: &ReachArg) -> Option<&str> {
    reach.account.as_deref()
}

fn list(tokens: &[ApiToken]) {
    let mut table = output::table(&["ID", "NAME", "SCOPES", "USED", "EXPIRES"]);
    for token in tokens {
        let scopes: Vec<&str> = token.scopes.iter().map(|scope| scope.as_str()).collect();
        let never = || "never".to_owned();
        table.add_row([
            token.id.to_string(),
            token.name.clone(),
            scopes.join(", "),
            token.last_used.map_or_else(never, |at| at.to_string()),
            token.expires.map_or_else(never, |at| at.to_string()),
        ]);
    }
    output::print_table(&table);
}
