//! A headless Chromium for tests: a script in JavaScript says what to do in it, the test judges what
//! comes back.
//!
//! ```text
//! test ── Job ──► node harness.mjs ──► playwright-core ──► chromium
//!      ◄── JSON ──┘     └ the script's default export, { browser, context, page, args, … }
//! ```
//!
//! Screenshots go to `target/screenshots`, which CI keeps. `testing/setup.sh test` installs Chromium
//! and Node; Node's packages (package.json) lie in the user's cache.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

/// Where the browser is looked for, when `WARREN_CHROMIUM` doesn't say.
const PROGRAMS: [&str; 3] = ["chromium", "google-chrome-stable", "google-chrome"];

/// How long a script may take, unless it is said.
const PATIENCE: Duration = Duration::from_secs(60);

/// Chromium and what drives it.
#[derive(Debug, Clone)]
pub struct Browser {
    chromium: PathBuf,
    node: PathBuf,
    modules: PathBuf,
}

impl Browser {
    /// Finds them. Node's packages are fetched where they are missing, so a test that lives in
    /// namespaces calls this outside them.
    ///
    /// # Errors
    /// In one line: what is missing, and where it comes from.
    pub fn find() -> Result<Self> {
        let chromium = match std::env::var_os("WARREN_CHROMIUM") {
            Some(named) => PathBuf::from(named),
            None => PROGRAMS.iter().find_map(|name| on_path(name)).context(
                "there is no chromium: `testing/setup.sh test` installs Debian's; elsewhere name \
                 one that is no snap in WARREN_CHROMIUM",
            )?,
        };
        ensure!(chromium.is_file(), "there is no browser at {}", chromium.display());
        let node = on_path("node").context("there is no node: run `testing/setup.sh test`")?;
        let output = Command::new(here("install.sh")).output().context("install.sh")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}", complaint.trim());
        let modules = String::from_utf8_lossy(&output.stdout).trim().into();
        Ok(Self { chromium, node, modules })
    }

    /// Node itself, for what is no script for the browser.
    #[must_use]
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// The folder from which Node finds the packages of package.json.
    #[must_use]
    pub fn modules(&self) -> &Path {
        &self.modules
    }

    /// The run of a script: a module whose default export is an async function.
    pub fn script(&self, script: impl Into<PathBuf>) -> Job {
        Job {
            browser: self.clone(),
            script: script.into(),
            arguments: Value::Null,
            flags: Vec::new(),
            patience: PATIENCE,
        }
    }
}

/// A script to be run.
#[derive(Debug, Clone)]
pub struct Job {
    browser: Browser,
    script: PathBuf,
    arguments: Value,
    flags: Vec<String>,
    patience: Duration,
}

impl Job {
    /// What the script gets as `args`.
    #[must_use]
    pub fn arguments(self, arguments: Value) -> Self {
        Self { arguments, ..self }
    }

    /// Adds a flag of Chromium's.
    #[must_use]
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// How long the script may take; 60 s unless said.
    #[must_use]
    pub fn within(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The program and its arguments, for those who run it somewhere else, such as in a namespace.
    #[must_use]
    pub fn command_line(&self) -> Vec<OsString> {
        let Browser { chromium, node, modules } = &self.browser;
        let job = json!({
            "chromium": chromium,
            "modules": modules,
            "script": self.script,
            "screenshots": screenshots(),
            "flags": self.flags,
            "args": self.arguments,
            "patience": u64::try_from(self.patience.as_millis()).unwrap_or(u64::MAX),
        });
        vec![node.into(), here("harness.mjs").into(), job.to_string().into()]
    }

    /// Runs it on this machine.
    ///
    /// # Errors
    /// As [`Job::result`], or Node can't be started.
    pub fn run(&self) -> Result<Value> {
        let line = self.command_line();
        let mut command = Command::new(&line[0]);
        let output = command.args(&line[1..]).stdin(Stdio::null()).output();
        self.result(&output.context("can't start node")?)
    }

    /// What the script returned.
    ///
    /// # Errors
    /// When it failed, with what it and the page said.
    pub fn result(&self, output: &Output) -> Result<Value> {
        let script = self.script.display();
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!("{script} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let last = said.lines().last().unwrap_or_default();
        serde_json::from_str(last).with_context(|| format!("{script} said no JSON: {said}"))
    }
}

/// Where scripts put their screenshots.
#[must_use]
pub fn screenshots() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => here("../..").join(target).join("screenshots"),
        None => here("../../target/screenshots"),
    }
}

fn here(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
