//! Backup while the broker runs, restore while it doesn't.
//!
//! An archive is a tar file: `manifest.json` first, then the files of the data folder that matter:
//! the database (a consistent copy), the CA, ACME's account and certificates. It holds every
//! secret of the broker, so it is written 0600.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tar::{Archive, Builder, EntryType, Header};
use tempfile::TempDir;
use tracing::{info, warn};
use warren_store::Store;
use warren_tls::secret;

use crate::accounts::fresh_ctx;
use crate::admin::Time;
use crate::data_dir::DataDir;
use crate::tls;

/// The database in the data folder.
pub(crate) const DATABASE: &str = "warren.db";
/// What whoever restores a backup must know.
pub const RESTORED_SECRETS: &str = "Devices that were removed and join keys that were used or \
    removed since then are valid again: check `warren admin devices list` and `join-keys list`.";

/// Folders for what is being made; a crash leaves them behind, with whole databases and CA keys.
const BACKUP_WORK: &str = ".backup-";
const RESTORE_WORK: &str = ".warren-restore-";
const MANIFEST: &str = "manifest.json";
const FORMAT: u32 = 1;
/// Larger than any file in an honest archive but the database.
const MAX_SMALL_FILE: u64 = 1 << 20;

/// What an archive says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Manifest {
    /// The archive's format: 1.
    pub format: u32,
    /// The version of the broker that wrote it.
    pub version: String,
    /// When.
    pub created: Time,
}

/// Makes an archive of the running broker: an unnamed file, at its beginning.
pub(crate) async fn create(data: &DataDir, store: &Store) -> Result<File> {
    let work = tempfile::Builder::new()
        .prefix(BACKUP_WORK)
        .tempdir_in(data.path())
        .context("no room for a backup in the data folder")?;
    let database = work.path().join(DATABASE);
    store.backup_to(&database).await.context("can't copy the database")?;
    let folder = data.path().to_owned();
    tokio::task::spawn_blocking(move || {
        let archive = pack(&folder, work.path());
        drop(work);
        archive
    })
    .await?
}

fn pack(data: &Path, work: &Path) -> Result<File> {
    let mut archive = Builder::new(tempfile::tempfile_in(work)?);
    let manifest = Manifest {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        created: Time(fresh_ctx().unix.as_secs()),
    };
    append(&mut archive, MANIFEST, &serde_json::to_vec_pretty(&manifest)?)?;
    let mut database = File::open(work.join(DATABASE))?;
    let mut header = header(database.metadata()?.len());
    archive.append_data(&mut header, DATABASE, &mut database)?;
    for name in small_files(data)? {
        match fs::read(data.join(&name)) {
            Ok(contents) => append(&mut archive, &name, &contents)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("can't read {name}")),
        }
    }
    let mut file = archive.into_inner()?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

fn small_files(data: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = tls::FILES.map(str::to_owned).to_vec();
    let folder = data.join(tls::ACME_FOLDER);
    if folder.is_dir() {
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            if !name.starts_with('.') {
                names.push(format!("{}/{name}", tls::ACME_FOLDER));
            }
        }
    }
    Ok(names)
}

fn append(archive: &mut Builder<File>, name: &str, contents: &[u8]) -> Result<()> {
    archive.append_data(&mut header(contents.len() as u64), name, contents)?;
    Ok(())
}

fn header(size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o600);
    header.set_size(size);
    header
}

/// Puts an archive's contents into an empty or missing data folder, for a broker that isn't
/// running (for one that is: [`crate::admin::Client::restore`]). All or nothing: the folder appears
/// when everything is in it.
///
/// # Errors
/// The folder isn't empty, or the archive isn't one of ours or is damaged.
pub async fn restore(archive: &Path, data: &Path) -> Result<Manifest> {
    ensure_empty(data)?;
    let parent = data.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    fs::create_dir_all(parent)
        .with_context(|| format!("can't create the folder {}", parent.display()))?;
    let prefix = restore_work(data);
    sweep_folder(parent, &[&prefix]);
    let work = work_folder(parent, &prefix)?;
    let file = File::open(archive)
        .with_context(|| format!("can't read the backup {}", archive.display()))?;
    let manifest = unpack_and_check(file, work.path())
        .await
        .with_context(|| format!("{} can't be restored", archive.display()))?;
    match fs::remove_dir(data) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("can't replace {}", data.display()));
        }
        Ok(()) | Err(_) => {}
    }
    fs::rename(work.keep(), data)
        .with_context(|| format!("can't put the data in place at {}", data.display()))?;
    File::open(parent)?.sync_all()?;
    Ok(manifest)
}

