//! What is wrong with a broker that runs all the same: for its operator to mend.

use std::net::SocketAddr;

use crate::config::{STUN_PORT, ServeConfig};

/// What keeps devices from finding each other, each with what to do about it.
pub(crate) fn problems(
    config: &ServeConfig,
    bound: &[SocketAddr],
    named: &[SocketAddr],
) -> Vec<String> {
    let mut problems = Vec::new();
    if config.stun_enabled && named.is_empty() {
        let port = bound.first().map_or(STUN_PORT, SocketAddr::port);
        problems.push(format!(
            "Devices are told of no STUN server, because this machine has no public address of its \
             own: those behind different NATs won't find each other. Where UDP {port} of a public \
             address is forwarded here, give that: --stun-public ADDR:{port}, or an IP address in \
             --public-url"
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_whose_stun_nobody_is_told_of_has_a_problem() {
        let mut config = ServeConfig::new("/nowhere");
        let bound = ["[::]:3478".parse().unwrap()];
        let found = problems(&config, &bound, &[]);
        assert!(found[0].contains("--stun-public ADDR:3478"), "{found:?}");
        assert!(problems(&config, &bound, &["203.0.113.7:3478".parse().unwrap()]).is_empty());
        config.stun_enabled = false;
        assert!(problems(&config, &[], &[]).is_empty());
    }
}
