//! A process that commits and acknowledges is killed at a random moment, again and again. What it
//! acknowledged must be there, in the files as they are, and on a disk that has lost every write
//! that was not synced.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use warren_coord::{By, Chain, Entry, LeaseEpoch};
use warren_store::Store;

use crate::people_script;
use crate::script::{ACCOUNT, account, changes, snapshot};

const DATABASE: &str = "WARREN_STORE_TEST_DATABASE";

fn rounds() -> u64 {
    std::env::var("WARREN_CRASH_ROUNDS").map_or(10, |rounds| rounds.parse().unwrap())
}

#[tokio::test]
async fn killed_at_any_moment_nothing_acknowledged_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("warren.db");
    for round in 0..rounds() {
        let acknowledged = run_and_kill(&mut child("committer", &path), round);
        assert_holds(&path, acknowledged).await;
    }
}

#[tokio::test]
async fn on_a_disk_that_loses_unsynced_writes_nothing_acknowledged_is_lost() {
    let mut disk = LossyDisk::new();
    for round in 0..rounds() {
        let acknowledged = run_and_kill(&mut disk.child("committer"), round);
        disk.lose_power();
        assert_holds(&disk.copy_of_database(), acknowledged).await;
    }
}

/// The test above can fail: a database that doesn't sync loses what it acknowledged.
#[tokio::test]
async fn the_lossy_disk_catches_a_database_that_does_not_sync() {
    let mut disk = LossyDisk::new();
    let acknowledged = run_and_kill(&mut disk.child("careless_committer"), 3);
    disk.lose_power();
    let store = Store::open(&disk.database()).await.unwrap();
    let kept = store.load(ACCOUNT).await.unwrap().unwrap().account.next_host;
    assert!(kept < acknowledged, "{kept} of {acknowledged}");
}

async fn assert_holds(path: &Path, acknowledged: u32) {
    let store = Store::open(path).await.unwrap();
    let loaded = store.load(ACCOUNT).await.unwrap().unwrap();
    let kept = loaded.account.next_host;
    assert!(
        kept == acknowledged || kept == acknowledged + 1,
        "{acknowledged} acknowledged, {kept} kept: the one under way may be there, no other"
    );
    assert_eq!(loaded, snapshot(kept));
    let people = store.load_people().await.unwrap();
    let people_kept = people_script::progress(&people);
    assert!((acknowledged..=kept).contains(&people_kept), "{people_kept} of {kept}");
    assert_eq!(people, people_script::snapshot(people_kept));
    assert_activity(&store, kept, people_kept).await;
    store.close().await;
}

/// Each commit's entries are there, no other's, and in a whole chain.
async fn assert_activity(store: &Store, account: u32, people: u32) {
    let reports = store.verify_activity().await.unwrap();
    let of_people: usize = (1..=people).map(|n| people_script::entries(n).len()).sum();
    for (chain, expected) in
        [(Chain::Account(ACCOUNT), u64::from(account)), (Chain::Broker, of_people as u64)]
    {
        let report = reports.iter().find(|report| report.chain == chain);
        assert_eq!(report.and_then(|report| report.broken), None);
        assert_eq!(report.map_or(0, |report| report.entries), expected, "{chain}");
    }
}

