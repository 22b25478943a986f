use std::path::{Path, PathBuf};

use thiserror::Error;
use warren_proto::ErrorCode;

/// Why the store could not do something. The text is for the operator and says what to do next.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another process has taken the account over: this one must let it go and load it again.
    #[error("another broker process has taken this account over")]
    Fenced,
    /// There is no such account.
    #[error("the account is not in the database")]
    NoAccount,
    /// A name, key, address or secret is there already.
    #[error("the database holds such an entry already ({0})")]
    Conflict(String),
    /// No room on the disk. Nothing of the commit was kept; it may be tried again.
    #[error("disk full: free space on {folder}, then repeat")]
    DiskFull {
        /// A folder on that disk.
        folder: PathBuf,
    },
    /// The file is not a sound database.
    #[error(
        "the database {path} is damaged ({reason}); stop the broker, move the file away, start it \
         again and run `warren admin restore` with your last backup"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The database was written by a newer Warren.
    #[error(
        "the database {path} has schema {found}, this warren knows up to {known}; \
         use the newer warren that wrote it"
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its schema's version.
        found: i64,
        /// The newest version that this build knows.
        known: i64,
    },
    /// A backup is not to be written over something.
    #[error("{0} exists already; choose another name for the backup")]
    Exists(PathBuf),
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Anything else that the database says.
    #[error("the broker's database failed: {0}")]
    Database(sqlx::Error),
}

impl StoreError {
    /// The reason as nodes see it: all but a conflict means 'not now'.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Conflict(_) | Self::Exists(_) => ErrorCode::Conflict,
            Self::NoAccount => ErrorCode::NotFound,
            Self::Fenced
            | Self::DiskFull { .. }
            | Self::Damaged { .. }
            | Self::NewerSchema { .. }
            | Self::Io { .. }
            | Self::Database(_) => ErrorCode::Unavailable,
        }
    }

    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        if matches!(source.kind(), StorageFull | QuotaExceeded) {
            return Self::DiskFull { folder: folder_of(path) };
        }
        Self::Io { path: path.to_owned(), source }
    }

    /// A value that no version of this crate has written.
    pub(crate) fn nonsense(what: &'static str) -> Self {
        Self::Database(sqlx::Error::Decode(format!("a {what} makes no sense").into()))
    }

    /// Says which file is meant where SQLite's own words don't.
    pub(crate) fn at(mut self, file: &Path) -> Self {
        if let Self::Damaged { path, .. } | Self::NewerSchema { path, .. } = &mut self {
            file.clone_into(path);
        }
        self
    }

    /// Says which disk is full where SQLite's own words don't: the one that holds this file.
    pub(crate) fn on_disk_of(mut self, file: &Path) -> Self {
        if let Self::DiskFull { folder } = &mut self
            && folder.as_os_str().is_empty()
        {
            *folder = folder_of(file);
        }
        self
    }
}

fn folder_of(file: &Path) -> PathBuf {
    file.parent().unwrap_or(file).to_owned()
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        // https://www.sqlite.org/rescode.html: the low byte is the primary code.
        const CORRUPT: i64 = 11;
        const FULL: i64 = 13;
        const CONSTRAINT: i64 = 19;
        const NOT_A_DATABASE: i64 = 26;
        const IOERR_SHMSIZE: i64 = 4874;

        let Some(database) = error.as_database_error() else { return Self::Database(error) };
        let code = database.code().and_then(|code| code.parse::<i64>().ok()).unwrap_or(0);
        let text = database.message().to_owned();
        match (code, code & 0xff) {
            (IOERR_SHMSIZE, _) | (_, FULL) => Self::DiskFull { folder: PathBuf::new() },
            (_, CONSTRAINT) => Self::Conflict(text),
            (_, CORRUPT | NOT_A_DATABASE) => Self::Damaged { path: PathBuf::new(), reason: text },
            _ => Self::Database(error),
        }
    }
}
