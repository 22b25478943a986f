//! Flags out of a TOML file: a table for each command, keys named as the flags.
//!
//! What the file says becomes a flag's default, so flags and the environment win over it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail, ensure};
use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command, Id};

/// Puts the defaults of the file that `--config` or `WARREN_CONFIG` names into the command.
///
/// # Errors
/// If the file can't be read, isn't TOML, or names a command or flag that doesn't exist.
pub(crate) fn apply(command: Command, args: &[OsString]) -> anyhow::Result<Command> {
    let Some(path) = config_path(args) else { return Ok(command) };
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("can't read the configuration file {}", path.display()))?;
    let table: toml::Table =
        text.parse().with_context(|| format!("{} isn't valid TOML", path.display()))?;
    table
        .into_iter()
        .try_fold(command, |command, (key, value)| apply_key(command, &key, value, &path))
}

fn config_path(args: &[OsString]) -> Option<PathBuf> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--config" {
            return args.next().map(PathBuf::from);
        }
        if let Some(path) = arg.to_str().and_then(|arg| arg.strip_prefix("--config=")) {
            return Some(PathBuf::from(path));
        }
    }
    std::env::var_os("WARREN_CONFIG").map(PathBuf::from)
}

fn apply_key(
    command: Command,
    key: &str,
    value: toml::Value,
    path: &Path,
) -> anyhow::Result<Command> {
    let toml::Value::Table(table) = value else { return apply_flag(command, key, value, path) };
    if command.find_subcommand(key).is_none() {
        bail!("{}: there is no command '{key}'", path.display());
    }
    let mut outcome = Ok(());
    let changed = command.mut_subcommand(key, |mut subcommand| {
        for (key, value) in table {
            match apply_key(subcommand.clone(), &key, value, path) {
                Ok(changed) => subcommand = changed,
                Err(error) => outcome = Err(error),
            }
        }
        subcommand
    });
    outcome.map(|()| changed)
}

fn apply_flag(
    command: Command,
    key: &str,
    value: toml::Value,
    path: &Path,
) -> anyhow::Result<Command> {
    let file = path.display();
    let flag = command
        .get_arguments()
        .find(|arg| arg.get_long() == Some(key) && !arg.is_hide_set())
        .with_context(|| format!("{file}: '{}' has no flag '--{key}'", command.get_name()))?;
    let id = flag.get_id().clone();
    let takes_many =
        matches!(flag.get_action(), ArgAction::Append) || flag.get_value_delimiter().is_some();
    let values = texts(value).with_context(|| format!("{file}: '{key}' has no simple value"))?;
    ensure!(takes_many || values.len() == 1, "{file}: '{key}' takes one value");
    check(&command, &id, key, &values).map_err(|complaint| anyhow!("{file}: {complaint}"))?;
    Ok(without_what_defaults_cannot_meet(command, &id)
        .mut_arg(id, |arg| arg.default_values(values)))
}

/// A default counts for nothing where clap wants a flag to be there: in a group of which one is
/// required, or because another flag requires it. So that isn't wanted any more, and the command itself
/// says what it lacks.
fn without_what_defaults_cannot_meet(command: Command, id: &Id) -> Command {
    let groups: Vec<Id> = command
        .get_groups()
        .filter(|group| group.is_required_set() && group.get_args().any(|member| member == id))
        .map(|group| group.get_id().clone())
        .collect();
    groups
        .into_iter()
        .fold(command, |command, id| command.mut_group(id, |group| group.required(false)))
        .mut_args(|arg| arg.requires(Resettable::Reset))
}

/// Whether the flag takes these values, whatever else the command lacks.
fn check(command: &Command, id: &Id, key: &str, values: &[String]) -> Result<(), String> {
    let trial = command.clone().mut_arg(id, |arg: Arg| {
        arg.env(Resettable::Reset).default_values(values.iter().map(ToOwned::to_owned))
    });
    let Err(error) = trial.no_binary_name(true).try_get_matches_from::<_, &str>([]) else {
        return Ok(());
    };
    let about_this = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(arg)) => arg.split(' ').next() == Some(&format!("--{key}")),
        Some(_) | None => false,
    };
    if !about_this || error.get(ContextKind::InvalidValue).is_none() {
        return Ok(());
    }
    let text = error.to_string();
    Err(text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned())
}

fn texts(value: toml::Value) -> anyhow::Result<Vec<String>> {
    Ok(match value {
        toml::Value::String(text) => vec![text],
        toml::Value::Integer(number) => vec![number.to_string()],
        toml::Value::Float(number) => vec![number.to_string()],
        toml::Value::Boolean(flag) => vec![flag.to_string()],
        toml::Value::Array(items) => items
            .into_iter()
            .map(texts)
            .collect::<anyhow::Result<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect(),
        toml::Value::Datetime(_) | toml::Value::Table(_) => {
            bail!("neither text nor number nor flag")
        }
    })
}
