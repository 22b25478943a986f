//! The allocation itself: made, refreshed, lost, made again.

use std::time::{Duration, Instant};

use super::timers::Timer;
use super::transaction::Request;
use super::{Allocated, Client, Event, Failure, State, canonical};
use crate::codec::Message;

/// What a server gives that doesn't say (RFC 8656 §3.2).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);

/// How long before the end a refresh begins: longer than it may be repeated (RFC 8656 §8.1).
const MARGIN: Duration = Duration::from_secs(60);

/// How often what is in the way of an allocation (437) is removed.
const MAX_CLEARINGS: u8 = 1;

impl Client {
    /// An Allocate that was sent first at `asked` has succeeded.
    pub(super) fn handle_allocated(&mut self, message: &Message<'_>, asked: Instant, now: Instant) {
        let (Some(relayed), Some(mapped)) =
            (message.xor_relayed_addresses().next(), message.xor_mapped_address())
        else {
            self.fail(Failure::Malformed);
            return;
        };
        let allocated = Allocated {
            relayed: canonical(relayed),
            mapped: canonical(mapped),
            lifetime: lifetime(message),
            virtual_address: message.has_virtual_address(),
            asked,
            since: now,
        };
        self.state = State::Allocated(allocated);
        self.clearings = 0;
        self.events.push_back(Event::Allocated {
            relayed: allocated.relayed,
            mapped: allocated.mapped,
            lifetime: allocated.lifetime,
            virtual_address: allocated.virtual_address,
        });
        self.schedule_refresh(allocated.lifetime, now);
        self.schedule_keepalive(now);
        self.bind_waiting_channels(now);
        self.permit_waiting(now);
    }

    pub(super) fn handle_refreshed(&mut self, message: &Message<'_>, now: Instant) {
        self.schedule_refresh(lifetime(message), now);
    }

    fn schedule_refresh(&mut self, lifetime: Duration, now: Instant) {
        let wait = lifetime.saturating_sub(MARGIN).max(lifetime / 2).max(Duration::from_secs(1));
        if let Some(old) = self.refresh.replace(now + wait) {
            self.timers.remove(old, Timer::Refresh);
        }
        self.timers.set(now + wait, Timer::Refresh);
    }

    pub(super) fn schedule_keepalive(&mut self, now: Instant) {
        if let Some(interval) = self.config.keepalive {
            self.timers.set(now + interval.max(Duration::from_secs(1)), Timer::Keepalive);
        }
    }

    /// The server has an allocation of before for this address (RFC 8656 §7.4, 437).
    pub(super) fn clear_and_retry(&mut self, now: Instant) {
        if self.clearings >= MAX_CLEARINGS {
            self.fail(Failure::Mismatch);
            return;
        }
        self.clearings += 1;
        self.request(Request::Clear, now);
    }

    /// The server has lost the allocation, by a restart perhaps.
    pub(super) fn allocate_again(&mut self, now: Instant) {
        self.forget_requests();
        self.timers.clear();
        self.channels.wait();
        self.await_permissions();
        self.state = State::Allocating;
        if let Some(next) = self.next_credential.take() {
            self.config.credential = next;
            self.auth = super::request::Auth::known(&self.config);
        }
        self.request(Request::Allocate, now);
    }

    /// A channel or permission, asked for at `begun`, was refused for want of an allocation.
    pub(super) fn handle_no_allocation(&mut self, request: Request, begun: Instant, now: Instant) {
        match self.state {
            // It overtook the Allocate that it was sent behind.
            State::Allocating => self.postpone(request),
            State::Allocated(allocated) if begun <= allocated.since => self.request(request, now),
            State::Allocated(_) => self.allocate_again(now),
            State::Closing | State::Ended => {}
        }
    }

    fn postpone(&mut self, request: Request) {
        match request {
            Request::ChannelBind(peer) => self.channels.wait_for(peer),
            Request::CreatePermission(ip) => self.await_permission(ip),
            Request::Allocate
            | Request::Clear
            | Request::Refresh
            | Request::Remove
            | Request::Binding => {}
        }
    }

    pub(super) fn fail(&mut self, reason: Failure) {
        self.end(Event::Failed { reason });
    }
}

fn lifetime(message: &Message<'_>) -> Duration {
    let seconds = message.lifetime().filter(|seconds| *seconds > 0);
    seconds.map_or(DEFAULT_LIFETIME, |seconds| Duration::from_secs(seconds.into()))
}
