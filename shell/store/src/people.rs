//! The people: loaded whole, committed change by change, fenced by a lease of their own.

use std::collections::BTreeSet;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection as _, Row as _};
use warren_coord::{
    ApiTokenRecord, Chain, Entry, InvitationRecord, LeaseEpoch, LinkPurpose, LinkRecord,
    MembershipRecord, PasswordHash, PeopleChange, PeopleSnapshot, SecretHash, SignInMethod,
    TokenReach, TotpRecord, UserRecord, WebSessionRecord,
};
use warren_proto::{UserId, WebSessionId};

use crate::commit::{hex, seconds};
use crate::load::{number, optional, optional_time, parse, parse_optional, secret_hash, time};
use crate::{Store, StoreError, activity, wall_clock_epoch};

impl Store {
    /// Loads all people.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub async fn load_people(&self) -> Result<PeopleSnapshot, StoreError> {
        let mut transaction = self.pool.begin().await?;
        Ok(PeopleSnapshot {
            users: all(&mut transaction, "SELECT * FROM users ORDER BY id", user).await?,
            memberships: all(
                &mut transaction,
                "SELECT * FROM memberships ORDER BY user_id, account_id",
                membership,
            )
            .await?,
            invitations: all(&mut transaction, "SELECT * FROM invitations ORDER BY id", invitation)
                .await?,
            sessions: all(&mut transaction, "SELECT * FROM web_sessions ORDER BY id", session)
                .await?,
            tokens: all(&mut transaction, "SELECT * FROM api_tokens ORDER BY id", token).await?,
            links: all(&mut transaction, "SELECT * FROM one_time_links ORDER BY secret_hash", link)
                .await?,
        })
    }

    /// Takes the people over: from here on commits under earlier leases are refused.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn take_people_lease(&self) -> Result<LeaseEpoch, StoreError> {
        let row = sqlx::query(
            "UPDATE leases SET epoch = CASE WHEN epoch + 1 > $1 THEN epoch + 1 ELSE $1 END \
             WHERE name = 'people' RETURNING epoch",
        )
        .bind(wall_clock_epoch())
        .fetch_one(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        number(&row, "epoch").map(LeaseEpoch)
    }

    /// Commits changes of the people with the entries of Activity that they make, as
    /// [`Store::commit`] does an account's.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn commit_people(
        &self,
        lease: LeaseEpoch,
        changes: &[PeopleChange],
        entries: &[Entry],
    ) -> Result<(), StoreError> {
        if changes.is_empty() && entries.is_empty() {
            return Ok(());
        }
        let mut connection = self.pool.acquire().await?;
        let written = write_all(&mut connection, lease, changes, entries).await;
        self.settle(connection, written).await
    }
}

async fn write_all(
    connection: &mut SqliteConnection,
    lease: LeaseEpoch,
    changes: &[PeopleChange],
    entries: &[Entry],
) -> Result<(), StoreError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let row = sqlx::query("SELECT epoch FROM leases WHERE name = 'people'")
        .fetch_one(&mut *transaction)
        .await?;
    if number::<u64>(&row, "epoch")? != lease.0 {
        return Err(StoreError::Fenced);
    }
    for change in changes {
        write(&mut transaction, change).await?;
    }
    activity::append(&mut transaction, Chain::Broker, entries).await?;
    Ok(transaction.commit().await?)
}

