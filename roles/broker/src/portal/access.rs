//! Who may reach what: the policy, as a form and as a text.
//!
//! Both edit one draft, which lives in the page alone: it comes with every form, and goes back with
//! what was asked done to it ([`draft`]). It is put in force only from a page that has shown who gains
//! and who loses by it ([`fingerprint`]), and only in place of the version that it was made from: who
//! comes second is shown both texts, and may then put his in place of the other's.

mod draft;
mod findings;
mod words;

use askama::Template;
use axum::extract::{Query, State};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde::Deserialize;
use warren_coord::lines::{Line, compare};
use warren_coord::policy::{DEFAULT_TEXT, Entry, MAX_TEXT, Outline, Report, RuleText, TestText};
use warren_coord::{Email, Right};
use warren_proto::ErrorCode;
use warren_store::ActivityFilter;
use warren_web::{Layout, When};

use self::draft::{Draft, Fields, Kind, Open, Place, Sent};
use self::findings::{Findings, Told};
use self::words::{Choices, Known, Word};
use super::answer::{Answer, done, page_with, refused_status, sentence};
use super::browser::Form;
use super::frame::Section;
use super::viewer::Member;
use super::{Portal, Shared};
use crate::accounts::fresh_ctx;

/// A text whose every character is escaped, and what else is in the form.
const LONGEST: usize = 3 * MAX_TEXT + 64 * 1024;

/// A group as the page lists it.
struct Group {
    place: String,
    name: String,
    members: Vec<Word>,
    problems: Vec<Told>,
    editor: Option<Editor>,
}

/// A rule as the page lists it.
struct Rule {
    place: String,
    name: String,
    comment: String,
    from: Vec<Word>,
    to: Vec<Word>,
    ports: Vec<Word>,
    problems: Vec<Told>,
    editor: Option<Editor>,
}

/// A test as the page lists it.
struct Test {
    place: String,
    from: Word,
    to: Word,
    port: Option<Word>,
    allow: bool,
    /// Whether it does; nobody knows while the text has errors.
    holds: Option<bool>,
    problems: Vec<Told>,
    editor: Option<Editor>,
}

/// The entry that is open.
struct Editor {
    place: String,
    is_new: bool,
    kind: &'static str,
    fields: Fields,
    wrong: (&'static str, String),
    who: Vec<Choices>,
    what: Vec<Choices>,
    members: Vec<Choices>,
    ports: Vec<Choices>,
}

impl Editor {
    fn error(&self, field: &str) -> &str {
        if self.wrong.0 == field { &self.wrong.1 } else { "" }
    }
}

/// The text's entries.
#[derive(Default)]
struct Parts {
    groups: Vec<Group>,
    rules: Vec<Rule>,
    tests: Vec<Test>,
    /// What is to be a new entry.
    new: Option<Editor>,
}

impl Parts {
    fn adds(&self, kind: &str) -> Option<&Editor> {
        self.new.as_ref().filter(|editor| editor.kind == kind)
    }
}

/// What somebody else has put in force meanwhile.
struct Conflict {
    /// Who and when, if that is known.
    by: Option<(String, When)>,
    /// His text; what isn't in the draft is marked.
    lines: Vec<Line>,
}

#[derive(Template)]
#[template(path = "access.html")]
struct Page {
    layout: Layout,
    path: String,
    devices: String,
    may_change: bool,
    /// What is in force.
    version: u64,
    /// Nothing was ever changed.
    is_start: bool,
    is_changed: bool,
    is_outdated: bool,
    draft: Draft,
    /// `None`: the text is no TOML.
    entries: Option<Parts>,
    findings: Findings,
    seen: String,
    conflict: Option<Conflict>,
}

impl Page {
    /// What the key Enter does in a field.
    fn default_action(&self) -> &'static str {
        if self.draft.open.is_some() { "put" } else { "check" }
    }

