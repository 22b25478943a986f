//! The API's operations on relays.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use tokio::time::timeout;
use warren_coord::{
    Account as CoordAccount, RelayKind, RelayRecord, RelayView, RelayWarning, Right, UnixTime,
};
use warren_proto::{DeviceName, ErrorCode, RelayId};

use super::Time;
use super::guard::Asker;
use super::operation::Operation;
use super::paged::{PageQuery, Query};
use super::relay_types::{NewRelay, NewTurn, Relay, RelayCreated, RelayOrigin, SetRelays};
use super::routes::Content;
use crate::accounts::{AccountHandle, fresh_ctx};
use crate::api::problem::{ApiResult, Failure};
use crate::broker::Broker;
use crate::relays::{Live, TurnUrl, probe};

/// How long naming relays waits to see whether they are reached: a device must first hear of its
/// duty.
const CHECK: Duration = Duration::from_secs(4);
/// A relay server that hasn't reported for this long is shown as silent.
const SILENT: Duration = Duration::from_secs(180);
const LONGEST_SECRET: usize = 256;

type Shared = State<Arc<Broker>>;

/// Operations on relays, an account's and those that are offered to all.
pub(super) fn operations() -> Vec<Operation> {
    let mut all = own_operations();
    all.extend(shared_operations());
    all
}

fn own_operations() -> Vec<Operation> {
    vec![
        Operation::get(
            "/accounts/{account}/relays",
            "listRelays",
            "The relays that the account's devices use or could use",
            list,
        )
        .needs(Right::ReadAccount)
        .lists::<Relay>(),
        Operation::put(
            "/accounts/{account}/relays",
            "setRelays",
            "Names the account's connection relays, in order of preference",
            set,
        )
        .needs(Right::ManageRelays)
        .takes::<SetRelays>()
        .gives::<Vec<Relay>>(),
        Operation::post(
            "/accounts/{account}/relays",
            "createRelay",
            "Makes the token of a relay server of the account's own",
            create,
        )
        .needs(Right::ManageRelays)
        .takes::<NewRelay>()
        .creates::<RelayCreated>(),
        Operation::post(
            "/accounts/{account}/turn-servers",
            "addTurnServer",
            "Takes somebody's TURN server in",
            add_turn,
        )
        .needs(Right::ManageRelays)
        .takes::<NewTurn>()
        .creates::<Relay>(),
        Operation::get("/accounts/{account}/relays/{relay}", "getRelay", "A relay", show)
            .needs(Right::ReadAccount)
            .gives::<Relay>(),
        Operation::delete(
            "/accounts/{account}/relays/{relay}",
            "deleteRelay",
            "Removes a relay; a relay server's token is void at once",
            remove,
        )
        .needs(Right::ManageRelays),
        Operation::post(
            "/accounts/{account}/relays/{relay}/rotate",
            "rotateRelay",
            "Gives a relay a new secret",
            rotate,
        )
        .needs(Right::ManageRelays)
        .gives::<Relay>(),
    ]
}

fn shared_operations() -> Vec<Operation> {
    vec![
        Operation::get(
            "/relays",
            "listOfferedRelays",
            "The relays that are offered to all accounts",
            list_shared,
        )
        .needs(Right::ReadBroker)
        .lists::<Relay>(),
        Operation::post(
            "/relays",
            "createOfferedRelay",
            "Makes the token of a relay server for all accounts",
            create_shared,
        )
        .needs(Right::ManageOfferedRelays)
        .takes::<NewRelay>()
        .creates::<RelayCreated>(),
        Operation::post(
            "/turn-servers",
            "addOfferedTurnServer",
            "Takes a TURN server in for all accounts",
            add_shared_turn,
        )
        .needs(Right::ManageOfferedRelays)
        .takes::<NewTurn>()
        .creates::<Relay>(),
        Operation::get("/relays/{relay}", "getOfferedRelay", "A relay", show_shared)
            .needs(Right::ReadBroker)
            .gives::<Relay>(),
        Operation::delete(
            "/relays/{relay}",
            "deleteOfferedRelay",
            "Removes a relay from all accounts",
            remove_shared,
        )
        .needs(Right::ManageOfferedRelays),
        Operation::post(
            "/relays/{relay}/rotate",
            "rotateOfferedRelay",
            "Gives a relay a new secret",
            rotate_shared,
        )
        .needs(Right::ManageOfferedRelays)
        .gives::<Relay>(),
    ]
}

