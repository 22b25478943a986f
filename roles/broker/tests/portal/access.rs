//! The page Access: nothing is put in force that wasn't shown, and nobody's text is lost.

use http::StatusCode;
use warren_broker::admin::ActivityQuery;

use crate::common::{TestBroker, broker};
use crate::person::{Page, Person};

const PATH: &str = "/a/home/access";
const OWN: &str = "[[rules]]\nname = 'own'\nfrom = '*'\nto = 'own'\n";

/// What the page asks for next time: the version it was made from, and what it has shown.
fn shown(page: &Page) -> (String, String) {
    let value = |name: &str| page.value(&format!("name=\"{name}\" value=\"")).unwrap();
    (value("base"), value("seen"))
}

/// The draft in the page's text field.
fn text(page: &Page) -> String {
    let (_, rest) = page.text.split_once("<textarea").unwrap();
    let (_, rest) = rest.split_once(">\n").unwrap();
    let (text, _) = rest.split_once("</textarea>").unwrap();
    text.replace("&#34;", "\"").replace("&#39;", "'").replace("&#38;", "&")
}

async fn ask(who: &mut Person, page: &Page, text: &str, action: &str) -> Page {
    let (base, seen) = shown(page);
    let fields = [("text", text), ("do", action), ("base", &base), ("seen", &seen)];
    who.submit(page, PATH, &fields).await
}

async fn policy(broker: &TestBroker) -> String {
    broker.admin.policy("home").await.unwrap().text
}

#[tokio::test]
async fn a_text_is_in_force_only_after_its_effect_was_shown() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    broker.device("home", "laptop").await;
    broker.device("home", "nas").await;
    let page = ada.get(PATH).await;
    assert!(page.text.contains("Every device reaches every other"), "it says where one begins");
    assert!(!page.text.contains("What this changes"));

    // Saved at once: shown first. A browser sends lines with both ends.
    let crlf = OWN.replace('\n', "\r\n");
    let asked = ask(&mut ada, &page, &crlf, "save").await;
    assert_eq!(asked.status, StatusCode::OK);
    assert!(asked.text.contains("Look at what this changes"), "{}", asked.text);
    assert!(asked.text.contains("2 pairs of devices lose access, none gains it."));
    assert!(asked.text.contains("device laptop, device nas (2 devices)"));
    assert!(policy(&broker).await.contains("everybody reaches everything"));
    // Something else than what was shown isn't saved either.
    let other = ask(&mut ada, &asked, "", "save").await;
    assert!(other.status == StatusCode::OK && other.text.contains("Look at what this changes"));

    let done = ask(&mut ada, &asked, &crlf, "save").await;
    assert_eq!((done.status, done.location()), (StatusCode::SEE_OTHER, PATH));
    assert_eq!(policy(&broker).await, OWN);
    assert!(ada.get(PATH).await.text.contains("Version 1 is in force. All devices know"));
    // The same again is no change.
    let page = ada.get(PATH).await;
    ask(&mut ada, &page, OWN, "save").await;
    assert!(ada.get(PATH).await.text.contains("Nothing was changed."));
    assert_eq!(broker.admin.policy("home").await.unwrap().version, 1);
    let entries = broker.admin.activity(&ActivityQuery::default()).await.unwrap().entries;
    let entry = entries.iter().find(|entry| entry.action == "policy.changed").unwrap();
    let change = entry.changes.iter().find(|change| change.field == "text").unwrap();
    assert!(change.before.as_ref().unwrap().contains("everybody reaches everything"));
    let activity = ada.get("/a/home/activity?action=policy").await;
    assert!(activity.text.contains("<ins><span class=\"sr\">After: </span>name = "));
    broker.stop().await;
}

#[tokio::test]
async fn an_error_stands_at_its_line_and_a_test_that_fails_keeps_a_text_out() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    let page = ada.get(PATH).await;
    let wrong = "[[rules]]\nfrom = '*'\nto = ['own', 'tag:Größe']\n";
    let checked = ask(&mut ada, &page, wrong, "check").await;
    assert_eq!(checked.status, StatusCode::OK);
    assert!(checked.text.contains("1 error: it can&#39;t be saved."), "{}", checked.text);
    assert!(checked.text.contains("data-go=\"3:14\""));
    assert!(checked.text.contains("<mark>&#39;tag:Größe&#39;</mark>"));
    assert_eq!(text(&checked), wrong, "the draft goes back as it came");
    let refused = ask(&mut ada, &checked, wrong, "save").await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused.text.contains("The policy was not saved: line 3, column 14"));

    let tests = "[[tests]]\nfrom = 'tag:a'\nto = 'tag:b'\nport = 'tcp:22'\nexpect = 'allow'\n\
                 [[tests]]\nfrom = 'tag:a'\nto = 'tag:b'\nexpect = 'deny'\n";
    let checked = ask(&mut ada, &page, &format!("{OWN}{tests}"), "check").await;
    assert!(checked.text.contains("1 of 2 hold."), "{}", checked.text);
    assert!(checked.text.contains("1 test doesn&#39;t hold: it can&#39;t be saved."));
    let refused = ask(&mut ada, &checked, &format!("{OWN}{tests}"), "save").await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    let broken = ask(&mut ada, &page, "[[rules]\n", "check").await;
    assert!(broken.text.contains("so there is no form of it"), "{}", broken.text);
    // As long as the broker takes, every character escaped.
    let long = format!("{OWN}{}", "#%\n".repeat(80_000));
    let checked = ask(&mut ada, &page, &long, "check").await;
    assert!(checked.status == StatusCode::OK && !checked.text.contains("it can&#39;t be saved"));
    assert!(policy(&broker).await.contains("everybody reaches everything"));
    broker.stop().await;
}

