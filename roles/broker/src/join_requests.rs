//! Devices that ask to be let in: open for ten minutes, in memory. What they are shown to people
//! by is a code that only the two ends of one TLS connection can both know (`warren_proto`'s
//! `join_request` says why).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use warren_coord::{By, NewJoinKey};
use warren_proto::{
    BrokerIdentity, ErrorCode, JOIN_REQUEST_LIFETIME, JoinAsk, JoinAsked, JoinDecision, UserId,
    join_code, join_code_message,
};

use crate::accounts::AccountHandle;
use crate::admin::routes::parse_tags;
use crate::api::problem::{ApiResult, Failure};
use crate::broker::Broker;
use crate::server::{SITE, prefix, source_of};

const LIFETIME: Duration = Duration::from_secs(JOIN_REQUEST_LIFETIME);
/// Requests open at once ...
const MOST: usize = 1_000;
/// ... from one source ...
const MOST_OF_SOURCE: usize = 20;
/// ... and from one IPv6 site, which has as many sources as it likes.
const MOST_OF_SITE: usize = 100;
/// Characters of a device's own words that are kept.
const LONGEST: usize = 64;

/// What people see of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asking {
    pub(crate) code: String,
    pub(crate) name: String,
    pub(crate) os: String,
    pub(crate) software: String,
    pub(crate) source: IpAddr,
}

/// All requests that are open.
#[derive(Default)]
pub(crate) struct JoinRequests {
    open: Mutex<Open>,
}

/// The hash of a ticket.
type Key = [u8; 32];

#[derive(Default)]
struct Open {
    by_ticket: HashMap<Key, Request>,
    by_code: HashMap<String, Key>,
    by_age: VecDeque<(Instant, Key)>,
}

struct Request {
    /// Without a code yet.
    asking: Asking,
    commitment: String,
    nonce: String,
    decision: JoinDecision,
}

impl JoinRequests {
    /// A device asks.
    ///
    /// # Errors
    /// Too many are open.
    pub(crate) fn ask(&self, ask: JoinAsk, source: IpAddr, now: Instant) -> ApiResult<JoinAsked> {
        let mut open = self.lock(now);
        let others = || open.by_ticket.values().map(|it| it.asking.source);
        let of_source = others().filter(|it| source_of(*it) == source_of(source)).count();
        let site = |it: IpAddr| prefix(it.to_canonical(), SITE);
        let of_site = others().filter(|it| site(*it) == site(source)).count();
        if open.by_ticket.len() >= MOST || of_source >= MOST_OF_SOURCE || of_site >= MOST_OF_SITE {
            return Err(Failure::new(
                ErrorCode::RateLimited,
                "too many devices wait to be let in; try again in ten minutes, or use a join link",
            ));
        }
        let ticket = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        let nonce = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        let key = sha256(ticket.as_bytes());
        let JoinAsk { commitment, name, os, software, .. } = ask;
        let asking = Asking {
            code: String::new(),
            name: short(&name),
            os: short(&os),
            software: short(&software),
            source,
        };
        let request =
            Request { asking, commitment, nonce: nonce.clone(), decision: JoinDecision::Waiting };
        open.by_ticket.insert(key, request);
        open.by_age.push_back((now, key));
        Ok(JoinAsked { ticket, nonce, expires_in: JOIN_REQUEST_LIFETIME })
    }

    /// A device tells its number; from then on people can find it by its code.
    ///
    /// # Errors
    /// There is no such request, or the number isn't the one that it committed to.
    pub(crate) fn reveal(
        &self,
        ticket: &str,
        nonce: &str,
        own: &BrokerIdentity,
        now: Instant,
    ) -> ApiResult<()> {
        let mut open = self.lock(now);
        let key = sha256(ticket.as_bytes());
        let request = open.by_ticket.get_mut(&key).ok_or_else(gone)?;
        let is_committed = URL_SAFE_NO_PAD.encode(sha256(nonce.as_bytes())) == request.commitment;
        if !is_committed || !request.asking.code.is_empty() {
            return Err(Failure::invalid("this isn't the number that the device committed to"));
        }
        let code = join_code(&sha256(&join_code_message(own, nonce, &request.nonce)));
        request.asking.code.clone_from(&code);
        if open.by_code.contains_key(&code) {
            // One in a million million; neither must pass for the other.
            open.forget(&key);
            return Err(gone());
        }
        open.by_code.insert(code, key);
        Ok(())
    }