/// An archive that was unpacked beside the data of a running broker, and checked.
pub(crate) struct Unpacked {
    pub(crate) manifest: Manifest,
    work: TempDir,
}

impl Unpacked {
    /// Unpacks an archive into the data folder of a running broker, where nothing uses it yet.
    pub(crate) async fn new(data: &DataDir, archive: File) -> Result<Self> {
        let work = work_folder(data.path(), RESTORE_WORK)?;
        let manifest = unpack_and_check(archive, work.path()).await?;
        Ok(Self { manifest, work })
    }

    /// The database in it.
    pub(crate) fn database(&self) -> PathBuf {
        self.work.path().join(DATABASE)
    }

    /// Puts the other files in place; a CA that the archive doesn't know goes.
    pub(crate) fn place_small_files(&self, data: &DataDir) -> Result<()> {
        let names = [small_files(data.path())?, small_files(self.work.path())?].concat();
        for name in names {
            match fs::read(self.work.path().join(&name)) {
                Ok(contents) => {
                    let path = data.join(&name);
                    secret::create_folder(path.parent().unwrap_or(data.path()))?;
                    secret::write(&path, &contents)?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    remove_if_there(&data.join(&name))?;
                }
                Err(error) => return Err(error).context("can't read what was unpacked"),
            }
        }
        data.sync()
    }
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("can't remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A folder for what isn't in place yet, on the same file system.
fn work_folder(parent: &Path, prefix: &str) -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix(prefix)
        .tempdir_in(parent)
        .with_context(|| format!("can't write in {}", parent.display()))
}

/// How the folder beside `data` begins that a backup is unpacked into.
fn restore_work(data: &Path) -> String {
    let name = data.file_name().unwrap_or_default().to_string_lossy();
    format!("{RESTORE_WORK}{name}-")
}

/// Removes what backups and restores that were cut short have left in a data folder, which the
/// caller holds, and beside it.
pub(crate) fn sweep(data: &Path) {
    sweep_folder(data, &[BACKUP_WORK, RESTORE_WORK]);
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let path = data.join(format!("{DATABASE}.restoring{suffix}"));
        if let Err(error) = remove_if_there(&path) {
            warn!(%error, "remove this: it holds secrets");
        }
    }
    // A path such as `.` has no name.
    let whole = data.canonicalize().unwrap_or_else(|_| data.to_owned());
    if let Some(parent) = whole.parent() {
        sweep_folder(parent, &[&restore_work(&whole)]);
    }
}

fn sweep_folder(folder: &Path, prefixes: &[&str]) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_folder || !prefixes.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let path = entry.path();
        match fs::remove_dir_all(&path) {
            Ok(()) => info!(path = %path.display(), "removed what a backup or restore had left"),
            Err(error) => warn!(%error, path = %path.display(), "remove this: it holds secrets"),
        }
    }
}

async fn unpack_and_check(archive: File, target: &Path) -> Result<Manifest> {
    let folder = target.to_owned();
    let manifest = tokio::task::spawn_blocking(move || unpack(archive, &folder)).await??;
    check(target).await.context("the backup is damaged")?;
    Ok(manifest)
}

fn ensure_empty(data: &Path) -> Result<()> {
    match fs::read_dir(data) {
        Ok(mut entries) => ensure!(
            entries.next().is_none(),
            "{} isn't empty; stop the broker and move its data folder away first",
            data.display()
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("can't read {}", data.display())),
    }
    Ok(())
}

