//! Who means ill: other sites, other accounts, stolen cookies, markup, floods of bytes.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use warren_broker::admin::NewAccount;

use crate::common::{TestBroker, broker, config};
use crate::person::{PASSWORD, Person};
use crate::world::furnish;

const SESSION: &str = "__Host-warren-session";

#[tokio::test]
async fn a_form_of_another_site_or_session_is_refused() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    broker.device("home", "nas").await;
    let device = broker.admin.device("home", "nas").await.unwrap().id;
    let action = format!("/a/home/devices/{device}/rename");
    let page = ada.get(&format!("/a/home/devices/{device}")).await;
    let token = page.token(&action).unwrap();
    let other = page.token(&format!("/a/home/devices/{device}/tags")).unwrap();
    for (token, from) in [
        (token.as_str(), "cross-site"),
        (token.as_str(), "same-site"),
        (token.as_str(), "none"),
        ("", "same-origin"),
        (other.as_str(), "same-origin"),
    ] {
        let refused = ada.post(&action, &[("csrf", token), ("name", "evil")], from).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{token} {from}");
    }
    let mut stranger = Person::stranger(&broker).await;
    let theirs = stranger.get("/sign-in").await.token("/sign-in").unwrap();
    let refused = ada.post(&action, &[("csrf", &theirs), ("name", "evil")], "same-origin").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(broker.admin.device("home", "nas").await.is_ok(), "nothing was changed");
    let done = ada.post(&action, &[("csrf", &token), ("name", "attic")], "same-origin").await;
    assert_eq!(done.status, StatusCode::SEE_OTHER);
    broker.stop().await;
}

#[tokio::test]
async fn a_session_is_new_with_each_sign_in_and_worthless_after_its_end() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    let stolen = ada.clone();
    // An attacker plants his own cookie; signing in replaces it.
    let mut victim = Person::stranger(&broker).await;
    victim.cookies.insert(SESSION.to_owned(), "planted".to_owned());
    let page = victim.get("/sign-in").await;
    let fields = [("email", "ada@example.org"), ("password", PASSWORD), ("next", "//evil.example")];
    let done = victim.submit(&page, "/sign-in", &fields).await;
    assert_eq!((done.status, done.location()), (StatusCode::SEE_OTHER, "/"));
    assert_ne!(victim.cookies[SESSION], "planted");
    assert_ne!(victim.cookies[SESSION], ada.cookies[SESSION]);

    let page = ada.get("/profile").await;
    ada.submit(&page, "/sign-out", &[]).await;
    let mut thief = stolen;
    let page = thief.get("/a/home/devices").await;
    assert!(page.location().starts_with("/sign-in"), "{page:?}");
    assert_eq!(victim.get("/a/home/devices").await.status, StatusCode::OK, "the other one stays");

    // The victim ends all others; then changes the password, which ends the rest.
    let mut second = Person::stranger(&broker).await;
    let page = second.get("/sign-in").await;
    second.submit(&page, "/sign-in", &fields).await;
    let page = victim.get("/profile").await;
    victim.submit(&page, "/profile/sessions/end", &[]).await;
    assert_eq!(second.get("/profile").await.status, StatusCode::SEE_OTHER);
    broker.stop().await;
}

#[tokio::test]
async fn wrong_passwords_and_unknown_people_are_answered_alike() {
    let (_folder, broker) = broker().await;
    Person::operator(&broker).await;
    let mut stranger = Person::stranger(&broker).await;
    let page = stranger.get("/sign-in").await;
    let mut answers = Vec::new();
    for email in ["ada@example.org", "nobody@example.org"] {
        let fields = [("email", email), ("password", "wrong")];
        let refused = stranger.submit(&page, "/sign-in", &fields).await;
        let text = refused.text.replace(email, "E-MAIL");
        let token = refused.token("/sign-in").unwrap();
        answers.push((refused.status, text.replace(&token, "TOKEN")));
    }
    assert_eq!(answers[0], answers[1]);
    let mut last = StatusCode::OK;
    for _ in 0..30 {
        let fields = [("email", "ada@example.org"), ("password", "wrong")];
        last = stranger.submit(&page, "/sign-in", &fields).await.status;
        if last == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS, "guessing is slowed");
    broker.stop().await;
}

/// Hashing a password is the dearest that anybody can have done: not without a link.
#[tokio::test]
async fn who_has_no_link_is_refused_and_slowed() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    let users = "/a/home/users";
    let page = ada.get(users).await;
    let made = ada.submit(&page, users, &[("email", ""), ("role", "member")]).await;
    let link = made.value("data-copy=\"").unwrap();
    let (_, secret) = link.split_once('#').unwrap();
    let mut stranger = Person::stranger(&broker).await;
    let page = stranger.get("/invitation").await;
    let form = stranger.submit(&page, "/invitation", &[("secret", secret)]).await;
    let token = form.token("/invitation/new").unwrap();
    let mut statuses = Vec::new();
    for _ in 0..40 {
        let fields = [
            ("csrf", token.as_str()),
            ("secret", "x"),
            ("name", "Mallory"),
            ("email", "mallory@example.org"),
            ("password", PASSWORD),
        ];
        statuses.push(stranger.post("/invitation/new", &fields, "same-origin").await.status);
    }
    assert_eq!(statuses[0], StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(statuses[39], StatusCode::TOO_MANY_REQUESTS);
    broker.stop().await;
}