    /// What has become of a device's request. Once it is told that it may join, or may not, the
    /// request is over.
    ///
    /// # Errors
    /// There is no such request.
    pub(crate) fn decision(&self, ticket: &str, now: Instant) -> ApiResult<JoinDecision> {
        let mut open = self.lock(now);
        let key = sha256(ticket.as_bytes());
        let decision = open.by_ticket.get(&key).ok_or_else(gone)?.decision.clone();
        if decision == JoinDecision::Denied {
            open.forget(&key);
        }
        Ok(decision)
    }

    /// The undecided request with this code.
    pub(crate) fn find(&self, code: &str, now: Instant) -> Option<Asking> {
        let open = self.lock(now);
        let request = open.by_ticket.get(open.by_code.get(code)?)?;
        (request.decision == JoinDecision::Waiting).then(|| request.asking.clone())
    }

    /// Decides on the request with this code, once.
    ///
    /// # Errors
    /// There is none, or somebody else has decided.
    pub(crate) fn decide(&self, code: &str, decision: JoinDecision, now: Instant) -> ApiResult<()> {
        let mut open = self.lock(now);
        let key = open.by_code.get(code).copied().ok_or_else(gone)?;
        let request = open.by_ticket.get_mut(&key).ok_or_else(gone)?;
        if request.decision != JoinDecision::Waiting {
            return Err(gone());
        }
        request.decision = decision;
        Ok(())
    }

    fn lock(&self, now: Instant) -> MutexGuard<'_, Open> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((at, key)) = open.by_age.front().copied()
            && now.duration_since(at) >= LIFETIME
        {
            open.by_age.pop_front();
            open.forget(&key);
        }
        open
    }
}

impl Open {
    fn forget(&mut self, key: &Key) {
        if let Some(request) = self.by_ticket.remove(key)
            && self.by_code.get(&request.asking.code) == Some(key)
        {
            self.by_code.remove(&request.asking.code);
        }
    }
}

/// On whose word a device is let in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Confirmer {
    /// Who, if it is a person: a device without tags is his.
    pub(crate) user: Option<UserId>,
    /// Whether devices that wait are his to approve.
    pub(crate) approves: bool,
}

impl Broker {
    /// Lets the device that shows a code into an account: it gets a one-time join key.
    pub(crate) async fn let_in(
        &self,
        by: By,
        account: &Arc<AccountHandle>,
        code: &str,
        tags: BTreeSet<String>,
        confirmer: Confirmer,
    ) -> ApiResult<Asking> {
        let find = || self.join_requests.find(code, Instant::now());
        let asking = find().ok_or_else(gone)?;
        let tags = parse_tags(tags)?;
        let new = NewJoinKey {
            expires_in: Some(JOIN_REQUEST_LIFETIME),
            owner: confirmer.user.filter(|_| tags.is_empty()),
            approves: confirmer.approves,
            tags,
            ..NewJoinKey::default()
        };
        let made = self.create_join_key(by.clone(), account, new).await?;
        let approved = JoinDecision::Approved { link: made.link };
        let decided = self.join_requests.decide(code, approved, Instant::now());
        if let Err(failure) = decided {
            // Somebody else was faster: nobody gets the key that was made.
            let key = made.key_id;
            account.durable(by, move |account, _| account.prepare_remove_join_key(key)).await?;
            return Err(failure);
        }
        Ok(asking)
    }