fn unpack(archive: File, target: &Path) -> Result<Manifest> {
    let mut archive = Archive::new(archive);
    let mut manifest: Option<Manifest> = None;
    for entry in archive.entries()? {
        let mut entry = entry.context("it isn't a whole tar file")?;
        let name = allowed(&entry.path()?).context("it isn't a backup of a Warren broker")?;
        ensure!(entry.header().entry_type() == EntryType::Regular, "{name} isn't a plain file");
        if name == DATABASE {
            ensure!(manifest.is_some(), "it has no manifest");
            let mut file = create_private_file(&target.join(DATABASE))?;
            std::io::copy(&mut entry, &mut file)?;
            file.sync_all()?;
            continue;
        }
        ensure!(entry.size() <= MAX_SMALL_FILE, "{name} is too large");
        let mut contents = Vec::new();
        entry.read_to_end(&mut contents)?;
        if name == MANIFEST {
            let found: Manifest = serde_json::from_slice(&contents).context("its manifest")?;
            ensure!(
                found.format == FORMAT,
                "its format is {}, this Warren knows {FORMAT}; use the version that wrote it",
                found.format
            );
            manifest = Some(found);
            continue;
        }
        let path = target.join(&name);
        if let Some(folder) = path.parent() {
            secret::create_folder(folder)?;
        }
        secret::write(&path, &contents)?;
    }
    ensure!(target.join(DATABASE).exists(), "it has no database");
    manifest.context("it has no manifest")
}

/// The name of an entry that belongs into the data folder; `None` for anything else, so that an
/// archive can't write elsewhere.
fn allowed(path: &Path) -> Option<String> {
    let parts: Option<Vec<&str>> = path
        .components()
        .map(|part| match part {
            Component::Normal(name) => name.to_str(),
            Component::Prefix(_)
            | Component::RootDir
            | Component::CurDir
            | Component::ParentDir => None,
        })
        .collect();
    match parts?.as_slice() {
        [name] if *name == MANIFEST || *name == DATABASE || tls::FILES.contains(name) => {
            Some((*name).to_owned())
        }
        [folder, name] if *folder == tls::ACME_FOLDER => Some(format!("{folder}/{name}")),
        _ => None,
    }
}

fn create_private_file(path: &PathBuf) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("can't write {}", path.display()))
}

/// Opens what was restored as a broker would.
async fn check(folder: &Path) -> Result<()> {
    let store = Store::open(&folder.join(DATABASE)).await?;
    let loaded = store.load_all().await;
    store.close().await;
    loaded?;
    {
        let data = DataDir::open(folder)?;
        tls::check(&data)?;
    }
    remove_if_there(&folder.join("lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crash_has_left_is_swept_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let data = parent.path().join("broker");
        let gone = ["broker/.backup-x1", "broker/.warren-restore-x1", ".warren-restore-broker-x1"];
        let kept = ["broker/acme", ".warren-restore-other-x1", ".backup-x1"];
        for folder in gone.iter().chain(&kept) {
            fs::create_dir_all(parent.path().join(folder)).unwrap();
            fs::write(parent.path().join(folder).join("ca.pem"), "secret").unwrap();
        }
        fs::write(data.join(".backup-file"), "").unwrap();
        fs::write(data.join("warren.db.restoring"), "").unwrap();
        sweep(&data);
        for folder in gone {
            assert!(!parent.path().join(folder).exists(), "{folder}");
        }
        for folder in kept {
            assert!(parent.path().join(folder).join("ca.pem").exists(), "{folder}");
        }
        assert!(data.join(".backup-file").exists());
        assert!(!data.join("warren.db.restoring").exists());
    }

    #[test]
    fn an_archive_cannot_write_anywhere_else() {
        for name in
            ["../evil", "/etc/passwd", "acme/../../evil", "other", "acme/a/b", "./ca.pem", ""]
        {
            assert_eq!(allowed(Path::new(name)), None, "{name}");
        }
        for name in ["manifest.json", "warren.db", "ca.pem", "ca-next.pem", "acme/account-x.pem"] {
            assert_eq!(allowed(Path::new(name)).as_deref(), Some(name));
        }
    }
}
