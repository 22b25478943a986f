//! The API's operations on devices.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use warren_coord::policy::Members;
use warren_coord::{
    Account as CoordAccount, By, Ctx, DeviceEdit, DeviceView, PathView, Prepared, Refused, Right,
};
use warren_proto::{DeviceId, DeviceName, ErrorCode, RelayId, UserId, read_join_code};

use super::Time;
use super::guard::{Asker, Granted, require};
use super::operation::Operation;
use super::paged::{PageQuery, Query};
use super::relay_types::DeviceRemoved;
use super::routes::{Content, parse_tags};
use super::types::{Device, DeviceChange, DevicePath, JoinApproval, JoinRequest};
use crate::accounts::{AccountHandle, fresh_ctx};
use crate::api::problem::{ApiResult, Failure};
use crate::broker::Broker;
use crate::join_requests::{self, Asking, Confirmer};
use crate::people::Grant;

type Shared = State<Arc<Broker>>;

/// They.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::get("/accounts/{account}/devices", "listDevices", "Devices, by name", devices)
            .needs(Right::ReadAccount)
            .lists::<Device>(),
        Operation::get(
            "/accounts/{account}/devices/{device}",
            "getDevice",
            "A device",
            show_device,
        )
        .needs(Right::ReadAccount)
        .gives::<Device>(),
        Operation::patch(
            "/accounts/{account}/devices/{device}",
            "changeDevice",
            "Renames a device, sets its static endpoint or its tags",
            change_device,
        )
        .needs_device()
        .takes::<DeviceChange>()
        .gives::<Device>(),
        Operation::delete(
            "/accounts/{account}/devices/{device}",
            "deleteDevice",
            "Removes a device; it is cut off everywhere at once",
            remove_device,
        )
        .needs_device()
        .gives::<DeviceRemoved>(),
        Operation::post(
            "/accounts/{account}/devices/{device}/expire",
            "expireDevice",
            "Takes a device out of the mesh until it is renewed or joins again",
            expire_device,
        )
        .needs_device()
        .gives::<Device>(),
        Operation::post(
            "/accounts/{account}/devices/{device}/renew",
            "renewDevice",
            "Lets a device's time begin anew, whether it was over or not",
            renew_device,
        )
        .needs_device()
        .gives::<Device>(),
        Operation::post(
            "/accounts/{account}/devices/{device}/approve",
            "approveDevice",
            "Lets a device into the mesh that waits",
            approve_device,
        )
        .needs(Right::ManageDevices)
        .gives::<Device>(),
        Operation::post(
            "/accounts/{account}/devices/{device}/refuse",
            "refuseDevice",
            "Turns a device away that waits: it is removed",
            refuse_device,
        )
        .needs(Right::ManageDevices)
        .gives::<Device>(),
        Operation::post(
            "/accounts/{account}/join-requests/{code}/approve",
            "approveJoinRequest",
            "Lets the device in that shows this code; who may not make join keys makes it his own, \
             without tags",
            let_in,
        )
        .takes::<JoinApproval>()
        .gives::<JoinRequest>(),
        Operation::post(
            "/accounts/{account}/join-requests/{code}/deny",
            "denyJoinRequest",
            "Turns the device away that shows this code",
            turn_away,
        )
        .gives::<JoinRequest>(),
        Operation::get(
            "/accounts/{account}/devices/{device}/paths",
            "listDevicePaths",
            "The paths that a device uses or seeks, by peer",
            device_paths,
        )
        .needs(Right::ReadAccount)
        .lists::<DevicePath>(),
    ]
}

async fn devices(
    State(broker): Shared,
    Path(account): Path<String>,
    Query(page): Query<PageQuery>,
) -> ApiResult<Response> {
    let handle = broker.accounts.find(&account)?;
    let (now, unix) = (Instant::now(), fresh_ctx().unix);
    let views: Vec<DeviceView> = handle.read(|account| account.devices(now, unix).collect());
    let devices = views.into_iter().map(|view| device_view(&broker, view));
    page.of(devices, |device| device.name.to_string())
}

