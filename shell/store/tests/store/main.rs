//! The store against real files: a story, crashes, lost writes, full disks, backups.
#![expect(clippy::unwrap_used, reason = "tests")]

mod backup;
mod crash;
mod disk_full;
mod open;
mod people_script;
mod people_story;
mod script;
mod story;
