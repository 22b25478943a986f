//! The relays that are measured, each as its own users would start it.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use warren_lab::wait_for;

use crate::flows::Direction;
use crate::stage::{LISTEN, PAIR_PORT, RELAYED, Stage, TURN_PORT};

pub(crate) const SECRET: &str = "a secret of the benchmark";
pub(crate) const PAIR_KEY: &str = "YSBrZXkgb2YgdGhlIGJlbmNobWFyaw==";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `warren relay --standalone`.
    Ours,
    /// Debian's coturn.
    Coturn,
    /// turn-server of crates.io.
    TurnServer,
    /// GRO in, GSO out, and nothing between.
    Bare,
    /// `warren pair-relay`.
    Pair,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Bare, Self::Ours, Self::Coturn, Self::TurnServer, Self::Pair];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Coturn => "coturn",
            Self::TurnServer => "turn-server",
            Self::Bare => "bare",
            Self::Pair => "pair",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The program; `None` where it isn't installed.
    fn program(self) -> Result<Option<PathBuf>> {
        let path = match self {
            Self::Ours | Self::Pair => warren_bench::binary()?,
            Self::Coturn => PathBuf::from("/usr/bin/turnserver"),
            Self::TurnServer => std::env::var_os("TURN_SERVER")
                .map_or_else(|| PathBuf::from("/tmp/peers/bin/turn-server"), PathBuf::from),
            Self::Bare => std::env::current_exe()?,
        };
        let there = match self {
            Self::Ours => Command::new(&path)
                .args(["relay", "--help"])
                .output()
                .is_ok_and(|output| output.status.success()),
            Self::Coturn | Self::TurnServer | Self::Bare | Self::Pair => path.is_file(),
        };
        Ok(there.then_some(path))
    }
}

/// A running relay.
pub(crate) struct Target {
    pub(crate) kind: Kind,
    process: Child,
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Target {
    /// Starts it on the relay's core; `None` where it isn't installed. `flags` are for ours.
    pub(crate) fn start(
        kind: Kind,
        stage: &Stage,
        direction: Direction,
        flags: &[String],
    ) -> Result<Option<Self>> {
        let Some(program) = kind.program()? else { return Ok(None) };
        let mut command = Command::new(&program);
        arguments(kind, &mut command, stage, direction)?;
        if kind == Kind::Ours {
            command.args(flags);
        }
        let mut target = Self { kind, process: stage.spawn(&program, &mut command)? };
        let port = if kind == Kind::Pair { PAIR_PORT } else { TURN_PORT };
        let needle = format!(":{port} ");
        wait_for(kind.name(), Duration::from_secs(10), || {
            if let Some(status) = target.process.try_wait()? {
                let log = std::fs::read_to_string(stage.log()).unwrap_or_default();
                bail!("{} ended with {status}: {log}", kind.name());
            }
            let listening = stage.relay.run(&["ss", "-Hulpn"])?;
            Ok(listening.contains(&needle).then_some(()))
        })?;
        Ok(Some(target))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

fn arguments(kind: Kind, command: &mut Command, stage: &Stage, direction: Direction) -> Result<()> {
    let listen = format!("{LISTEN}:{TURN_PORT}");
    let (listen_ip, relayed_ip) = (LISTEN.to_string(), RELAYED.to_string());
    match kind {
        Kind::Ours => {
            let flags = ["--log", "warn", "relay", "--standalone", "--secret", SECRET];
            command.args(flags).args(["--listen", &listen, "--public-ip", &relayed_ip]);
            command.args(["--realm", "bench", "--allow-peer", "10.0.0.0/8"]);
        }
        Kind::Coturn => {
            let port = TURN_PORT.to_string();
            command.args(["-n", "--listening-ip", &listen_ip, "--listening-port", &port]);
            command.args(["--relay-ip", &relayed_ip, "--lt-cred-mech", "--use-auth-secret"]);
            command.args(["--static-auth-secret", SECRET, "--realm", "bench", "--no-tls"]);
            command.args(["--no-dtls", "--no-cli", "--no-stdout-log", "--log-file", "/dev/null"]);
            command.args(["--simple-log", "--pidfile", "/run/turnserver.pid"]);
            // One core: more threads would only take it from one another.
            command.args(["--relay-threads", "1"]);
        }
        Kind::TurnServer => {
            let path = stage.relay.folder().join("turn-server.toml");
            std::fs::write(&path, turn_server_configuration(&listen))?;
            command.args(["--config".as_ref(), path.as_os_str()]);
        }
        Kind::Bare => {
            command.args(["forward", direction.name()]);
        }
        Kind::Pair => {
            let port = PAIR_PORT.to_string();
            command.args(["--log", "warn", "pair-relay", "--listen", &listen_ip, "--port", &port]);
            // The benchmark's receivers never speak, and a flow to such is limited otherwise.
            command.args(["--workers", "1", "--silent-rate", "0"]);
            command.env("UDP_RELAY_SECRET_KEY", PAIR_KEY);
        }
    }
    Ok(())
}

fn turn_server_configuration(listen: &str) -> String {
    format!(
        "[server]\nrealm = \"bench\"\nmax-threads = 1\n\
         [[server.interfaces]]\ntransport = \"udp\"\nlisten = \"{listen}\"\nexternal = \"{listen}\"\n\
         idle-timeout = 600\n[log]\nlevel = \"error\"\nstdout = false\n\
         [auth]\nenable-hooks-auth = false\nstatic-auth-secret = \"{SECRET}\"\n"
    )
}

/// The version of a relay, as it says itself, for the record.
pub(crate) fn version(kind: Kind) -> Result<String> {
    let Some(program) = kind.program()? else { return Ok("not installed".to_owned()) };
    let output = match kind {
        Kind::Bare => return Ok("this benchmark's own".to_owned()),
        Kind::Ours | Kind::Pair | Kind::Coturn | Kind::TurnServer => {
            Command::new(&program).arg("--version").output()
        }
    };
    let output = output.with_context(|| program.display().to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains(|c: char| c.is_ascii_digit()));
    Ok(line.unwrap_or("unknown version").trim().to_owned())
}
