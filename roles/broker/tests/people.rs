//! People and Activity, as an operator at the local socket has them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::broker;
use warren_broker::admin::{
    ActivityQuery, Error, NewAccount, NewInvitation, NewPasswordLink, NewUser, Role, UserChange,
};
use warren_proto::ErrorCode;

fn code<T: std::fmt::Debug>(outcome: Result<T, Error>) -> ErrorCode {
    let Err(Error::Problem(problem)) = outcome else { panic!("not refused: {outcome:?}") };
    problem.code
}

fn named(email: &str, operator: bool) -> NewUser {
    NewUser { email: email.parse().unwrap(), name: String::new(), operator }
}

#[tokio::test]
async fn an_operator_makes_changes_suspends_and_removes_users() {
    let (_folder, broker) = broker().await;
    let admin = &broker.admin;
    let created = admin.create_user(&named("Ada@Example.org", true)).await.unwrap();
    assert_eq!(created.user.name, "ada");
    assert!(created.link.starts_with(&format!("{}/password#", broker.url)), "{}", created.link);
    assert_eq!(
        code(admin.create_user(&named("ada@example.org", false)).await),
        ErrorCode::Conflict
    );
    admin.create_user(&named("bob@example.org", false)).await.unwrap();

    let office = NewAccount { name: "office".parse().unwrap(), ipv4_range: None };
    admin.create_account(&office).await.unwrap();
    let bob = admin.set_role("office", "bob@example.org", Role::Owner).await.unwrap();
    assert_eq!(bob.accounts.get(&office.name), Some(&Role::Owner));
    assert_eq!(code(admin.remove_member("office", "bob@example.org").await), ErrorCode::Conflict);
    assert_eq!(admin.members("office").await.unwrap(), std::slice::from_ref(&bob));
    assert!(admin.members("home").await.unwrap().is_empty());

    let suspend = UserChange { suspended: Some(true), ..UserChange::default() };
    assert!(admin.change_user(&bob.id.to_string(), &suspend).await.unwrap().suspended);
    let link = admin.password_link("bob@example.org", NewPasswordLink::default()).await;
    assert_eq!(code(link), ErrorCode::Suspended);
    assert_eq!(code(admin.change_user("ada@example.org", &suspend).await), ErrorCode::Conflict);
    assert_eq!(code(admin.user("eve@example.org").await), ErrorCode::NotFound);

    // With the account goes what Bob was in it, and then nothing holds him.
    admin.remove_account("office").await.unwrap();
    assert!(admin.user("bob@example.org").await.unwrap().accounts.is_empty());
    admin.remove_user("bob@example.org").await.unwrap();
    assert_eq!(admin.users().await.unwrap().len(), 1);

    let new = NewInvitation { role: Role::Member, email: None, expires_in: None, mail: false };
    let invitation = admin.invite("home", &new).await.unwrap();
    assert!(invitation.link.starts_with(&format!("{}/invitation#", broker.url)));
    let endless = NewInvitation { expires_in: Some(u64::MAX), ..new };
    assert_eq!(code(admin.invite("home", &endless).await), ErrorCode::Invalid);
    broker.stop().await;
}

#[tokio::test]
async fn activity_says_what_was_done_and_by_whom_over_a_restart_and_a_restore() {
    let (folder, broker) = broker().await;
    let archive = folder.path().join("warren.backup");
    broker.device("home", "kitchen-pi").await;
    broker.admin.remove_device("home", "kitchen-pi").await.unwrap();
    broker.admin.create_user(&named("ada@example.org", true)).await.unwrap();
    let query = ActivityQuery { limit: Some(2), ..ActivityQuery::default() };
    let first = broker.admin.activity(&query).await.unwrap();
    let rest = ActivityQuery { cursor: first.next.clone(), ..ActivityQuery::default() };
    let rest = broker.admin.activity(&rest).await.unwrap();
    let told: Vec<(&str, &str)> = (first.entries.iter().chain(&rest.entries))
        .map(|it| (it.action.as_str(), it.actor.kind.as_str()))
        .collect();
    for expected in [
        ("account.created", "broker"),
        ("join-key.created", "local"),
        ("device.joined", "join-key"),
        ("device.removed", "local"),
        ("user.created", "local"),
        ("link.created", "local"),
    ] {
        assert!(told.contains(&expected), "{expected:?} in {told:?}");
    }
    let joined = ActivityQuery {
        action: Some("device.joined".to_owned()),
        account: Some("home".to_owned()),
        ..ActivityQuery::default()
    };
    let joined = broker.admin.activity(&joined).await.unwrap().entries;
    assert_eq!(joined[0].subject.name, "kitchen-pi");
    assert_eq!(joined[0].source, Some([127, 0, 0, 1].into()));

    broker.admin.backup(&archive).await.unwrap();
    broker.admin.restore(&archive).await.unwrap();
    let chains = broker.admin.activity_chains().await.unwrap();
    assert!(chains.iter().all(|chain| chain.broken_at.is_none() && chain.head.is_some()));
    let newest = broker.admin.activity(&ActivityQuery::default()).await.unwrap().entries;
    assert_eq!(newest[0].action, "broker.restored");
    assert_eq!(broker.admin.users().await.unwrap().len(), 1);
    broker.stop().await;
}
