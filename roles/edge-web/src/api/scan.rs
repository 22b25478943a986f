//! Scanning, by the API.

use axum::Json;
use axum::extract::State;
use http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;
use warren_edge::{Rescan, RescanStatus, ScanPlan, ScanStatus};

use super::{Content, Failure, Given, Operation};
use crate::desk::Refusal;
use crate::surround::{Shared, Visitor};

pub(super) fn operations() -> Vec<Operation> {
    let (get, delete) = (Method::GET, Method::DELETE);
    vec![
        Operation::new(get.clone(), "/scan", "getScan", "How scanning goes", scanning)
            .gives::<ScanStatus>(),
        Operation::new(
            Method::POST,
            "/scan",
            "beginScan",
            "Begins a scan; without networks, of those that this edge stands in, but for large ones, which \
             the answer names (`left_out`)",
            scan,
        )
        .takes::<Wanted>()
        .gives::<ScanStatus>(),
        Operation::new(delete.clone(), "/scan", "cancelScan", "Ends the scan under way", cancel),
        Operation::new(
            get,
            "/scan/schedule",
            "getScanSchedule",
            "The scan that is repeated, when the next one is (`next_unix`) and why the last couldn't be \
             begun (`problem`); `null`: none is repeated",
            rescan,
        )
        .gives::<Option<RescanStatus>>(),
        Operation::new(
            Method::PUT,
            "/scan/schedule",
            "setScanSchedule",
            "Has a scan repeated, for the first time after one interval",
            set_rescan,
        )
        .takes::<Wanted>()
        .gives::<Option<RescanStatus>>(),
        Operation::new(
            delete,
            "/scan/schedule",
            "deleteScanSchedule",
            "Has no scan repeated any more",
            delete_rescan,
        ),
    ]
}

async fn scanning(State(site): Shared, _: Visitor) -> Json<ScanStatus> {
    Json(site.scanning())
}

/// What to scan, and how often.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// From one beginning to the next, in seconds: 900 (15 minutes) to 2592000 (30 days). Chance adds up
    /// to a tenth, at most half an hour. A schedule needs it; with a scan it has it repeated from now on, in
    /// the place of what is repeated so far, unless the scan is refused.
    #[serde(default)]
    every_secs: Option<u64>,
    /// Networks, as `192.168.1.0/24`. Absent: those that this edge stands in at that time, but for large
    /// ones.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    networks: Vec<ipnet::Ipv4Net>,
    /// TCP ports. Absent: 20 common ones.
    #[serde(default)]
    ports: Option<Vec<u16>>,
    /// Probes in a second.
    #[serde(default)]
    rate: Option<u32>,
    /// Confirms that addresses of the internet may be scanned.
    #[serde(default)]
    public_confirmed: bool,
}

impl Wanted {
    fn plan(self) -> ScanPlan {
        let Self { networks, ports, rate, public_confirmed, every_secs: _ } = self;
        let plan = ScanPlan::of(networks);
        let ports = ports.filter(|ports| !ports.is_empty()).unwrap_or(plan.ports);
        let rate = rate.unwrap_or(plan.rate);
        ScanPlan { networks: plan.networks, ports, rate, public_confirmed }
    }
}

async fn rescan(State(site): Shared, _: Visitor) -> Json<Option<RescanStatus>> {
    Json(site.tools.rescan())
}

async fn set_rescan(
    State(site): Shared,
    visitor: Visitor,
    Content(wanted): Content<Wanted>,
) -> Given<Option<RescanStatus>> {
    let every_secs = wanted.every_secs.ok_or_else(|| Refusal::invalid("every_secs is missing"))?;
    let rescan = Rescan { every_secs, plan: wanted.plan() };
    site.set_rescan(&visitor.asker, Some(rescan)).await?;
    Ok(Json(site.tools.rescan()))
}

async fn delete_rescan(State(site): Shared, visitor: Visitor) -> Result<StatusCode, Failure> {
    site.set_rescan(&visitor.asker, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn scan(
    State(site): Shared,
    visitor: Visitor,
    Content(wanted): Content<Wanted>,
) -> Given<ScanStatus> {
    let every_secs = wanted.every_secs;
    site.scan(&visitor.asker, wanted.plan(), every_secs).await?;
    Ok(Json(site.scanning()))
}

async fn cancel(State(site): Shared, visitor: Visitor) -> Result<StatusCode, Failure> {
    site.cancel_scan(&visitor.asker)?;
    Ok(StatusCode::NO_CONTENT)
}