async fn let_in(
    State(broker): Shared,
    Granted(grant): Granted,
    Path((account, code)): Path<(String, String)>,
    Content(JoinApproval { tags }): Content<JoinApproval>,
) -> ApiResult<Json<JoinRequest>> {
    let account = broker.accounts.find(&account)?;
    let confirmer = confirmer(&broker, &grant, &account)?;
    if !confirmer.approves && !tags.is_empty() {
        return Err(Refused::Forbidden.into());
    }
    let code = read_join_code(&code).ok_or_else(join_requests::gone)?;
    let asking = broker.let_in(grant.by(), &account, &code, tags, confirmer).await?;
    Ok(Json(join_request(asking)))
}

async fn turn_away(
    State(broker): Shared,
    Granted(grant): Granted,
    Path((account, code)): Path<(String, String)>,
) -> ApiResult<Json<JoinRequest>> {
    confirmer(&broker, &grant, &*broker.accounts.find(&account)?)?;
    let code = read_join_code(&code).ok_or_else(join_requests::gone)?;
    broker.turn_away(&code).map(|asking| Json(join_request(asking)))
}

/// On whose word a device is let in: an admin's approves it, a member's makes it his own.
fn confirmer(broker: &Broker, grant: &Grant, account: &AccountHandle) -> ApiResult<Confirmer> {
    let id = Some(account.id());
    let approves = require(broker, grant, Right::ManageJoinKeys, id).is_ok();
    if !approves {
        require(broker, grant, Right::ManageOwnDevices, id)?;
    }
    Ok(Confirmer { user: grant.user(), approves })
}

fn join_request(asking: Asking) -> JoinRequest {
    let Asking { code, name, os, software, source } = asking;
    JoinRequest { code, name, os, software, source }
}

async fn show_device(
    State(broker): Shared,
    Path((account, device)): Path<(String, String)>,
) -> ApiResult<Json<Device>> {
    let handle = broker.accounts.find(&account)?;
    let device = find_device(&handle, &device)?;
    shown(&broker, &handle, device)
}

async fn change_device(
    State(broker): Shared,
    Granted(grant): Granted,
    Path((account, device)): Path<(String, String)>,
    Content(change): Content<DeviceChange>,
) -> ApiResult<Json<Device>> {
    let handle = broker.accounts.find(&account)?;
    let device = find_device(&handle, &device)?;
    if change.tags.is_some()
        || change.static_endpoint.is_some()
        || change.owner.is_some()
        || change.never_expires.is_some()
    {
        // What others rely on isn't for its owner alone to change.
        require(&broker, &grant, Right::ManageDevices, Some(handle.id()))?;
    }
    let name = change.name.map(|text| DeviceName::from_free_text(&text));
    let is_admin = require(&broker, &grant, Right::ManageDevices, Some(handle.id())).is_ok();
    let edit = DeviceEdit {
        owner: owner_of(&broker, &handle, change.owner.as_deref())?,
        name,
        static_endpoint: change.static_endpoint,
        tags: change.tags.map(parse_tags).transpose()?,
        never_expires: change.never_expires,
    };
    edit_device(grant.by(), &handle, device, edit, is_admin).await?;
    shown(&broker, &handle, device)
}

/// Changes a device. Whoever gets a name that the policy speaks of gets its rights: only an admin may
/// give it.
pub(crate) async fn edit_device(
    by: By,
    account: &Arc<AccountHandle>,
    device: DeviceId,
    edit: DeviceEdit,
    is_admin: bool,
) -> ApiResult<()> {
    let decide = move |account: &CoordAccount, ctx: &Ctx| {
        let has_rights = |name: &DeviceName| account.policy_names(name);
        if !is_admin && edit.name.as_ref().is_some_and(has_rights) {
            return Err(Refused::Forbidden);
        }
        account.prepare_change(device, edit, ctx)
    };
    account.durable(by, decide).await
}

/// The user that a device is to belong to: one of the account's people, by address; `none` for
/// nobody.
pub(crate) fn owner_of(
    broker: &Broker,
    handle: &AccountHandle,
    text: Option<&str>,
) -> ApiResult<Option<Option<UserId>>> {
    let Some(text) = text else { return Ok(None) };
    if text == "none" {
        return Ok(Some(None));
    }
    let people = broker.people.read(|people| Members::of(people, handle.id()));
    let owner = text.parse().ok().and_then(|email| people.find(&email));
    let nobody = || {
        Failure::new(
            ErrorCode::NotFound,
            format!(
                "nobody in this account has the address '{text}'; `warren admin users list` shows \
                 its people"
            ),
        )
    };
    owner.map(|owner| Some(Some(owner))).ok_or_else(nobody)
}