async fn write(connection: &mut SqliteConnection, change: &PeopleChange) -> Result<(), StoreError> {
    match change {
        PeopleChange::User(user) => write_user(connection, user).await,
        PeopleChange::UserRemoved(id) => {
            delete(connection, "DELETE FROM users WHERE id = $1", id.to_string()).await
        }
        PeopleChange::Seen { user, at } => {
            let statement = "UPDATE users SET last_seen = $2 WHERE id = $1";
            note(connection, statement, user.to_string(), seconds(*at)).await
        }
        PeopleChange::Membership(membership) => write_membership(connection, membership).await,
        PeopleChange::MembershipRemoved { user, account } => {
            sqlx::query("DELETE FROM memberships WHERE user_id = $1 AND account_id = $2")
                .bind(user.to_string())
                .bind(account.to_string())
                .execute(connection)
                .await?;
            Ok(())
        }
        PeopleChange::Invitation(invitation) => write_invitation(connection, invitation).await,
        PeopleChange::InvitationRemoved(id) => {
            delete(connection, "DELETE FROM invitations WHERE id = $1", id.to_string()).await
        }
        PeopleChange::Session(session) => write_session(connection, session).await,
        PeopleChange::SessionRemoved(id) => {
            delete(connection, "DELETE FROM web_sessions WHERE id = $1", id.to_string()).await
        }
        PeopleChange::SessionUsed { session, at } => {
            let statement = "UPDATE web_sessions SET last_used = $2 WHERE id = $1";
            note(connection, statement, session.to_string(), seconds(*at)).await
        }
        PeopleChange::Token(token) => write_token(connection, token).await,
        PeopleChange::TokenRemoved(id) => {
            delete(connection, "DELETE FROM api_tokens WHERE id = $1", id.to_string()).await
        }
        PeopleChange::TokenUsed { token, at } => {
            let statement = "UPDATE api_tokens SET last_used = $2 WHERE id = $1";
            note(connection, statement, token.to_string(), seconds(*at)).await
        }
        PeopleChange::Link(link) => write_link(connection, link).await,
        PeopleChange::LinkRemoved(hash) => {
            delete(connection, "DELETE FROM one_time_links WHERE secret_hash = $1", hex(hash)).await
        }
    }
}

async fn delete(
    connection: &mut SqliteConnection,
    statement: &'static str,
    key: String,
) -> Result<(), StoreError> {
    sqlx::query(statement).bind(key).execute(connection).await?;
    Ok(())
}

async fn note(
    connection: &mut SqliteConnection,
    statement: &'static str,
    key: String,
    at: i64,
) -> Result<(), StoreError> {
    sqlx::query(statement).bind(key).bind(at).execute(connection).await?;
    Ok(())
}

async fn write_user(
    connection: &mut SqliteConnection,
    user: &UserRecord,
) -> Result<(), StoreError> {
    let last_step = user.totp.as_ref().map(|totp| i64::try_from(totp.last_step));
    let last_step = last_step.transpose().map_err(|_| StoreError::nonsense("totp step"))?;
    let secret = user.totp.as_ref().map(|totp| digits(&totp.secret));
    let codes: Vec<String> = user.recovery_codes.iter().map(hex).collect();
    sqlx::query(
        "INSERT INTO users (id, email, name, password, totp_secret, totp_last_step, \
         recovery_codes, identities, operator, suspended, created, last_seen) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
         ON CONFLICT (id) DO UPDATE SET email = excluded.email, name = excluded.name, \
         password = excluded.password, totp_secret = excluded.totp_secret, \
         totp_last_step = excluded.totp_last_step, recovery_codes = excluded.recovery_codes, \
         identities = excluded.identities, operator = excluded.operator, \
         suspended = excluded.suspended, created = excluded.created, \
         last_seen = excluded.last_seen",
    )
    .bind(user.id.to_string())
    .bind(user.email.as_str())
    .bind(&user.name)
    .bind(user.password.as_ref().map(|password| &password.0))
    .bind(secret)
    .bind(last_step)
    .bind(json(&codes)?)
    .bind(json(&user.identities)?)
    .bind(user.operator)
    .bind(user.suspended)
    .bind(seconds(user.created))
    .bind(user.last_seen.map(seconds))
    .execute(connection)
    .await?;
    Ok(())
}

async fn write_membership(
    connection: &mut SqliteConnection,
    membership: &MembershipRecord,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO memberships (user_id, account_id, role, created) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (user_id, account_id) DO UPDATE SET role = excluded.role, \
         created = excluded.created",
    )
    .bind(membership.user.to_string())
    .bind(membership.account.to_string())
    .bind(membership.role.as_str())
    .bind(seconds(membership.created))
    .execute(connection)
    .await?;
    Ok(())
}