async fn list(
    State(broker): Shared,
    Path(account): Path<String>,
    Query(page): Query<PageQuery>,
) -> ApiResult<Response> {
    // In the order in which devices prefer them.
    let place = |it: &Relay| format!("{:05} {} {}", it.rank.unwrap_or(u16::MAX), it.name, it.id);
    page.of(views(&broker, &*broker.accounts.find(&account)?), place)
}

async fn show(
    State(broker): Shared,
    Path((account, relay)): Path<(String, String)>,
) -> ApiResult<Json<Relay>> {
    find(views(&broker, &*broker.accounts.find(&account)?), &relay).map(Json)
}

async fn create(
    State(broker): Shared,
    Asker(by): Asker,
    Path(account): Path<String>,
    Content(new): Content<NewRelay>,
) -> ApiResult<(StatusCode, Json<RelayCreated>)> {
    let handle = broker.accounts.find(&account)?;
    let name = new.name.clone();
    let created =
        handle.durable(by, move |account, ctx| account.prepare_relay_server(name, ctx)).await?;
    Ok((StatusCode::CREATED, Json(token(&broker, new.name, created))))
}

async fn create_shared(
    State(broker): Shared,
    Asker(by): Asker,
    Content(new): Content<NewRelay>,
) -> ApiResult<(StatusCode, Json<RelayCreated>)> {
    let created = broker.relays.create(by, new.name.clone()).await?;
    Ok((StatusCode::CREATED, Json(token(&broker, new.name, created))))
}

fn token(broker: &Broker, name: DeviceName, created: warren_coord::RelayCreated) -> RelayCreated {
    let (url, pin) = broker.reached_by();
    RelayCreated { id: created.id, name, token: created.token, url, pin }
}

async fn add_turn(
    State(broker): Shared,
    Asker(by): Asker,
    Path(account): Path<String>,
    Content(new): Content<NewTurn>,
) -> ApiResult<(StatusCode, Json<Relay>)> {
    let handle = broker.accounts.find(&account)?;
    let new = checked_turn(new).await?;
    let id = handle.durable(by, move |account, ctx| account.prepare_turn(new, ctx)).await?;
    Ok((StatusCode::CREATED, Json(find(views(&broker, &handle), &id.to_string())?)))
}

async fn add_shared_turn(
    State(broker): Shared,
    Asker(by): Asker,
    Content(new): Content<NewTurn>,
) -> ApiResult<(StatusCode, Json<Relay>)> {
    let id = broker.relays.add_turn(by, checked_turn(new).await?).await?;
    Ok((StatusCode::CREATED, Json(find(shared_views(&broker), &id.to_string())?)))
}

/// Reads the URL and looks its name up.
async fn checked_turn(new: NewTurn) -> ApiResult<warren_coord::NewTurn> {
    let said = |error: anyhow::Error| Failure::invalid(format!("{error:#}"));
    let url: TurnUrl = new.url.parse().map_err(said)?;
    if new.secret.is_empty() || new.secret.len() > LONGEST_SECRET {
        return Err(Failure::invalid("a TURN server's secret or password has 1 to 256 bytes"));
    }
    let face = url.resolve().await.map_err(said)?;
    Ok(warren_coord::NewTurn {
        name: new.name.unwrap_or_else(|| DeviceName::from_free_text(url.host())),
        url: new.url,
        username: new.username,
        secret: new.secret,
        face,
    })
}

