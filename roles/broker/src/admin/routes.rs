//! The API's operations on the broker as a whole, on accounts and join keys.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, Path, Request, State};
use axum::response::Response;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};
use warren_coord::{DeviceLimit, JoinKeyView, Right, SettingsEdit, Tag};
use warren_proto::{ErrorCode, JoinKeyId};

use super::Time;
use super::download::Download;
use super::guard::{Again, Asker, Granted, require};
use super::operation::Operation;
use super::paged::{PageQuery, Query};
use super::types::{
    Account, AccountChange, BrokerStatus, JoinKey, JoinKeyCreated, NewAccount, NewJoinKey, Pins,
    SetLog,
};
use crate::accounts::{AccountHandle, fresh_ctx};
use crate::api::extract;
use crate::api::problem::{ApiResult, Failure};
use crate::backup::Manifest;
use crate::broker::Broker;
use crate::config::SetLogFilter;

pub(super) const MAX_BODY: usize = 64 * 1024;
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// A hundred years: what is longer is a mistake.
const LONGEST_EXPIRY: u64 = 100 * 365 * 24 * 3600;

type Shared = State<Arc<Broker>>;

/// Operations on the broker, accounts and join keys.
pub(super) fn operations() -> Vec<Operation> {
    let mut all = broker_operations();
    all.extend(account_operations());
    all
}

fn broker_operations() -> Vec<Operation> {
    vec![
        Operation::get("/status", "getStatus", "The broker as a whole", status)
            .needs(Right::ReadBroker)
            .gives::<BrokerStatus>(),
        Operation::get("/pins", "getPins", "The keys by which devices know the broker", pins)
            .needs(Right::ReadBroker)
            .gives::<Pins>(),
        Operation::post("/pins/prepare", "preparePin", "Announces the next key", prepare_pin)
            .needs(Right::ManageBroker)
            .gives::<Pins>(),
        Operation::post("/pins/activate", "activatePin", "Uses the next key", activate_pin)
            .needs(Right::ManageBroker)
            .gives::<Pins>(),
        Operation::put("/log", "setLog", "What the broker's log says from now on", set_log)
            .needs(Right::ManageBroker)
            .takes::<SetLog>()
            .gives::<SetLog>(),
        Operation::post("/backup", "createBackup", "Everything, as an archive", backup)
            .needs(Right::ManageBroker)
            .gives_media("application/x-tar"),
        Operation::post("/restore", "restoreBackup", "Replaces everything by a backup", restore)
            .needs(Right::ManageBroker)
            .gives::<Manifest>(),
    ]
}

fn account_operations() -> Vec<Operation> {
    vec![
        Operation::get("/accounts", "listAccounts", "The accounts that one may see", accounts)
            .lists::<Account>(),
        Operation::post("/accounts", "createAccount", "Creates an account", create_account)
            .needs(Right::ManageAccounts)
            .takes::<NewAccount>()
            .creates::<Account>(),
        Operation::get("/accounts/{account}", "getAccount", "An account", show_account)
            .needs(Right::ReadAccount)
            .gives::<Account>(),
        Operation::patch(
            "/accounts/{account}",
            "changeAccount",
            "Changes an account's settings; suspension and limits are the broker operator's to set, \
             how long Activity is kept an owner's who is signed in",
            change_account,
        )
        .needs(Right::ManageSettings)
        .takes::<AccountChange>()
        .gives::<Account>(),
        Operation::delete(
            "/accounts/{account}",
            "deleteAccount",
            "Removes an account with all its devices",
            remove_account,
        )
        .needs(Right::DeleteAccount),
        Operation::get(
            "/accounts/{account}/join-keys",
            "listJoinKeys",
            "Join keys, the oldest first",
            join_keys,
        )
        .needs(Right::ManageJoinKeys)
        .lists::<JoinKey>(),
        Operation::post(
            "/accounts/{account}/join-keys",
            "createJoinKey",
            "Creates a join key",
            create_join_key,
        )
        .needs(Right::ManageJoinKeys)
        .takes::<NewJoinKey>()
        .creates::<JoinKeyCreated>(),
        Operation::delete(
            "/accounts/{account}/join-keys/{key}",
            "deleteJoinKey",
            "Removes a join key; devices that have joined with it stay",
            remove_join_key,
        )
        .needs(Right::ManageJoinKeys),
    ]
}

async fn status(State(broker): Shared) -> Json<BrokerStatus> {
    Json(broker.status())
}

