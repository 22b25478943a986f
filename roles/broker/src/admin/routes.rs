//! The admin API's handlers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Request, State};
use axum::response::Response;
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http_body_util::{BodyExt as _, Limited};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};
use warren_coord::{
    Account as CoordAccount, By, DeviceEdit, DeviceView, JoinKeyView, PathView, Refused, Tag,
};
use warren_proto::{DeviceId, DeviceName, ErrorCode, JoinKeyId, RelayId};

use super::Time;
use super::download::Download;
use super::relay_types::DeviceRemoved;
use super::types::{
    Account, BrokerStatus, Device, DeviceChange, DevicePath, JoinKey, JoinKeyCreated, NewAccount,
    NewJoinKey, Pins, SetLog,
};
use crate::accounts::{AccountHandle, fresh_ctx};
use crate::api::problem::{ApiResult, Failure, tell_operator};
use crate::backup::Manifest;
use crate::broker::Broker;
use crate::config::SetLogFilter;

const MAX_BODY: usize = 64 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// A hundred years: what is longer is a mistake.
const LONGEST_EXPIRY: u64 = 100 * 365 * 24 * 3600;

type Shared = State<Arc<Broker>>;

/// The routes of the admin socket.
pub(crate) fn router(broker: Arc<Broker>) -> Router {
    let account = "/api/v1/accounts/{account}";
    let device = format!("{account}/devices/{{device}}");
    Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/accounts", get(accounts).post(create_account))
        .route(account, get(show_account).delete(remove_account))
        .route(&format!("{account}/join-keys"), get(join_keys).post(create_join_key))
        .route(&format!("{account}/join-keys/{{key}}"), delete(remove_join_key))
        .route(&format!("{account}/devices"), get(devices))
        .route(&device, get(show_device).patch(change_device).delete(remove_device))
        .route(&format!("{device}/expire"), post(expire_device))
        .route(&format!("{device}/paths"), get(device_paths))
        .route("/api/v1/pins", get(pins))
        .route("/api/v1/pins/prepare", post(prepare_pin))
        .route("/api/v1/pins/activate", post(activate_pin))
        .route("/api/v1/log", put(set_log))
        .route("/api/v1/backup", post(backup))
        .route("/api/v1/restore", post(restore))
        .merge(super::relays::routes())
        .merge(super::people::routes())
        .merge(super::activity::routes())
        .fallback(|| async { Failure::not_found("address in the admin API") })
        .layer(axum::middleware::map_response(tell_operator))
        .with_state(broker)
}

async fn status(State(broker): Shared) -> Json<BrokerStatus> {
    Json(broker.status())
}

async fn accounts(State(broker): Shared) -> Json<Vec<Account>> {
    Json(broker.accounts.all().iter().map(|handle| account_view(handle)).collect())
}

async fn show_account(
    State(broker): Shared,
    Path(account): Path<String>,
) -> ApiResult<Json<Account>> {
    Ok(Json(account_view(&*broker.accounts.find(&account)?)))
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
) -> ApiResult<Json<Vec<JoinKey>>> {
    let now = warren_coord::UnixTime(fresh_ctx().unix.as_secs());
    let handle = broker.accounts.find(&account)?;
    Ok(Json(handle.read(|account| account.join_keys(now).map(|key| join_key_view(&key)).collect())))
}

async fn create_join_key(
    State(broker): Shared,
    Asker(by): Asker,
    Path(account): Path<String>,
    Content(new): Content<NewJoinKey>,
) -> ApiResult<(StatusCode, Json<JoinKeyCreated>)> {
    let handle = broker.accounts.find(&account)?;
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

async fn devices(
    State(broker): Shared,
    Path(account): Path<String>,
) -> ApiResult<Json<Vec<Device>>> {
    let handle = broker.accounts.find(&account)?;
    let (now, unix) = (Instant::now(), fresh_ctx().unix);
    let mut devices: Vec<Device> =
        handle.read(|account| account.devices(now, unix).map(device_view).collect());
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Json(devices))
}

async fn show_device(
    State(broker): Shared,
    Path((account, device)): Path<(String, String)>,
) -> ApiResult<Json<Device>> {
    let handle = broker.accounts.find(&account)?;
    let device = find_device(&handle, &device)?;
    shown(&handle, device)
}

async fn change_device(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, device)): Path<(String, String)>,
    Content(change): Content<DeviceChange>,
) -> ApiResult<Json<Device>> {
    let handle = broker.accounts.find(&account)?;
    let device = find_device(&handle, &device)?;
    let edit = DeviceEdit {
        owner: None,
        name: change.name.map(|text| DeviceName::from_free_text(&text)),
        static_endpoint: change.static_endpoint,
        tags: change.tags.map(parse_tags).transpose()?,
    };
    handle.durable(by, move |account, _| account.prepare_change(device, edit)).await?;
    shown(&handle, device)
}

