use warren_broker::admin::{
    Client, Delivery, NewWebhook, Webhook, WebhookChange, WebhookCreated, WebhookOff,
};

use crate::cli::{Switch, Webhooks};
use crate::output::{self, say};

pub(crate) async fn run(client: &Client, command: Webhooks, json: bool) -> anyhow::Result<()> {
    match command {
        Webhooks::List(account) => {
            super::show(client.webhooks(&account.account), json, |webhooks| list(webhooks)).await
        }
        Webhooks::Create { account, url, events } => {
            let new = NewWebhook { url, events: events.into_iter().collect() };
            super::show(client.create_webhook(&account.account, &new), json, secret).await
        }
        Webhooks::Set { account, id, url, events, messages } => {
            let change = WebhookChange {
                url,
                events: events.map(|events| events.into_iter().collect()),
                on: messages.map(|messages| messages == Switch::On),
            };
            let changed = client.change_webhook(&account.account, id, &change);
            super::show(changed, json, |webhook| list(std::slice::from_ref(webhook))).await
        }
        Webhooks::Rotate { account, id } => {
            super::show(client.rotate_webhook(&account.account, id), json, secret).await
        }
        Webhooks::Test { account, id } => {
            let sent = client.test_webhook(&account.account, id);
            super::show(sent, json, |webhook| {
                say!("On its way to {}: `warren admin webhooks log {id}` tells.", webhook.url);
            })
            .await
        }
        Webhooks::Log { account, id } => {
            super::show(client.deliveries(&account.account, id), json, |all| log(all)).await
        }
        Webhooks::SendAgain { account, id, message } => {
            client.send_again(&account.account, id, message).await?;
            output::done(json, "On its way again.")
        }
        Webhooks::Remove { account, id } => {
            client.remove_webhook(&account.account, id).await?;
            output::done(json, "Deleted, with its log.")
        }
    }
}

fn secret(created: &WebhookCreated) {
    say!("Webhook {}", created.id);
    say!("Secret, shown this once: {}", created.secret);
}

fn state(webhook: &Webhook) -> &'static str {
    match (webhook.off, webhook.failing_since) {
        (Some(WebhookOff::ByHand), _) => "off",
        (Some(WebhookOff::Failing), _) => "switched off: nothing has arrived for 5 days",
        (None, Some(_)) => "failing",
        (None, None) => "on",
    }
}

fn list(webhooks: &[Webhook]) {
    let mut table = output::table(&["ID", "URL", "EVENTS", "STATE"]);
    for webhook in webhooks {
        table.add_row([
            webhook.id.to_string(),
            webhook.url.clone(),
            webhook.events.iter().cloned().collect::<Vec<_>>().join(", "),
            state(webhook).to_owned(),
        ]);
    }
    output::print_table(&table);
}

fn log(deliveries: &[Delivery]) {
    let mut table = output::table(&["ID", "EVENT", "MADE", "STATE", "ANSWER"]);
    for it in deliveries {
        let state = match (it.arrived, it.due) {
            (true, _) => "arrived".to_owned(),
            (false, Some(due)) => format!("tried {} times, next {due}", it.attempts),
            (false, None) => "given up".to_owned(),
        };
        let status = it.status.map(|status| status.to_string()).unwrap_or_default();
        let error = it.error.clone().unwrap_or(status);
        table.add_row([it.id.to_string(), it.event.clone(), it.created.to_string(), state, error]);
    }
    output::print_table(&table);
}
