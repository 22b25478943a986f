//! `warren service`: hardened systemd units for the node and the broker.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::cli::{Role, Service, ServiceInstall};
use crate::output::say;

const UNIT_FOLDER: &str = "/etc/systemd/system";

pub(crate) fn run(command: Service) -> anyhow::Result<()> {
    match command {
        Service::Install(install) if install.print => {
            say!("{}", unit(install.role, &binary()?, &install.args).trim_end());
            Ok(())
        }
        Service::Install(install) => self::install(&install),
        Service::Uninstall { role } => uninstall(role),
    }
}

fn install(install: &ServiceInstall) -> anyhow::Result<()> {
    require_systemd()?;
    ensure_group()?;
    let name = unit_name(install.role);
    let path = unit_path(install.role);
    let text = unit(install.role, &binary()?, &install.args);
    std::fs::write(&path, text).with_context(|| {
        format!("can't write {}: run `sudo warren service install`", path.display())
    })?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", "--now", name])?;
    say!("{name} is installed and running.");
    match install.role {
        Role::Node => {
            say!("Next: warren up --join LINK   (members of group `warren` need no sudo)");
        }
        Role::Broker => {
            say!("Next: sudo warren admin join-keys create   (prints a join link)");
            say!("      members of group `warren` need no sudo");
        }
    }
    Ok(())
}

fn uninstall(role: Role) -> anyhow::Result<()> {
    require_systemd()?;
    let name = unit_name(role);
    let path = unit_path(role);
    if !path.exists() {
        bail!("{name} isn't installed ({} doesn't exist)", path.display());
    }
    systemctl(&["disable", "--now", name])?;
    std::fs::remove_file(&path)
        .with_context(|| format!("can't remove {}: run it with sudo", path.display()))?;
    systemctl(&["daemon-reload"])?;
    say!("{name} is removed. Keys and data are still in {}.", state_folder(role));
    Ok(())
}

/// The unit's text. A pure function, so that a test can hand it to `systemd-analyze`.
pub(crate) fn unit(role: Role, binary: &Path, args: &[String]) -> String {
    let mut command = format!("{} {}", quoted(&binary.to_string_lossy()), subcommand(role));
    for arg in args {
        let _ = write!(command, " {}", quoted(arg));
    }
    if role == Role::Node {
        // After a kill -9 nobody else would give resolv.conf and the routing rules back.
        let _ =
            write!(command, "\nExecStopPost={} node --clean-up", quoted(&binary.to_string_lossy()));
    }
    let state = state_folder(role).trim_start_matches("/var/lib/");
    let specific = match role {
        // The node makes a TUN device and routes, and may have to write /etc/resolv.conf.
        Role::Node => {
            "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_CHOWN CAP_DAC_OVERRIDE\n\
             AmbientCapabilities=\n\
             DeviceAllow=/dev/net/tun rw\n\
             ReadWritePaths=-/etc/resolv.conf\n\
             RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK\n\
             Environment=WARREN_STATE=/var/lib/warren/node\n"
        }
        // The data folder is the broker's alone; the group reaches the socket through /run.
        Role::Broker => {
            "DynamicUser=yes\n\
             CapabilityBoundingSet=CAP_NET_BIND_SERVICE\n\
             AmbientCapabilities=CAP_NET_BIND_SERVICE\n\
             PrivateDevices=yes\n\
             ProtectHostname=yes\n\
             PrivateUsers=no\n\
             RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK\n\
             SupplementaryGroups=warren\n\
             RuntimeDirectory=warren-broker\n\
             RuntimeDirectoryMode=0755\n\
             Environment=WARREN_ADMIN_SOCKET=/run/warren-broker/admin.sock\n\
             Environment=WARREN_DATA=/var/lib/warren/broker\n"
        }
    };
    let description = match role {
        Role::Node => "Warren node: this device's place in its mesh",
        Role::Broker => "Warren broker: where the devices of a mesh find each other",
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
         ExecStart={command}\n\
         Restart=always\n\
         RestartSec=2\n\
         KillSignal=SIGTERM\n\
         TimeoutStopSec=15\n\
         LimitNOFILE=1048576\n\
         StateDirectory={state}\n\
         StateDirectoryMode=0750\n\
         UMask=0077\n\
         {specific}\
         NoNewPrivileges=yes\n\
         ProtectSystem=strict\n\
         ProtectHome=yes\n\
         PrivateTmp=yes\n\
         ProtectClock=yes\n\
         ProtectControlGroups=yes\n\
         ProtectKernelLogs=yes\n\
         ProtectKernelModules=yes\n\
         ProtectProc=invisible\n\
         RestrictNamespaces=yes\n\
         RestrictRealtime=yes\n\
         RestrictSUIDSGID=yes\n\
         LockPersonality=yes\n\
         MemoryDenyWriteExecute=yes\n\
         SystemCallArchitectures=native\n\
         SystemCallFilter=@system-service\n\
         SystemCallErrorNumber=EPERM\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}

fn subcommand(role: Role) -> &'static str {
    match role {
        Role::Node => "node",
        Role::Broker => "serve",
    }
}

