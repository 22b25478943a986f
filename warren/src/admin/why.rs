use warren_broker::admin::{Client, WhyDevice, WhyQuery, WhyRule};

use super::device::admission_word;
use crate::cli::Why;
use crate::output::say;
use crate::why::{Side, key, path, port};

pub(crate) async fn run(client: &Client, args: Why, json: bool) -> anyhow::Result<()> {
    let Why { account, from, to, port: at } = args;
    let query = WhyQuery { from, to, port: at.map(port) };
    super::show(client.why(&account.account, &query), json, print).await
}

fn print(why: &warren_broker::admin::Why) {
    let (from, to) = (&why.from, &why.to);
    let at = why.port.as_deref().map(|port| format!(" at {port}")).unwrap_or_default();
    say!("Policy (version {}):", why.policy_version);
    match why.allowed_by.as_slice() {
        [] => say!("  {} may not reach {}{at}: no rule allows it", from.name, to.name),
        rules => say!("  {} may reach {}{at}: {}", from.name, to.name, list(rules)),
    }
    match why.back_allowed_by.as_slice() {
        [] => say!("  {} may only answer {}", to.name, from.name),
        rules => say!("  {} may reach {}: {}", to.name, from.name, list(rules)),
    }
    if !why.see_each_other {
        say!("  so neither is told of the other: no name, no key, no address");
    }
    say!("Keys:");
    for (one, other) in [(from, to), (to, from)] {
        key(one.name.as_str(), Some(one.has_key_of_other), other.name.as_str());
    }
    for (one, other) in [(from, to), (to, from)] {
        side(one, other.name.as_str()).print();
    }
}

fn list(rules: &[WhyRule]) -> String {
    let one = |rule: &WhyRule| {
        let name = rule.name.as_deref().map(|name| format!("'{name}' ")).unwrap_or_default();
        format!("rule {name}in line {} ({})", rule.line, rule.ports.join(", "))
    };
    rules.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn side<'a>(one: &'a WhyDevice, other: &str) -> Side<'a> {
    let filter = "lets in what the policy allows, and answers";
    let way = one.path.as_ref().map(|it| {
        let relay = it.relay.as_ref().map(warren_proto::DeviceName::as_str);
        path(other, it.path, it.endpoint, relay, it.reason.as_deref(), it.rtt_ms)
    });
    Side {
        name: one.name.as_str(),
        ipv4: Some(one.ipv4),
        state: match (one.admission.is_member(), one.online) {
            (false, _) => admission_word(one.admission),
            (true, true) => "online",
            (true, false) => "offline",
        },
        nat: one.nat,
        candidates: one.endpoints.iter().map(|it| (it.addr, it.kind, None)).collect(),
        filter: one.is_filtering.then(|| filter.to_owned()),
        relays: one.relays.clone(),
        path: Some(way.unwrap_or_else(|| format!("to {other}: none, nothing was sent lately"))),
    }
}