async fn accounts(
    State(broker): Shared,
    Granted(grant): Granted,
    Query(page): Query<PageQuery>,
) -> ApiResult<Response> {
    let mut accounts = broker.accounts.all();
    accounts.retain(|it| require(&broker, &grant, Right::ReadAccount, Some(it.id())).is_ok());
    page.of(accounts.iter().map(|it| account_view(it)), |it| it.name.to_string())
}

async fn show_account(
    State(broker): Shared,
    Path(account): Path<String>,
) -> ApiResult<Json<Account>> {
    Ok(Json(account_view(&*broker.accounts.find(&account)?)))
}

async fn change_account(
    State(broker): Shared,
    Granted(grant): Granted,
    Path(account): Path<String>,
    Content(change): Content<AccountChange>,
) -> ApiResult<Json<Account>> {
    let handle = broker.accounts.find(&account)?;
    let AccountChange {
        suspended,
        max_devices,
        max_users,
        device_approval,
        key_expiry_days,
        activity_days,
    } = change;
    if suspended.is_some() || max_devices.is_some() || max_users.is_some() {
        require(&broker, &grant, Right::ManageAccounts, None)?;
    }
    if activity_days.is_some() {
        require(&broker, &grant, Right::ManageRetention, Some(handle.id()))?;
    }
    let edit = SettingsEdit {
        suspended,
        device_limit: max_devices.map(|limit| limit.map(DeviceLimit)),
        user_limit: max_users,
        device_approval,
        key_expiry_days,
        activity_days,
    };
    broker.change_settings(grant.by(), &handle, edit).await?;
    Ok(Json(account_view(&handle)))
}

async fn create_account(
    State(broker): Shared,
    Asker(by): Asker,
    Content(new): Content<NewAccount>,
) -> ApiResult<(StatusCode, Json<Account>)> {
    let handle = broker.accounts.create(by, new.name, new.ipv4_range).await?;
    Ok((StatusCode::CREATED, Json(account_view(&handle))))
}

async fn remove_account(
    State(broker): Shared,
    Asker(by): Asker,
    Path(account): Path<String>,
) -> ApiResult<StatusCode> {
    let id = broker.accounts.find(&account)?.id();
    broker.remove_account(by, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn join_keys(
    State(broker): Shared,
    Path(account): Path<String>,
    Query(page): Query<PageQuery>,
) -> ApiResult<Response> {
    let now = warren_coord::UnixTime(fresh_ctx().unix.as_secs());
    let handle = broker.accounts.find(&account)?;
    let keys: Vec<JoinKey> =
        handle.read(|account| account.join_keys(now).map(|key| join_key_view(&key)).collect());
    page.of(keys, |key| format!("{:020} {}", key.created.0, key.id))
}

async fn create_join_key(
    State(broker): Shared,
    Asker(by): Asker,
    Path(account): Path<String>,
    Content(new): Content<NewJoinKey>,
) -> ApiResult<(StatusCode, Json<JoinKeyCreated>)> {
    let handle = broker.accounts.find(&account)?;
    let new = parse_join_key(new)?;
    Ok((StatusCode::CREATED, Json(broker.create_join_key(by, &handle, new).await?)))
}

async fn remove_join_key(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, key)): Path<(String, String)>,
) -> ApiResult<StatusCode> {
    let handle = broker.accounts.find(&account)?;
    let key: JoinKeyId = key.parse().map_err(|_| Failure::not_found("join key"))?;
    handle.durable(by, move |account, _| account.prepare_remove_join_key(key)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn pins(State(broker): Shared) -> ApiResult<Json<Pins>> {
    broker.pins().map(Json).ok_or_else(no_pins)
}

async fn prepare_pin(State(broker): Shared, Asker(by): Asker) -> ApiResult<Json<Pins>> {
    broker.prepare_pin(&by).await.map(Json)
}

async fn activate_pin(State(broker): Shared, Asker(by): Asker) -> ApiResult<Json<Pins>> {
    broker.activate_pin(&by).await.map(Json)
}

pub(crate) fn no_pins() -> Failure {
    Failure::new(
        ErrorCode::Conflict,
        "this broker has no CA of its own: a public authority or a proxy vouches for it",
    )
}

async fn set_log(
    State(broker): Shared,
    Asker(by): Asker,
    Content(wanted): Content<SetLog>,
) -> ApiResult<Json<SetLog>> {
    let Some(SetLogFilter(set)) = &broker.set_log_filter else {
        return Err(Failure::invalid("this broker's log can't be changed while it runs"));
    };
    set(&wanted.filter).map_err(Failure::invalid)?;
    broker.note("broker.log-changed", &by).await?;
    Ok(Json(wanted))
}

async fn backup(State(broker): Shared, Asker(by): Asker) -> ApiResult<Response> {
    broker.note("broker.backup", &by).await?;
    let archive = crate::backup::create(&broker.data, &broker.store)
        .await
        .map_err(|error| Failure::unavailable(&error))?;
    let mut response = Response::new(Body::new(Download::new(archive)));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, http::HeaderValue::from_static("application/x-tar"));
    Ok(response)
}

async fn restore(
    State(broker): Shared,
    Asker(by): Asker,
    request: Request,
) -> ApiResult<Json<Manifest>> {
    let (parts, body) = request.into_parts();
    let archive = spool(&broker, body).await?;
    Again::ask(&parts.extensions)?;
    broker.restore(&by, archive).await.map(Json)
}

/// Keeps an upload in an unnamed file, read from its beginning.
async fn spool(broker: &Broker, mut body: Body) -> ApiResult<std::fs::File> {
    let failed = |error: std::io::Error| {
        Failure::unavailable(&anyhow::Error::new(error).context("can't keep the uploaded backup"))
    };
    let file = tempfile::tempfile_in(broker.data.path()).map_err(failed)?;
    let mut file = tokio::fs::File::from_std(file);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Failure::invalid("the upload broke off"))?;
        if let Ok(data) = frame.into_data() {
            file.write_all(&data).await.map_err(failed)?;
        }
    }
    file.flush().await.map_err(failed)?;
    file.rewind().await.map_err(failed)?;
    Ok(file.into_std().await)
}

