//! Control connections between nodes and the broker.

use std::time::Duration;

use rand::RngExt as _;

use super::{Happening, NodeId, World};
use crate::control::{
    CONNECT_TIMEOUT, CUT_RETRY, ConnId, Connection, Direction, Down, HEARTBEAT, MIN_RTO, Message,
    SETUP_BYTES, SETUP_ROUND_TRIPS, Up,
};
use crate::net::PathToCore;

impl World {
    /// The way between a node and the broker; `None` while it is cut anywhere.
    fn way(&self, node: NodeId) -> Option<PathToCore> {
        let near = self.network.path_to_core(self.nodes[node.0].host)?;
        let far = self.network.path_to_core(self.broker.host)?;
        Some(PathToCore {
            latency: near.latency + far.latency,
            loss: 1.0 - (1.0 - near.loss) * (1.0 - far.loss),
        })
    }

    /// The time that losses cost one message: a retransmission timeout for each, doubling.
    fn loss_delay(&mut self, way: PathToCore) -> Duration {
        let mut delay = Duration::ZERO;
        let mut timeout = MIN_RTO.max(way.latency * 4);
        while way.loss > 0.0 && self.rng.random::<f64>() < way.loss {
            delay += timeout;
            timeout = (timeout * 2).min(Duration::from_secs(60));
        }
        delay
    }

    pub(super) fn dial(&mut self, node: NodeId) {
        // An attempt that goes on is given up.
        self.conns.retain(|id, conn| conn.node != node || self.accepted.contains(id));
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        self.conns.insert(conn, Connection::new(node));
        self.nodes[node.0].control_bytes += SETUP_BYTES;
        let wait = match self.way(node) {
            Some(way) if self.broker.is_up() => {
                way.latency * 2 * SETUP_ROUND_TRIPS + self.loss_delay(way)
            }
            Some(way) => way.latency * 2,
            None => CONNECT_TIMEOUT,
        };
        self.at(self.now + wait, Happening::Dialled(conn));
    }

    pub(super) fn dialled(&mut self, conn: ConnId) {
        let Some(node) = self.conns.get(&conn).map(|conn| conn.node) else { return };
        let mut wants = Vec::new();
        match self.way(node) {
            Some(way) if self.broker.is_up() => {
                self.accepted.insert(conn);
                self.at(self.now + HEARTBEAT, Happening::Heartbeat(conn));
                let rtt = way.latency * 2;
                self.nodes[node.0].handle_connected(conn, rtt, &mut wants, self.now);
            }
            Some(_) | None => {
                self.conns.remove(&conn);
                self.nodes[node.0].handle_dial_failed(self.now);
            }
        }
        self.settle(node, wants);
    }

    pub(super) fn say(&mut self, conn: ConnId, up: Up) {
        self.queue(conn, Direction::Up, Message::Up(up));
    }

    pub(super) fn answer(&mut self, conn: ConnId, down: Down) {
        self.queue(conn, Direction::Down, Message::Down(Box::new(down)));
    }

    fn queue(&mut self, id: ConnId, direction: Direction, message: Message) {
        let Some(node) = self.conns.get(&id).map(|conn| conn.node) else { return };
        let delay = match self.way(node) {
            Some(way) => way.latency + self.loss_delay(way),
            None => CUT_RETRY,
        };
        if self.counts_control_bytes {
            self.nodes[node.0].control_bytes += message.wire_bytes();
        }
        let ready = self.now + delay;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if let Some(at) = conn.lane(direction).push(ready, message) {
            self.at(at, Happening::Arrival(id, direction));
        }
    }

    pub(super) fn arrive(&mut self, id: ConnId, direction: Direction) {
        let Some(node) = self.conns.get(&id).map(|conn| conn.node) else { return };
        if self.way(node).is_none() {
            self.at(self.now + CUT_RETRY, Happening::Arrival(id, direction));
            return;
        }
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let Some((message, next)) = conn.lane(direction).pop() else { return };
        if let Some(next) = next {
            self.at(next.max(self.now), Happening::Arrival(id, direction));
        }
        match message {
            Message::Up(up) => {
                self.network.note("up", id.0);
                self.heard(id, node, up);
            }
            Message::Down(down) => {
                self.network.note("down", id.0);
                let closed = matches!(*down, Down::Closed);
                let mut wants = Vec::new();
                self.nodes[node.0].handle_control(id, *down, &mut wants, self.now);
                if closed {
                    self.forget(id);
                }
                self.settle(node, wants);
            }
        }
    }

    pub(super) fn heartbeat(&mut self, conn: ConnId) {
        if self.accepted.contains(&conn) {
            self.answer(conn, Down::Heartbeat);
            self.at(self.now + HEARTBEAT, Happening::Heartbeat(conn));
        }
    }

    /// The node ends a connection. The broker learns it one way later, or, if the way is cut, when
    /// its own watchdog would have: here, at once when the node next connects.
    pub(super) fn hang_up(&mut self, conn: ConnId) {
        let Some(node) = self.conns.get(&conn).map(|conn| conn.node) else { return };
        let reachable = self.way(node).is_some();
        self.conns.remove(&conn);
        if self.accepted.remove(&conn) && reachable {
            self.close_at_broker(conn);
        }
    }

    pub(super) fn forget(&mut self, conn: ConnId) {
        self.conns.remove(&conn);
        self.accepted.remove(&conn);
    }

    /// The broker's kernel resets every connection of a process that has died.
    pub(super) fn reset_all(&mut self) {
        for conn in std::mem::take(&mut self.accepted) {
            let Some(node) = self.conns.get(&conn).map(|conn| conn.node) else { continue };
            if let Some(way) = self.way(node) {
                self.at(self.now + way.latency, Happening::Reset(conn));
            }
        }
    }

    pub(super) fn reset(&mut self, conn: ConnId) {
        let Some(gone) = self.conns.remove(&conn) else { return };
        if self.conn_of(gone.node) == Some(conn) {
            self.nodes[gone.node.0].handle_disconnected(self.now);
            self.settle(gone.node, Vec::new());
        }
    }

    /// The connection that a node believes to be open.
    pub(super) fn conn_of(&self, node: NodeId) -> Option<ConnId> {
        self.nodes[node.0].daemon.as_ref()?.session.conn()
    }
}
