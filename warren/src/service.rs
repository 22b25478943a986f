//! `warren service`: hardened systemd units for the node, the broker and the relays.

mod unit;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::cli::{Global, Role, Service, ServiceInstall};
use crate::output::{self, Usage, say};
use unit::Unit;

const UNIT_FOLDER: &str = "/etc/systemd/system";
/// Where programs are that services may start: everybody can read them, and an upgrade of one user's
/// tools doesn't change them.
const SYSTEM: &[&str] = &["/usr", "/opt", "/bin", "/sbin", "/nix", "/gnu"];
/// Where the program is put that is elsewhere. Also where `sudo` finds it.
const PROGRAM: &str = "/usr/local/bin/warren";
/// What the units' hardening hides from the service.
const HIDDEN: &[&str] = &["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// `warren relay` may take so long to stop where nobody has said otherwise; a pair relay, which ends
/// with its last pair, gets no longer.
const DRAIN: Duration = Duration::from_secs(600);

pub(crate) fn run(global: &Global, command: Service) -> anyhow::Result<()> {
    match command {
        Service::Install(install) => self::install(global, &install),
        Service::Uninstall { role, instance } => uninstall(role, instance.as_deref()),
    }
}

fn install(global: &Global, install: &ServiceInstall) -> anyhow::Result<()> {
    let own = std::env::current_exe().context("can't tell where this program's file is")?;
    let program = system_program(&own);
    let unit = wanted(global, install, &program)?;
    if install.print {
        say!("{}", unit.text().trim_end());
        return Ok(());
    }
    require_systemd()?;
    let is_relay = matches!(install.role, Role::Relay | Role::PairRelay);
    if !is_relay {
        ensure_group()?;
    }
    if program != own {
        place(&own, &program)?;
        say!("This program is copied to {}.", program.display());
    }
    if let Some(state) = &unit.own_folder() {
        std::fs::create_dir_all(state)
            .with_context(|| format!("can't make the folder {}", state.display()))?;
    }
    let (name, path) = (unit.name(), Path::new(UNIT_FOLDER).join(unit.name()));
    std::fs::write(&path, unit.text()).with_context(|| {
        format!("can't write {}: run `sudo warren service install`", path.display())
    })?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", &name])?;
    // One that runs already is of the program or the flags before.
    if is_relay && systemctl(&["is-active", &name]).is_ok() {
        let most = unit.drain.as_secs();
        say!(
            "The one that runs ends with its last client, in {most} s at most; \
             `systemctl kill --signal=SIGINT {name}` ends it at once."
        );
    }
    systemctl(&["restart", &name])?;
    say!("{name} is installed and running.");
    if is_relay {
        say!("`journalctl --unit {name}` shows what it says.");
        return Ok(());
    }
    tell_next(global, install.role);
    Ok(())
}

/// What to do next, and by whom.
fn tell_next(global: &Global, role: Role) {
    let without_sudo = match admit_user() {
        Some(user) => format!(
            "{user} is now a member of group `warren`, and needs no sudo once logged in again."
        ),
        None => "Members of group `warren` need no sudo.".to_owned(),
    };
    let state = global.state.as_ref().map(|folder| format!(" --state {}", folder.display()));
    let state = state.unwrap_or_default();
    match role {
        Role::Node => say!("Next: sudo warren{state} up --join LINK"),
        Role::Broker => {
            say!("Next: sudo warren admin join-keys create   (prints a join link)");
        }
        Role::Relay | Role::PairRelay => {}
    }
    say!("{without_sudo}");
}

/// The unit that was asked for.
fn wanted(global: &Global, install: &ServiceInstall, program: &Path) -> anyhow::Result<Unit> {
    let absolute = |path: &Path, what: &str| -> anyhow::Result<PathBuf> {
        let path = std::path::absolute(path).with_context(|| format!("no {}", path.display()))?;
        if HIDDEN.iter().any(|hidden| path.starts_with(hidden)) {
            let path = path.display();
            let text =
                format!("the service can't see {what} {path}: put it below /var/lib or /etc");
            return Err(Usage(text).into());
        }
        Ok(path)
    };
    check_args(&install.args)?;
    if install.role == Role::Broker && global.state.is_some() {
        let text = "--state is a node's folder; the broker's service keeps its data in \
                    /var/lib/warren/broker (or broker-NAME, with --instance NAME)";
        return Err(Usage(text.to_owned()).into());
    }
    let state = global.state.as_deref().map(|path| absolute(path, "the folder")).transpose()?;
    let config = global.config.as_deref().map(|path| absolute(path, "the file")).transpose()?;
    Ok(Unit {
        role: install.role,
        instance: install.instance.clone(),
        program: program.to_owned(),
        args: install.args.clone(),
        state,
        config,
        drain: drain(install)?,
    })
}

/// How long the service may go on when it is to stop.
fn drain(install: &ServiceInstall) -> anyhow::Result<Duration> {
    match install.role {
        Role::Node | Role::Broker => Ok(Duration::ZERO),
        Role::PairRelay => Ok(DRAIN),
        Role::Relay => {
            let flag = "--drain-timeout";
            let mut args = install.args.iter();
            let given = args.find_map(|arg| Some((arg, arg.strip_prefix(flag)?)));
            let text = match given {
                None => return Ok(DRAIN),
                Some((_, "")) => args.next().map_or("", String::as_str),
                Some((_, value)) => value.strip_prefix('=').unwrap_or(value),
            };
            output::parse_short_duration(text)
                .map_err(|complaint| Usage(format!("{flag}: {complaint}")).into())
        }
    }
}

/// Refuses what doesn't belong into a unit: everybody can read it, and `ps` shows its command; and
/// its clean-up must know the folder too.
fn check_args(args: &[String]) -> anyhow::Result<()> {
    let given = |flag: &str| {
        args.iter().any(|arg| {
            arg.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        })
    };
    if given("--join") {
        let text = "a join link is a secret, and every user of this machine can read a unit and \
                    its command line: write the link into a file that only root can read and give \
                    --join-file FILE, or run `warren up --join -` afterwards";
        return Err(Usage(text.to_owned()).into());
    }
    for (flag, instead) in [("--secret", "--secret-file"), ("--mint-token", "--mint-token-file")] {
        if given(flag) {
            let text = format!(
                "every user of this machine can read a unit and its command line: give {instead} FILE \
                 in place of {flag}, with a file that only root can read"
            );
            return Err(Usage(text).into());
        }
    }
    for flag in ["--state", "--config"] {
        if given(flag) {
            let text = format!(
                "{flag} is for the unit as a whole: warren service install {flag} … , without `--`"
            );
            return Err(Usage(text).into());
        }
    }
    Ok(())
}

fn uninstall(role: Role, instance: Option<&str>) -> anyhow::Result<()> {
    require_systemd()?;
    let name = unit::name(role, instance);
    let path = Path::new(UNIT_FOLDER).join(&name);
    if !path.exists() {
        bail!("{name} isn't installed ({} doesn't exist)", path.display());
    }
    systemctl(&["disable", "--now", &name])?;
    std::fs::remove_file(&path)
        .with_context(|| format!("can't remove {}: run it with sudo", path.display()))?;
    systemctl(&["daemon-reload"])?;
    say!("{name} is removed. Keys and data are still there, by default below /var/lib/warren.");
    Ok(())
}

/// The program that the unit starts: this one where a service may, otherwise its copy.
fn system_program(own: &Path) -> PathBuf {
    let is_system = SYSTEM.iter().any(|folder| own.starts_with(folder));
    if is_system { own.to_owned() } else { PathBuf::from(PROGRAM) }
}

/// Copies the program, in one step for whoever starts it meanwhile.
fn place(own: &Path, program: &Path) -> anyhow::Result<()> {
    let draft = program.with_extension("new");
    let failed = || {
        let (own, program) = (own.display(), program.display());
        format!(
            "can't copy this program to {program}: run `sudo {own} service install`, or copy it by hand"
        )
    };
    if let Some(folder) = program.parent() {
        std::fs::create_dir_all(folder).with_context(failed)?;
    }
    std::fs::copy(own, &draft).with_context(failed)?;
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o755))
        .with_context(failed)?;
    std::fs::rename(&draft, program).with_context(failed)
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