/// Starts a child, waits for its first acknowledgement, kills it a little later and returns the
/// last number that it acknowledged.
fn run_and_kill(command: &mut Command, round: u64) -> u32 {
    let mut child = Killed(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut acknowledged = None;
    while acknowledged.is_none() {
        let line = lines.next().expect("the child ended before its first commit").unwrap();
        acknowledged = number(&line);
    }
    // Numerical Recipes' generator: moments that differ from round to round, not from run to run.
    let dice = (round + 1).wrapping_mul(1_664_525).wrapping_add(1_013_904_223) >> 8;
    std::thread::sleep(Duration::from_micros(dice % 120_000));
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    let rest = lines.map_while(Result::ok).filter_map(|line| number(&line));
    rest.last().or(acknowledged).unwrap()
}

/// A cut-off last line is no acknowledgement: it has no end mark.
fn number(line: &str) -> Option<u32> {
    line.strip_prefix("acknowledged ")?.strip_suffix('.')?.parse().ok()
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn child(test: &str, database: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", &format!("crash::{test}"), "--nocapture"]);
    command.env(DATABASE, database);
    command
}

#[tokio::test]
#[ignore = "commits until it is killed, as the child of the tests above"]
async fn committer() {
    let path = PathBuf::from(std::env::var(DATABASE).unwrap());
    let store = Store::open(&path).await.unwrap();
    if store.load(ACCOUNT).await.unwrap().is_none() {
        store.create_account(&account(ACCOUNT, "home"), &[]).await.unwrap();
    }
    let lease = store.take_lease(ACCOUNT).await.unwrap();
    let done = store.load(ACCOUNT).await.unwrap().unwrap().account.next_host;
    let people_lease = store.take_people_lease().await.unwrap();
    let people_done = people_script::progress(&store.load_people().await.unwrap());
    // A kill between the two commits has left the people one behind.
    if people_done < done {
        commit_people(&store, people_lease, done).await;
    }
    for n in done + 1.. {
        let entry = Entry::broker("script.step", &By::BROKER, n.into());
        store.commit(ACCOUNT, lease, &changes(n), &[entry]).await.unwrap();
        commit_people(&store, people_lease, n).await;
        acknowledge(n);
    }
}

async fn commit_people(store: &Store, lease: LeaseEpoch, n: u32) {
    let (changes, entries) = (people_script::changes(n), people_script::entries(n));
    store.commit_people(lease, &changes, &entries).await.unwrap();
}

#[tokio::test]
#[ignore = "commits without syncing until it is killed, as the child of a test above"]
async fn careless_committer() {
    let path = PathBuf::from(std::env::var(DATABASE).unwrap());
    let store = Store::open(&path).await.unwrap();
    store.create_account(&account(ACCOUNT, "home"), &[]).await.unwrap();
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Off);
    let mut careless = SqliteConnection::connect_with(&options).await.unwrap();
    for n in 1u32.. {
        let statement = sqlx::query("UPDATE accounts SET next_host = $1").bind(n);
        statement.execute(&mut careless).await.unwrap();
        acknowledge(n);
    }
}

fn acknowledge(n: u32) {
    std::io::stdout().write_all(format!("\nacknowledged {n}.\n").as_bytes()).unwrap();
    std::io::stdout().flush().unwrap();
}

/// A folder whose files are, after a kill, as they were synced last (`lost_writes.c`).
struct LossyDisk {
    folder: tempfile::TempDir,
    shim: PathBuf,
}

impl LossyDisk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shim = folder.path().join("lost_writes.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/store/lost_writes.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&shim, Path::new(source)])
            .args(["-ldl"])
            .status();
        assert!(compiled.unwrap().success());
        std::fs::create_dir(folder.path().join("disk")).unwrap();
        std::fs::create_dir(folder.path().join("durable")).unwrap();
        Self { folder, shim }
    }

    fn disk(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("disk")
    }

    fn durable(&self) -> PathBuf {
        self.folder.path().join("durable")
    }

    fn database(&self) -> PathBuf {
        self.disk().join("warren.db")
    }

    fn child(&self, test: &str) -> Command {
        let mut command = child(test, &self.database());
        command
            .env("LD_PRELOAD", &self.shim)
            .env("WATCHED", self.disk())
            .env("DURABLE", self.durable());
        command
    }

    /// Leaves of the disk what was synced, and begins anew from there.
    fn lose_power(&mut self) {
        std::fs::remove_dir_all(self.disk()).unwrap();
        std::fs::create_dir(self.disk()).unwrap();
        let names = std::fs::read_to_string(self.durable().join("names")).unwrap();
        for name in names.lines() {
            let synced = self.durable().join(format!("file-{name}"));
            let contents = std::fs::read(&synced).unwrap_or_default();
            std::fs::write(self.disk().join(name), &contents).unwrap();
        }
        for entry in std::fs::read_dir(self.durable()).unwrap() {
            let entry = entry.unwrap();
            let kept = entry.file_name().into_string().unwrap();
            let named = kept.strip_prefix("file-").is_some_and(|it| names.lines().any(|n| n == it));
            if kept != "names" && !named {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
    }

    /// The database and its log elsewhere, so that looking at it changes nothing on the disk.
    fn copy_of_database(&self) -> PathBuf {
        let copy = self.folder.path().join("copy");
        let _ = std::fs::remove_dir_all(&copy);
        std::fs::create_dir(&copy).unwrap();
        for entry in std::fs::read_dir(self.disk()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
        copy.join("warren.db")
    }
}
