//! Single sign-on by a real provider: who comes in, who doesn't, and who means ill.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tempfile::TempDir;
use warren_broker::OidcConfig;
use warren_broker::admin::UserChange;
use warren_browser::Browser;

use crate::common::{TestBroker, config, until};
use crate::person::{PASSWORD, Page, Person};
use crate::ports::free_port;
use crate::provider::{Provider, certify, oidc};

/// A broker, its provider, and its operator Ada.
struct Stage {
    folder: TempDir,
    broker: TestBroker,
    provider: Provider,
    ada: Person,
}

async fn stage(change: impl FnOnce(&mut OidcConfig)) -> Stage {
    let folder = tempfile::tempdir().unwrap();
    let (keys, port) = (certify(folder.path()), free_port());
    let mut config = config(&folder.path().join("data"));
    let mut oidc = oidc(folder.path(), port);
    change(&mut oidc);
    config.oidc = Some(oidc);
    let broker = TestBroker::start_with(config).await;
    let provider = Provider::start(folder.path(), &keys, port, &broker.url);
    let ada = Person::operator(&broker).await;
    Stage { folder, broker, provider, ada }
}

impl Stage {
    async fn stop(self) {
        drop(self.provider);
        self.broker.stop().await;
        drop(self.folder);
    }

    /// Where a form of ours leads to at the provider.
    async fn leave(&self, person: &mut Person, fields: &[(&str, &str)]) -> String {
        let page = person.get("/sign-in").await;
        let left = person.submit(&page, "/sign-in/sso", fields).await;
        leads_to(&left)
    }

    /// Goes to the provider and comes back.
    async fn arrive(&mut self, person: &mut Person, login: &str, next: &str) -> Page {
        let url = self.leave(person, &[("next", next)]).await;
        let back = self.provider.visit(&url, Some(login));
        person.get(path_of(&back)).await
    }

    async fn stranger(&self) -> Person {
        Person::stranger(&self.broker).await
    }

    /// Somebody whom the operator has made, with no password.
    async fn user(&self, email: &str) -> String {
        let new = warren_broker::admin::NewUser {
            email: email.parse().unwrap(),
            name: String::new(),
            operator: false,
        };
        self.broker.admin.create_user(&new).await.unwrap().user.id.to_string()
    }

    async fn activity(&self) -> String {
        let page = self.broker.admin.activity(&Default::default()).await.unwrap();
        serde_json::to_string(&page).unwrap()
    }
}

/// Where the page leads to that a form of ours is answered with.
fn leads_to(page: &Page) -> String {
    assert_eq!(page.status, StatusCode::OK, "{}", page.text);
    let refresh = page.headers["refresh"].to_str().unwrap();
    refresh.strip_prefix("0; url=").unwrap().to_owned()
}

fn path_of(url: &str) -> &str {
    let (_, rest) = url.split_once("://").unwrap_or_else(|| panic!("{url}"));
    &rest[rest.find('/').unwrap()..]
}

