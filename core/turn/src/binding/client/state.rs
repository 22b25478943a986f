use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::server::{Progress, Server};
use super::{Handled, Mapped, Mapping, Out, REFRESH, ServerStatus, UNTRANSLATED_REFRESH};
use crate::binding::is_public;
use crate::codec::{Class, Fingerprint, Message, Method};

/// While nobody answers, one datagram goes out each time: so many times at such an interval, then
/// the next. An outage of minutes is over seconds after the line is back; a network that blocks UDP
/// for good costs 80 KB a day.
const KNOCKS: [(u32, Duration); 2] = [(12, Duration::from_secs(5)), (48, Duration::from_secs(15))];
const LAST_KNOCKS: Duration = Duration::from_secs(60);

/// The state machine of one address family.
#[derive(Debug, Default)]
pub(super) struct FamilyState {
    local: Vec<IpAddr>,
    /// In order of preference; a learned one last.
    servers: Vec<Server>,
    /// Which server is asked regularly.
    active: usize,
    next_refresh: Option<Instant>,
    /// How many questions in a row nobody has answered, after all servers had been asked.
    unanswered: u32,
}

impl FamilyState {
    pub(super) fn replace_servers(&mut self, addrs: &[SocketAddr]) -> bool {
        let known = self.servers.iter().filter(|server| !server.learned).map(|server| &server.addr);
        if known.eq(addrs) {
            return false;
        }
        self.servers = addrs.iter().map(|addr| Server::new(*addr, false)).collect();
        true
    }

    pub(super) fn replace_local(&mut self, local: Vec<IpAddr>) -> bool {
        let differs = self.local != local;
        self.local = local;
        differs
    }

    /// Forgets what was answered and asks the preferred server, and a second one beside it.
    pub(super) fn restart(&mut self, now: Instant, out: &mut Out<'_>) {
        let had_answer = self.mapped().is_some();
        self.servers.retain(|server| !server.learned);
        self.servers.iter_mut().for_each(Server::forget);
        self.active = 0;
        self.unanswered = 0;
        self.next_refresh = None;
        if had_answer {
            out.changed();
        }
        if self.local.is_empty() || self.servers.is_empty() {
            return;
        }
        self.next_refresh = Some(now + REFRESH);
        self.servers[0].ask(now, out);
        self.ask_second(now, out);
    }

    /// Asks the server that, together with the active one, tells the mapping behaviour.
    fn ask_second(&mut self, now: Instant, out: &mut Out<'_>) {
        let Some(second) = self.second() else { return };
        if !self.servers[second].is_asked() {
            self.servers[second].ask(now, out);
        }
    }

    fn second(&self) -> Option<usize> {
        let first = self.servers.get(self.active)?.addr;
        let differs = |differs: fn(&SocketAddr, &SocketAddr) -> bool| {
            self.servers.iter().position(|server| !server.silent && differs(&server.addr, &first))
        };
        differs(|a, b| a.ip() != b.ip()).or_else(|| differs(|a, b| a.port() != b.port()))
    }

    pub(super) fn handle_response(
        &mut self,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
        out: &mut Out<'_>,
    ) -> Handled {
        let is_response = match message.class() {
            Class::Success | Class::Error => message.method() == Method::BINDING,
            Class::Request | Class::Indication => false,
        };
        let id = message.transaction_id();
        let Some(index) = self.servers.iter().position(|server| server.is_asked_with(id)) else {
            return Handled::NotOurs;
        };
        if !is_response
            || from != self.servers[index].addr
            || message.verify_fingerprint() == Fingerprint::Wrong
        {
            return Handled::Refused;
        }
        let mapped = match message.class() {
            Class::Success if message.unknown_required(&[]).all(is_answer_attribute) => {
                message.xor_mapped_address()
            }
            Class::Success | Class::Error | Class::Request | Class::Indication => None,
        };
        let before = self.observable();
        let handled = match mapped {
            Some(addr) => {
                self.take_answer(index, addr, message.other_address(), now, out);
                Handled::Answered
            }
            None => {
                self.servers[index].refuse();
                self.give_up(index, now, out);
                Handled::Refused
            }
        };
        if before != self.observable() {
            out.changed();
        }
        handled
    }

    fn take_answer(
        &mut self,
        index: usize,
        addr: SocketAddr,
        other: Option<SocketAddr>,
        now: Instant,
        out: &mut Out<'_>,
    ) {
        let mapped = Mapped { addr, public: is_public(&addr.ip()) };
        let old = self.servers[index].answer(mapped, now);
        if index != self.active
            && !self.servers[index].learned
            && self.servers[self.active].mapped.is_none()
            && self.servers[self.active].silent
        {
            self.active = index;
        }
        if self.servers[self.active].answered == Some(now) {
            if self.unanswered > 0 {
                // The outage was ours, not theirs.
                self.servers.iter_mut().for_each(|server| server.silent = false);
            }
            self.unanswered = 0;
            self.next_refresh = Some(now + self.refresh_interval());
        }
        let rebound = old.is_some_and(|old| old != mapped);
        if rebound {
            for (i, server) in self.servers.iter_mut().enumerate() {
                if i != index && !server.is_asked() {
                    server.mapped = None;
                }
            }
        }
        self.learn(index, other);
        let second_unknown = self.second().is_some_and(|i| self.servers[i].mapped.is_none());
        if second_unknown && index == self.active {
            self.ask_second(now, out);
        }
    }