#[tokio::test]
async fn the_form_changes_the_same_text_and_leaves_its_remarks() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    let page = ada.get(PATH).await;
    let opened = ask(&mut ada, &page, &text(&page), "add:rule").await;
    assert!(opened.text.contains("value=\"user:ada@example.org\""), "people can be chosen");
    let hidden = |name: &str| opened.value(&format!("name=\"{name}\" value=\"")).unwrap();
    let (open, opened_in, draft) = (hidden("open"), hidden("opened_in"), text(&opened));
    assert_eq!(open, "rule:new");
    let fields = |from: &'static str, action: &'static str| {
        let (draft, opened_in) = (draft.clone(), opened_in.clone());
        [
            ("do", action.to_owned()),
            ("text", draft),
            ("base", "0".to_owned()),
            ("open", "rule:new".to_owned()),
            ("opened_in", opened_in),
            ("name", "the family".to_owned()),
            ("from", from.to_owned()),
            ("to", "tag:server".to_owned()),
            ("ports", "tcp:443".to_owned()),
            ("pick_ports", "icmp".to_owned()),
        ]
    };
    let send = async |ada: &mut Person, from, action| {
        let fields = fields(from, action);
        let fields: Vec<(&str, &str)> = fields.iter().map(|(k, v)| (*k, v.as_str())).collect();
        ada.submit(&opened, PATH, &fields).await
    };
    let wrong = send(&mut ada, "user:nobody", "put").await;
    assert!(wrong.text.contains("aria-invalid=\"true\""), "{}", wrong.text);
    assert!(wrong.text.contains("value=\"tcp:443, icmp\""), "what was chosen stands in the field");
    assert_eq!(text(&wrong), draft, "nothing is written that means nothing");
    let put = send(&mut ada, "role:owner, user:ada@example.org", "put").await;
    let written = text(&put);
    assert!(written.contains("from = [\"role:owner\", \"user:ada@example.org\"]"), "{written}");
    assert!(written.contains("ports = [\"tcp:443\", \"icmp\"]"));
    assert!(written.starts_with("# Who may reach what"), "remarks stay");
    let dropped = ask(&mut ada, &put, &written, "drop:rule:0").await;
    assert!(!text(&dropped).contains("everybody reaches everything"));
    let done = ask(&mut ada, &dropped, &text(&dropped), "save").await;
    assert_eq!(done.status, StatusCode::SEE_OTHER, "{}", done.text);
    assert!(policy(&broker).await.contains("the family"));
    broker.stop().await;
}

#[tokio::test]
async fn of_two_admins_the_second_sees_both_texts_and_loses_nothing() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    let mut ben = Person::invited(&broker, &mut ada, "home", "admin", "ben@example.org").await;
    let mine = format!("# ada's\n{OWN}");
    let theirs = format!("# ben's\n{OWN}");
    let (first, second) = (ada.get(PATH).await, ben.get(PATH).await);
    let first = ask(&mut ada, &first, &mine, "check").await;
    let second = ask(&mut ben, &second, &theirs, "check").await;
    assert_eq!(ask(&mut ben, &second, &theirs, "save").await.status, StatusCode::SEE_OTHER);

    let told = ask(&mut ada, &first, &mine, "check").await;
    assert!(told.text.contains("Somebody else has put version 1 in force"), "while she writes");
    let refused = ask(&mut ada, &first, &mine, "save").await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert_eq!(text(&refused), mine, "hers is not lost");
    assert!(refused.text.contains("by ben@example.org"), "{}", refused.text);
    assert!(
        refused.text.contains("<ins><span class=\"sr\">Not in yours: </span># ben&#39;s</ins>")
    );
    assert_eq!(policy(&broker).await, theirs);
    // Having seen it, she may put hers in its place.
    let done = ask(&mut ada, &refused, &mine, "save").await;
    assert_eq!(done.status, StatusCode::SEE_OTHER, "{}", done.text);
    assert_eq!(policy(&broker).await, mine);
    broker.stop().await;
}

#[tokio::test]
async fn a_member_looks_and_does_not_change() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    let mut ben = Person::invited(&broker, &mut ada, "home", "member", "ben@example.org").await;
    let page = ben.get(PATH).await;
    assert!(page.status == StatusCode::OK && page.text.contains("everybody reaches everything"));
    assert!(!page.text.contains("<textarea") && !page.text.contains("value=\"save\""));
    let token = page.token(PATH).unwrap();
    let fields = [("csrf", token.as_str()), ("text", OWN), ("do", "save"), ("base", "0")];
    let refused = ben.post(PATH, &fields, "same-origin").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(policy(&broker).await.contains("everybody reaches everything"));
    broker.stop().await;
}

#[tokio::test]
async fn an_admin_says_whose_a_device_is() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    broker.device("home", "laptop").await;
    let id = broker.admin.device("home", "laptop").await.unwrap().id;
    let path = format!("/a/home/devices/{id}");
    let action = format!("{path}/owner");
    let page = ada.get(&path).await;
    let done = ada.submit(&page, &action, &[("owner", "ada@example.org")]).await;
    assert_eq!(done.location(), path);
    let owner = async || broker.admin.device("home", "laptop").await.unwrap().owner;
    assert_eq!(owner().await.as_deref(), Some("ada@example.org"));
    let page = ada.get(&path).await;
    assert!(page.text.contains("value=\"ada@example.org\" selected"));
    ada.submit(&page, &action, &[("owner", "none")]).await;
    assert_eq!(owner().await, None);
    let refused = ada.submit(&page, &action, &[("owner", "eve@example.org")]).await;
    assert_ne!(refused.status, StatusCode::OK);
    assert_eq!(owner().await, None);
    broker.stop().await;
}