async fn expire_device(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, device)): Path<(String, String)>,
) -> ApiResult<Json<Device>> {
    let handle = broker.accounts.find(&account)?;
    let device = find_device(&handle, &device)?;
    handle.durable(by, move |account, _| account.prepare_expire(device)).await?;
    shown(&handle, device)
}

async fn device_paths(
    State(broker): Shared,
    Path((account, device)): Path<(String, String)>,
) -> ApiResult<Json<Vec<DevicePath>>> {
    let handle = broker.accounts.find(&account)?;
    let device = find_device(&handle, &device)?;
    let (now, unix) = (Instant::now(), fresh_ctx().unix);
    let paths = handle.read(|account| {
        let mut names = BTreeMap::new();
        names.extend(account.relays(now, unix).into_iter().map(|relay| (relay.id, relay.name)));
        let shown = |path: PathView| {
            let peer = account.device(path.peer, now, unix)?.name;
            Some(path_view(path, peer, &names))
        };
        account.paths(device).filter_map(shown).collect()
    });
    Ok(Json(paths))
}

async fn remove_device(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, device)): Path<(String, String)>,
) -> ApiResult<Json<DeviceRemoved>> {
    let handle = broker.accounts.find(&account)?;
    let device = find_device(&handle, &device)?;
    let was_relay = handle.read(|account| account.is_relay(device));
    handle.durable(by, move |account, _| account.prepare_remove(device)).await?;
    Ok(Json(DeviceRemoved { was_relay, relays_left: super::relays::used(&handle) }))
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
    let archive = spool(&broker, request.into_body()).await?;
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

fn find_device(handle: &AccountHandle, text: &str) -> ApiResult<DeviceId> {
    handle
        .read(|account| {
            let by_name = text.parse().ok().and_then(|name| account.device_named(&name));
            let by_id = || text.parse().ok().filter(|id| has_device(account, *id));
            by_name.or_else(by_id)
        })
        .ok_or_else(|| {
            Failure::new(
                ErrorCode::NotFound,
                format!(
                    "there is no device '{text}' in this account; `warren admin devices list` \
                     shows them"
                ),
            )
        })
}

fn has_device(account: &CoordAccount, id: DeviceId) -> bool {
    account.device(id, Instant::now(), Duration::ZERO).is_some()
}

fn shown(handle: &AccountHandle, device: DeviceId) -> ApiResult<Json<Device>> {
    let (now, unix) = (Instant::now(), fresh_ctx().unix);
    handle
        .read(|account| account.device(device, now, unix))
        .map(|view| Json(device_view(view)))
        .ok_or_else(|| Refused::NotFound("device").into())
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
        created: Time(key.created.0),
        expires: key.expires.map(|at| Time(at.0)),
        last_used: key.last_used.map(|at| Time(at.0)),
        uses: key.uses,
    }
}

fn device_view(device: DeviceView) -> Device {
    Device {
        id: device.id,
        name: device.name,
        dns_name: device.dns_name,
        key: device.key,
        ipv4: device.ipv4,
        ipv6: device.ipv6,
        os: device.os,
        software: device.software,
        tags: device.tags.iter().map(ToString::to_string).collect(),
        static_endpoint: device.static_endpoint,
        ephemeral: device.ephemeral,
        expired: device.expired,
        online: device.online,
        cloned: device.cloned,
        endpoints: device.endpoints,
        nat: device.nat,
        created: Time(device.created.0),
        last_seen: device.last_seen.map(|at| Time(at.0)),
        joined_by: device.joined_by,
    }
}

fn path_view(
    path: PathView,
    peer: DeviceName,
    relays: &BTreeMap<RelayId, DeviceName>,
) -> DevicePath {
    DevicePath {
        peer,
        path: path.path,
        reason: path.reason,
        endpoint: path.endpoint,
        relay: path.relay.and_then(|relay| relays.get(&relay).cloned()),
        rtt_ms: path.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
        rx_bytes: path.rx_bytes,
        tx_bytes: path.tx_bytes,
    }
}

/// A request's body in JSON; the error tells an admin what is wrong with it.
pub(super) struct Content<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Content<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let body = Limited::new(request.into_body(), MAX_BODY).collect();
        let body = tokio::time::timeout(BODY_TIMEOUT, body).await;
        let body: Bytes = match body {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) | Err(_) => {
                return Err(Failure::invalid("the request is incomplete or too long"));
            }
        };
        serde_json::from_slice(&body).map(Self).map_err(|error| Failure::invalid(error.to_string()))
    }
}

/// Who is at the socket, as Activity names him.
pub(super) struct Asker(pub(super) By);

impl<S: Sync> FromRequestParts<S> for Asker {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let by = parts.extensions.get().cloned();
        by.map(Self).ok_or_else(|| {
            Failure::unavailable(&anyhow::anyhow!(
                "a request came by no connection of the socket's"
            ))
        })
    }
}
