use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use warren_mesh::{Config, Event, LocalAddress, Mesh, OutboundDrop};
use warren_net::{
    Coalescer, Diverted, Error, HostConfig, HostNetwork, Intake, Outgoing, Tun, TunReader,
    UdpReceiver, UdpSockets,
};

use super::echo::Echoes;
use super::pump::Pump;
use super::relay::PrivateRelay;
use super::streams::Streams;
use super::{Command, DataConfig, DataEvent, Opened, snapshot};
use crate::carrier::StreamEvent;
use crate::local::DebugCounters;

/// The body of the thread: opens, reports, and runs until the handle is dropped.
pub(super) fn run(
    config: DataConfig,
    commands: mpsc::Receiver<Command>,
    events: &mpsc::UnboundedSender<DataEvent>,
    opened: oneshot::Sender<Result<Opened, Error>>,
    control: Handle,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(source) => {
            let action = "start the data thread's event loop".to_owned();
            let _ = opened.send(Err(Error::Os { action, source }));
            return;
        }
    };
    runtime.block_on(async move {
        match Worker::open(config, commands, events, control) {
            Ok((thread, report)) => {
                if opened.send(Ok(report)).is_ok() {
                    thread.run().await;
                }
            }
            Err(error) => {
                let _ = opened.send(Err(error));
            }
        }
    });
}

struct Worker<'e> {
    pump: Pump,
    commands: mpsc::Receiver<Command>,
    events: &'e mpsc::UnboundedSender<DataEvent>,
    addresses: Vec<LocalAddress>,
    /// Counts of sockets that a rebinding has closed.
    closed: DebugCounters,
    streams: Streams,
    /// The wall clock at an instant, as the broker's time has corrected it.
    clock: (Instant, Duration),
}

impl<'e> Worker<'e> {
    fn open(
        config: DataConfig,
        commands: mpsc::Receiver<Command>,
        events: &'e mpsc::UnboundedSender<DataEvent>,
        control: Handle,
    ) -> Result<(Self, Opened), Error> {
        let sockets = UdpSockets::bind(&config.udp)?;
        let tun = Tun::open(&config.tun)?;
        let now = Instant::now();
        let mut seed = [0; 32];
        rand::Rng::fill_bytes(&mut rand::rng(), &mut seed);
        let mesh_config =
            Config { private_key: *config.private_key, seed, unix: config.unix, mtu: config.mtu };
        let mut mesh = Mesh::new(mesh_config, now);
        mesh.handle_netmap(config.netmap, config.source, now);
        let report = Opened {
            host: HostNetwork::new(&tun, HostConfig::default())?,
            interface: tun.name().to_owned(),
            index: tun.index(),
            port: sockets.port(),
            mtu: mesh.mtu(),
            findings: sockets.findings().to_vec(),
        };
        let pump = Pump {
            mesh,
            tun,
            sockets,
            reader: TunReader::new(),
            receiver: UdpReceiver::new(),
            outgoing: Outgoing::new(),
            coalescer: Coalescer::new(),
            echoes: Echoes::default(),
            relay: PrivateRelay::default(),
            intake: config.diverted.as_ref().map(Diverted::open),
        };
        let mut worker = Self {
            pump,
            commands,
            events,
            addresses: Vec::new(),
            closed: DebugCounters::default(),
            streams: Streams::new(control),
            clock: (now, config.unix),
        };
        worker.update_relay(now);
        Ok((worker, report))
    }

