//! Somebody with a browser of sorts: keeps cookies, sends the forms that pages have.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt as _;

use crate::common::TestBroker;
use crate::common::client::Client;

pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// A page, or what came in place of one.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Page {
    pub(crate) fn location(&self) -> &str {
        self.headers.get("location").map_or("", |value| value.to_str().unwrap())
    }

    /// The token of the form that is sent to `action`.
    pub(crate) fn token(&self, action: &str) -> Option<String> {
        let form =
            self.text.split("<form ").find(|it| it.contains(&format!("action=\"{action}\"")))?;
        self.after(form, "name=\"csrf\" value=\"")
    }

    /// What stands in the page between `before` and the next quote.
    pub(crate) fn value(&self, before: &str) -> Option<String> {
        self.after(&self.text, before)
    }

    fn after(&self, text: &str, before: &str) -> Option<String> {
        let (_, rest) = text.split_once(before)?;
        Some(rest.split('"').next()?.to_owned())
    }
}

/// A browser of sorts.
#[derive(Clone)]
pub(crate) struct Person {
    client: Client,
    pub(crate) cookies: BTreeMap<String, String>,
}

impl Person {
    /// Nobody yet.
    pub(crate) async fn stranger(broker: &TestBroker) -> Self {
        let link = broker.reusable("home").await;
        Self { client: Client::connect(&link).await.unwrap(), cookies: BTreeMap::new() }
    }

    /// The broker's first operator, owner of `home`.
    pub(crate) async fn operator(broker: &TestBroker) -> Self {
        let mut person = Self::stranger(broker).await;
        let link = broker.set_up_link.clone().unwrap();
        let (_, secret) = link.split_once('#').unwrap();
        let asked = person.get("/set-up").await;
        let form = person.submit(&asked, "/set-up", &[("secret", secret)]).await;
        let fields = [
            ("secret", secret),
            ("name", "Ada Lovelace"),
            ("email", "ada@example.org"),
            ("password", PASSWORD),
        ];
        let done = person.submit(&form, "/set-up/operator", &fields).await;
        assert_eq!(done.status, StatusCode::SEE_OTHER, "{}", done.text);
        person
    }

    /// Somebody whom `host` invites to `account`, as `role`.
    pub(crate) async fn invited(
        broker: &TestBroker,
        host: &mut Self,
        account: &str,
        role: &str,
        email: &str,
    ) -> Self {
        let users = format!("/a/{account}/users");
        let page = host.get(&users).await;
        let made = host.submit(&page, &users, &[("email", email), ("role", role)]).await;
        let link = made.value("data-copy=\"").unwrap();
        let (_, secret) = link.split_once('#').unwrap();
        let mut person = Self::stranger(broker).await;
        let asked = person.get("/invitation").await;
        let form = person.submit(&asked, "/invitation", &[("secret", secret)]).await;
        let fields =
            [("secret", secret), ("name", email), ("email", email), ("password", PASSWORD)];
        let done = person.submit(&form, "/invitation/new", &fields).await;
        assert_eq!(done.status, StatusCode::SEE_OTHER, "{}", done.text);
        person
    }

    pub(crate) async fn get(&mut self, path: &str) -> Page {
        self.send(Method::GET, path, &[("accept", "text/html".to_owned())], Bytes::new()).await
    }

    /// A page's status, and its length as it goes over the wire.
    pub(crate) async fn weigh(&mut self, path: &str) -> (StatusCode, usize) {
        let cookies: Vec<String> = self.cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let headers = [
            ("accept", "text/html".to_owned()),
            ("accept-encoding", "gzip".to_owned()),
            ("cookie", cookies.join("; ")),
        ];
        let response =
            self.client.request(Method::GET, path, &headers, Bytes::new()).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts.status, body.collect().await.unwrap().to_bytes().len())
    }

    /// Sends a form that a page has, as a browser does.
    pub(crate) async fn submit(
        &mut self,
        page: &Page,
        action: &str,
        fields: &[(&str, &str)],
    ) -> Page {
        let token =
            page.token(action).unwrap_or_else(|| panic!("no form to {action}: {}", page.text));
        let mut all = vec![("csrf", token.as_str())];
        all.extend(fields);
        self.post(action, &all, "same-origin").await
    }

    pub(crate) async fn post(&mut self, path: &str, fields: &[(&str, &str)], from: &str) -> Page {
        let body = serde_urlencoded::to_string(fields).unwrap();
        let headers = [
            ("content-type", "application/x-www-form-urlencoded".to_owned()),
            ("accept", "text/html".to_owned()),
            ("sec-fetch-site", from.to_owned()),
        ];
        self.send(Method::POST, path, &headers, body.into()).await
    }

    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Bytes,
    ) -> Page {
        let mut headers = headers.to_vec();
        if !self.cookies.is_empty() {
            let all: Vec<String> = self.cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
            headers.push(("cookie", all.join("; ")));
        }
        let response = self.client.request(method, path, &headers, body).await.unwrap();
        let (parts, body) = response.into_parts();
        for cookie in parts.headers.get_all("set-cookie") {
            let (pair, attributes) = cookie.to_str().unwrap().split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            match attributes.contains("Max-Age=0") {
                true => self.cookies.remove(name),
                false => self.cookies.insert(name.to_owned(), value.to_owned()),
            };
        }
        let text = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(text.to_vec()).unwrap();
        Page { status: parts.status, headers: parts.headers, text }
    }
}
