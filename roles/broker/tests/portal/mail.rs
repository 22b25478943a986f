//! Mail, by a real mail server: aiosmtpd, which asks for STARTTLS and a password.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use http::StatusCode;
use serde_json::Value;
use tempfile::TempDir;
use warren_broker::admin::{Error, MailTest, NewInvitation, Role};
use warren_broker::{MailSecurity, SmtpConfig};

use crate::common::{PATIENCE, TestBroker, broker, config, until};
use crate::person::{PASSWORD, Page, Person};
use crate::ports::free_port;
use crate::provider::certify;

struct MailServer {
    process: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl MailServer {
    fn start(folder: &Path, port: u16) -> Self {
        let (key, _) = certify(folder);
        std::fs::write(folder.join("key.pem"), key).unwrap();
        // Debian's own Python has Debian's packages.
        let mut process = Command::new("/usr/bin/python3")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/portal/mail_server.py"))
            .arg(port.to_string())
            .args([folder.join("authority.pem"), folder.join("key.pem")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let server = Self { process, input, lines };
        let missing = "aiosmtpd didn't start: `testing/setup.sh test` installs it";
        assert_eq!(server.line().expect(missing), "ready");
        server
    }

    fn line(&self) -> Option<String> {
        tokio::task::block_in_place(|| self.lines.recv_timeout(PATIENCE).ok())
    }

    fn mail(&self) -> Value {
        serde_json::from_str(&self.line().expect("a mail")).unwrap()
    }

    /// What all following mails are answered; nothing: they are taken.
    fn answer(&mut self, reply: &str) {
        writeln!(self.input, "{reply}").unwrap();
        assert_eq!(self.line().as_deref(), Some("so be it"));
    }

    fn has_more(&self) -> bool {
        self.lines.try_recv().is_ok()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn smtp(folder: &Path, port: u16) -> SmtpConfig {
    SmtpConfig {
        server: format!("127.0.0.1:{port}"),
        security: MailSecurity::StartTls,
        credentials: Some(("warren".to_owned(), "s3cret: +&%".to_owned())),
        from: "Warren <warren@example.org>".to_owned(),
        authority: Some(folder.join("authority.pem")),
    }
}

async fn mailing(change: impl FnOnce(&mut SmtpConfig)) -> (TempDir, TestBroker, MailServer) {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let server = MailServer::start(folder.path(), port);
    let mut smtp = smtp(folder.path(), port);
    change(&mut smtp);
    let mut config = config(&folder.path().join("data"));
    config.smtp = Some(smtp);
    let broker = TestBroker::start_with(config).await;
    (folder, broker, server)
}

/// The secret of the link that a mail brings.
fn secret(mail: &Value) -> String {
    let text = mail["text"].as_str().unwrap();
    text.split_once('#').unwrap().1.split_whitespace().next().unwrap().to_owned()
}

async fn forgotten(person: &mut Person, email: &str) -> Page {
    let page = person.get("/password/forgot").await;
    person.submit(&page, "/password/forgot", &[("email", email)]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_invited_by_mail_gets_the_link_and_only_its_holder_comes_in() {
    let (_folder, broker, server) = mailing(|_| {}).await;
    let mut ada = Person::operator(&broker).await;
    let users = ada.get("/a/home/users").await;
    assert!(users.text.contains("Mail the link"), "{}", users.text);
    let fields = [("email", "bob@example.org"), ("role", "member"), ("mail", "on")];
    let made = ada.submit(&users, "/a/home/users", &fields).await;
    assert!(made.text.contains("is on its way to bob@example.org"), "{}", made.text);
    let mail = server.mail();
    assert_eq!(mail["to"], serde_json::json!(["bob@example.org"]));
    assert_eq!((&mail["tls"], &mail["user"]), (&Value::from(true), &Value::from("warren")));
    let text = mail["text"].as_str().unwrap();
    assert!(
        text.contains("From: Warren <warren@example.org>") || text.contains("From: \"Warren\"")
    );
    assert!(text.contains("ada@example.org invites you"), "{text}");
    let secret = secret(&mail);
    assert!(made.value("data-copy=\"").unwrap().ends_with(&secret));
    until("the page says so", async || {
        ada.clone().get("/a/home/users").await.text.contains("The mail was sent")
    })
    .await;

    let mut bob = Person::stranger(&broker).await;
    let asked = bob.get("/invitation").await;
    let form = bob.submit(&asked, "/invitation", &[("secret", &secret)]).await;
    let fields = [
        ("secret", secret.as_str()),
        ("name", "Bob"),
        ("email", "bob@example.org"),
        ("password", PASSWORD),
    ];
    let done = bob.submit(&form, "/invitation/new", &fields).await;
    assert_eq!(done.status, StatusCode::SEE_OTHER, "{}", done.text);

    let to = "carol@example.org".parse().unwrap();
    let new = NewInvitation { role: Role::Admin, email: Some(to), expires_in: None, mail: true };
    assert!(broker.admin.invite("home", &new).await.unwrap().mailed);
    assert!(server.mail()["text"].as_str().unwrap().contains("You are invited"));
    let nobody = NewInvitation { role: Role::Member, email: None, expires_in: None, mail: true };
    assert!(broker.admin.invite("home", &nobody).await.is_err(), "a mail to nobody");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_password_is_set_by_a_mailed_link_and_strangers_are_answered_alike() {
    let (_folder, broker, server) = mailing(|_| {}).await;
    Person::operator(&broker).await;
    let mut person = Person::stranger(&broker).await;
    assert!(person.get("/sign-in").await.text.contains("href=\"/password/forgot\""));
    let unknown = forgotten(&mut person, "nobody@example.org").await;
    let known = forgotten(&mut person, "Ada@example.org").await;
    let bare = |page: &Page, email: &str| page.text.replace(email, "");
    assert_eq!(bare(&unknown, "nobody@example.org"), bare(&known, "ada@example.org"));
    assert_eq!(unknown.status, known.status);
    let mail = server.mail();
    assert_eq!(mail["to"], serde_json::json!(["ada@example.org"]));
    let secret = secret(&mail);

    let asked = person.get("/password").await;
    let form = person.submit(&asked, "/password", &[("secret", &secret)]).await;
    let fields = [("secret", secret.as_str()), ("password", "another horse battery staple")];
    let set = person.submit(&form, "/password/new", &fields).await;
    assert_eq!(set.location(), "/sign-in", "{}", set.text);
    let again = person.post("/password", &[("secret", &secret)], "same-origin").await;
    assert_ne!(again.status, StatusCode::OK, "good once");

    for _ in 0..3 {
        assert_eq!(forgotten(&mut person, "nobody@example.org").await.status, StatusCode::OK);
        assert_eq!(forgotten(&mut person, "ada@example.org").await.status, StatusCode::OK);
    }
    for email in ["nobody@example.org", "ada@example.org"] {
        forgotten(&mut person, email).await;
        let refused = forgotten(&mut person, email).await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{email}");
    }
    let wrong = forgotten(&mut person, "bob@example.org\r\nBcc: eve@example.org").await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_puts_off_is_tried_again_and_the_operator_is_told_why() {
    let (_folder, broker, mut server) = mailing(|_| {}).await;
    let mut ada = Person::operator(&broker).await;
    server.answer("451 the queue is full");
    let users = ada.get("/a/home/users").await;
    let fields = [("email", "bob@example.org"), ("role", "member"), ("mail", "on")];
    ada.submit(&users, "/a/home/users", &fields).await;
    until("the operator is told", async || {
        let status = broker.admin.status().await.unwrap();
        status.problems.iter().any(|it| it.contains("the queue is full"))
    })
    .await;
    let told = ada.get("/a/home/users").await.text;
    assert!(told.contains("is tried again") && told.contains("the queue is full"), "{told}");
    let to = MailTest { to: "ada@example.org".parse().unwrap() };
    let refused = broker.admin.test_mail(&to).await.unwrap_err();
    assert!(matches!(&refused, Error::Problem(it) if it.title.contains("the queue is full")));
    server.answer("");
    assert_eq!(server.mail()["to"], serde_json::json!(["bob@example.org"]), "of its own accord");
    broker.admin.test_mail(&to).await.unwrap();
    assert_eq!(server.mail()["to"], serde_json::json!(["ada@example.org"]));
    assert_eq!(broker.admin.status().await.unwrap().problems.len(), 1, "only that of STUN");

    server.answer("550 no such user");
    ada.submit(&users, "/a/home/users", &fields).await;
    until("it is given up", async || {
        ada.clone().get("/a/home/users").await.text.contains("could not be sent")
    })
    .await;
    assert!(!server.has_more());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_to_a_server_that_cannot_show_who_it_is() {
    let (_folder, broker, server) = mailing(|smtp| smtp.authority = None).await;
    let to = MailTest { to: "ada@example.org".parse().unwrap() };
    let refused = broker.admin.test_mail(&to).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Problem(it) if it.title.contains("certificate")),
        "{refused}"
    );
    assert!(!server.has_more());
    broker.stop().await;
}

#[tokio::test]
async fn without_a_mail_server_nobody_is_offered_mail() {
    let (_folder, broker) = broker().await;
    let mut ada = Person::operator(&broker).await;
    assert!(!ada.get("/a/home/users").await.text.contains("Mail the link"));
    let mut person = Person::stranger(&broker).await;
    assert!(!person.get("/sign-in").await.text.contains("/password/forgot"));
    assert_eq!(person.get("/password/forgot").await.status, StatusCode::NOT_FOUND);
    let to = Some("bob@example.org".parse().unwrap());
    let new = NewInvitation { role: Role::Member, email: to, expires_in: None, mail: true };
    let refused = broker.admin.invite("home", &new).await.unwrap_err();
    assert!(refused.to_string().contains("--smtp-server"), "{refused}");
    broker.stop().await;
}
