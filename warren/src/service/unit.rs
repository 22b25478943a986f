//! The units' text: a pure function of what was asked for, so that a test can hand it to
//! `systemd-analyze`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::Role;

/// What the folders of all services are in: systemd makes those for itself.
const STATE: &str = "/var/lib";

/// A service to be.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) role: Role,
    /// Tells several of one role apart.
    pub(super) instance: Option<String>,
    pub(super) program: PathBuf,
    /// For the service's command.
    pub(super) args: Vec<String>,
    /// The node's or relay's folder, where it isn't the usual one.
    pub(super) state: Option<PathBuf>,
    pub(super) config: Option<PathBuf>,
    /// How long it goes on after it was told to stop.
    pub(super) drain: Duration,
}

/// The unit's file name.
pub(super) fn name(role: Role, instance: Option<&str>) -> String {
    format!("warren-{}.service", named(role_name(role), instance))
}

impl Unit {
    pub(super) fn name(&self) -> String {
        name(self.role, self.instance.as_deref())
    }

    /// A folder that systemd doesn't make.
    pub(super) fn own_folder(&self) -> Option<&Path> {
        self.state.as_deref().filter(|folder| !folder.starts_with(STATE))
    }

    pub(super) fn text(&self) -> String {
        let description = match self.role {
            Role::Node => "Warren node: this device's place in its mesh",
            Role::Broker => "Warren broker: where the devices of a mesh find each other",
            Role::Relay => "Warren relay: a STUN and TURN server",
            Role::PairRelay => "Warren pair relay: joins two UDP programs by a GUID",
        };
        format!(
            "[Unit]\n\
             Description={description}\n\
             After=network.target nss-lookup.target\n\
             Wants=network.target\n\
             StartLimitIntervalSec=0\n\
             \n\
             [Service]\n\
             Type=exec\n\
             {}{}{}TimeoutStopSec={}\n{HARDENED}\
             \n\
             [Install]\n\
             WantedBy=multi-user.target\n",
            self.commands(),
            self.folders(),
            self.rights(),
            (self.drain + STOPPING).as_secs(),
        )
    }

    fn commands(&self) -> String {
        let program = quoted(&self.program.to_string_lossy());
        let subcommand = match self.role {
            Role::Node => "node",
            Role::Broker => "serve",
            Role::Relay => "relay",
            Role::PairRelay => "pair-relay",
        };
        let mut text = format!("ExecStart={program} {subcommand}");
        for arg in &self.args {
            let _ = write!(text, " {}", quoted(arg));
        }
        if self.role == Role::Node {
            // After a kill -9 nobody else would give resolv.conf and the routing rules back.
            let _ = write!(text, "\nExecStopPost={program} node --clean-up");
        }
        text.push('\n');
        text
    }

    /// Folders, and the environment that names them.
    fn folders(&self) -> String {
        let folder = self.state.clone().unwrap_or_else(|| {
            Path::new(STATE)
                .join("warren")
                .join(named(role_name(self.role), self.instance.as_deref()))
        });
        let mut text = match folder.strip_prefix(STATE) {
            Ok(folder) => {
                let folder = folder.display();
                format!("StateDirectory={folder}\nStateDirectoryMode=0750\n")
            }
            Err(_) => format!("ReadWritePaths={}\n", quoted(&folder.to_string_lossy())),
        };
        let mut set = |variable: &str, path: &Path| {
            let assignment = format!("{variable}={}", path.display());
            let _ = writeln!(text, "Environment={}", quoted_variable(&assignment));
        };
        if let Some(config) = &self.config {
            set("WARREN_CONFIG", config);
        }
        match self.role {
            Role::Node | Role::Relay | Role::PairRelay => set("WARREN_STATE", &folder),
            // The data folder is the broker's alone; the group reaches the socket through /run.
            Role::Broker => {
                let run = named("warren-broker", self.instance.as_deref());
                set("WARREN_DATA", &folder);
                set("WARREN_ADMIN_SOCKET", &Path::new("/run").join(&run).join("admin.sock"));
                let _ = write!(text, "RuntimeDirectory={run}\nRuntimeDirectoryMode=0755\n");
            }
        }
        text
    }

    fn rights(&self) -> &'static str {
        match self.role {
            // The node makes a TUN device and routes, and may have to write /etc/resolv.conf: it and
            // others replace that file by another, which would leave a mount of the file behind.
            // An edge speaks ARP by packet sockets; both lists of families add up.
            Role::Node => {
                "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_CHOWN CAP_DAC_OVERRIDE\n\
                 AmbientCapabilities=\n\
                 DeviceAllow=/dev/net/tun rw\n\
                 RestrictAddressFamilies=AF_PACKET\n\
                 ReadWritePaths=/etc\n"
            }
            Role::Broker => {
                "DynamicUser=yes\n\
                 CapabilityBoundingSet=CAP_NET_BIND_SERVICE\n\
                 AmbientCapabilities=CAP_NET_BIND_SERVICE\n\
                 PrivateDevices=yes\n\
                 ProtectHostname=yes\n\
                 PrivateUsers=no\n\
                 SupplementaryGroups=warren\n"
            }
            // Secrets and keys are in files that only root can read.
            Role::Relay | Role::PairRelay => {
                "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\n\
                 AmbientCapabilities=\n\
                 PrivateDevices=yes\n\
                 ProtectHostname=yes\n"
            }
        }
    }
}

