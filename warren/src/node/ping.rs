use anyhow::bail;
use warren_node::local::{PathKind, PingReport, PingRequest};

use crate::cli::{self, Global};
use crate::output::{self, say};
use crate::why::path_word;

/// How many attempts without `--count`: enough for a slow path to be found.
const DEFAULT_COUNT: u32 = 20;
/// How many attempts without `--count` that fail alike: one more would say the same.
const FAIL_ALIKE: u32 = 3;

/// `warren ping PEER`: fails unless at least one answer came.
pub(crate) async fn ping(global: &Global, args: &cli::Ping) -> anyhow::Result<()> {
    let mut request = PingRequest::new(&args.peer);
    request.until_direct = args.count.is_none();
    request.count = match args.count {
        None => Some(DEFAULT_COUNT),
        Some(0) => None,
        Some(count) => Some(count),
    };
    let mut replies = super::client(global).ping(request).await?;
    let mut answered = 0;
    let mut alike = 0;
    let mut last: Option<PingReport> = None;
    while let Some(report) = replies.next_ping().await? {
        answered += u32::from(report.rtt_ms.is_some());
        let is_news = last.as_ref().is_none_or(|last| outcome(last) != outcome(&report));
        alike = if report.rtt_ms.is_some() || is_news { 1 } else { alike + 1 };
        if global.json {
            output::json_line(&report)?;
        } else {
            say!("{}", line(&report, is_news));
        }
        let is_hopeless = report.rtt_ms.is_none() && alike == FAIL_ALIKE;
        last = Some(report);
        if args.count.is_none() && is_hopeless {
            break;
        }
    }
    if answered > 0 {
        return Ok(());
    }
    match last.and_then(|report| report.reason) {
        Some(reason) => bail!("no answer from {}: {reason}", args.peer),
        None => bail!("no answer from {}; `warren status` shows what is known of it", args.peer),
    }
}

/// What an attempt came to, but for figures.
fn outcome(report: &PingReport) -> (bool, PathKind, Option<&str>) {
    (report.rtt_ms.is_some(), report.path, report.reason.as_deref())
}

/// The reason is told once, as long as it stays the same.
fn line(report: &PingReport, is_news: bool) -> String {
    let who = format!("{} ({})", report.peer, report.address);
    let path = match (report.path, report.endpoint, &report.relay) {
        (PathKind::Direct, Some(endpoint), _) => format!("direct via {endpoint}"),
        (PathKind::Relayed, _, Some(relay)) => format!("relayed by {relay}"),
        (kind, _, _) => path_word(kind).to_owned(),
    };
    let mut text = match (report.rtt_ms, report.found_after_ms, report.path_rtt_ms) {
        (Some(_), Some(found), Some(rtt)) => {
            format!("{who}: {path}, {rtt:.1} ms (path found in {found:.0} ms)")
        }
        (Some(rtt), _, _) => format!("{who}: {path}, {rtt:.1} ms"),
        (None, _, _) => format!("{who}: no answer, {path}"),
    };
    if let Some(reason) = report.reason.as_ref().filter(|_| is_news) {
        text.push_str(": ");
        text.push_str(reason);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> PingReport {
        PingReport {
            peer: "desktop".to_owned(),
            address: [100, 81, 1, 2].into(),
            seq: 1,
            rtt_ms: None,
            found_after_ms: None,
            path: PathKind::Unreachable,
            endpoint: None,
            relay: None,
            path_rtt_ms: None,
            reason: Some("it is offline".to_owned()),
        }
    }

    #[test]
    fn the_first_answer_tells_the_search_apart_from_the_round_trip() {
        let found = PingReport {
            rtt_ms: Some(139.1),
            found_after_ms: Some(94.0),
            path_rtt_ms: Some(45.1),
            path: PathKind::Direct,
            endpoint: Some(([203, 0, 113, 7], 52_011).into()),
            reason: None,
            ..report()
        };
        assert_eq!(
            line(&found, true),
            "desktop (100.81.1.2): direct via 203.0.113.7:52011, 45.1 ms (path found in 94 ms)"
        );
        let next = PingReport { rtt_ms: Some(45.3), found_after_ms: None, ..found };
        assert_eq!(
            line(&next, true),
            "desktop (100.81.1.2): direct via 203.0.113.7:52011, 45.3 ms"
        );
    }

    #[test]
    fn a_reason_is_not_repeated() {
        assert_eq!(
            line(&report(), true),
            "desktop (100.81.1.2): no answer, unreachable: it is offline"
        );
        assert_eq!(line(&report(), false), "desktop (100.81.1.2): no answer, unreachable");
    }
}
