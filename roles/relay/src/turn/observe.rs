//! What a TURN server says of itself.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Bytes;
use warren_turn::server::Traffic;

use super::hub::Hub;
use super::mint::{Mint, Minter};
use crate::metrics::{Page, Watched};

/// A server behind the metrics' address.
#[derive(Debug)]
pub(super) struct Observed {
    hub: Arc<Hub>,
    minter: Option<Minter>,
}

impl Observed {
    pub(super) fn new(hub: Arc<Hub>, mint: Option<Mint>) -> Self {
        Self { hub, minter: mint.map(Minter::new) }
    }
}

impl Watched for Observed {
    fn metrics(&self, page: &mut Page) {
        let (gauges, counters, losses) = self.hub.with(|state, _| {
            (state.server.gauges(), state.server.counters().clone(), state.stream_losses)
        });
        let gauge = |page: &mut Page, name: &str, help: &str, value: usize| {
            page.gauge(&format!("warren_turn_{name}"), help, value);
        };
        gauge(page, "allocations", "Allocations there are.", gauges.allocations);
        gauge(
            page,
            "virtual_allocations",
            "Allocations with a virtual address.",
            gauges.virtual_allocations,
        );
        gauge(page, "channels", "Channels that are bound.", gauges.channels);
        gauge(page, "credentials", "Credentials in use.", gauges.credentials);
        gauge(page, "streams", "TCP and TLS connections.", gauges.streams);
        let ways = [
            ("to_peer", counters.to_peers),
            ("to_client", counters.to_clients),
            ("between_clients", counters.between_clients),
        ];
        let by_way = |value: fn(Traffic) -> u64| ways.map(|(way, traffic)| (way, value(traffic)));
        page.counters(
            "warren_turn_packets_total",
            "Packets forwarded.",
            "direction",
            by_way(|traffic| traffic.packets),
        );
        page.counters(
            "warren_turn_bytes_total",
            "Payload forwarded.",
            "direction",
            by_way(|traffic| traffic.bytes),
        );
        page.counters(
            "warren_turn_dropped_total",
            "Packets dropped.",
            "reason",
            counters.drops().map(|(reason, count)| (reason.name(), count)),
        );
        page.counters(
            "warren_turn_refused_total",
            "Requests refused.",
            "code",
            counters.refused.iter().map(|(code, count)| (*code, *count)),
        );
        page.counter(
            "warren_turn_auth_failures_total",
            "Requests with a wrong credential.",
            counters.auth_failures,
        );
        page.counter("warren_turn_allocated_total", "Allocations made.", counters.allocated);
        page.counter("warren_turn_released_total", "Allocations ended.", counters.released);
        page.counter("warren_turn_bindings_total", "Binding requests answered.", counters.bindings);
        page.counter(
            "warren_turn_ports_taken_total",
            "Ports that somebody else had.",
            counters.ports_taken,
        );
        page.counter(
            "warren_turn_stream_losses_total",
            "Messages that a connection didn't take.",
            losses,
        );
        let udp = self.hub.udp_counters();
        page.counter(
            "warren_turn_udp_send_errors_total",
            "Datagrams to clients that the system didn't take.",
            udp.iter().map(|counters| counters.send_errors).sum::<u64>(),
        );
    }

    fn is_ready(&self) -> bool {
        self.hub.is_ready()
    }

    fn call(&self, request: &Request<()>, from: IpAddr) -> Option<Response<Full<Bytes>>> {
        let minter = self.minter.as_ref().filter(|_| request.uri().path() == "/credentials")?;
        // The settings' own, which may have changed since the start.
        let secret = self.hub.with(|state, _| state.server.minting_secret().map(<[u8]>::to_owned));
        Some(minter.answer(request, from, secret.as_deref(), Instant::now()))
    }
}
