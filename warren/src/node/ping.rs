use anyhow::bail;
use warren_node::local::{PathKind, PingReport, PingRequest};

use crate::cli::{self, Global};
use crate::output::{self, say};

/// How many attempts without `--count`: enough for a slow path to be found.
const DEFAULT_COUNT: u32 = 20;

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
    let mut last = None;
    while let Some(report) = replies.next_ping().await? {
        answered += u32::from(report.rtt_ms.is_some());
        if global.json {
            output::json_line(&report)?;
        } else {
            say!("{}", line(&report));
        }
        last = Some(report);
    }
    if answered > 0 {
        return Ok(());
    }
    match last.and_then(|report| report.reason) {
        Some(reason) => bail!("no answer from {}: {reason}", args.peer),
        None => bail!("no answer from {}; `warren status` shows what is known of it", args.peer),
    }
}

fn line(report: &PingReport) -> String {
    let who = format!("{} ({})", report.peer, report.address);
    let path = match (report.path, report.endpoint, &report.relay) {
        (PathKind::Direct, Some(endpoint), _) => format!("direct via {endpoint}"),
        (PathKind::Relayed, _, Some(relay)) => format!("relayed by {relay}"),
        (kind, _, _) => super::status::path_word(kind).to_owned(),
    };
    let mut text = match report.rtt_ms {
        Some(rtt) => format!("{who}: {path}, {rtt:.1} ms"),
        None => format!("{who}: no answer, {path}"),
    };
    if let Some(reason) = &report.reason {
        text.push_str(": ");
        text.push_str(reason);
    }
    text
}
