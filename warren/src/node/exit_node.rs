use anyhow::bail;
use warren_node::local::{ExitNodeChange, ExitNodeStatus, ExitNodes, ExitState};

use crate::cli::{self, ExitNode, Global};
use crate::output::{self, say};

/// `warren exit-node [list | use NAME | off]`.
pub(crate) async fn exit_node(global: &Global, args: cli::ExitNodeArgs) -> anyhow::Result<()> {
    let change = match args.command {
        None | Some(ExitNode::List) => None,
        Some(ExitNode::Use { name, lan }) => Some(ExitNodeChange::Use { name, lan }),
        Some(ExitNode::Off) => Some(ExitNodeChange::Off),
    };
    let nodes = super::client(global).exit_node(change.clone()).await?;
    if global.json {
        return output::json(&nodes);
    }
    if change.is_none() {
        print(&nodes);
    }
    say!("{}", sentence(nodes.chosen.as_ref()));
    Ok(())
}

/// What has become of traffic to the internet.
pub(crate) fn sentence(chosen: Option<&ExitNodeStatus>) -> String {
    let Some(it) = chosen else {
        return "Traffic to the internet goes by this device's own network.".to_owned();
    };
    let lan = if it.lan { "the LAN stays reachable" } else { "the LAN is not reachable" };
    match (it.state, &it.by) {
        (ExitState::InUse, None) => {
            format!("Traffic to the internet goes by {}; {lan}.", it.name)
        }
        (ExitState::InUse, Some(by)) => {
            format!("Traffic to the internet goes by {by}, which stands by for {}; {lan}.", it.name)
        }
        (ExitState::Down, _) => {
            format!("Traffic to the internet goes by {} once `warren up` has connected.", it.name)
        }
        (ExitState::Away, _) => {
            format!("Traffic to the internet is held back until {} can be reached again.", it.name)
        }
        (ExitState::NotOffered | ExitState::Other, _) => format!(
            "Traffic to the internet is held back: {} is no exit node for this device (any more).",
            it.name
        ),
    }
}

fn print(nodes: &ExitNodes) {
    if nodes.offered.is_empty() {
        say!(
            "No device offers this one a way to the internet. On an edge, `warren edge gateways add \
             --internet` makes it an exit node."
        );
        return;
    }
    let mut table = output::table(&["EXIT NODE", "ADDRESS", "STATE", "STANDS BY FOR"]);
    for it in &nodes.offered {
        table.add_row([
            it.name.clone(),
            it.ipv4.to_string(),
            if it.online { "online" } else { "offline" }.to_owned(),
            it.standby_for.clone().unwrap_or_default(),
        ]);
    }
    output::print_table(&table);
}

/// `warren up --exit-node`: before it connects where the map is at hand, so that nothing leaves beside
/// it; else afterwards.
pub(crate) async fn choose(
    global: &Global,
    wanted: &cli::UpExit,
    is_up: bool,
) -> anyhow::Result<bool> {
    let Some(name) = wanted.exit_node.clone() else { return Ok(true) };
    let change = ExitNodeChange::Use { name, lan: wanted.exit_node_lan };
    match super::client(global).exit_node(Some(change)).await {
        Ok(_) => Ok(true),
        Err(_) if !is_up => Ok(false),
        Err(error) => bail!("connected, but traffic to the internet goes as before: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_traffic_is_a_sentence() {
        let chosen = |state, by: Option<&str>| {
            let by = by.map(str::to_owned);
            sentence(Some(&ExitNodeStatus { name: "attic".to_owned(), state, by, lan: true }))
        };
        assert_eq!(
            chosen(ExitState::InUse, None),
            "Traffic to the internet goes by attic; the LAN stays reachable."
        );
        assert!(
            chosen(ExitState::InUse, Some("cellar"))
                .contains("by cellar, which stands by for attic")
        );
        for held in [ExitState::Away, ExitState::NotOffered] {
            assert!(chosen(held, None).contains("held back"), "{held:?}");
        }
        assert!(sentence(None).contains("own network"));
    }
}