/// Checks tags that came as text.
pub(crate) fn parse_tags(tags: BTreeSet<String>) -> ApiResult<BTreeSet<Tag>> {
    tags.into_iter()
        .map(|text| {
            text.parse().map_err(|error| Failure::invalid(format!("the tag '{text}': {error}")))
        })
        .collect()
}

/// What a person asked for, as the account takes it.
pub(crate) fn parse_join_key(new: NewJoinKey) -> ApiResult<warren_coord::NewJoinKey> {
    if new.expires_in.is_some_and(|seconds| seconds == 0 || seconds > LONGEST_EXPIRY) {
        return Err(Failure::invalid(
            "a join key expires after 1 second at least, in 100 years at most",
        ));
    }
    Ok(warren_coord::NewJoinKey {
        reusable: new.reusable,
        ephemeral: new.ephemeral,
        expires_in: new.expires_in,
        tags: parse_tags(new.tags)?,
        owner: None,
        approves: new.approves,
    })
}

fn account_view(handle: &AccountHandle) -> Account {
    handle.read(|account| {
        let record = account.record();
        Account {
            id: record.id,
            name: record.name.clone(),
            ipv4_range: record.ipv4_range,
            ipv6_range: record.ipv6_range,
            devices: account.device_count(),
            online: account.session_count(),
            waiting: account.waiting_count(),
            suspended: record.settings.suspended,
            max_devices: account.device_limit().0,
            max_users: record.settings.user_limit,
            device_approval: record.settings.device_approval,
            key_expiry_days: record.settings.key_expiry_days,
            activity_days: record.settings.activity_days,
        }
    })
}

fn join_key_view(key: &JoinKeyView) -> JoinKey {
    JoinKey {
        id: key.id,
        status: key.status,
        reusable: key.reusable,
        ephemeral: key.ephemeral,
        tags: key.tags.iter().map(ToString::to_string).collect(),
        approves: key.approves,
        created: Time(key.created.0),
        expires: key.expires.map(|at| Time(at.0)),
        last_used: key.last_used.map(|at| Time(at.0)),
        uses: key.uses,
    }
}

/// A request's body in JSON; the error tells what is wrong with it.
pub(super) struct Content<T, const MAX: usize = MAX_BODY>(pub(super) T);

impl<T: DeserializeOwned, const MAX: usize, S: Sync> FromRequest<S> for Content<T, MAX> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let (parts, body) = request.into_parts();
        let body = extract::read(Request::new(body), MAX, BODY_TIMEOUT).await?;
        Again::ask(&parts.extensions)?;
        serde_json::from_slice(&body).map(Self).map_err(|error| Failure::invalid(error.to_string()))
    }
}