fn unit_name(role: Role) -> &'static str {
    match role {
        Role::Node => "warren-node.service",
        Role::Broker => "warren-broker.service",
    }
}

fn unit_path(role: Role) -> PathBuf {
    Path::new(UNIT_FOLDER).join(unit_name(role))
}

fn state_folder(role: Role) -> &'static str {
    match role {
        Role::Node => "/var/lib/warren/node",
        Role::Broker => "/var/lib/warren/broker",
    }
}

/// systemd splits at blanks and expands `%` and `$` in `ExecStart`.
fn quoted(text: &str) -> String {
    let text =
        text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,[]@+%$".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) { text } else { format!("\"{text}\"") }
}

fn binary() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("can't tell where this program's file is")
}

fn require_systemd() -> anyhow::Result<()> {
    if !Path::new("/run/systemd/system").exists() {
        bail!(
            "systemd doesn't run on this machine; run `warren node` (or `warren serve`) under its \
             own service manager, or see the unit with `warren service install --print`"
        );
    }
    Ok(())
}

/// Members of the group `warren` may talk to the daemon without being root.
fn ensure_group() -> anyhow::Result<()> {
    let groups = std::fs::read_to_string("/etc/group").context("can't read /etc/group")?;
    if groups.lines().any(|line| line.starts_with("warren:")) {
        return Ok(());
    }
    let status = Command::new("groupadd").args(["--system", "warren"]).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => bail!("can't add the group `warren`: run `sudo warren service install`"),
        Err(error) => Err(error).context("can't start groupadd to add the group `warren`"),
    }
}

fn systemctl(args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("systemctl").args(args).output().context("can't start systemctl")?;
    if !output.status.success() {
        bail!(
            "`systemctl {}` failed: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_reach_the_command_as_they_were_given() {
        let args = ["--join-file".to_owned(), "/a b/$x%y".to_owned()];
        let text = unit(Role::Node, Path::new("/opt/my warren/warren"), &args);
        assert!(
            text.contains("ExecStart=\"/opt/my warren/warren\" node --join-file \"/a b/$$x%%y\"\n"),
            "{text}"
        );
    }

    #[cfg(feature = "broker")]
    #[test]
    fn the_brokers_socket_is_where_the_command_line_looks_for_the_service() {
        let text = unit(Role::Broker, Path::new("/bin/true"), &[]);
        let socket = Path::new(warren_broker::admin::SERVICE_SOCKET);
        let environment = format!("Environment=WARREN_ADMIN_SOCKET={}\n", socket.display());
        assert!(text.contains(&environment), "{text}");
        let folder = socket.parent().unwrap().strip_prefix("/run").unwrap();
        assert!(text.contains(&format!("RuntimeDirectory={}\n", folder.display())), "{text}");
    }

    #[test]
    fn systemd_finds_nothing_wrong_with_the_units() {
        let folder = tempfile::tempdir().unwrap();
        for role in [Role::Node, Role::Broker] {
            let path = folder.path().join(unit_name(role));
            std::fs::write(&path, unit(role, Path::new("/bin/true"), &[])).unwrap();
            let output = Command::new("systemd-analyze")
                .args(["verify", "--man=no", "--recursive-errors=no"])
                .arg(&path)
                .output()
                .expect("systemd-analyze comes with systemd; testing/setup.sh installs it");
            let complaints = String::from_utf8_lossy(&output.stderr);
            let ours: Vec<&str> =
                complaints.lines().filter(|line| line.contains(unit_name(role))).collect();
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
