//! What members may, and what admins and the operator do with devices and accounts.

use http::StatusCode;
use warren_broker::admin::{AccountChange, DeviceChange, NewAccount, UserChange};
use warren_proto::Admission;

use crate::common::{TestBroker, broker};
use crate::person::{PASSWORD, Person};

async fn owned_by(broker: &TestBroker, device: &str, owner: &str) -> String {
    let change = DeviceChange { owner: Some(owner.to_owned()), ..DeviceChange::default() };
    broker.admin.change_device("home", device, &change).await.unwrap().id.to_string()
}

/// Whose a device is stands in the list, and is searched for.
#[tokio::test]
async fn the_list_says_whose_a_device_is() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    Person::invited(&broker, &mut ada, "home", "member", "bob@example.org").await;
    for name in ["tablet", "nas"] {
        broker.device("home", name).await;
    }
    owned_by(&broker, "tablet", "bob@example.org").await;
    let names = |page: &str| ["tablet", "nas"].map(|it| page.contains(&format!("\">{it}</a>")));
    let all = ada.get("/a/home/devices").await.text;
    assert_eq!(names(&all), [true, true]);
    assert!(all.contains(">bob@example.org</td>"), "{all}");
    for search in ["owner:bob", "bob@example.org"] {
        let found = ada.get(&format!("/a/home/devices?q={search}")).await.text;
        assert_eq!(names(&found), [true, false], "{search}");
    }
    assert_eq!(names(&ada.get("/a/home/devices?q=owner:ada").await.text), [false, false]);
    broker.stop().await;
}

/// An operator's first page is his own; who has left his last account can still sign out.
#[tokio::test]
async fn who_belongs_to_no_account_has_a_page_to_go_on_from() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    let mut bob = Person::invited(&broker, &mut ada, "home", "member", "bob@example.org").await;
    broker.admin.remove_member("home", "bob@example.org").await.unwrap();
    let page = bob.get("/").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.text.contains("You belong to no account") && page.token("/sign-out").is_some());
    let change = UserChange { operator: Some(true), ..UserChange::default() };
    broker.admin.change_user("bob@example.org", &change).await.unwrap();
    assert_eq!(bob.get("/").await.location(), "/operator");
    broker.stop().await;
}

#[tokio::test]
async fn a_member_handles_his_own_devices_and_no_others() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    let mut bob = Person::invited(&broker, &mut ada, "home", "member", "bob@example.org").await;
    for name in ["own", "other"] {
        broker.device("home", name).await;
    }
    let own = owned_by(&broker, "own", "bob@example.org").await;
    let other = owned_by(&broker, "other", "ada@example.org").await;
    let page_of = |id: &str| format!("/a/home/devices/{id}");
    let page = bob.get(&page_of(&own)).await;
    assert!(!page.text.contains("name=\"tags\""), "tags are rights");
    let done = bob.submit(&page, &format!("{}/rename", page_of(&own)), &[("name", "mine")]).await;
    assert_eq!(done.status, StatusCode::SEE_OTHER);
    for form in ["expire", "renew"] {
        let done = bob.submit(&page, &format!("{}/{form}", page_of(&own)), &[]).await;
        assert_eq!(done.status, StatusCode::SEE_OTHER, "{form}");
        let admission = broker.admin.device("home", "mine").await.unwrap().admission;
        let expected = if form == "expire" { Admission::Expired } else { Admission::Member };
        assert_eq!(admission, expected, "{form}");
    }
    let policy = "[[rules]]\nfrom = 'device:boss'\nto = '*'\n";
    broker.admin.set_policy("home", policy, None).await.unwrap();
    let page = bob.get(&page_of(&own)).await;
    let refused =
        bob.submit(&page, &format!("{}/rename", page_of(&own)), &[("name", "boss")]).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "a name with rights");

    let page = bob.get(&page_of(&other)).await;
    let theirs = ada.get(&page_of(&other)).await;
    for form in ["rename", "tags", "expire", "renew", "remove", "endpoint", "lifetime"] {
        let action = format!("{}/{form}", page_of(&other));
        assert_eq!(page.token(&action), None, "{form}");
        assert!(theirs.token(&action).is_some(), "{form} is there for an admin");
    }
    let list = bob.get("/a/home/devices?state=mine").await;
    assert!(list.text.contains("mine") && !list.text.contains(">other<"));
    let page = bob.get(&page_of(&own)).await;
    let gone = bob.submit(&page, &format!("{}/remove", page_of(&own)), &[]).await;
    assert_eq!(gone.status, StatusCode::SEE_OTHER);
    assert!(broker.admin.device("home", "mine").await.is_err());
    broker.stop().await;
}

