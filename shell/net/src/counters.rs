use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident, $live:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$field_doc])* pub $field: u64,)* }

        #[derive(Debug, Default)]
        pub(crate) struct $live { $(pub(crate) $field: AtomicU64,)* }

        impl $live {
            pub(crate) fn read(&self) -> $name {
                $name { $($field: self.$field.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// What went through a TUN device since it was opened.
    ///
    /// `segments_written / writes` above 1 under load says that coalescing is alive.
    TunCounters, LiveTunCounters {
        /// Reads that gave a packet or super-packet.
        reads,
        /// Packets that these are on the wire.
        segments_read,
        /// Writes to the device.
        writes,
        /// Packets in these writes.
        segments_written,
        /// Packets that the device refused.
        write_errors,
        /// Reads that gave nothing usable.
        read_errors,
    }
}

counters! {
    /// What went through the sockets since they were opened.
    ///
    /// `segments_sent / sends` and `segments_received / receives` above 1 under load say that
    /// batching is alive.
    UdpCounters, LiveUdpCounters {
        /// System calls that sent something.
        sends,
        /// Datagrams in these.
        segments_sent,
        /// Messages received; a message is a run of datagrams from one source.
        receives,
        /// Datagrams in these.
        segments_received,
        /// Datagrams that couldn't be sent (no route, a firewall's refusal).
        send_errors,
        /// Errors while receiving, mostly ICMP answers to earlier datagrams.
        receive_errors,
        /// Batches that had to be sent datagram by datagram.
        fallbacks,
    }
}

pub(crate) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}
