//! An endless, predetermined sequence of commits of people, as `script.rs` is of an account. The
//! one user who is always there says how far it came (in his name).

use std::net::IpAddr;

use warren_coord::{
    ApiTokenRecord, By, Entry, FieldChange, Identity, InvitationRecord, LinkPurpose, LinkRecord,
    MembershipRecord, Named, PasswordHash, PeopleChange, PeopleSnapshot, Role, Scope, SecretHash,
    SignInMethod, TokenReach, TotpRecord, UnixTime, UserRecord, WebSessionRecord,
};
use warren_proto::{AccountId, ApiTokenId, InvitationId, UserId, WebSessionId};

use crate::script::ACCOUNT;

const COUNTER: UserId = UserId(0xc0);

/// The changes of the `n`-th commit (from 1).
pub(crate) fn changes(n: u32) -> Vec<PeopleChange> {
    let slot = n % 20;
    let counter = UserRecord { name: n.to_string(), ..user(99, 1) };
    let mut changes = vec![PeopleChange::User(UserRecord { id: COUNTER, ..counter })];
    if n.is_multiple_of(7) {
        changes.push(PeopleChange::SessionRemoved(session(slot, n).id));
        changes.push(PeopleChange::TokenRemoved(token(slot, n).id));
        changes.push(PeopleChange::InvitationRemoved(invitation(slot, n).id));
        changes.push(PeopleChange::LinkRemoved(link(slot).hash));
        changes.push(PeopleChange::MembershipRemoved { user: user(slot, n).id, account: ACCOUNT });
        changes.push(PeopleChange::UserRemoved(user(slot, n).id));
    } else {
        changes.push(PeopleChange::User(user(slot, n)));
        changes.push(PeopleChange::Membership(membership(slot, n)));
        changes.push(PeopleChange::Invitation(invitation(slot, n)));
        changes.push(PeopleChange::Session(session(slot, n)));
        changes.push(PeopleChange::Token(token(slot, n)));
        changes.push(PeopleChange::Link(link(slot)));
        let before = (slot + 19) % 20;
        changes.push(PeopleChange::Seen { user: user(before, n).id, at: seconds(n) });
        changes.push(PeopleChange::SessionUsed { session: session(before, n).id, at: seconds(n) });
        changes.push(PeopleChange::TokenUsed { token: token(before, n).id, at: seconds(n) });
    }
    changes
}

/// What is there after `n` commits.
pub(crate) fn snapshot(n: u32) -> PeopleSnapshot {
    let mut snapshot = PeopleSnapshot::default();
    (1..=n).for_each(|n| snapshot.apply(&changes(n)));
    snapshot
}

/// How far it came.
pub(crate) fn progress(snapshot: &PeopleSnapshot) -> u32 {
    let counter = snapshot.users.iter().find(|user| user.id == COUNTER);
    counter.map_or(0, |user| user.name.parse().unwrap())
}

/// What Activity says of the `n`-th commit.
pub(crate) fn entries(n: u32) -> Vec<Entry> {
    let entry = |i: u32| {
        let subject = Named {
            kind: "user".to_owned(),
            id: format!("{:016x}", n + i),
            name: format!("user-{n}@example.org"),
        };
        let by = By::local(n % 3);
        let source: Option<IpAddr> = n.is_multiple_of(2).then(|| [198, 51, 100, 7].into());
        let at = u64::from(n / 3) * 1_000;
        let mut entry = Entry::new("user.changed", subject, None, &By { source, ..by }, at);
        entry.account = n.is_multiple_of(5).then_some(AccountId(2));
        entry.fields = vec![FieldChange {
            field: "name".to_owned(),
            before: n.is_multiple_of(4).then(|| format!("\"<{n}>\"")),
            after: (i == 0).then(String::new),
        }];
        entry
    };
    (0..n % 3).map(entry).collect()
}

pub(crate) fn user(slot: u32, n: u32) -> UserRecord {
    let identity = |i: u32| Identity {
        issuer: "https://id.example.org".to_owned(),
        subject: format!("{slot}-{i}"),
    };
    UserRecord {
        id: UserId(u64::from(slot) + 1),
        email: format!("user-{slot}@example.org").parse().unwrap(),
        name: format!("Bob the {n}."),
        password: (!n.is_multiple_of(3)).then(|| PasswordHash(format!("$argon2id${n}"))),
        totp: n
            .is_multiple_of(2)
            .then(|| TotpRecord { secret: [u8::try_from(slot).unwrap(); 20], last_step: n.into() }),
        recovery_codes: (0..n % 4).map(|i| SecretHash::of(&format!("code {i}"))).collect(),
        identities: (0..n % 3).map(identity).collect(),
        operator: n.is_multiple_of(5),
        suspended: n.is_multiple_of(11),
        created: seconds(slot),
        last_seen: (!n.is_multiple_of(6)).then(|| seconds(n)),
    }
}

fn membership(slot: u32, n: u32) -> MembershipRecord {
    MembershipRecord {
        user: user(slot, n).id,
        account: ACCOUNT,
        role: Role::ALL[(n % 3) as usize],
        created: seconds(slot),
    }
}

fn invitation(slot: u32, n: u32) -> InvitationRecord {
    InvitationRecord {
        id: InvitationId(u64::from(slot) + 1),
        hash: SecretHash::of(&format!("invitation {slot}")),
        account: ACCOUNT,
        role: Role::ALL[(n % 3) as usize],
        email: n.is_multiple_of(2).then(|| "eve@example.org".parse().unwrap()),
        creator: n.is_multiple_of(3).then_some(UserId(1)),
        created: seconds(slot),
        expires: seconds(n + 1_000),
    }
}

fn session(slot: u32, n: u32) -> WebSessionRecord {
    let address: IpAddr = match n % 2 {
        0 => [192, 0, 2, 9].into(),
        _ => "2001:db8::9".parse().unwrap(),
    };
    WebSessionRecord {
        id: WebSessionId(u64::from(slot) + 1),
        hash: SecretHash::of(&format!("session {slot}")),
        user: user(slot, n).id,
        method: SignInMethod::ALL[(n % 5) as usize],
        user_agent: format!("Browser/{n}"),
        address,
        created: seconds(slot),
        last_used: seconds(n),
        expires: seconds(n + 1_000),
    }
}

fn token(slot: u32, n: u32) -> ApiTokenRecord {
    ApiTokenRecord {
        id: ApiTokenId(u64::from(slot) + 1),
        hash: SecretHash::of(&format!("token {slot}")),
        name: format!("script {n}"),
        reach: match n % 2 {
            0 => TokenReach::Broker,
            _ => TokenReach::Account(ACCOUNT),
        },
        scopes: Scope::ALL.into_iter().take((n % 5) as usize + 1).collect(),
        creator: (!n.is_multiple_of(4)).then(|| user(slot, n).id),
        created: seconds(slot),
        expires: n.is_multiple_of(2).then(|| seconds(n + 1_000)),
        last_used: n.is_multiple_of(3).then(|| seconds(n)),
    }
}

fn link(slot: u32) -> LinkRecord {
    LinkRecord {
        hash: SecretHash::of(&format!("link {slot}")),
        purpose: match slot % 3 {
            0 => LinkPurpose::SetUp,
            it => LinkPurpose::Password { user: user(slot, 1).id, second_factor: it == 1 },
        },
        expires: seconds(slot + 1_000),
    }
}

fn seconds(n: u32) -> UnixTime {
    UnixTime(1_800_000_000 + u64::from(n))
}
