//! `/etc/resolv.conf` (resolv.conf(5)): replaced by ours, and put back.
//!
//! Next to the node's state lie, while ours is in place, the original (`resolv.conf.original`, or
//! `resolv.conf.link` with the target where it was a symbolic link) and what we wrote
//! (`resolv.conf.written`). Both are on disk before the file changes, so a crash at any moment can
//! be undone: the file is put back only when it still is what we wrote; anything else is somebody's
//! change, and stays.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{NameConfig, NameError};

const MARKER: &str = "# Written by Warren, process ";
const MARKER_TAIL: &str = "; `warren down` brings the original back, which is kept in ";

/// What became of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undone {
    /// Nothing was there to undo.
    Nothing,
    /// The original is back.
    Restored,
    /// Somebody changed the file meanwhile, so it was left alone.
    Foreign,
}

/// Our version of the file, in place.
#[derive(Debug)]
pub(super) struct ResolvConf {
    path: PathBuf,
    backup: Backup,
    written: Vec<u8>,
    upstreams: Vec<IpAddr>,
}

/// What is kept while ours is in place.
#[derive(Debug, Clone)]
struct Backup {
    dir: PathBuf,
}

impl ResolvConf {
    pub(super) fn install(config: &NameConfig) -> Result<Self, NameError> {
        let path = &config.resolv_conf;
        if config.server.port() != 53 {
            let path = path.display().to_string();
            return Err(NameError::NotPort53 { path, port: config.server.port() });
        }
        let original = read_or_empty(path).map_err(|error| failed(path, error))?;
        let text = String::from_utf8_lossy(&original);
        if let Some((pid, dir)) = marker(&text) {
            if dir != config.state_dir && is_running(pid) {
                return Err(NameError::OtherNode { path: path.display().to_string(), pid });
            }
            // A crashed node's: its original is the one to keep.
            Backup { dir }.restore(path)?;
            return Self::install_over(config, &read_or_empty(path).map_err(|e| failed(path, e))?);
        }
        Self::install_over(config, &original)
    }

    fn install_over(config: &NameConfig, original: &[u8]) -> Result<Self, NameError> {
        let path = config.resolv_conf.clone();
        let backup = Backup { dir: config.state_dir.clone() };
        let parsed = Parsed::from(&*String::from_utf8_lossy(original));
        let written = parsed.ours(config).into_bytes();
        backup.store(&path, original, &written)?;
        replace(&path, &written).map_err(|error| failed(&path, error))?;
        let own = config.server.ip();
        let upstreams = parsed.servers.into_iter().filter(|server| *server != own).collect();
        Ok(Self { path, backup, written, upstreams })
    }

    pub(super) fn upstreams(&self) -> &[IpAddr] {
        &self.upstreams
    }

    pub(super) fn is_in_place(&self) -> bool {
        fs::read(&self.path).is_ok_and(|bytes| bytes == self.written)
    }

    pub(super) fn restore(self) -> Result<Undone, NameError> {
        self.backup.restore(&self.path)
    }

    pub(super) fn clean_up(config: &NameConfig) -> Result<Undone, NameError> {
        Backup { dir: config.state_dir.clone() }.restore(&config.resolv_conf)
    }
}

impl Backup {
    fn original(&self) -> PathBuf {
        self.dir.join("resolv.conf.original")
    }

    fn link(&self) -> PathBuf {
        self.dir.join("resolv.conf.link")
    }

    fn written(&self) -> PathBuf {
        self.dir.join("resolv.conf.written")
    }

    /// On disk before the file itself is touched; the last of them makes it count.
    fn store(&self, path: &Path, original: &[u8], written: &[u8]) -> Result<(), NameError> {
        let write = |to: &Path, bytes: &[u8]| {
            write_durably(to, bytes, None).map_err(|error| failed(to, error))
        };
        self.forget()?;
        if let Ok(target) = fs::read_link(path) {
            write(&self.link(), target.as_os_str().as_encoded_bytes())?;
        }
        if fs::metadata(path).is_ok() {
            write(&self.original(), original)?;
        }
        write(&self.written(), written)
    }

    fn restore(&self, path: &Path) -> Result<Undone, NameError> {
        let Ok(written) = fs::read(self.written()) else { return Ok(Undone::Nothing) };
        let current = read_or_empty(path).map_err(|error| failed(path, error))?;
        // A crash while writing in place leaves a beginning of ours.
        let undone = if !current.is_empty() && written.starts_with(&current) {
            self.put_back(path).map_err(|error| failed(path, error))?;
            Undone::Restored
        } else {
            Undone::Foreign
        };
        self.forget()?;
        Ok(undone)
    }