    /// Turns the device away that shows a code.
    ///
    /// # Errors
    /// There is none, or somebody else has decided.
    pub(crate) fn turn_away(&self, code: &str) -> ApiResult<Asking> {
        let asking = self.join_requests.find(code, Instant::now()).ok_or_else(gone)?;
        self.join_requests.decide(code, JoinDecision::Denied, Instant::now())?;
        Ok(asking)
    }
}

pub(crate) fn gone() -> Failure {
    Failure::new(
        ErrorCode::NotFound,
        "there is no such request to join: it is ten minutes old, or was decided",
    )
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

/// A stranger's words, not too many of them, and nothing that isn't shown.
fn short(text: &str) -> String {
    text.chars().filter(|it| !it.is_control()).take(LONGEST).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: fn() -> BrokerIdentity = || BrokerIdentity::host("mesh.example.org");

    fn ask(requests: &JoinRequests, nonce: &str, source: [u8; 4], now: Instant) -> JoinAsked {
        let ask = JoinAsk {
            protocol: 1,
            commitment: URL_SAFE_NO_PAD.encode(sha256(nonce.as_bytes())),
            name: "Kitchen\u{1b}[2J Pi".to_owned(),
            os: "linux".to_owned(),
            software: String::new(),
        };
        requests.ask(ask, source.into(), now).unwrap()
    }

    fn empty() -> JoinAsk {
        JoinAsk {
            protocol: 1,
            commitment: String::new(),
            name: String::new(),
            os: String::new(),
            software: String::new(),
        }
    }

    fn code(nonce: &str, asked: &JoinAsked) -> String {
        join_code(&sha256(&join_code_message(&OWN(), nonce, &asked.nonce)))
    }

    #[test]
    fn a_device_is_found_by_the_code_that_it_shows_and_told_once_what_was_decided() {
        let (requests, now) = (JoinRequests::default(), Instant::now());
        let asked = ask(&requests, "n", [198, 51, 100, 7], now);
        let code = code("n", &asked);
        assert_eq!(requests.find(&code, now), None, "not before it has shown its number");
        assert!(requests.reveal(&asked.ticket, "other", &OWN(), now).is_err());
        requests.reveal(&asked.ticket, "n", &OWN(), now).unwrap();
        assert!(requests.reveal(&asked.ticket, "n", &OWN(), now).is_err(), "once");
        assert_eq!(requests.find(&code, now).unwrap().name, "Kitchen[2J Pi");
        let waiting = requests.decision(&asked.ticket, now).unwrap();
        assert_eq!(waiting, JoinDecision::Waiting);
        let approved = JoinDecision::Approved { link: "https://x/join#k".to_owned() };
        requests.decide(&code, approved.clone(), now).unwrap();
        assert!(requests.decide(&code, JoinDecision::Denied, now).is_err(), "it is decided");
        assert_eq!(requests.find(&code, now), None);
        // The answer may be lost on its way: it is given again.
        for _ in 0..2 {
            assert_eq!(requests.decision(&asked.ticket, now).unwrap(), approved);
        }
        assert!(requests.decision("nonsense", now).is_err());
    }

    #[test]
    fn requests_end_after_ten_minutes_and_one_source_has_few() {
        let (requests, now) = (JoinRequests::default(), Instant::now());
        for _ in 0..MOST_OF_SOURCE {
            ask(&requests, "n", [198, 51, 100, 7], now);
        }
        let refused = requests.ask(empty(), [198, 51, 100, 7].into(), now);
        assert_eq!(refused.unwrap_err().code(), ErrorCode::RateLimited);
        let other = ask(&requests, "n", [198, 51, 100, 8], now);
        let of_site = (0..).map(|net| IpAddr::from([0x2001, 0xdb8, 7, net, 0, 0, 0, 1]));
        let takes = of_site.take_while(|source| requests.ask(empty(), *source, now).is_ok());
        assert_eq!(takes.count(), MOST_OF_SITE, "however many nets a site has");
        let later = now + LIFETIME;
        assert!(requests.decision(&other.ticket, later).is_err());
        ask(&requests, "n", [198, 51, 100, 7], later);
        assert_eq!(requests.lock(later).by_ticket.len(), 1);
    }
}
