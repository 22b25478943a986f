use warren_proto::Ports;

/// ICMP, TCP, UDP and ICMPv6, which have entries of their own.
const NAMED: [u8; 4] = [1, 6, 17, 58];

/// Protocols and ports, as sets that can be told apart.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PortSet {
    tcp: Ranges,
    udp: Ranges,
    icmp: bool,
    /// Other protocols: one bit each.
    others: [u64; 4],
}

/// Ranges of ports: sorted, and apart from each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Ranges(Vec<(u16, u16)>);

impl Ranges {
    fn add(&mut self, first: u16, last: u16) {
        let (mut first, mut last) = (first, last);
        let mut apart = Vec::with_capacity(self.0.len() + 1);
        for &(a, z) in &self.0 {
            let touches = a <= last.saturating_add(1) && first <= z.saturating_add(1);
            if touches {
                (first, last) = (first.min(a), last.max(z));
            } else {
                apart.push((a, z));
            }
        }
        apart.push((first, last));
        apart.sort_unstable();
        self.0 = apart;
    }

    fn without(&self, other: &Self) -> Self {
        let mut left = self.0.clone();
        for &(a, z) in &other.0 {
            left = left.into_iter().flat_map(|range| cut(range, a, z)).flatten().collect();
        }
        Self(left)
    }
}

/// What of a range stays without `a` to `z`.
fn cut((first, last): (u16, u16), a: u16, z: u16) -> [Option<(u16, u16)>; 2] {
    if z < first || last < a {
        return [Some((first, last)), None];
    }
    [(first < a).then(|| (first, a - 1)), (z < last).then(|| (z + 1, last))]
}

impl PortSet {
    pub(super) fn add(&mut self, ports: Ports) {
        match ports {
            Ports::All => {
                self.tcp.add(0, u16::MAX);
                self.udp.add(0, u16::MAX);
                self.icmp = true;
                self.others = [u64::MAX; 4];
                for number in NAMED {
                    self.others[usize::from(number / 64)] &= !(1 << (number % 64));
                }
            }
            Ports::Tcp(first, last) => self.tcp.add(first, last),
            Ports::Udp(first, last) => self.udp.add(first, last),
            Ports::Icmp => self.icmp = true,
            Ports::Protocol(number) => self.others[usize::from(number / 64)] |= 1 << (number % 64),
            Ports::Unknown => {}
        }
    }

    pub(super) fn without(&self, other: &Self) -> Self {
        let mut others = self.others;
        for (mine, theirs) in others.iter_mut().zip(&other.others) {
            *mine &= !theirs;
        }
        Self {
            tcp: self.tcp.without(&other.tcp),
            udp: self.udp.without(&other.udp),
            icmp: self.icmp && !other.icmp,
            others,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// As a text would say it; all other protocols together are 'other protocols'.
    pub(super) fn words(&self) -> Vec<String> {
        let mut all = Self::default();
        all.add(Ports::All);
        if *self == all {
            return vec![Ports::All.to_string()];
        }
        let tcp = self.tcp.0.iter().map(|(first, last)| Ports::Tcp(*first, *last).to_string());
        let udp = self.udp.0.iter().map(|(first, last)| Ports::Udp(*first, *last).to_string());
        let icmp = self.icmp.then(|| Ports::Icmp.to_string());
        let mut words: Vec<String> = tcp.chain(udp).chain(icmp).collect();
        if self.others == all.others {
            words.push("other protocols".to_owned());
        } else {
            let has = |number: &u8| self.others[usize::from(number / 64)] & 1 << (number % 64) != 0;
            let numbers = (0..=u8::MAX).filter(has);
            words.extend(numbers.map(|number| Ports::Protocol(number).to_string()));
        }
        words
    }
}

impl<'a> FromIterator<&'a Ports> for PortSet {
    fn from_iter<T: IntoIterator<Item = &'a Ports>>(ports: T) -> Self {
        let mut set = Self::default();
        ports.into_iter().for_each(|it| set.add(*it));
        set
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(words: &[&str]) -> PortSet {
        let ports: Vec<Ports> = words.iter().map(|word| word.parse().unwrap()).collect();
        ports.iter().collect()
    }

    #[test]
    fn what_is_left_of_everything_is_said_in_few_words() {
        assert_eq!(set(&["*"]).words(), ["*"]);
        let left = set(&["*"]).without(&set(&["tcp:22", "icmp"]));
        assert_eq!(left.words(), ["tcp:0-21", "tcp:23-65535", "udp", "other protocols"]);
        assert!(set(&["tcp:22"]).without(&set(&["*"])).is_empty());
        assert_eq!(set(&["tcp:1-5", "tcp:6-9", "tcp:20"]).words(), ["tcp:1-9", "tcp:20"]);
        assert_eq!(set(&["protocol:47"]).words(), ["protocol:47"]);
    }

    proptest! {
        #[test]
        fn ranges_are_sets_of_ports(
            a in prop::collection::vec((0u16..40, 0u16..10), 0..6),
            b in prop::collection::vec((0u16..40, 0u16..10), 0..6),
        ) {
            let ranges = |of: &[(u16, u16)]| {
                let mut ranges = Ranges::default();
                of.iter().for_each(|(first, len)| ranges.add(*first, first + len));
                ranges
            };
            let has = |of: &[(u16, u16)], port| of.iter().any(|(f, len)| (*f..=f + len).contains(&port));
            let left = ranges(&a).without(&ranges(&b));
            for port in 0..60 {
                let is_left = left.0.iter().any(|(first, last)| (*first..=*last).contains(&port));
                prop_assert_eq!(is_left, has(&a, port) && !has(&b, port));
            }
            prop_assert!(ranges(&a).0.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
        }
    }
}