    /// The entry that is open, and in which text.
    fn opened(&self) -> (String, &str) {
        let open = self.draft.open.as_ref();
        open.map(|open| (open.place.written(), open.opened_in.as_str())).unwrap_or_default()
    }
}

/// Which view is open.
#[derive(Deserialize)]
pub(super) struct View {
    #[serde(default)]
    view: String,
}

/// `GET /a/{account}/access`
pub(super) async fn show(
    State(portal): Shared,
    member: Member,
    Query(View { view }): Query<View>,
) -> Answer {
    member.check(Right::ReadPolicy)?;
    let (version, text) = in_force(&member);
    let draft = Draft::new(version, text, view == "text");
    render(&portal, &member, StatusCode::OK, draft, None).await
}

/// `POST /a/{account}/access`
pub(super) async fn change(
    State(portal): Shared,
    member: Member,
    Form(sent): Form<Sent, LONGEST>,
) -> Answer {
    member.check(Right::ManagePolicy)?;
    if sent.action != "save" {
        return render(&portal, &member, StatusCode::OK, Draft::of(sent), None).await;
    }
    let seen = sent.seen.clone();
    let draft = Draft::of(sent);
    let (version, text) = in_force(&member);
    if draft.base != version {
        return show_conflict(&portal, &member, draft, version, text).await;
    }
    if seen != fingerprint(&draft.text, version) {
        let told = Draft {
            error: "Look at what this changes, below; save again to put it in force.".to_owned(),
            ..draft
        };
        return render(&portal, &member, StatusCode::OK, told, None).await;
    }
    save(&portal, &member, draft).await
}

async fn save(portal: &Portal, member: &Member, draft: Draft) -> Answer {
    let (text, base) = (draft.text.clone(), draft.base);
    let outcome = member.account.save_policy(member.by(), text, Some(base)).await;
    match outcome {
        Ok((version, _)) if version == base => done(&home(member, &draft), "Nothing was changed."),
        Ok((version, _)) => {
            let text = format!("Version {version} is in force. All devices know within a second.");
            done(&home(member, &draft), text)
        }
        Err(failure) if failure.code() == ErrorCode::Conflict => {
            let (version, text) = in_force(member);
            show_conflict(portal, member, draft, version, text).await
        }
        Err(failure) => {
            let error = sentence(failure.text());
            let status = refused_status(&failure);
            render(portal, member, status, Draft { error, ..draft }, None).await
        }
    }
}

/// The page, in the view that is open.
fn home(member: &Member, draft: &Draft) -> String {
    member.path(if draft.shows_text { "access?view=text" } else { "access" })
}

/// Shows what is in force beside the draft, which from then on is to take its place.
async fn show_conflict(
    portal: &Portal,
    member: &Member,
    draft: Draft,
    version: u64,
    text: String,
) -> Answer {
    let mut lines = compare(&draft.text, &text);
    lines.retain(|line| !line.is_old());
    let conflict = Conflict { by: last_change(portal, member).await, lines };
    let draft = Draft { base: version, shows_text: true, open: None, ..draft };
    render(portal, member, StatusCode::CONFLICT, draft, Some(conflict)).await
}

/// Who changed the policy last, and when.
async fn last_change(portal: &Portal, member: &Member) -> Option<(String, When)> {
    let filter = ActivityFilter {
        account: Some(member.account.id()),
        action: Some("policy.changed".to_owned()),
        ..ActivityFilter::default()
    };
    let found = portal.broker.store.activity(&filter, None, 1).await.ok()?;
    let entry = &found.entries.first()?.entry;
    let at = When { at: entry.at / 1000, now: fresh_ctx().unix.as_secs() };
    Some((entry.actor.name.clone(), at))
}

fn in_force(member: &Member) -> (u64, String) {
    member.account.read(|account| {
        let (version, text) = account.policy();
        (version, text.to_owned())
    })
}