    async fn run(mut self) {
        let mut armed = Instant::now();
        let timer = tokio::time::sleep_until(armed.into());
        tokio::pin!(timer);
        loop {
            if !self.drain() {
                return;
            }
            let mesh_due = self.pump.mesh.poll_timeout().map(|(due, _)| due);
            let due = mesh_due.into_iter().chain(self.pump.relay.poll_timeout()).min();
            if let Some(due) = due
                && due != armed
            {
                armed = due;
                timer.as_mut().reset(due.into());
            }
            let Pump { tun, sockets, outgoing, intake, .. } = &mut self.pump;
            let blocked = outgoing.is_blocked();
            let step = tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Stop) | None => return,
                    Some(command) => Step::Command(command),
                },
                // A full socket buffer holds the TUN back.
                ready = tun.readable(), if !blocked => Step::Tun(ready),
                ready = sockets.readable() => Step::Sockets(ready),
                ready = sockets.writable(), if blocked => Step::Writable(ready),
                packet = answer(intake), if !blocked => Step::Diverted(packet),
                event = self.streams.next() => Step::Stream(event),
                () = &mut timer, if due.is_some() => Step::Timeout,
            };
            if let Err(error) = self.take(step) {
                let text = format!("the interface {} failed: {error}", self.pump.tun.name());
                let _ = self.events.send(DataEvent::Failed(text));
                return;
            }
        }
    }

    fn take(&mut self, step: Step) -> std::io::Result<()> {
        match step {
            Step::Command(command) => {
                self.obey(command);
                Ok(())
            }
            Step::Tun(ready) => ready.and_then(|()| self.pump.outbound()),
            Step::Sockets(ready) => {
                ready?;
                self.pump.inbound();
                Ok(())
            }
            Step::Writable(ready) => {
                ready?;
                self.pump.outgoing.flush(&self.pump.sockets);
                Ok(())
            }
            Step::Timeout => {
                let now = Instant::now();
                let Pump { mesh, relay, sockets, .. } = &mut self.pump;
                if mesh.poll_timeout().is_some_and(|(due, _)| due <= now) {
                    mesh.handle_timeout(now);
                }
                relay.handle_timeout(sockets, now);
                Ok(())
            }
            Step::Diverted(packet) => {
                self.pump.divert(packet);
                Ok(())
            }
            Step::Stream(event) => {
                self.take_stream_event(event);
                Ok(())
            }
        }
    }

    /// Carries out what the mesh has queued. False when nobody listens any more.
    fn drain(&mut self) -> bool {
        self.pump.drain_packets();
        self.streams.drain(&mut self.pump.mesh);
        while let Some(event) = self.pump.mesh.poll_event() {
            if let Event::Mtu(mtu) = event
                && let Err(error) = self.pump.tun.set_mtu(mtu)
            {
                tracing::warn!(%error, mtu, "the interface's MTU could not be set");
            }
            match event {
                Event::OpenStream { stream, relay: _, targets } => {
                    self.streams.open(stream, targets);
                    continue;
                }
                Event::CloseStream { stream } => {
                    self.streams.close(stream);
                    continue;
                }
                Event::CheckIn(_)
                | Event::Connect(_)
                | Event::FetchNetmap
                | Event::PathChanged { .. }
                | Event::Unreachable { .. }
                | Event::Established { .. }
                | Event::Mtu(_) => {}
            }
            if self.events.send(DataEvent::Mesh(event)).is_err() {
                return false;
            }
        }
        true
    }

    fn obey(&mut self, command: Command) {
        let now = Instant::now();
        let mesh = &mut self.pump.mesh;
        match command {
            Command::Netmap(netmap, source) => {
                mesh.handle_netmap(*netmap, source, now);
                self.update_relay(now);
            }
            // A delta that doesn't fit makes the mesh ask for the whole map.
            Command::Delta(delta) => {
                let _ = mesh.handle_delta(&delta, now);
                self.update_relay(now);
            }
            Command::Signal(signal) => mesh.handle_connect(&signal, now),
            Command::ExpectReach(check) => mesh.expect_reach(&check, now),
            Command::Broker(state) => mesh.handle_broker(state, now),
            Command::LocalAddresses(addresses) => {
                let port = self.pump.sockets.port();
                mesh.handle_local_addresses(&addresses, port, now);
                self.addresses = addresses;
            }
            Command::Mapping(mapped) => mesh.handle_mapping(&mapped, now),
            Command::Edge(state) => mesh.handle_edge(state, now),
            Command::Exit(chosen) => mesh.handle_exit(chosen, now),
            Command::RaiseClock(unix) => {
                mesh.raise_clock(unix, now);
                self.clock = (now, unix);
                self.pump.relay.set_clock(unix, now);
            }
            Command::Seek(peer) => mesh.connect(peer, now),
            Command::Echo(echo) => self.pump.echo(echo, now),
            Command::Rebind(config, answer) => {
                let _ = answer.send(self.rebind(&config, now));
            }
            Command::Snapshot(answer) => {
                let _ = answer.send(snapshot(&self.pump.mesh, self.counters()));
            }
            Command::Candidates(peer, answer) => {
                let _ = answer.send(mesh.candidates(peer));
            }
            Command::Stop => {}
        }
    }

    /// Brings the relay that this device is in line with the netmap.
    fn update_relay(&mut self, now: Instant) {
        let unix = self.clock.1 + now.saturating_duration_since(self.clock.0);
        let Pump { mesh, relay, .. } = &mut self.pump;
        relay.update(mesh, unix, now);
    }

    fn take_stream_event(&mut self, event: StreamEvent) {
        let now = Instant::now();
        let mesh = &mut self.pump.mesh;
        match event {
            StreamEvent::Opened(stream, tls) => mesh.handle_stream_opened(stream, tls, now),
            StreamEvent::Data(stream, bytes) => mesh.handle_stream(stream, &bytes, now),
            StreamEvent::Written => {}
            StreamEvent::Closed(stream) => {
                self.streams.close(stream);
                mesh.handle_stream_closed(stream, now);
            }
        }
    }

    fn rebind(
        &mut self,
        config: &warren_net::UdpConfig,
        now: Instant,
    ) -> Result<(u16, Vec<warren_net::Finding>), Error> {
        let fresh = UdpSockets::bind(config)?;
        self.closed = self.udp_counters();
        self.pump.sockets = fresh;
        let port = self.pump.sockets.port();
        self.pump.mesh.handle_local_addresses(&self.addresses, port, now);
        Ok((port, self.pump.sockets.findings().to_vec()))
    }

    fn udp_counters(&self) -> DebugCounters {
        let udp = self.pump.sockets.counters();
        DebugCounters {
            udp_reads: self.closed.udp_reads + udp.receives,
            udp_read_segments: self.closed.udp_read_segments + udp.segments_received,
            udp_sends: self.closed.udp_sends + udp.sends,
            udp_send_segments: self.closed.udp_send_segments + udp.segments_sent,
            udp_send_errors: self.closed.udp_send_errors + udp.send_errors,
            ..DebugCounters::default()
        }
    }

    fn counters(&self) -> DebugCounters {
        let tun = self.pump.tun.counters();
        let mut counters = DebugCounters {
            tun_reads: tun.reads,
            tun_read_segments: tun.segments_read,
            tun_writes: tun.writes,
            tun_write_segments: tun.segments_written,
            tun_write_errors: tun.write_errors,
            ..self.udp_counters()
        };
        counters.udp_send_errors += self.pump.outgoing.dropped();
        let mesh = self.pump.mesh.counters();
        let mut note = |name: String, count: u64| {
            if count > 0 {
                counters.core.insert(name, count);
            }
        };
        note("delivered".to_owned(), mesh.delivered);
        note("sealed".to_owned(), mesh.sealed);
        note("probes-sent".to_owned(), mesh.probes_sent);
        note("probes-withheld".to_owned(), mesh.probes_withheld);
        note("probes-answered".to_owned(), mesh.probes_answered);
        note("answers-received".to_owned(), mesh.answers_received);
        note("signals-ignored".to_owned(), mesh.signals_ignored);
        note("allocations".to_owned(), mesh.allocations);
        note("relay-failures".to_owned(), mesh.relay_failures);
        note("relayed-in".to_owned(), mesh.relayed_in);
        note("relayed-out".to_owned(), mesh.relayed_out);
        for reason in warren_mesh::InboundDrop::ALL {
            note(format!("in-dropped-{}", kebab(&reason)), mesh.inbound(reason));
        }
        for reason in OutboundDrop::ALL {
            note(format!("out-dropped-{}", kebab(&reason)), mesh.outbound(reason));
        }
        self.pump.relay.counters(&mut note);
        let wg = self.pump.mesh.wireguard_counters();
        note("wg-initiations-sent".to_owned(), wg.initiations_sent);
        note("wg-initiations-received".to_owned(), wg.initiations_received);
        note("wg-responses-received".to_owned(), wg.responses_received);
        note("wg-cookies-sent".to_owned(), wg.cookies_sent);
        note("wg-keepalives-sent".to_owned(), wg.keepalives_sent);
        for reason in warren_wg::DropReason::ALL {
            note(format!("wg-dropped-{}", kebab(&reason)), wg.dropped(reason));
        }
        counters
    }
}

enum Step {
    Command(Command),
    Tun(std::io::Result<()>),
    Sockets(std::io::Result<()>),
    Writable(std::io::Result<()>),
    Diverted(Vec<u8>),
    Stream(StreamEvent),
    Timeout,
}

/// The next packet of who answers in the host's place, if anybody may.
async fn answer(intake: &mut Option<Intake>) -> Vec<u8> {
    match intake {
        Some(intake) => intake.answer().await,
        None => std::future::pending().await,
    }
}

/// `UnknownTag` becomes `unknown-tag`.
fn kebab(name: &impl std::fmt::Debug) -> String {
    let mut text = String::new();
    for c in format!("{name:?}").chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}
