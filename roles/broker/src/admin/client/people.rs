use bytes::Bytes;
use http::Method;
use tokio::io::AsyncWrite;
use warren_coord::Role;
use warren_proto::ApiTokenId;

use super::{Client, Error, account_path, escape, request, whole};
use crate::admin::{
    ActivityPage, ActivityQuery, ApiToken, ApiTokenCreated, ChainState, ExportQuery,
    InvitationCreated, Link, MailTest, Membership, NewApiToken, NewInvitation, NewPasswordLink,
    NewUser, User, UserChange, UserCreated,
};

/// Whose API tokens: those of an account, or (`None`) the operators'.
type Reach<'a> = Option<&'a str>;

impl Client {
    /// API tokens, the oldest first.
    pub async fn tokens(&self, reach: Reach<'_>) -> Result<Vec<ApiToken>, Error> {
        self.list(&tokens_path(reach)).await
    }

    /// Makes an API token.
    pub async fn create_token(
        &self,
        reach: Reach<'_>,
        new: &NewApiToken,
    ) -> Result<ApiTokenCreated, Error> {
        self.send(Method::POST, &tokens_path(reach), Some(new)).await
    }

    /// Deletes an API token; it is refused at once.
    pub async fn remove_token(&self, reach: Reach<'_>, token: ApiTokenId) -> Result<(), Error> {
        self.delete(&format!("{}/{token}", tokens_path(reach))).await
    }

    /// All users, by e-mail address.
    pub async fn users(&self) -> Result<Vec<User>, Error> {
        self.list("/api/v1/users").await
    }

    /// One user, by e-mail address or id.
    pub async fn user(&self, user: &str) -> Result<User, Error> {
        self.get(&user_path(user)).await
    }

    /// Creates a user; the answer has the link by which he sets his password.
    pub async fn create_user(&self, new: &NewUser) -> Result<UserCreated, Error> {
        self.send(Method::POST, "/api/v1/users", Some(new)).await
    }

    /// Changes, suspends or resumes a user, or makes him an operator.
    pub async fn change_user(&self, user: &str, change: &UserChange) -> Result<User, Error> {
        self.send(Method::PATCH, &user_path(user), Some(change)).await
    }

    /// Has the broker send a mail, to see whether it works.
    pub async fn test_mail(&self, test: &MailTest) -> Result<MailTest, Error> {
        self.send(Method::POST, "/api/v1/mail/test", Some(test)).await
    }

    /// Removes a user with all that is his.
    pub async fn remove_user(&self, user: &str) -> Result<(), Error> {
        self.delete(&user_path(user)).await
    }

    /// Makes a link by which a user sets a new password.
    pub async fn password_link(&self, user: &str, new: NewPasswordLink) -> Result<Link, Error> {
        let path = format!("{}/password-link", user_path(user));
        self.send(Method::POST, &path, Some(&new)).await
    }

    /// The people of an account, by e-mail address.
    pub async fn members(&self, account: &str) -> Result<Vec<User>, Error> {
        self.list(&format!("{}/members", account_path(account))).await
    }

    /// Makes a user something in an account.
    pub async fn set_role(&self, account: &str, user: &str, role: Role) -> Result<User, Error> {
        let membership = Membership { role };
        self.send(Method::PUT, &member_path(account, user), Some(&membership)).await
    }

    /// Takes a user out of an account.
    pub async fn remove_member(&self, account: &str, user: &str) -> Result<(), Error> {
        self.delete(&member_path(account, user)).await
    }

    /// Invites somebody to an account.
    pub async fn invite(
        &self,
        account: &str,
        new: &NewInvitation,
    ) -> Result<InvitationCreated, Error> {
        let path = format!("{}/invitations", account_path(account));
        self.send(Method::POST, &path, Some(new)).await
    }

    /// A page of Activity, the newest entry first.
    pub async fn activity(&self, query: &ActivityQuery) -> Result<ActivityPage, Error> {
        let limit = query.limit.map(|limit| limit.to_string());
        let mut text = export_query(&query.clone().into());
        for (name, value) in [("cursor", query.cursor.as_deref()), ("limit", limit.as_deref())] {
            text.extend(value.map(|value| format!("{name}={}", escape(value))));
        }
        self.get(&format!("/api/v1/activity?{}", text.join("&"))).await
    }

    /// Writes all entries of Activity that fit, in the order of their chains: as JSON lines or as CSV.
    /// Says how many bytes that are.
    ///
    /// # Errors
    /// Those of [`Error`]; then what was written is not all.
    pub async fn export_activity(
        &self,
        query: &ExportQuery,
        as_csv: bool,
        target: &mut (impl AsyncWrite + Unpin),
    ) -> Result<u64, Error> {
        let file = if as_csv { "activity.csv" } else { "activity.jsonl" };
        let path = format!("/api/v1/{file}?{}", export_query(query).join("&"));
        let request = request(Method::GET, &path, whole(Bytes::new()))?;
        self.stream(request, target, |error| Error::Broken(error.to_string())).await
    }

    /// Checks the chains of Activity.
    pub async fn activity_chains(&self) -> Result<Vec<ChainState>, Error> {
        self.get("/api/v1/activity/chains").await
    }
}

fn user_path(user: &str) -> String {
    format!("/api/v1/users/{}", escape(user))
}

fn member_path(account: &str, user: &str) -> String {
    format!("{}/members/{}", account_path(account), escape(user))
}

fn tokens_path(reach: Reach<'_>) -> String {
    match reach {
        Some(account) => format!("{}/tokens", account_path(account)),
        None => "/api/v1/tokens".to_owned(),
    }
}

fn export_query(query: &ExportQuery) -> Vec<String> {
    let [since, until] = [query.since, query.until].map(|at| at.map(|at| at.to_string()));
    let parts = [
        ("account", query.account.as_deref()),
        ("actor", query.actor.as_deref()),
        ("action", query.action.as_deref()),
        ("subject", query.subject.as_deref()),
        ("since", since.as_deref()),
        ("until", until.as_deref()),
    ];
    let given = parts.iter().filter_map(|(name, value)| Some((name, (*value)?)));
    given.map(|(name, value)| format!("{name}={}", escape(value))).collect()
}