    fn put_back(&self, path: &Path) -> io::Result<()> {
        if let Ok(target) = fs::read_to_string(self.link()) {
            let temporary = temporary(path);
            let _ = fs::remove_file(&temporary);
            if std::os::unix::fs::symlink(&target, &temporary).is_ok()
                && fs::rename(&temporary, path).is_ok()
            {
                return Ok(());
            }
            let _ = fs::remove_file(&temporary);
        }
        match fs::read(self.original()) {
            Ok(original) => replace(path, &original),
            // There was no file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::remove_file(path).or_else(|_| replace(path, b""))
            }
            Err(error) => Err(error),
        }
    }

    fn forget(&self) -> Result<(), NameError> {
        // What makes the others count goes first.
        for file in [self.written(), self.link(), self.original()] {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(&file, error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// What of a resolv.conf is to be kept.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parsed {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    options: Vec<String>,
}

impl From<&str> for Parsed {
    fn from(text: &str) -> Self {
        let mut parsed = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // A scope (`fe80::1%eth0`) can't be kept in an address.
                    parsed.servers.extend(words.next().and_then(|ip| ip.parse::<IpAddr>().ok()));
                }
                // The last one counts.
                Some("search" | "domain") => parsed.search = words.map(str::to_owned).collect(),
                Some("options") => parsed.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        parsed
    }
}

/// The servers that a file's text names.
pub(super) fn servers(text: &str) -> Vec<IpAddr> {
    Parsed::from(text).servers
}

impl Parsed {
    fn ours(&self, config: &NameConfig) -> String {
        let mut search = vec![config.domain.clone()];
        search.extend(self.search.iter().filter(|domain| **domain != config.domain).cloned());
        let mut text = format!(
            "{MARKER}{}{MARKER_TAIL}{}\nnameserver {}\nsearch {}\n",
            std::process::id(),
            config.state_dir.display(),
            config.server.ip(),
            search.join(" "),
        );
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

/// Process and state folder of the node that wrote the file.
fn marker(text: &str) -> Option<(u32, PathBuf)> {
    let (pid, dir) = text.lines().next()?.strip_prefix(MARKER)?.split_once(MARKER_TAIL)?;
    Some((pid.parse().ok()?, PathBuf::from(dir)))
}

fn is_running(pid: u32) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok()
}

fn failed(path: &Path, source: io::Error) -> NameError {
    NameError::File { path: path.display().to_string(), source }
}

fn read_or_empty(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result,
    }
}

fn temporary(path: &Path) -> PathBuf {
    path.with_file_name(format!(".resolv.conf.warren-{}", std::process::id()))
}

/// Replaces the file at once; where that is impossible (a bind mount, a read-only folder) it is
/// rewritten in place.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary(path);
    let present = fs::metadata(path).ok();
    let renamed = write_durably(&temporary, bytes, present.as_ref())
        .and_then(|()| fs::rename(&temporary, path));
    if renamed.is_ok() {
        return Ok(());
    }
    let _ = fs::remove_file(&temporary);
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Writes a file to be read by whoever could read the one that it takes the place of; by everybody
/// where there is none.
fn write_durably(path: &Path, bytes: &[u8], present: Option<&fs::Metadata>) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    // Whatever the process's umask is.
    file.set_permissions(fs::Permissions::from_mode(present.map_or(0o644, |m| m.mode() & 0o7777)))?;
    if let Some(present) = present {
        // Without the privilege it stays ours.
        let _ = std::os::unix::fs::fchown(&file, Some(present.uid()), Some(present.gid()));
    }
    file.write_all(bytes)?;
    file.sync_all()?;
    debug_assert!(file.metadata().is_ok_and(|m| m.size() == bytes.len() as u64));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DHCP: &str = "# by dhclient\ndomain lan\nsearch lan home.arpa\nnameserver 192.168.1.1\n\
                        nameserver 2001:db8::53\nnameserver fe80::1%eth0\noptions edns0 trust-ad\n";

    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn with(text: &str) -> Self {
            let place = Self::new();
            fs::write(place.file(), text).unwrap();
            place
        }

        fn file(&self) -> PathBuf {
            self.dir.path().join("resolv.conf")
        }

        fn text(&self) -> String {
            fs::read_to_string(self.file()).unwrap()
        }

        fn config(&self, instance: &str) -> NameConfig {
            NameConfig {
                all: false,
                interface: 7,
                server: "100.72.0.5:53".parse().unwrap(),
                domain: "home.warren.internal".to_owned(),
                zones: Vec::new(),
                state_dir: self.dir.path().join(instance),
                resolv_conf: self.file(),
            }
        }

        fn leftovers(&self, instance: &str) -> usize {
            fs::read_dir(self.dir.path().join(instance)).map_or(0, Iterator::count)
                + fs::read_dir(self.dir.path())
                    .unwrap()
                    .filter(|entry| {
                        entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.')
                    })
                    .count()
        }
    }

    #[test]
    fn ours_names_the_resolver_and_keeps_search_and_options() {
        let place = Place::with(DHCP);
        let file = ResolvConf::install(&place.config("a")).unwrap();
        let text = place.text();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "nameserver 100.72.0.5",
                "search home.warren.internal lan home.arpa",
                "options edns0 trust-ad"
            ]
        );
        let expected: Vec<IpAddr> =
            vec!["192.168.1.1".parse().unwrap(), "2001:db8::53".parse().unwrap()];
        assert_eq!(file.upstreams(), expected);
        assert!(file.is_in_place());
        assert_eq!(file.restore().unwrap(), Undone::Restored);
        assert_eq!(place.text(), DHCP);
        assert_eq!(place.leftovers("a"), 0);
    }

    #[test]
    fn who_could_read_the_file_still_can() {
        let place = Place::with(DHCP);
        fs::set_permissions(place.file(), fs::Permissions::from_mode(0o664)).unwrap();
        let mode = || fs::metadata(place.file()).unwrap().mode() & 0o7777;
        let file = ResolvConf::install(&place.config("a")).unwrap();
        assert_eq!(mode(), 0o664, "no process of these tests has so wide a umask");
        assert_eq!(file.restore().unwrap(), Undone::Restored);
        assert_eq!(mode(), 0o664);
    }

    #[test]
    fn after_a_crash_the_next_start_brings_the_original_back() {
        let place = Place::with(DHCP);
        std::mem::forget(ResolvConf::install(&place.config("a")).unwrap());
        assert_eq!(ResolvConf::clean_up(&place.config("a")).unwrap(), Undone::Restored);
        assert_eq!(place.text(), DHCP);
        assert_eq!(ResolvConf::clean_up(&place.config("a")).unwrap(), Undone::Nothing);
    }

    #[test]
    fn a_crash_before_or_amid_the_change_is_undone_too() {
        let place = Place::with(DHCP);
        let config = place.config("a");
        let written = Parsed::from(DHCP).ours(&config);
        let backup = Backup { dir: config.state_dir.clone() };
        backup.store(&config.resolv_conf, DHCP.as_bytes(), written.as_bytes()).unwrap();
        assert_eq!(ResolvConf::clean_up(&config).unwrap(), Undone::Foreign);
        assert_eq!(place.text(), DHCP);

        backup.store(&config.resolv_conf, DHCP.as_bytes(), written.as_bytes()).unwrap();
        fs::write(place.file(), &written[..20]).unwrap();
        assert_eq!(ResolvConf::clean_up(&config).unwrap(), Undone::Restored);
        assert_eq!(place.text(), DHCP);
    }

    #[test]
    fn a_change_by_somebody_else_stays() {
        let place = Place::with(DHCP);
        let file = ResolvConf::install(&place.config("a")).unwrap();
        fs::write(place.file(), "nameserver 9.9.9.9\n").unwrap();
        assert!(!file.is_in_place());
        assert_eq!(file.restore().unwrap(), Undone::Foreign);
        assert_eq!(place.text(), "nameserver 9.9.9.9\n");
        assert_eq!(place.leftovers("a"), 0);
    }

    #[test]
    fn a_symbolic_link_is_one_again_afterwards() {
        let place = Place::new();
        let target = place.dir.path().join("stub-resolv.conf");
        fs::write(&target, DHCP).unwrap();
        std::os::unix::fs::symlink("stub-resolv.conf", place.file()).unwrap();
        let file = ResolvConf::install(&place.config("a")).unwrap();
        assert!(!fs::symlink_metadata(place.file()).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap(), DHCP);
        file.restore().unwrap();
        assert_eq!(fs::read_link(place.file()).unwrap(), Path::new("stub-resolv.conf"));
        assert_eq!(place.text(), DHCP);
    }

    #[test]
    fn where_there_was_no_file_there_is_none_afterwards() {
        let place = Place::new();
        let file = ResolvConf::install(&place.config("a")).unwrap();
        assert!(file.upstreams().is_empty());
        file.restore().unwrap();
        assert!(!place.file().exists());
    }

    #[test]
    fn a_second_running_node_is_refused_and_a_dead_one_replaced() {
        let place = Place::with(DHCP);
        let first = ResolvConf::install(&place.config("a")).unwrap();
        assert!(matches!(
            ResolvConf::install(&place.config("b")),
            Err(NameError::OtherNode { pid, .. }) if pid == std::process::id()
        ));
        // The same file as if a process had written it that is gone.
        let dead =
            place.text().replace(&format!("process {}", std::process::id()), "process 4194999");
        fs::write(place.file(), &dead).unwrap();
        fs::write(first.backup.written(), &dead).unwrap();
        let second = ResolvConf::install(&place.config("b")).unwrap();
        assert_eq!(second.restore().unwrap(), Undone::Restored);
        assert_eq!(place.text(), DHCP);
        assert_eq!(place.leftovers("a") + place.leftovers("b"), 0);
    }

    #[test]
    fn a_resolver_on_another_port_is_refused() {
        let place = Place::with(DHCP);
        let config = NameConfig { server: "127.0.0.1:5353".parse().unwrap(), ..place.config("a") };
        assert!(matches!(
            ResolvConf::install(&config),
            Err(NameError::NotPort53 { port: 5353, .. })
        ));
        assert_eq!(place.text(), DHCP);
    }
}