async fn write_invitation(
    connection: &mut SqliteConnection,
    invitation: &InvitationRecord,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO invitations (id, secret_hash, account_id, role, email, created, expires, \
         creator_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
         ON CONFLICT (id) DO UPDATE SET secret_hash = excluded.secret_hash, \
         account_id = excluded.account_id, role = excluded.role, email = excluded.email, \
         created = excluded.created, expires = excluded.expires, \
         creator_id = excluded.creator_id",
    )
    .bind(invitation.id.to_string())
    .bind(hex(&invitation.hash))
    .bind(invitation.account.to_string())
    .bind(invitation.role.as_str())
    .bind(invitation.email.as_ref().map(|email| email.as_str()))
    .bind(seconds(invitation.created))
    .bind(seconds(invitation.expires))
    .bind(invitation.creator.map(|user| user.to_string()))
    .execute(connection)
    .await?;
    Ok(())
}

async fn write_session(
    connection: &mut SqliteConnection,
    session: &WebSessionRecord,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO web_sessions (id, secret_hash, user_id, method, user_agent, address, \
         created, last_used, expires) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
         ON CONFLICT (id) DO UPDATE SET secret_hash = excluded.secret_hash, \
         user_id = excluded.user_id, method = excluded.method, \
         user_agent = excluded.user_agent, address = excluded.address, \
         created = excluded.created, last_used = excluded.last_used, expires = excluded.expires",
    )
    .bind(session.id.to_string())
    .bind(hex(&session.hash))
    .bind(session.user.to_string())
    .bind(session.method.as_str())
    .bind(&session.user_agent)
    .bind(session.address.to_string())
    .bind(seconds(session.created))
    .bind(seconds(session.last_used))
    .bind(seconds(session.expires))
    .execute(connection)
    .await?;
    Ok(())
}

async fn write_token(
    connection: &mut SqliteConnection,
    token: &ApiTokenRecord,
) -> Result<(), StoreError> {
    let account = match token.reach {
        TokenReach::Account(account) => Some(account.to_string()),
        TokenReach::Broker => None,
    };
    sqlx::query(
        "INSERT INTO api_tokens (id, secret_hash, name, account_id, scopes, creator, created, \
         expires, last_used) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
         ON CONFLICT (id) DO UPDATE SET secret_hash = excluded.secret_hash, \
         name = excluded.name, account_id = excluded.account_id, scopes = excluded.scopes, \
         creator = excluded.creator, created = excluded.created, expires = excluded.expires, \
         last_used = excluded.last_used",
    )
    .bind(token.id.to_string())
    .bind(hex(&token.hash))
    .bind(&token.name)
    .bind(account)
    .bind(json(&token.scopes)?)
    .bind(token.creator.map(|user| user.to_string()))
    .bind(seconds(token.created))
    .bind(token.expires.map(seconds))
    .bind(token.last_used.map(seconds))
    .execute(connection)
    .await?;
    Ok(())
}

async fn write_link(
    connection: &mut SqliteConnection,
    link: &LinkRecord,
) -> Result<(), StoreError> {
    let (user, second_factor) = match link.purpose {
        LinkPurpose::SetUp => (None, false),
        LinkPurpose::Password { user, second_factor } => (Some(user.to_string()), second_factor),
    };
    sqlx::query(
        "INSERT INTO one_time_links (secret_hash, user_id, second_factor, expires) \
         VALUES ($1, $2, $3, $4) \
         ON CONFLICT (secret_hash) DO UPDATE SET user_id = excluded.user_id, \
         second_factor = excluded.second_factor, expires = excluded.expires",
    )
    .bind(hex(&link.hash))
    .bind(user)
    .bind(second_factor)
    .bind(seconds(link.expires))
    .execute(connection)
    .await?;
    Ok(())
}

async fn all<T>(
    connection: &mut SqliteConnection,
    select: &'static str,
    read: impl Fn(&SqliteRow) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    sqlx::query(select).fetch_all(connection).await?.iter().map(read).collect()
}

