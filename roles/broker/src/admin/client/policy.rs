use http::header::IF_MATCH;
use http::{HeaderValue, Method};
use warren_coord::policy::Report;

use super::{Client, Error, account_path, broken, escape, problem, request, whole};
use crate::admin::{PolicyCheck, PolicySaved, PolicyText, Why, WhyQuery};

impl Client {
    /// An account's policy.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn policy(&self, account: &str) -> Result<PolicyText, Error> {
        self.get(&policy_path(account)).await
    }

    /// Says what is wrong with a text, and what it would change.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn check_policy(&self, account: &str, text: &str) -> Result<Report, Error> {
        let path = format!("{}/check", policy_path(account));
        self.send(Method::POST, &path, Some(&PolicyCheck { text: text.to_owned() })).await
    }

    /// Puts a text in force, in place of the one of that version, or of any.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses; with the code `conflict` if
    /// somebody else has changed the policy since.
    pub async fn set_policy(
        &self,
        account: &str,
        text: &str,
        base: Option<u64>,
    ) -> Result<PolicySaved, Error> {
        let content = PolicyCheck { text: text.to_owned() };
        let content = whole(serde_json::to_vec(&content).map_err(broken)?);
        let mut request = request(Method::PUT, &policy_path(account), content)?;
        if let Some(version) = base {
            let tag = HeaderValue::from_str(&format!("\"{version}\"")).map_err(broken)?;
            request.headers_mut().insert(IF_MATCH, tag);
        }
        let (status, body) = self.answer(request).await?;
        if !status.is_success() {
            return Err(problem(status, &body));
        }
        serde_json::from_slice(&body).map_err(broken)
    }

    /// Why two devices do or don't talk.
    ///
    /// # Errors
    /// Those of [`Error`]: the broker can't be asked, or refuses.
    pub async fn why(&self, account: &str, query: &WhyQuery) -> Result<Why, Error> {
        let mut path = format!(
            "{}/why?from={}&to={}",
            account_path(account),
            escape(&query.from),
            escape(&query.to)
        );
        if let Some(port) = &query.port {
            path.push_str("&port=");
            path.push_str(&escape(port));
        }
        self.get(&path).await
    }
}

fn policy_path(account: &str) -> String {
    format!("{}/policy", account_path(account))
}
