//! Load and commit an account's state against SQLite.
