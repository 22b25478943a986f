use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::forward::question_section;

/// The questions that are being passed on, so that one which comes back to us is noticed: a name
/// server on this host that reads its own servers from resolv.conf finds us there.
#[derive(Debug, Clone, Default)]
pub(super) struct Flights {
    count_by_question: Arc<Mutex<BTreeMap<Vec<u8>, usize>>>,
}

/// One question that is being passed on, until it is dropped.
#[derive(Debug)]
pub(super) struct Flight {
    flights: Flights,
    question: Vec<u8>,
    /// Whether the same was under way already.
    repeated: bool,
}

impl Flights {
    /// Notes that a question is being passed on.
    pub(super) fn begin(&self, question: &[u8]) -> Flight {
        let question = question_section(question).unwrap_or_default().to_ascii_lowercase();
        let mut counts = self.count_by_question.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(question.clone()).or_default();
        *count += 1;
        let repeated = *count > 1;
        drop(counts);
        Flight { flights: self.clone(), question, repeated }
    }
}

impl Flight {
    /// Which of the servers to ask: a question that may have come back goes past those on this host,
    /// if there are others.
    pub(super) fn choose(&self, mut servers: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let is_elsewhere = |server: &SocketAddr| !server.ip().is_loopback();
        if self.repeated && servers.iter().any(is_elsewhere) {
            servers.retain(is_elsewhere);
        }
        servers
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let counts = &self.flights.count_by_question;
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.question) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.question);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_that_comes_back_goes_past_the_servers_on_this_host() {
        let question = |id: u8, name: &[u8]| {
            let header = [id, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            [&header[..], &[7], name, &[0, 0, 1, 0, 1]].concat()
        };
        let here: SocketAddr = "127.0.0.1:53".parse().unwrap();
        let elsewhere: SocketAddr = "192.0.2.53:53".parse().unwrap();
        let flights = Flights::default();
        let first = flights.begin(&question(1, b"example"));
        assert_eq!(first.choose(vec![here, elsewhere]), [here, elsewhere]);
        let again = flights.begin(&question(2, b"eXample"));
        assert_eq!(again.choose(vec![here, elsewhere]), [elsewhere]);
        assert_eq!(again.choose(vec![here]), [here], "there is no other");
        let other = flights.begin(&question(1, b"another"));
        assert_eq!(other.choose(vec![here, elsewhere]), [here, elsewhere]);
        drop((first, again));
        let later = flights.begin(&question(3, b"example"));
        assert_eq!(later.choose(vec![here, elsewhere]), [here, elsewhere]);
    }
}