/// Puts the user who has called `sudo` into the group; whom, where that worked.
fn admit_user() -> Option<String> {
    let user = std::env::var("SUDO_USER").ok().filter(|user| user != "root")?;
    let done = Command::new("usermod").args(["--append", "--groups", "warren", &user]).status();
    done.is_ok_and(|status| status.success()).then_some(user)
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
    fn a_unit_carries_no_secret_and_nothing_that_its_clean_up_would_not_know() {
        let complaint = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(ToString::to_string).collect();
            check_args(&args).err().map(|error| error.to_string())
        };
        for args in [&["--join", "https://h/join#key"][..], &["--mtu", "1400", "--join=x"]] {
            let text = complaint(args).unwrap();
            assert!(text.contains("--join-file"), "{text}");
        }
        assert!(complaint(&["--state", "/srv"]).unwrap().contains("install --state"));
        assert!(complaint(&["--config=/etc/warren.toml"]).unwrap().contains("install --config"));
        for flag in ["--secret", "--mint-token=x"] {
            assert!(complaint(&["--standalone", flag]).unwrap().contains("-file FILE"), "{flag}");
        }
        assert_eq!(complaint(&["--secret-file", "/etc/warren/secret"]), None);
        assert_eq!(complaint(&["--join-file", "/etc/warren.link", "--name", "join"]), None);
    }

    #[test]
    fn a_relay_may_take_as_long_to_stop_as_its_flags_say() {
        let drain = |role, args: &[&str]| {
            let args = args.iter().map(ToString::to_string).collect();
            drain(&ServiceInstall { role, instance: None, print: true, args })
        };
        let seconds = |role, args: &[&str]| drain(role, args).unwrap().as_secs();
        assert_eq!(seconds(Role::Relay, &["--standalone"]), 600);
        assert_eq!(seconds(Role::Relay, &["--drain-timeout", "1h", "--standalone"]), 3600);
        assert_eq!(seconds(Role::Relay, &["--drain-timeout=30s"]), 30);
        assert_eq!((seconds(Role::PairRelay, &[]), seconds(Role::Node, &[])), (600, 0));
        assert!(drain(Role::Relay, &["--drain-timeout"]).is_err());
    }

    #[test]
    fn a_program_in_a_home_is_copied_to_where_services_and_sudo_find_it() {
        for own in ["/home/ann/.cargo/bin/warren", "/root/warren", "/tmp/x/warren", "/work/warren"]
        {
            assert_eq!(system_program(Path::new(own)), Path::new(PROGRAM), "{own}");
        }
        for own in ["/usr/bin/warren", "/usr/local/bin/warren", "/opt/warren/warren"] {
            assert_eq!(system_program(Path::new(own)), Path::new(own));
        }
        let folder = tempfile::tempdir().unwrap();
        let (own, program) = (folder.path().join("own"), folder.path().join("bin/warren"));
        std::fs::write(&own, "one").unwrap();
        place(&own, &program).unwrap();
        std::fs::write(&own, "two").unwrap();
        place(&own, &program).unwrap();
        assert_eq!(std::fs::read_to_string(&program).unwrap(), "two");
        assert_eq!(std::fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(std::fs::read_dir(program.parent().unwrap()).unwrap().count(), 1);
    }
}