async fn set(
    State(broker): Shared,
    Asker(by): Asker,
    Path(account): Path<String>,
    Content(list): Content<SetRelays>,
) -> ApiResult<Json<Vec<Relay>>> {
    let handle = broker.accounts.find(&account)?;
    let groups = list.relays;
    handle.durable(by, move |account, ctx| account.prepare_relay_list(&groups, ctx)).await?;
    // A device needs a moment to hear that it is a relay, and to begin.
    let settled = async {
        loop {
            probe::probe_account(&handle).await;
            if !views(&broker, &handle).iter().any(|relay| relay.rank.is_some() && unsure(relay)) {
                return;
            }
        }
    };
    let _ = timeout(CHECK, settled).await;
    let used = views(&broker, &handle).into_iter().filter(|relay| relay.rank.is_some());
    Ok(Json(used.collect()))
}

/// Whether it might answer in a moment.
fn unsure(relay: &Relay) -> bool {
    relay.origin == RelayOrigin::Device
        && relay.online == Some(true)
        && relay.warnings.iter().any(|warning| warning.contains("no answer"))
}

async fn remove(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, relay)): Path<(String, String)>,
) -> ApiResult<StatusCode> {
    let handle = broker.accounts.find(&account)?;
    let relay = own(&broker, &handle, &relay)?;
    handle.durable(by, move |account, _| account.prepare_remove_relay(relay)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn rotate(
    State(broker): Shared,
    Asker(by): Asker,
    Path((account, relay)): Path<(String, String)>,
) -> ApiResult<Json<Relay>> {
    let handle = broker.accounts.find(&account)?;
    let relay = own(&broker, &handle, &relay)?;
    handle.durable(by, move |account, ctx| account.prepare_rotate_relay(relay, ctx)).await?;
    find(views(&broker, &handle), &relay.to_string()).map(Json)
}

/// One of the account's own relays.
fn own(broker: &Broker, handle: &AccountHandle, text: &str) -> ApiResult<RelayId> {
    let relay = find(views(broker, handle), text)?;
    if relay.shared {
        return Err(Failure::new(
            ErrorCode::Conflict,
            format!("'{text}' is offered to all accounts; change it with --operator"),
        ));
    }
    Ok(relay.id)
}

async fn list_shared(State(broker): Shared, Query(page): Query<PageQuery>) -> ApiResult<Response> {
    page.of(shared_views(&broker), |relay| format!("{} {}", relay.name, relay.id))
}

async fn show_shared(State(broker): Shared, Path(relay): Path<String>) -> ApiResult<Json<Relay>> {
    find(shared_views(&broker), &relay).map(Json)
}

async fn remove_shared(
    State(broker): Shared,
    Asker(by): Asker,
    Path(relay): Path<String>,
) -> ApiResult<StatusCode> {
    let record = broker.relays.find(&relay)?;
    broker.relays.remove(by, record.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn rotate_shared(
    State(broker): Shared,
    Asker(by): Asker,
    Path(relay): Path<String>,
) -> ApiResult<Json<Relay>> {
    let record = broker.relays.find(&relay)?;
    broker.relays.rotate(by, record.id).await?;
    find(shared_views(&broker), &record.id.to_string()).map(Json)
}

fn find(relays: Vec<Relay>, text: &str) -> ApiResult<Relay> {
    let named = |relay: &Relay| relay.name.as_str() == text || relay.id.to_string() == text;
    relays.into_iter().find(named).ok_or_else(|| {
        Failure::new(
            ErrorCode::NotFound,
            format!("there is no relay '{text}'; `warren admin relays list` shows them"),
        )
    })
}

/// How many relays an account's devices have.
pub(super) fn used(handle: &AccountHandle) -> usize {
    let (now, unix) = (Instant::now(), fresh_ctx().unix);
    let views = handle.read(|account| account.relays(now, unix));
    views.iter().filter(|view| view.rank.is_some()).count()
}

/// The relays that an account's devices use or could use.
pub(crate) fn views(broker: &Broker, handle: &AccountHandle) -> Vec<Relay> {
    let (now, unix) = (Instant::now(), fresh_ctx().unix);
    let views = handle.read(|account| CoordAccount::relays(account, now, unix));
    let heard = shared_views(broker);
    let view = |view: RelayView| {
        let shared = heard.iter().find(|shared| view.shared && shared.id == view.id);
        let relay = relay_view(view);
        match shared {
            // The account knows who uses it, the broker what it says.
            Some(shared) => Relay {
                rank: relay.rank,
                reached_by: relay.reached_by,
                devices: relay.devices,
                ..shared.clone()
            },
            None => relay,
        }
    };
    views.into_iter().map(view).collect()
}

fn relay_view(view: RelayView) -> Relay {
    Relay {
        id: view.id,
        name: view.name,
        origin: view.origin,
        shared: view.shared,
        rank: view.rank,
        tls: view.face.tls.iter().map(|tls| tls.to_string()).collect(),
        udp: view.face.udp,
        tcp: view.face.tcp,
        url: view.url,
        online: view.online,
        last_heard: view.last_heard.map(time),
        reached_by: view.reached_by,
        devices: view.devices,
        limits: view.limits,
        load: view.load,
        warnings: view.warnings.iter().map(ToString::to_string).collect(),
        created: Some(time(view.created)).filter(|at| at.0 > 0),
    }
}

fn time(at: UnixTime) -> Time {
    Time(at.0)
}

/// What is offered to all accounts.
fn shared_views(broker: &Broker) -> Vec<Relay> {
    let mut views: Vec<Relay> = broker
        .relays
        .look(|relays| relays.map(|(record, live)| shared_view(record, live)).collect());
    for own in views.iter_mut().filter(|view| view.origin == RelayOrigin::Broker) {
        own.load = broker.relays.own_load();
    }
    views.sort_by(|a, b| a.name.cmp(&b.name));
    views
}

fn shared_view(record: &RelayRecord, live: Option<&Live>) -> Relay {
    let report = live.and_then(|live| live.report.as_ref());
    let silence = report.map(|(at, _)| at.elapsed());
    let (origin, url) = match &record.kind {
        RelayKind::Device(_) => (RelayOrigin::Device, None),
        RelayKind::Server { .. } => (RelayOrigin::Server, None),
        RelayKind::Turn { url, .. } => (RelayOrigin::Turn, Some(url.clone())),
        RelayKind::Own => (RelayOrigin::Broker, None),
    };
    let online =
        (origin == RelayOrigin::Server).then(|| silence.is_some_and(|silence| silence < SILENT));
    let mut warnings = Vec::new();
    warnings.extend((online == Some(false)).then_some(RelayWarning::Silent));
    let draining = report.is_some_and(|(_, report)| report.draining);
    warnings.extend(draining.then_some(RelayWarning::Draining));
    if record.face.is_empty() && warnings.is_empty() {
        warnings.push(RelayWarning::NoAddress);
    }
    for probe in live.map_or(&[][..], |live| &live.probes) {
        if !probe.answered && record.face.udp.contains(&probe.addr) {
            warnings.push(RelayWarning::Unreachable { addr: probe.addr });
        }
    }
    let unix = fresh_ctx().unix;
    Relay {
        id: record.id,
        name: record.name.clone(),
        origin,
        shared: true,
        rank: None,
        udp: record.face.udp.clone(),
        tcp: record.face.tcp.clone(),
        tls: record.face.tls.iter().map(|tls| tls.to_string()).collect(),
        url,
        online,
        last_heard: silence.map(|silence| Time(unix.saturating_sub(silence).as_secs())),
        reached_by: 0,
        devices: 0,
        limits: report.map(|(_, report)| report.limits).unwrap_or_default(),
        load: report.map(|(_, report)| report.load).unwrap_or_default(),
        warnings: warnings.iter().map(ToString::to_string).collect(),
        created: Some(time(record.created)).filter(|at| at.0 > 0),
    }
}
