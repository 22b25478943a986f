//! Permissions for IP addresses without a channel (RFC 8656 §9).

use std::net::IpAddr;
use std::time::Instant;

use super::channel::REFRESH;
use super::timers::Timer;
use super::transaction::Request;
use super::{Client, Event, Failure, State};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permission {
    Waiting,
    Asked,
    Granted { refresh: Instant },
}

impl Client {
    pub(super) fn permit_ip(&mut self, ip: IpAddr, now: Instant) {
        match self.state {
            State::Closing | State::Ended => return,
            State::Allocating | State::Allocated(_) => {}
        }
        if self.permissions.contains_key(&ip) {
            return;
        }
        self.permissions.insert(ip, Permission::Waiting);
        if matches!(self.state, State::Allocated(_)) {
            self.ask_permission(ip, now);
        }
    }

    pub(super) fn drop_permission(&mut self, ip: IpAddr) {
        match self.permissions.remove(&ip) {
            Some(Permission::Granted { refresh }) => {
                self.timers.remove(refresh, Timer::Permission(ip));
            }
            Some(Permission::Asked) => {
                self.forget_requests_that(|open| open == Request::CreatePermission(ip));
            }
            Some(Permission::Waiting) | None => {}
        }
    }

    fn ask_permission(&mut self, ip: IpAddr, now: Instant) {
        self.permissions.insert(ip, Permission::Asked);
        self.request(Request::CreatePermission(ip), now);
    }

    pub(super) fn permit_waiting(&mut self, now: Instant) {
        let waiting: Vec<_> = self
            .permissions
            .iter()
            .filter(|(_, permission)| **permission == Permission::Waiting)
            .map(|(ip, _)| *ip)
            .collect();
        for ip in waiting {
            self.ask_permission(ip, now);
        }
    }

    /// There is no allocation any more.
    pub(super) fn await_permissions(&mut self) {
        self.permissions.values_mut().for_each(|permission| *permission = Permission::Waiting);
    }

    pub(super) fn await_permission(&mut self, ip: IpAddr) {
        if let Some(permission) = self.permissions.get_mut(&ip) {
            *permission = Permission::Waiting;
        }
    }

    pub(super) fn handle_permitted(&mut self, ip: IpAddr, now: Instant) {
        let Some(permission) = self.permissions.get_mut(&ip) else { return };
        let refresh = now + REFRESH;
        *permission = Permission::Granted { refresh };
        self.timers.set(refresh, Timer::Permission(ip));
        self.events.push_back(Event::Permitted(ip));
    }

    pub(super) fn handle_permission_refused(&mut self, ip: IpAddr, reason: Failure) {
        if self.permissions.remove(&ip).is_some() {
            self.events.push_back(Event::PermissionFailed { ip, reason });
        }
    }

    pub(super) fn handle_permission_timeout(&mut self, ip: IpAddr, now: Instant) {
        if self.permissions.contains_key(&ip) {
            self.ask_permission(ip, now);
        }
    }
}
