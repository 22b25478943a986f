use http::Method;
use warren_proto::{DeliveryId, WebhookId};

use super::{Client, Error, account_path};
use crate::admin::{Delivery, NewWebhook, Webhook, WebhookChange, WebhookCreated};

impl Client {
    /// An account's webhooks.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn webhooks(&self, account: &str) -> Result<Vec<Webhook>, Error> {
        self.list(&format!("{}/webhooks", account_path(account))).await
    }

    /// Makes a webhook.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn create_webhook(
        &self,
        account: &str,
        new: &NewWebhook,
    ) -> Result<WebhookCreated, Error> {
        self.send(Method::POST, &format!("{}/webhooks", account_path(account)), Some(new)).await
    }

    /// Changes a webhook.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn change_webhook(
        &self,
        account: &str,
        id: WebhookId,
        change: &WebhookChange,
    ) -> Result<Webhook, Error> {
        self.send(Method::PATCH, &webhook_path(account, id), Some(change)).await
    }

    /// Deletes a webhook with its log.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn remove_webhook(&self, account: &str, id: WebhookId) -> Result<(), Error> {
        self.delete(&webhook_path(account, id)).await
    }

    /// Gives a webhook another secret.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn rotate_webhook(
        &self,
        account: &str,
        id: WebhookId,
    ) -> Result<WebhookCreated, Error> {
        let path = format!("{}/rotate", webhook_path(account, id));
        self.send(Method::POST, &path, None::<&()>).await
    }

    /// Sends a webhook a message that means nothing.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn test_webhook(&self, account: &str, id: WebhookId) -> Result<Webhook, Error> {
        let path = format!("{}/test", webhook_path(account, id));
        self.send(Method::POST, &path, None::<&()>).await
    }

    /// The messages to a webhook, the newest first.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn deliveries(&self, account: &str, id: WebhookId) -> Result<Vec<Delivery>, Error> {
        self.list(&format!("{}/deliveries", webhook_path(account, id))).await
    }

    /// Sends a message again.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn send_again(
        &self,
        account: &str,
        id: WebhookId,
        delivery: DeliveryId,
    ) -> Result<Webhook, Error> {
        let path = format!("{}/deliveries/{delivery}/send-again", webhook_path(account, id));
        self.send(Method::POST, &path, None::<&()>).await
    }
}

fn webhook_path(account: &str, id: WebhookId) -> String {
    format!("{}/webhooks/{id}", account_path(account))
}