    /// Takes OTHER-ADDRESS as a second server where no other IP address is known.
    fn learn(&mut self, index: usize, other: Option<SocketAddr>) {
        let Some(other) = other else { return };
        let first = self.servers[index].addr;
        let useful = other.is_ipv4() == first.is_ipv4()
            && other.port() != 0
            && other.ip() != first.ip()
            && super::leads_outside(&other.ip())
            && (is_public(&other.ip()) || !is_public(&first.ip()));
        if useful && self.servers.iter().all(|server| server.addr.ip() == first.ip()) {
            self.servers.push(Server::new(other, true));
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, out: &mut Out<'_>) {
        let before = self.observable();
        for index in 0..self.servers.len() {
            match self.servers[index].handle_timeout(now, out) {
                Progress::Nothing => {}
                Progress::Doubtful => self.ask_stand_in(index, now, out),
                Progress::GivenUp => self.give_up(index, now, out),
            }
        }
        if self.next_refresh.is_some_and(|due| due <= now) {
            self.next_refresh = Some(now + self.refresh_interval());
            let active = &mut self.servers[self.active];
            match (active.is_asked(), self.unanswered) {
                (true, _) => {}
                (false, 0) => active.ask(now, out),
                (false, _) => active.knock(now, out),
            }
        }
        if before != self.observable() {
            out.changed();
        }
    }

    /// Asks one more server while the active one lets its questions go by.
    fn ask_stand_in(&mut self, index: usize, now: Instant, out: &mut Out<'_>) {
        if index != self.active {
            return;
        }
        let stand_in = self.servers.iter_mut().find(|server| {
            !server.learned && !server.silent && !server.is_asked() && server.answered.is_none()
        });
        if let Some(server) = stand_in {
            server.ask(now, out);
        }
    }

    /// The active server has given no answer: the next one takes its place.
    fn give_up(&mut self, index: usize, now: Instant, out: &mut Out<'_>) {
        if index != self.active {
            return;
        }
        let answering =
            self.servers.iter().position(|s| !s.learned && !s.silent && s.mapped.is_some());
        let untried = self.servers.iter().position(|s| !s.learned && !s.silent);
        if let Some(next) = answering.or(untried) {
            self.active = next;
            if !self.servers[next].is_asked() {
                self.servers[next].ask(now, out);
            }
            return;
        }
        // Nobody answers: all get another chance, the preferred one first, ever less often.
        self.unanswered = self.unanswered.saturating_add(1);
        self.next_refresh = Some(now + self.refresh_interval());
        self.active = (index + 1) % self.servers.len();
        if self.servers[self.active].learned {
            self.active = 0;
        }
    }

    fn refresh_interval(&self) -> Duration {
        if self.unanswered == 0 && self.mapping() == Mapping::None {
            return UNTRANSLATED_REFRESH;
        }
        if self.unanswered == 0 {
            return REFRESH;
        }
        let stage = KNOCKS.iter().find(|(until, _)| self.unanswered <= *until);
        stage.map_or(LAST_KNOCKS, |(_, interval)| *interval)
    }

    pub(super) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let question = self.servers.iter().filter_map(Server::due).min();
        let refresh = self.next_refresh.map(|due| (due, "stun refresh"));
        question.map(|due| (due, "stun retransmission")).into_iter().chain(refresh).min()
    }

    pub(super) fn mapped(&self) -> Option<Mapped> {
        let active = self.servers.get(self.active).and_then(|server| server.mapped);
        active.or_else(|| {
            let answered = self.servers.iter().filter(|server| server.mapped.is_some());
            answered.max_by_key(|server| server.answered).and_then(|server| server.mapped)
        })
    }

    pub(super) fn mapping(&self) -> Mapping {
        // A server inside the private network sees no NAT, and says nothing of those beyond it.
        let answers = || {
            let answered = self.servers.iter().filter_map(|s| Some((s.addr, s.mapped?)));
            answered.filter(|(_, mapped)| mapped.public)
        };
        if answers().any(|(_, mapped)| self.local.contains(&mapped.addr.ip())) {
            return Mapping::None;
        }
        let mut verdict = Mapping::Unknown;
        for (server, mapped) in answers() {
            for (other, other_mapped) in answers() {
                if server >= other {
                    continue;
                }
                if mapped.addr != other_mapped.addr {
                    return Mapping::AddressDependent;
                }
                if server.ip() != other.ip() {
                    verdict = Mapping::EndpointIndependent;
                } else if verdict == Mapping::Unknown {
                    verdict = Mapping::EndpointIndependentOrAddressDependent;
                }
            }
        }
        verdict
    }

    pub(super) fn reachable(&self) -> Option<bool> {
        if self.servers.iter().any(|server| server.mapped.is_some() && !server.silent) {
            return Some(true);
        }
        let tried = self.servers.iter().filter(|server| !server.learned);
        let mut any = false;
        for server in tried {
            if !server.silent {
                return None;
            }
            any = true;
        }
        any.then_some(false)
    }

    pub(super) fn statuses(&self) -> impl Iterator<Item = ServerStatus> + '_ {
        self.servers.iter().map(Server::status)
    }

    fn observable(&self) -> (Option<Mapped>, Mapping, Option<bool>) {
        (self.mapped(), self.mapping(), self.reachable())
    }
}

fn is_answer_attribute(kind: crate::codec::AttributeType) -> bool {
    use crate::codec::AttributeType as A;
    matches!(kind, A::MAPPED_ADDRESS | A::XOR_MAPPED_ADDRESS | A::USERNAME | A::REALM | A::NONCE)
}