/// Stands for a text in place of a version: whoever sends it back has seen what that would do.
fn fingerprint(text: &str, version: u64) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    format!("{version}.{}", URL_SAFE_NO_PAD.encode(&digest.as_ref()[..12]))
}

async fn render(
    portal: &Portal,
    member: &Member,
    status: StatusCode,
    draft: Draft,
    conflict: Option<Conflict>,
) -> Answer {
    let (account, text) = (member.account.clone(), draft.text.clone());
    let report = account.check_policy(text).await?.report;
    let (version, text) = in_force(member);
    let is_changed = draft.text != text;
    let entries = Outline::read(&draft.text).ok().map(|outline| {
        let editor = draft.open.as_ref().map(|open| editor(portal, member, open, &outline));
        parts(&outline, &report, editor)
    });
    page_with(
        status,
        &Page {
            layout: member.layout(portal, "Access", Section::Access),
            path: member.path("access"),
            may_change: member.may(Right::ManagePolicy),
            version,
            is_start: draft.text == DEFAULT_TEXT && !is_changed,
            is_changed,
            is_outdated: draft.base != version,
            entries,
            devices: member.path("devices"),
            findings: Findings::new(&report, &draft.text, is_changed),
            seen: fingerprint(&draft.text, version),
            draft,
            conflict,
        },
    )
}

fn editor(portal: &Portal, member: &Member, open: &Open, outline: &Outline) -> Editor {
    let account = member.account.id();
    let people = portal.broker.people.read(|people| {
        let mut people: Vec<Email> =
            people.members(account).map(|it| it.user.email.clone()).collect();
        people.sort();
        people
    });
    let known = member.account.read(|account| Known::of(account, people, outline));
    Editor {
        place: open.place.written(),
        is_new: open.place.index.is_none(),
        kind: open.place.kind.word(),
        fields: open.fields.clone(),
        wrong: open.wrong.clone().unwrap_or_default(),
        who: known.who(),
        what: known.what(),
        members: known.members(),
        ports: words::ports(),
    }
}

/// The text's entries, each with what is wrong with it.
fn parts(outline: &Outline, report: &Report, mut open: Option<Editor>) -> Parts {
    let problems = findings::by_entry(report, outline);
    let problems = |line: usize| problems.get(&line).cloned().unwrap_or_default();
    let mut at = |kind: Kind, index: usize| {
        let place = Place { kind, index: Some(index) }.written();
        let editor = open.take_if(|editor| editor.place == place);
        (place, editor)
    };
    let said = |words: &[String], say: fn(&str) -> Word| words.iter().map(|it| say(it)).collect();
    let mut parts = Parts::default();
    for (index, Entry { line, text }) in outline.groups.iter().enumerate() {
        let (place, editor) = at(Kind::Group, index);
        let (name, members) = (text.name.clone(), said(&text.members, words::member));
        parts.groups.push(Group { place, name, members, problems: problems(*line), editor });
    }
    for (index, Entry { line, text }) in outline.rules.iter().enumerate() {
        let (place, editor) = at(Kind::Rule, index);
        let RuleText { name, comment, from, to, ports } = text;
        parts.rules.push(Rule {
            place,
            name: name.clone(),
            comment: comment.clone(),
            from: said(from, words::who),
            to: said(to, words::what),
            ports: said(ports, words::port),
            problems: problems(*line),
            editor,
        });
    }
    for (index, Entry { line, text }) in outline.tests.iter().enumerate() {
        let (place, editor) = at(Kind::Test, index);
        let TestText { from, to, port, expect } = text;
        parts.tests.push(Test {
            place,
            from: words::who(from),
            to: words::what(to),
            port: (!port.is_empty()).then(|| words::port(port)),
            allow: expect == "allow",
            holds: report.tests.iter().find(|it| it.line == *line).map(|it| it.holds),
            problems: problems(*line),
            editor,
        });
    }
    parts.new = open.filter(|editor| editor.is_new);
    parts
}