/// Has a device changed as `decide` says, and shows it as it is then.
async fn changed(
    broker: &Broker,
    by: By,
    (account, device): (String, String),
    decide: fn(&CoordAccount, DeviceId, &Ctx) -> Result<Prepared<()>, Refused>,
) -> ApiResult<Json<Device>> {
    let handle = broker.accounts.find(&account)?;
    let device = find_device(&handle, &device)?;
    handle.durable(by, move |account, ctx| decide(account, device, ctx)).await?;
    shown(broker, &handle, device)
}

async fn expire_device(
    State(broker): Shared,
    Asker(by): Asker,
    Path(device): Path<(String, String)>,
) -> ApiResult<Json<Device>> {
    changed(&broker, by, device, CoordAccount::prepare_expire).await
}

async fn renew_device(
    State(broker): Shared,
    Asker(by): Asker,
    Path(device): Path<(String, String)>,
) -> ApiResult<Json<Device>> {
    changed(&broker, by, device, CoordAccount::prepare_renew).await
}

async fn approve_device(
    State(broker): Shared,
    Asker(by): Asker,
    Path(device): Path<(String, String)>,
) -> ApiResult<Json<Device>> {
    changed(&broker, by, device, CoordAccount::prepare_approve).await
}

async fn refuse_device(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, device)): Path<(String, String)>,
) -> ApiResult<Json<Device>> {
    let handle = broker.accounts.find(&account)?;
    let device = find_device(&handle, &device)?;
    let was = shown(&broker, &handle, device)?;
    handle.durable(by, move |account, _| account.prepare_refuse(device)).await?;
    Ok(was)
}

async fn device_paths(
    State(broker): Shared,
    Path((account, device)): Path<(String, String)>,
    Query(page): Query<PageQuery>,
) -> ApiResult<Response> {
    let handle = broker.accounts.find(&account)?;
    let device = find_device(&handle, &device)?;
    let (now, unix) = (Instant::now(), fresh_ctx().unix);
    let paths: Vec<DevicePath> = handle.read(|account| {
        let names = relay_names(account);
        let shown = |path: PathView| {
            let peer = account.device(path.peer, now, unix)?.name;
            Some(path_view(path, peer, &names))
        };
        account.paths(device).filter_map(shown).collect()
    });
    page.of(paths, |path| path.peer.to_string())
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

pub(super) fn find_device(handle: &AccountHandle, text: &str) -> ApiResult<DeviceId> {
    handle
        .read(|account| {
            // The id first: nobody hides another's device by a name like its id.
            let by_id = text.parse().ok().filter(|id| has_device(account, *id));
            by_id.or_else(|| account.device_named(&text.parse().ok()?))
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

fn shown(broker: &Broker, handle: &AccountHandle, device: DeviceId) -> ApiResult<Json<Device>> {
    let (now, unix) = (Instant::now(), fresh_ctx().unix);
    handle
        .read(|account| account.device(device, now, unix))
        .map(|view| Json(device_view(broker, view)))
        .ok_or_else(|| Refused::NotFound("device").into())
}

pub(super) fn device_view(broker: &Broker, device: DeviceView) -> Device {
    let owner = device.owner.and_then(|owner| {
        broker.people.read(|people| people.user(owner).map(|user| user.email.to_string()))
    });
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
        owner,
        static_endpoint: device.static_endpoint,
        ephemeral: device.ephemeral,
        admission: device.admission,
        expires: device.expires.map(|at| Time(at.0)),
        never_expires: device.never_expires,
        online: device.online,
        cloned: device.cloned,
        endpoints: device.endpoints,
        nat: device.nat,
        created: Time(device.created.0),
        last_seen: device.last_seen.map(|at| Time(at.0)),
        joined_by: device.joined_by,
    }
}

/// What the relays are called that an account's devices use or could use.
pub(super) fn relay_names(account: &CoordAccount) -> BTreeMap<RelayId, DeviceName> {
    let relays = account.relays(Instant::now(), fresh_ctx().unix);
    relays.into_iter().map(|relay| (relay.id, relay.name)).collect()
}

pub(super) fn path_view(
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