/// How long anything takes to stop that has nothing to wait for.
const STOPPING: Duration = Duration::from_secs(15);

/// Of every role.
const HARDENED: &str = "\
Restart=always
RestartSec=2
KillSignal=SIGTERM
LimitNOFILE=1048576
UMask=0077
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
";

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Node => "node",
        Role::Broker => "broker",
        Role::Relay => "relay",
        Role::PairRelay => "pair-relay",
    }
}

fn named(base: &str, instance: Option<&str>) -> String {
    match instance {
        Some(instance) => format!("{base}-{instance}"),
        None => base.to_owned(),
    }
}

/// systemd splits at blanks and expands `%` and `$` in `ExecStart`.
fn quoted(text: &str) -> String {
    let text =
        text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,[]@+%$".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) { text } else { format!("\"{text}\"") }
}

/// In `Environment` only `%` is expanded.
fn quoted_variable(text: &str) -> String {
    quoted(&text.replace('$', "\u{0}")).replace('\u{0}', "$")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn unit(role: Role, program: &str, args: &[&str]) -> Unit {
        Unit {
            role,
            instance: None,
            program: program.into(),
            args: args.iter().map(ToString::to_string).collect(),
            state: None,
            config: None,
            drain: Duration::ZERO,
        }
    }

    #[test]
    fn arguments_reach_the_command_as_they_were_given() {
        let text = unit(Role::Node, "/opt/my warren/warren", &["--name", "/a b/$x%y"]).text();
        assert!(
            text.contains("ExecStart=\"/opt/my warren/warren\" node --name \"/a b/$$x%%y\"\n"),
            "{text}"
        );
    }

    #[test]
    fn state_and_configuration_reach_the_daemon_and_its_clean_up() {
        let mut second = unit(Role::Node, "/bin/true", &[]);
        second.instance = Some("second".to_owned());
        assert_eq!(second.name(), "warren-node-second.service");
        let text = second.text();
        assert!(text.contains("StateDirectory=warren/node-second\n"), "{text}");
        assert!(text.contains("Environment=WARREN_STATE=/var/lib/warren/node-second\n"), "{text}");

        second.state = Some("/srv/my node".into());
        second.config = Some("/etc/warren.toml".into());
        let text = second.text();
        assert!(text.contains("ReadWritePaths=\"/srv/my node\"\n"), "{text}");
        assert!(text.contains("Environment=\"WARREN_STATE=/srv/my node\"\n"), "{text}");
        assert!(text.contains("Environment=WARREN_CONFIG=/etc/warren.toml\n"), "{text}");
        assert!(!text.contains("StateDirectory"), "{text}");
        assert_eq!(second.own_folder(), Some(Path::new("/srv/my node")));
    }

    #[cfg(feature = "broker")]
    #[test]
    fn the_brokers_socket_is_where_the_command_line_looks_for_the_service() {
        let text = unit(Role::Broker, "/bin/true", &[]).text();
        let socket = Path::new(warren_broker::admin::SERVICE_SOCKET);
        let environment = format!("Environment=WARREN_ADMIN_SOCKET={}\n", socket.display());
        assert!(text.contains(&environment), "{text}");
        let folder = socket.parent().unwrap().strip_prefix("/run").unwrap();
        assert!(text.contains(&format!("RuntimeDirectory={}\n", folder.display())), "{text}");
    }

    #[test]
    fn a_relay_has_the_time_to_drain() {
        let mut relay = unit(Role::Relay, "/bin/true", &["--drain-timeout", "10m"]);
        relay.drain = Duration::from_secs(600);
        let text = relay.text();
        assert!(text.contains("ExecStart=/bin/true relay --drain-timeout 10m\n"), "{text}");
        assert!(text.contains("\nTimeoutStopSec=615\n"), "{text}");
        assert!(text.contains("Environment=WARREN_STATE=/var/lib/warren/relay\n"), "{text}");
        assert_eq!(unit(Role::PairRelay, "/bin/true", &[]).name(), "warren-pair-relay.service");
        let text = unit(Role::Node, "/bin/true", &[]).text();
        assert!(text.contains("\nTimeoutStopSec=15\n"), "{text}");
    }

    #[test]
    fn systemd_finds_nothing_wrong_with_the_units() {
        let folder = tempfile::tempdir().unwrap();
        for role in [Role::Node, Role::Broker, Role::Relay, Role::PairRelay] {
            let unit = unit(role, "/bin/true", &[]);
            assert!(unit.text().contains("\nProtectKernelTunables=yes\n"));
            let path = folder.path().join(unit.name());
            std::fs::write(&path, unit.text()).unwrap();
            let output = Command::new("systemd-analyze")
                .args(["verify", "--man=no", "--recursive-errors=no"])
                .arg(&path)
                .output()
                .expect("systemd-analyze comes with systemd; testing/setup.sh installs it");
            let complaints = String::from_utf8_lossy(&output.stderr);
            let ours: Vec<&str> =
                complaints.lines().filter(|line| line.contains(&unit.name())).collect();
            assert!(ours.is_empty(), "{ours:?}");

            let security = Command::new("systemd-analyze")
                .args(["security", "--offline=yes", "--threshold=40"])
                .arg(&path)
                .output()
                .unwrap();
            assert!(
                security.status.success(),
                "exposure above 4.0:\n{}",
                String::from_utf8_lossy(&security.stdout)
            );
        }
    }
}
