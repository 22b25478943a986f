//! What an answer means.

use std::time::Instant;

use super::request::Auth;
use super::transaction::{Request, Transaction};
use super::{Client, Event, Failure, Inbound, State};
use crate::codec::{Class, Fingerprint, Integrity, Message, Method};

/// How often a server may refuse nonce or credential of one request in a row.
const MAX_REFUSALS: u8 = 4;

impl Client {
    pub(super) fn handle_response(&mut self, message: &Message<'_>, now: Instant) -> Inbound {
        let id = message.transaction_id();
        let Some(open) = self.transactions.get(&id) else { return Inbound::NotOurs };
        if message.method() != method_of(open.request)
            || message.verify_fingerprint() == Fingerprint::Wrong
            || !is_genuine(open, message)
        {
            return Inbound::Refused;
        }
        let Some(open) = self.finish(id) else { return Inbound::NotOurs };
        // An answer to a repeated request may belong to any of them (Karn's algorithm).
        if open.sent == 1 {
            self.rtt = Some(now.saturating_duration_since(open.begun));
        }
        match message.class() {
            Class::Success => self.handle_success(&open, message, now),
            Class::Error => self.handle_error(&open, message, now),
            Class::Request | Class::Indication => {}
        }
        Inbound::Consumed
    }

    fn handle_success(&mut self, open: &Transaction, message: &Message<'_>, now: Instant) {
        match open.request {
            Request::Allocate => {
                self.handle_allocated(message, open.begun, now);
                self.take_nonce(message, now);
            }
            Request::Clear => self.request(Request::Allocate, now),
            Request::Refresh => self.handle_refreshed(message, now),
            Request::Remove => self.end(Event::Closed),
            Request::ChannelBind(peer) => self.handle_bound(peer, open.begun, now),
            Request::CreatePermission(ip) => self.handle_permitted(ip, now),
            Request::Binding => self.events.extend(self.rtt.map(Event::Rtt)),
        }
    }

    /// A server of ours that took a nonce of the broker's wants to hear its own again, or it holds back
    /// what it can't be sure to send to us.
    fn take_nonce(&mut self, message: &Message<'_>, now: Instant) {
        let (Some(nonce), Some(auth)) = (message.nonce(), &mut self.auth) else { return };
        auth.nonce = nonce.to_vec();
        self.verify(now);
    }

    fn handle_error(&mut self, open: &Transaction, message: &Message<'_>, now: Instant) {
        let Some(code) = message.error_code() else {
            self.refuse(open, Failure::Malformed, now);
            return;
        };
        match code {
            401 | 438 if self.retry_with_news(open, code, message, now) => {}
            code => self.refuse(open, Failure::of_code(code), now),
        }
    }

    /// Repeats a request with the nonce that the server has sent; `false` when that is pointless.
    fn retry_with_news(
        &mut self,
        open: &Transaction,
        code: u16,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        if open.refusals >= MAX_REFUSALS {
            return false;
        }
        let credential = &self.config.credential;
        let Some(told) = Auth::told(credential, message, self.auth.as_ref()) else {
            return false;
        };
        let was_signed = open.key.is_some();
        let same_realm = self.auth.as_ref().is_some_and(|auth| auth.realm == told.realm);
        if code == 401 && was_signed && same_realm {
            let Some(next) = self.next_credential.take() else { return false };
            self.config.credential = next;
            self.auth = Auth::told(&self.config.credential, message, self.auth.as_ref());
        } else {
            self.auth = Some(told);
        }
        self.request_again(open.request, open.refusals + 1, now);
        true
    }

    /// A request will not be granted.
    fn refuse(&mut self, open: &Transaction, reason: Failure, now: Instant) {
        if self.state == State::Closing {
            self.end(Event::Closed);
            return;
        }
        match (open.request, reason) {
            (Request::Allocate, Failure::Mismatch) => self.clear_and_retry(now),
            // Gone by itself (437), or somebody else's: the next Allocate tells.
            (Request::Clear, Failure::Mismatch) => self.request(Request::Allocate, now),
            (Request::Allocate | Request::Clear, reason) => self.fail(reason),
            (Request::Refresh, Failure::Mismatch) => self.allocate_again(now),
            (Request::Refresh, reason) => self.fail(reason),
            (Request::Remove, _) => self.end(Event::Closed),
            (Request::ChannelBind(_) | Request::CreatePermission(_), Failure::Mismatch) => {
                self.handle_no_allocation(open.request, open.begun, now);
            }
            (Request::ChannelBind(peer), reason) => self.handle_bind_refused(peer, reason),
            (Request::CreatePermission(ip), reason) => {
                self.handle_permission_refused(ip, reason);
            }
            // Any answer shows that the server is there.
            (Request::Binding, _) => self.events.extend(self.rtt.map(Event::Rtt)),
        }
    }
}

fn method_of(request: Request) -> Method {
    match request {
        Request::Allocate => Method::ALLOCATE,
        Request::Clear | Request::Refresh | Request::Remove => Method::REFRESH,
        Request::ChannelBind(_) => Method::CHANNEL_BIND,
        Request::CreatePermission(_) => Method::CREATE_PERMISSION,
        Request::Binding => Method::BINDING,
    }
}

/// A success must be signed if its request was. An error need not: servers can't sign a 401 or
/// 438, and don't sign all the others; only who sees the request can forge one, and he could as
/// well drop it.
fn is_genuine(open: &Transaction, message: &Message<'_>) -> bool {
    let Some(key) = &open.key else { return true };
    match (key.verify(message), message.class()) {
        (Integrity::Valid, _) | (Integrity::Absent, Class::Error) => true,
        // A server that doesn't take the credential may sign with another key.
        (Integrity::Wrong, Class::Error) => message.error_code() == Some(401),
        (Integrity::Wrong | Integrity::Absent, Class::Success | Class::Request)
        | (Integrity::Wrong | Integrity::Absent, Class::Indication) => false,
    }
}
