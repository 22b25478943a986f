use std::time::Duration;

/// How an interface is connected to its segment. Every fault applies to each direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// One way.
    pub latency: Duration,
    /// At most so much is added, evenly distributed; packets stay in order.
    pub jitter: Duration,
    /// The share of packets that is lost, 0 to 1.
    pub loss: f64,
    /// The share of packets that arrives twice, 0 to 1.
    pub duplicate: f64,
    /// The share of packets that is overtaken by later ones, 0 to 1.
    pub reorder: f64,
    /// The longest IP packet that passes, in bytes; longer ones vanish (fragments are not
    /// modelled).
    pub mtu: usize,
}

impl Link {
    /// A LAN: 0.2 ms, no faults.
    pub const LAN: Self = Self::with_latency(Duration::from_micros(200));

    /// An access line with 20 ms one way, no faults: the leg that the figures speak of.
    pub const ACCESS: Self = Self::with_latency(Duration::from_millis(20));

    /// A line without faults.
    pub const fn with_latency(latency: Duration) -> Self {
        Self { latency, jitter: Duration::ZERO, loss: 0.0, duplicate: 0.0, reorder: 0.0, mtu: 1500 }
    }

    /// The same line, losing everything.
    pub const fn cut(self) -> Self {
        Self { loss: 1.0, ..self }
    }
}