/// Every page and form of an account, for somebody of another account with the very ids.
#[tokio::test]
async fn another_accounts_pages_and_forms_are_not_there() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    let _world = furnish(&broker).await;
    let new = NewAccount { name: "other".parse().unwrap(), ipv4_range: None };
    broker.admin.create_account(&new).await.unwrap();
    // An owner of `other`, who is nothing in `home`.
    let mut eve = Person::invited(&broker, &mut ada, "other", "owner", "eve@example.org").await;
    let device = broker.admin.device("home", "nas").await.unwrap().id;
    let key = broker.admin.join_keys("home").await.unwrap()[0].id;
    let relay = broker.admin.relays(Some("home")).await.unwrap()[0].id;
    let user = {
        let page = ada.get("/a/home/users").await;
        let (_, rest) = page.text.split_once("/a/home/users/").unwrap();
        rest.split('/').next().unwrap().to_owned()
    };
    let gets = [
        "",
        "/devices",
        "/events",
        "/map",
        "/join",
        "/access",
        "/relays",
        "/activity",
        "/users",
        "/settings",
        "/tokens",
    ];
    let posts = [
        format!("/devices/{device}/rename"),
        format!("/devices/{device}/tags"),
        format!("/devices/{device}/owner"),
        format!("/devices/{device}/endpoint"),
        format!("/devices/{device}/expire"),
        format!("/devices/{device}/remove"),
        "/join".to_owned(),
        format!("/join/{key}/remove"),
        "/access".to_owned(),
        "/relays".to_owned(),
        format!("/relays/{relay}/remove"),
        "/settings/relays".to_owned(),
        "/users".to_owned(),
        format!("/users/{user}/role"),
        format!("/users/{user}/remove"),
        "/users/invitations/0000000000000001/remove".to_owned(),
        "/tokens".to_owned(),
        "/tokens/0000000000000001/remove".to_owned(),
    ];
    let fields: &[(&str, &str)] = &[
        ("name", "evil"),
        ("tags", "evil"),
        ("endpoint", "192.0.2.1:1"),
        ("email", ""),
        ("role", "owner"),
        ("owner", "eve@example.org"),
        ("seen", ""),
        ("change", "add"),
        ("relay", "nas"),
        ("lifetime", "60"),
        ("scope-account-read", "on"),
        ("text", ""),
        ("base", "0"),
        ("do", "save"),
    ];
    for path in gets.map(str::to_owned).into_iter().chain([format!("/devices/{device}")]) {
        // The account's front door sends on to a page that isn't there.
        let page = eve.get(&format!("/a/home{path}")).await;
        let expected = if path.is_empty() { StatusCode::SEE_OTHER } else { StatusCode::NOT_FOUND };
        assert_eq!(page.status, expected, "GET {path}");
    }
    let csrf = warren_web::Csrf::new(&eve.cookies[SESSION]);
    for path in &posts {
        // Her own account's address with the others' ids, and the others' address.
        for account in ["home", "other"] {
            let action = format!("/a/{account}{path}");
            let token = csrf.token(&action);
            let mut all = vec![("csrf", token.as_str())];
            all.extend(fields);
            let answer = eve.post(&action, &all, "same-origin").await;
            let is_own = account == "other" && !path[1..].contains('/');
            assert!(
                is_own || path == "/settings/relays" || answer.status == StatusCode::NOT_FOUND,
                "POST {action}: {} {}",
                answer.status,
                answer.location()
            );
        }
    }
    assert_eq!(eve.get("/operator").await.status, StatusCode::NOT_FOUND);
    let mine = eve.get("/a/other/devices").await;
    assert_eq!(mine.status, StatusCode::OK);
    assert!(!mine.text.contains("nas.home"));
    assert_eq!(broker.admin.devices("home").await.unwrap().len(), 30, "nothing was changed");
    assert!(broker.admin.device("home", "nas").await.unwrap().tags.contains("server"));
    assert_eq!(broker.admin.policy("home").await.unwrap().version, 0);
    broker.stop().await;
}

#[tokio::test]
async fn a_member_sees_and_an_admin_changes() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    broker.device("home", "nas").await;
    let device = broker.admin.device("home", "nas").await.unwrap().id;
    let mut ben = Person::invited(&broker, &mut ada, "home", "member", "ben@example.org").await;
    let page = ben.get("/a/home/devices").await;
    assert!(page.status == StatusCode::OK && page.text.contains("nas.home"));
    assert!(!page.text.contains("Add a device") && !page.text.contains("/a/home/users"));
    for path in ["/a/home/join", "/a/home/users", "/a/home/activity", "/a/home/tokens"] {
        assert_eq!(ben.get(path).await.status, StatusCode::FORBIDDEN, "{path}");
    }
    let csrf = warren_web::Csrf::new(&ben.cookies[SESSION]);
    let action = format!("/a/home/devices/{device}/remove");
    let refused = ben.post(&action, &[("csrf", &csrf.token(&action))], "same-origin").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    broker.stop().await;
}

