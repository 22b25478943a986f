//! What of the host's own stands in the way.
//!
//! An accept in our chain doesn't overrule a drop in another's. Chains that drop what they don't know
//! (Docker's and ufw's `FORWARD`) are seen before any packet comes; others (a firewalld zone,
//! iptables' old tables) show by packets that were let in and never came out: see [`Passage`].

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::process::Command;
use warren_net::{ChainPolicy, ForwardChain, Nftables};

use crate::problem::Problem;

/// How long `nft` may take.
const LIMIT: Duration = Duration::from_secs(10);
/// So many packets in a row don't get lost by chance: TCP has sent its SYN four times then.
const LOST: u64 = 4;

/// Looks for chains that drop what the edge forwards.
pub async fn obstacles(nftables: &mut Nftables, mesh: &str, own_table: &str) -> BTreeSet<Problem> {
    let chains = nftables.forward_chains().unwrap_or_default();
    let drops = |chain: &&ForwardChain| {
        chain.policy == ChainPolicy::Drop && chain.family != "ip6" && chain.table != own_table
    };
    let mut problems = BTreeSet::new();
    for chain in chains.iter().filter(drops) {
        problems.extend(obstacle(chain, &listing(chain).await, mesh));
    }
    problems
}

/// What `nft` says of a chain's table; nothing, if it takes too long.
async fn listing(chain: &ForwardChain) -> String {
    let mut command = Command::new("nft");
    command.args(["list", "table", chain.family, &chain.table]).env("PATH", super::search_path());
    let output = tokio::time::timeout(LIMIT, command.kill_on_drop(true).output()).await;
    let Ok(Ok(output)) = output else { return String::new() };
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A chain that drops, unless it has a rule that lets the mesh interface through, or leads to one.
fn obstacle(chain: &ForwardChain, listing: &str, mesh: &str) -> Option<Problem> {
    if lets_through(listing, &chain.chain, &format!("iifname \"{mesh}\"")) {
        return None;
    }
    let ForwardChain { family, table, chain: name, .. } = chain;
    let has = |name: &str| listing.contains(&format!("chain {name} {{"));
    let remedy = if has("DOCKER-USER") {
        format!(
            "iptables -I DOCKER-USER -i {mesh} -j ACCEPT; iptables -I DOCKER-USER -o {mesh} -j ACCEPT"
        )
    } else if has("ufw-user-forward") {
        format!("ufw route allow in on {mesh}; ufw route allow out on {mesh}")
    } else {
        format!(
            "nft insert rule {family} {table} {name} iifname {mesh} accept; \
             nft insert rule {family} {table} {name} oifname {mesh} accept"
        )
    };
    Some(Problem::HostDrops { chain: format!("{family} {table} {name}"), remedy })
}

/// Whether a chain, or one that packets from the mesh go to from it, accepts them.
fn lets_through(listing: &str, chain: &str, from_mesh: &str) -> bool {
    let (mut waiting, mut seen) = (vec![chain.to_owned()], BTreeSet::new());
    while let Some(chain) = waiting.pop() {
        for rule in rules(listing, &chain) {
            let is_ours = rule.contains(from_mesh);
            if is_ours && rule.ends_with("accept") {
                return true;
            }
            let mut words = rule.split_ascii_whitespace().rev();
            let to = words.next().filter(|_| matches!(words.next(), Some("jump" | "goto")));
            let to = to.filter(|_| is_ours || !rule.contains("iifname"));
            waiting.extend(to.filter(|to| seen.insert((*to).to_owned())).map(str::to_owned));
        }
        seen.insert(chain);
    }
    false
}

/// The rules of one chain, as `nft` lists a table.
fn rules<'a>(listing: &'a str, chain: &str) -> impl Iterator<Item = &'a str> {
    let head = format!("chain {chain} {{");
    let lines = listing.lines().map(str::trim).skip_while(move |line| *line != head);
    // A comment at a rule's end isn't what it does.
    lines
        .skip(1)
        .take_while(|line| *line != "}")
        .map(|line| line.split(" comment \"").next().unwrap_or(line))
}

/// Watches whether what was let in comes out.
#[derive(Debug, Default)]
pub struct Passage {
    let_in: u64,
    went_out: u64,
}

impl Passage {
    /// Takes both counts; whether something drops all that comes.
    pub fn is_blocked(&mut self, let_in: u64, went_out: u64) -> bool {
        if went_out != self.went_out || let_in < self.let_in {
            *self = Self { let_in, went_out };
        }
        let_in - self.let_in >= LOST
    }

    /// Counts from here.
    pub fn forgive(&mut self, let_in: u64, went_out: u64) {
        *self = Self { let_in, went_out };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> ForwardChain {
        ForwardChain {
            family: "ip",
            table: "filter".to_owned(),
            chain: "FORWARD".to_owned(),
            policy: ChainPolicy::Drop,
        }
    }

    #[test]
    fn a_dropping_chain_is_named_with_the_remedy_of_who_made_it() {
        let docker = "\tchain DOCKER-USER {\n\t}\n";
        let Some(Problem::HostDrops { chain: name, remedy }) = obstacle(&chain(), docker, "w0")
        else {
            panic!("it drops");
        };
        assert_eq!(name, "ip filter FORWARD");
        assert!(remedy.contains("DOCKER-USER -i w0"), "{remedy}");
        let plain = obstacle(&chain(), "", "w0").unwrap().to_string();
        assert!(plain.contains("nft insert rule ip filter FORWARD iifname w0 accept"), "{plain}");
    }

    #[test]
    fn only_what_packets_of_the_mesh_run_through_lets_them_through() {
        let accept = "iifname \"w0\" counter packets 0 bytes 0 accept";
        let table = |forward: &str, others: &str| {
            format!(
                "table ip filter {{\n\tchain INPUT {{\n\t\t{accept}\n\t}}\n\n\tchain FORWARD {{\n\t\ttype \
                 filter hook forward priority filter; policy drop;\n\t\t{forward}\n\t}}\n{others}}}\n"
            )
        };
        let is_obstacle = |listing: &str| obstacle(&chain(), listing, "w0").is_some();
        assert!(is_obstacle(&table("ct state established accept", "")), "another chain's");
        assert!(!is_obstacle(&table(accept, "")));
        assert!(!is_obstacle(&table(&format!("{accept} comment \"mesh\""), "")));
        let user = format!("\tchain USER {{\n\t\t{accept}\n\t\tjump FORWARD\n\t}}\n");
        assert!(!is_obstacle(&table("counter packets 1 bytes 2 jump USER", &user)));
        assert!(!is_obstacle(&table("iifname \"w0\" goto USER", &user)));
        assert!(is_obstacle(&table("iifname \"eth0\" jump USER", &user)), "not their way");
        assert!(is_obstacle(&table("counter", &user)), "nobody goes there");
    }

    #[test]
    fn what_goes_in_and_never_comes_out_is_noticed() {
        let mut passage = Passage::default();
        assert!(!passage.is_blocked(3, 0));
        assert!(passage.is_blocked(4, 0));
        assert!(!passage.is_blocked(9, 5));
        assert!(!passage.is_blocked(9, 5));
        assert!(!passage.is_blocked(0, 5), "a new table");
        assert!(passage.is_blocked(5, 5));
        passage.forgive(5, 5);
        assert!(!passage.is_blocked(8, 5));
    }
}