#[tokio::test]
async fn an_admin_sees_who_waits_and_decides() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    let settings = ada.get("/a/home/settings").await;
    let form = "/a/home/settings/admission";
    let wrong = ada.submit(&settings, form, &[("approval", "on"), ("lifetime", "soon")]).await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    let saved = ada.submit(&settings, form, &[("approval", "on"), ("lifetime", "180")]).await;
    assert_eq!(saved.status, StatusCode::SEE_OTHER);
    for name in ["pi", "stranger"] {
        broker.device("home", name).await;
    }
    let list = ada.get("/a/home/devices").await;
    assert!(list.text.contains("2 devices wait") && list.text.contains("Waits for approval"));
    let id = |devices: &[warren_broker::admin::Device], name: &str| {
        devices.iter().find(|it| it.name.as_str() == name).unwrap().id.to_string()
    };
    let devices = broker.admin.devices("home").await.unwrap();
    let pi = format!("/a/home/devices/{}", id(&devices, "pi"));
    let page = ada.get(&pi).await;
    ada.submit(&page, &format!("{pi}/approve"), &[]).await;
    let stranger = format!("/a/home/devices/{}", id(&devices, "stranger"));
    let page = ada.get(&stranger).await;
    ada.submit(&page, &format!("{stranger}/refuse"), &[]).await;
    let devices = broker.admin.devices("home").await.unwrap();
    assert_eq!(devices.len(), 1);
    assert!(devices[0].admission.is_member() && devices[0].expires.is_some());
    broker.stop().await;
}

#[tokio::test]
async fn an_operator_suspends_and_limits_an_account_and_its_people_are_told() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    let mut bob = Person::invited(&broker, &mut ada, "home", "owner", "bob@example.org").await;
    let path = "/operator/accounts/home";
    assert_eq!(bob.get(path).await.status, StatusCode::NOT_FOUND);
    let page = ada.get(path).await;
    let wrong = ada.submit(&page, path, &[("devices", "many"), ("users", "")]).await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    ada.submit(&page, path, &[("devices", "5"), ("users", "2")]).await;
    let account = broker.admin.account("home").await.unwrap();
    assert_eq!((account.max_devices, account.max_users), (5, Some(2)));
    let users = bob.get("/a/home/users").await;
    let full = bob.submit(&users, "/a/home/users", &[("email", ""), ("role", "member")]).await;
    assert_eq!(full.status, StatusCode::SEE_OTHER, "{}", full.text);
    let told = bob.get("/a/home/users").await;
    assert!(told.text.contains("as many people as it may have"), "{}", told.text);

    ada.submit(&page, &format!("{path}/suspend"), &[]).await;
    let refused = bob.get("/a/home/devices").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(refused.text.contains("This account is suspended"));
    assert_eq!(bob.get("/profile").await.status, StatusCode::OK, "he himself is not");
    assert_eq!(ada.get("/a/home/devices").await.status, StatusCode::OK);
    let page = ada.get(path).await;
    ada.submit(&page, &format!("{path}/resume"), &[]).await;
    assert_eq!(bob.get("/a/home/devices").await.status, StatusCode::OK);
    let none = AccountChange { max_users: Some(None), ..AccountChange::default() };
    assert_eq!(broker.admin.change_account("home", &none).await.unwrap().max_users, None);
    broker.stop().await;
}

#[tokio::test]
async fn an_operator_changes_users_and_deletes_what_he_types_the_name_of() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    let mut bob = Person::invited(&broker, &mut ada, "home", "member", "bob@example.org").await;
    let id = broker.admin.user("bob@example.org").await.unwrap().id;
    let path = format!("/operator/users/{id}");
    assert_eq!(bob.get(&path).await.status, StatusCode::NOT_FOUND);
    let page = ada.get(&path).await;
    let appoint = format!("{path}/operator");
    ada.submit(&page, &appoint, &[("on", "on"), ("confirm", "wrong password")]).await;
    assert!(!broker.admin.user("bob@example.org").await.unwrap().operator);
    ada.submit(&page, &appoint, &[("on", "on"), ("confirm", PASSWORD)]).await;
    assert!(broker.admin.user("bob@example.org").await.unwrap().operator);
    ada.submit(&page, &appoint, &[("confirm", PASSWORD)]).await;
    let link = ada.submit(&page, &format!("{path}/password"), &[("confirm", PASSWORD)]).await;
    assert!(link.text.contains("/password#"), "{}", link.text);
    ada.submit(&page, &format!("{path}/suspend"), &[("on", "on")]).await;
    assert!(broker.admin.user("bob@example.org").await.unwrap().suspended);
    ada.submit(&page, &format!("{path}/delete"), &[("typed", "bob")]).await;
    assert!(broker.admin.user("bob@example.org").await.is_ok());
    ada.submit(&page, &format!("{path}/delete"), &[("typed", "bob@example.org")]).await;
    assert!(broker.admin.user("bob@example.org").await.is_err());

    let new = NewAccount { name: "work".parse().unwrap(), ipv4_range: None };
    broker.admin.create_account(&new).await.unwrap();
    let path = "/operator/accounts/work";
    let page = ada.get(path).await;
    ada.submit(&page, &format!("{path}/delete"), &[("typed", "home")]).await;
    assert!(broker.admin.account("work").await.is_ok());
    ada.submit(&page, &format!("{path}/delete"), &[("typed", "work")]).await;
    assert!(broker.admin.account("work").await.is_err());
    broker.stop().await;
}