#[tokio::test]
async fn the_last_owner_cannot_leave() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    let page = ada.get("/a/home/users").await;
    let (_, rest) = page.text.split_once("/a/home/users/").unwrap();
    let user = rest.split('/').next().unwrap();
    for (action, fields) in [
        (format!("/a/home/users/{user}/remove"), &[][..]),
        (format!("/a/home/users/{user}/role"), &[("role", "member")][..]),
    ] {
        let done = ada.submit(&page, &action, fields).await;
        assert_eq!(done.location(), "/a/home/users", "{action}");
        let page = ada.get("/a/home/users").await;
        assert!(page.text.contains("toast bad"), "{action}");
        assert!(page.text.contains("Owner"));
    }
    broker.stop().await;
}

#[tokio::test]
async fn markup_in_names_stays_text() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    let markup = "<script>alert(1)</script>\"'><img src=x>";
    let page = ada.get("/profile").await;
    ada.submit(&page, "/profile/name", &[("name", markup)]).await;
    broker.device("home", markup).await;
    let page = ada.get("/a/home/tokens").await;
    let fields = [("name", markup), ("scope-account-read", "on"), ("lifetime", "60")];
    ada.submit(&page, "/a/home/tokens", &fields).await;
    let device = broker.admin.devices("home").await.unwrap()[0].id;
    let action = format!("/a/home/devices/{device}/tags");
    let page = ada.get(&format!("/a/home/devices/{device}")).await;
    let refused = ada.submit(&page, &action, &[("tags", markup)]).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    let mut texts = vec![refused.text];
    let page = ada.get("/a/home/access").await;
    let text = format!(
        "[groups]\n'{0}' = ['{0}']\n[[rules]]\nname = '{0}'\nfrom = '{0}'\nto = '{0}'\n",
        markup.replace('\'', "")
    );
    let fields = [("text", text.as_str()), ("base", "0"), ("do", "check")];
    texts.push(ada.submit(&page, "/a/home/access", &fields).await.text);
    for path in [
        "/profile".to_owned(),
        "/a/home/devices".to_owned(),
        format!("/a/home/devices/{device}"),
        format!("/a/home/devices?q={}", "%3Cscript%3Ealert(1)%3C/script%3E%22%3E"),
        "/a/home/users".to_owned(),
        "/a/home/tokens".to_owned(),
        "/a/home/access".to_owned(),
        "/a/home/activity".to_owned(),
        "/a/home/activity?who=%3Cscript%3Ealert(1)".to_owned(),
        "/sign-in?next=%22%3E%3Cscript%3Ealert(1)".to_owned(),
    ] {
        texts.push(ada.get(&path).await.text);
    }
    for text in texts {
        assert!(!text.contains("<script>alert") && !text.contains("<img"), "{text}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn long_and_slow_forms_are_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.limits.request_timeout = Duration::from_secs(2);
    let broker = TestBroker::start_with(config).await;
    let mut ada = Person::operator(&broker).await;
    let headers = [("sec-fetch-site", "same-origin".to_owned())];
    let long = Bytes::from(vec![b'a'; 10 * 1024 * 1024]);
    let answer = ada.send(Method::POST, "/profile/name", &headers, long).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(ada.get("/profile").await.status, StatusCode::OK);
    broker.stop().await;
}

#[tokio::test]
async fn of_two_tabs_the_second_sees_that_the_list_has_changed() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    broker.device("home", "one").await;
    broker.device("home", "two").await;
    let id = async |name: &str| broker.admin.device("home", name).await.unwrap().id.to_string();
    let (one, two) = (id("one").await, id("two").await);
    let (first, second) = (ada.get("/a/home/settings").await, ada.get("/a/home/settings").await);
    let action = "/a/home/settings/relays";
    let add = |id| [("seen", ""), ("change", "add"), ("relay", id)];
    let done = ada.submit(&first, action, &add(one.as_str())).await;
    assert_eq!(done.status, StatusCode::SEE_OTHER, "{}", done.text);
    let refused = ada.submit(&second, action, &add(two.as_str())).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.text.contains("Somebody else changed the list"));
    broker.stop().await;
}

#[tokio::test]
async fn every_answer_keeps_to_itself() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    for path in ["/a/home/devices", "/sign-in", "/nowhere", "/assets/nothing", "/join"] {
        let page = ada.get(path).await;
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{path}");
        assert_eq!(page.headers["x-content-type-options"], "nosniff");
        assert_eq!(page.headers["cache-control"], "no-store");
        assert!(!page.text.contains(" style=") && !page.text.contains(" onclick="), "{path}");
    }
    broker.stop().await;
}