fn user(row: &SqliteRow) -> Result<UserRecord, StoreError> {
    let totp = optional::<String>(row, "totp_secret")?
        .map(|secret| {
            let secret = bytes(&secret).ok_or_else(|| StoreError::nonsense("totp secret"))?;
            Ok::<_, StoreError>(TotpRecord { secret, last_step: number(row, "totp_last_step")? })
        })
        .transpose()?;
    let codes: Vec<String> = from_json(row, "recovery_codes")?;
    Ok(UserRecord {
        id: parse(row, "id")?,
        email: parse(row, "email")?,
        name: row.try_get("name")?,
        password: optional::<String>(row, "password")?.map(PasswordHash),
        totp,
        recovery_codes: codes
            .iter()
            .map(|code| secret_hash(code))
            .collect::<Result<BTreeSet<SecretHash>, _>>()?,
        identities: from_json(row, "identities")?,
        operator: row.try_get("operator")?,
        suspended: row.try_get("suspended")?,
        created: time(row, "created")?,
        last_seen: optional_time(row, "last_seen")?,
    })
}

fn membership(row: &SqliteRow) -> Result<MembershipRecord, StoreError> {
    Ok(MembershipRecord {
        user: parse(row, "user_id")?,
        account: parse(row, "account_id")?,
        role: parse(row, "role")?,
        created: time(row, "created")?,
    })
}

fn invitation(row: &SqliteRow) -> Result<InvitationRecord, StoreError> {
    Ok(InvitationRecord {
        id: parse(row, "id")?,
        hash: secret_hash(row.try_get("secret_hash")?)?,
        account: parse(row, "account_id")?,
        role: parse(row, "role")?,
        email: parse_optional(row, "email")?,
        creator: parse_optional(row, "creator_id")?,
        created: time(row, "created")?,
        expires: time(row, "expires")?,
    })
}

fn session(row: &SqliteRow) -> Result<WebSessionRecord, StoreError> {
    let word: &str = row.try_get("method")?;
    let method = SignInMethod::ALL.into_iter().find(|method| method.as_str() == word);
    Ok(WebSessionRecord {
        id: parse::<WebSessionId>(row, "id")?,
        hash: secret_hash(row.try_get("secret_hash")?)?,
        user: parse::<UserId>(row, "user_id")?,
        method: method.ok_or_else(|| StoreError::nonsense("way to sign in"))?,
        user_agent: row.try_get("user_agent")?,
        address: parse(row, "address")?,
        created: time(row, "created")?,
        last_used: time(row, "last_used")?,
        expires: time(row, "expires")?,
    })
}

fn token(row: &SqliteRow) -> Result<ApiTokenRecord, StoreError> {
    let account = parse_optional(row, "account_id")?;
    Ok(ApiTokenRecord {
        id: parse(row, "id")?,
        hash: secret_hash(row.try_get("secret_hash")?)?,
        name: row.try_get("name")?,
        reach: account.map_or(TokenReach::Broker, TokenReach::Account),
        scopes: from_json(row, "scopes")?,
        creator: parse_optional(row, "creator")?,
        created: time(row, "created")?,
        expires: optional_time(row, "expires")?,
        last_used: optional_time(row, "last_used")?,
    })
}

fn link(row: &SqliteRow) -> Result<LinkRecord, StoreError> {
    let second_factor = row.try_get("second_factor")?;
    let user = parse_optional(row, "user_id")?;
    Ok(LinkRecord {
        hash: secret_hash(row.try_get("secret_hash")?)?,
        purpose: match user {
            Some(user) => LinkPurpose::Password { user, second_factor },
            None => LinkPurpose::SetUp,
        },
        expires: time(row, "expires")?,
    })
}

pub(crate) fn json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|_| StoreError::nonsense("list"))
}

pub(crate) fn from_json<T: DeserializeOwned>(
    row: &SqliteRow,
    column: &'static str,
) -> Result<T, StoreError> {
    serde_json::from_str(row.try_get(column)?).map_err(|_| StoreError::nonsense(column))
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes<const N: usize>(hex: &str) -> Option<[u8; N]> {
    if hex.len() != 2 * N || !hex.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, at) in bytes.iter_mut().zip((0..2 * N).step_by(2)) {
        *byte = u8::from_str_radix(&hex[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}