fn is_refused(page: &Page, because: &str) {
    assert!(page.status.is_client_error() && page.text.contains(because), "{page:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invited_person_comes_by_the_provider_and_the_subject_is_bound() {
    let mut stage = stage(|_| {}).await;
    let mut bob = stage.stranger().await;
    is_refused(&stage.arrive(&mut bob, "bob", "").await, "nobody has invited it");

    // An invitation for his address, used from its page.
    let page = stage.ada.get("/a/home/users").await;
    let fields = [("email", "bob@example.org"), ("role", "admin")];
    let made = stage.ada.submit(&page, "/a/home/users", &fields).await;
    let link = made.value("data-copy=\"").unwrap();
    let (_, secret) = link.split_once('#').unwrap();
    let asked = bob.get("/invitation").await;
    let form = bob.submit(&asked, "/invitation", &[("secret", secret)]).await;
    let left = bob.submit(&form, "/sign-in/sso", &[("secret", secret)]).await;
    let url = leads_to(&left);
    assert!(!url.contains(secret), "the provider doesn't learn the invitation");
    assert!(url.contains("code_challenge_method=S256") && url.contains("nonce="));
    let (mut ann, before) = (stage.stranger().await, bob.cookies.clone());
    let hers = stage.leave(&mut ann, &[("secret", secret)]).await;
    let back = stage.provider.visit(&hers, Some("ann"));
    is_refused(&ann.get(path_of(&back)).await, "This link was used already or has expired");
    let back = stage.provider.visit(&url, Some("bob"));
    let came = bob.get(path_of(&back)).await;
    assert_eq!((came.status, came.location()), (StatusCode::SEE_OTHER, "/"), "{}", came.text);
    assert_ne!(bob.cookies, before, "a new session");
    let users = bob.get("/a/home/users").await;
    assert!(users.status == StatusCode::OK && users.text.contains("bob@example.org"));

    // Again, from elsewhere: to the page that he wanted, and to no other site.
    for (next, location) in [
        ("/a/home/devices?q=x", "/a/home/devices?q=x"),
        ("https://evil.example/", "/"),
        ("//evil.example", "/"),
        ("/\t/evil.example", "/"),
    ] {
        let mut again = stage.stranger().await;
        let came = stage.arrive(&mut again, "bob", next).await;
        assert_eq!((came.status, came.location()), (StatusCode::SEE_OTHER, location));
    }
    let profile = bob.get("/profile").await;
    assert!(profile.text.contains("by single sign-on"));
    let page = bob.submit(&profile, "/profile/sso/unlink", &identity(&profile)).await;
    assert_eq!(page.status, StatusCode::SEE_OTHER);
    let profile = bob.get("/profile").await;
    assert!(profile.text.contains("Set a password first"), "{}", profile.text);

    let told = stage.activity().await;
    for action in ["invitation.accepted", "user.created", "member.added", "user.signed-in"] {
        assert!(told.contains(action), "{action}");
    }
    stage.stop().await;
}

/// The fields of the form that unlinks an identity.
fn identity(profile: &Page) -> [(&'static str, &str); 2] {
    let field = |name: &str| {
        let before = format!("name=\"{name}\" value=\"");
        let (_, rest) = profile.text.split_once(&before).unwrap();
        rest.split('"').next().unwrap()
    };
    [("issuer", field("issuer")), ("subject", field("subject"))]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_address_takes_an_account_over() {
    let mut stage = stage(|oidc| {
        oidc.domains = vec!["example.org".to_owned()];
        oidc.newcomers = Some("home".parse().unwrap());
    })
    .await;
    let mut eve = stage.stranger().await;
    // The operator has a password: her address at the provider opens nothing.
    is_refused(&stage.arrive(&mut eve, "twin", "").await, "has not linked this identity");
    is_refused(&stage.arrive(&mut eve, "foreign", "").await, "vouches for no e-mail address");
    is_refused(&stage.arrive(&mut eve, "liar", "").await, "vouches for no e-mail address");
    let bob = stage.user("bob@example.org").await;
    is_refused(&stage.arrive(&mut eve, "liar", "").await, "vouches for no e-mail address");
    let mut his = stage.stranger().await;
    let came = stage.arrive(&mut his, "bob", "/profile").await;
    assert_eq!(came.location(), "/profile", "{}", came.text);
    // Who got his address later is somebody else.
    is_refused(&stage.arrive(&mut eve, "heir", "").await, "has not linked this identity");
    assert_eq!(eve.get("/profile").await.status, StatusCode::SEE_OTHER, "not signed in");

    // A newcomer of the domain is a member, and no more.
    let mut ann = stage.stranger().await;
    stage.arrive(&mut ann, "ann", "").await;
    assert_eq!(ann.get("/a/home/devices").await.status, StatusCode::OK);
    assert_eq!(ann.get("/a/home/users").await.status, StatusCode::FORBIDDEN);

    let suspended = UserChange { suspended: Some(true), ..UserChange::default() };
    stage.broker.admin.change_user(&bob, &suspended).await.unwrap();
    assert_eq!(his.get("/profile").await.status, StatusCode::SEE_OTHER, "out at once");
    is_refused(&stage.arrive(&mut his, "bob", "").await, "This user is suspended");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_browser_that_began_comes_back_and_only_once() {
    let mut stage = stage(|_| {}).await;
    stage.user("bob@example.org").await;
    // Login CSRF: Eve has a victim's browser finish what she began.
    let (mut eve, mut victim) = (stage.stranger().await, stage.stranger().await);
    let url = stage.leave(&mut eve, &[]).await;
    let back = stage.provider.visit(&url, Some("bob"));
    victim.get("/sign-in").await;
    is_refused(&victim.get(path_of(&back)).await, "not begun in this browser");
    is_refused(&victim.get("/sign-in/sso/callback?code=x&state=y").await, "not begun");
    is_refused(&victim.get("/sign-in/sso/callback").await, "not begun");
    // Her code with the victim's own state: it is bound to her verifier, and her nonce.
    let url = stage.leave(&mut victim, &[]).await;
    let state = url.split("state=").nth(1).unwrap().split('&').next().unwrap();
    let code = back.split("code=").nth(1).unwrap().split('&').next().unwrap();
    let iss = back.split("iss=").nth(1).unwrap().split('&').next().unwrap();
    let path = format!("/sign-in/sso/callback?code={code}&state={state}&iss={iss}");
    is_refused(&victim.get(&path).await, "was used already, or is too old");
    assert_eq!(victim.get("/profile").await.status, StatusCode::SEE_OTHER, "not signed in");
    // Mix-up: an answer that names another issuer, or none where this one always does.
    for iss in ["&iss=https%3A%2F%2Fevil.example", ""] {
        let url = stage.leave(&mut victim, &[]).await;
        let back = stage.provider.visit(&url, Some("bob"));
        let (kept, _) = back.split_once("&iss=").unwrap();
        is_refused(&victim.get(&format!("{}{iss}", path_of(kept))).await, "none of Example");
    }
    // Replay.
    let url = stage.leave(&mut victim, &[]).await;
    let back = stage.provider.visit(&url, Some("bob"));
    assert_eq!(victim.get(path_of(&back)).await.status, StatusCode::SEE_OTHER);
    is_refused(&victim.get(path_of(&back)).await, "used already");
    // He calls it off.
    let mut bob = stage.stranger().await;
    let url = stage.leave(&mut bob, &[]).await;
    let back = stage.provider.visit(&url, None);
    is_refused(&bob.get(path_of(&back)).await, "have called it off there");
    // Another site can't begin it.
    let page = bob.get("/sign-in").await;
    let token = page.token("/sign-in/sso").unwrap();
    let forged = bob.post("/sign-in/sso", &[("csrf", &token)], "cross-site").await;
    assert_eq!(forged.status, StatusCode::FORBIDDEN);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_password_links_an_identity_himself() {
    let mut stage = stage(|_| {}).await;
    let mut ada = stage.ada.clone();
    let profile = ada.get("/profile").await;
    let wrong = ada.submit(&profile, "/profile/sso/link", &[("confirm", "wrong")]).await;
    assert_eq!(wrong.status, StatusCode::SEE_OTHER, "back to the profile, which says why");
    let link = async |ada: &mut Person| {
        let profile = ada.get("/profile").await;
        leads_to(&ada.submit(&profile, "/profile/sso/link", &[("confirm", PASSWORD)]).await)
    };
    // Eve has Ada's browser finish the linking of Eve's identity.
    let url = link(&mut ada).await;
    let back = stage.provider.visit(&url, Some("ann"));
    let mut eve = stage.stranger().await;
    is_refused(&eve.get(path_of(&back)).await, "not begun in this browser");
    // Ada has signed out meanwhile.
    let mut other = stage.stranger().await;
    let page = other.get("/sign-in").await;
    let fields = [("email", "ada@example.org"), ("password", PASSWORD)];
    other.submit(&page, "/sign-in", &fields).await;
    let url = link(&mut other).await;
    let late = stage.provider.visit(&url, Some("ann"));
    let page = other.get("/profile").await;
    let kept = other.cookies.clone();
    other.submit(&page, "/sign-out", &[]).await;
    other.cookies = kept;
    let page = other.get(path_of(&late)).await;
    assert!(page.location().starts_with("/sign-in"), "{page:?}");

    let came = ada.get(path_of(&back)).await;
    assert_eq!((came.status, came.location()), (StatusCode::SEE_OTHER, "/profile"));
    let told = ada.get("/profile").await;
    assert!(told.text.contains("Linked: you can sign in so"), "{}", told.text);
    let mut elsewhere = stage.stranger().await;
    let came = stage.arrive(&mut elsewhere, "ann", "/operator").await;
    assert_eq!(came.location(), "/operator");
    assert_eq!(elsewhere.get("/operator").await.status, StatusCode::OK, "she is Ada here");
    let profile = ada.get("/profile").await;
    let done = ada.submit(&profile, "/profile/sso/unlink", &identity(&profile)).await;
    assert_eq!(done.status, StatusCode::SEE_OTHER);
    let mut elsewhere = stage.stranger().await;
    is_refused(&stage.arrive(&mut elsewhere, "ann", "").await, "No user here belongs");
    let told = stage.activity().await;
    for action in ["user.identity-linked", "user.identity-unlinked"] {
        assert!(told.contains(action), "{action}");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_is_down_or_wrong_is_said_and_passwords_work() {
    let folder = tempfile::tempdir().unwrap();
    let (keys, port) = (certify(folder.path()), free_port());
    let mut config = config(&folder.path().join("data"));
    config.oidc = Some(oidc(folder.path(), port));
    let broker = TestBroker::start_with(config).await;
    Person::operator(&broker).await;
    let mut ada = Person::stranger(&broker).await;
    let page = ada.get("/sign-in").await;
    let refused = ada.submit(&page, "/sign-in/sso", &[("next", "/profile")]).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.text.contains("Signing in with Example doesn&#39;t work at the moment"));
    let fields = [("email", "ada@example.org"), ("password", PASSWORD), ("next", "/profile")];
    let done = ada.submit(&refused, "/sign-in", &fields).await;
    assert_eq!(done.location(), "/profile");
    let told = ada.get("/operator").await;
    assert!(told.text.contains("it can&#39;t be reached"), "{}", told.text);
    // It comes, and all is well; it forgets the broker's secret, and the operator is told.
    let mut provider = Provider::start(folder.path(), &keys, port, &broker.url);
    let mut bob = Person::stranger(&broker).await;
    let page = bob.get("/sign-in").await;
    let url = leads_to(&bob.submit(&page, "/sign-in/sso", &[]).await);
    assert!(!ada.get("/operator").await.text.contains("Single sign-on by"));
    let back = provider.visit(&url, Some("bob"));
    drop(provider);
    let refused = bob.get(path_of(&back)).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "gone in between");
    until("the operator to be told", async || {
        let mut ada = ada.clone();
        ada.get("/operator").await.text.contains("Single sign-on by")
    })
    .await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_browser_goes_to_the_provider_and_comes_back() {
    let stage = stage(|oidc| {
        oidc.domains = vec!["example.org".to_owned()];
        oidc.newcomers = Some("home".parse().unwrap());
    })
    .await;
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let job = Browser::find()
        .unwrap()
        .script(script.join("tests/portal/single_sign_on.mjs"))
        .arguments(json!({ "url": stage.broker.url }))
        .within(Duration::from_secs(100));
    let errors = tokio::task::spawn_blocking(move || job.run()).await.unwrap().unwrap();
    assert_eq!(errors, json!([]));
    stage.stop().await;
}
