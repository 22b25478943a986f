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
    /// All that these ranges have in them, in whatever order they are.
    fn of(mut ranges: Vec<(u16, u16)>) -> Self {
        ranges.sort_unstable();
        let mut apart: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match apart.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                Some(_) | None => apart.push((first, last)),
            }
        }
        Self(apart)
    }

    /// Both are sorted: one pass.
    fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        let mut cuts = other.0.iter().peekable();
        for &(first, last) in &self.0 {
            while cuts.next_if(|(_, z)| *z < first).is_some() {}
            let mut rest = Some(first);
            for &(a, z) in cuts.clone().take_while(|(a, _)| *a <= last) {
                let Some(from) = rest else { break };
                if from < a {
                    left.push((from, a - 1));
                }
                rest = z.checked_add(1).filter(|next| *next <= last);
            }
            left.extend(rest.map(|from| (from, last)));
        }
        Self(left)
    }
}

impl PortSet {
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
        let all = Self::from(Ports::All);
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
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        let mut set = Self::default();
        for ports in ports {
            match *ports {
                Ports::All => {
                    tcp.push((0, u16::MAX));
                    udp.push((0, u16::MAX));
                    set.icmp = true;
                    set.others = [u64::MAX; 4];
                }
                Ports::Tcp(first, last) => tcp.push((first, last)),
                Ports::Udp(first, last) => udp.push((first, last)),
                Ports::Icmp => set.icmp = true,
                Ports::Protocol(it) => set.others[usize::from(it / 64)] |= 1 << (it % 64),
                Ports::Unknown => {}
            }
        }
        for number in NAMED {
            set.others[usize::from(number / 64)] &= !(1 << (number % 64));
        }
        (set.tcp, set.udp) = (Ranges::of(tcp), Ranges::of(udp));
        set
    }
}

impl From<Ports> for PortSet {
    fn from(ports: Ports) -> Self {
        [ports].iter().collect()
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
                Ranges::of(of.iter().map(|(first, len)| (*first, first + len)).collect())
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
