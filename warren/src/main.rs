//! The one binary: command line and configuration.

#[cfg(feature = "broker")]
mod admin;
mod cli;
mod config_file;
#[cfg(feature = "demo")]
mod demo;
#[cfg(any(feature = "node", feature = "broker"))]
mod edge_tables;
#[cfg(any(feature = "broker", feature = "relay"))]
mod folder;
mod logging;
#[cfg(feature = "node")]
mod node;
mod output;
#[cfg(test)]
mod reference;
#[cfg(feature = "relay")]
mod relay;
#[cfg(feature = "broker")]
mod serve;
mod service;
#[cfg(any(feature = "node", feature = "broker"))]
mod shutdown;
#[cfg(any(feature = "node", feature = "broker"))]
mod why;

use std::ffi::OsString;
use std::future::Future;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::FromArgMatches as _;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let command = match config_file::apply(cli::command(), &args) {
        Ok(command) => command,
        Err(error) => return output::failed(&error, output::BAD_USAGE),
    };
    let parsed = command.try_get_matches_from(args).and_then(|found| Cli::from_arg_matches(&found));
    let cli = match parsed {
        Ok(cli) => cli,
        // Help and version go to standard output with 0, mistakes to standard error with 2.
        Err(error) => error.exit(),
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<output::Usage>() => output::failed(&error, output::BAD_USAGE),
        Err(error) => output::failed(&error, output::FAILED),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let global = cli.global;
    match cli.command {
        #[cfg(feature = "broker")]
        Command::Serve(args) => {
            let set_filter = logging::start(&global.log)?;
            on_all_cores(serve::serve(args, set_filter))
        }
        #[cfg(feature = "broker")]
        Command::Admin(args) => on_one_thread(admin::run(&global, args)),
        #[cfg(feature = "node")]
        Command::Node(args) => {
            let set_filter = logging::start(&global.log)?;
            on_one_thread(node::run(&global, args, set_filter))
        }
        #[cfg(feature = "node")]
        Command::Up(args) => on_one_thread(node::up(&global, args)),
        #[cfg(feature = "node")]
        Command::Down => on_one_thread(node::down(&global)),
        #[cfg(feature = "node")]
        Command::Logout(args) => on_one_thread(node::logout(&global, &args)),
        #[cfg(feature = "node")]
        Command::Status(args) => on_one_thread(node::status(&global, &args)),
        #[cfg(feature = "node")]
        Command::Ping(args) => on_one_thread(node::ping(&global, &args)),
        #[cfg(feature = "node")]
        Command::Why(args) => on_one_thread(node::why(&global, args)),
        #[cfg(feature = "node")]
        Command::Netcheck => on_one_thread(node::netcheck(&global)),
        #[cfg(feature = "node")]
        Command::Log(args) => on_one_thread(node::log(&global, args)),
        #[cfg(feature = "node")]
        Command::ExitNode(args) => on_one_thread(node::exit_node(&global, args)),
        Command::Lport(args) => on_one_thread(node::lport(&global, &args)),
        #[cfg(feature = "node")]
        Command::Edge(command) => on_one_thread(node::edge(&global, command)),
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(&global, args),
        #[cfg(feature = "relay")]
        Command::Relay(args) => match args.command {
            Some(cli::RelayCommand::Log(args)) => {
                on_one_thread(relay::control::log(&global, "relay", args.filter))
            }
            None => {
                let set_filter = logging::start(&global.log)?;
                on_all_cores(relay::turn::serve(&global, args.serve, set_filter))
            }
        },
        #[cfg(feature = "relay")]
        Command::PairRelay(cli::PairRelay { command, serve }) => match command {
            Some(cli::PairRelayCommand::Probe(args)) => {
                on_one_thread(relay::pair::probe(&global, args))
            }
            Some(cli::PairRelayCommand::Log(args)) => {
                on_one_thread(relay::control::log(&global, "pair-relay", args.filter))
            }
            None => {
                let set_filter = logging::start(&global.log)?;
                on_one_thread(relay::pair::serve(&global, serve, set_filter))
            }
        },
        Command::Service(command) => service::run(&global, command),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut cli::command(), "warren", &mut script);
            output::raw(&script);
            Ok(())
        }
        Command::Man { folder } => man(&folder),
    }
}

/// Everything but the broker fits one thread: less memory, and nothing to hand over.
fn on_one_thread(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start the event loop")?
        .block_on(work)
}

#[cfg(any(feature = "broker", feature = "relay"))]
fn on_all_cores(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("can't start the event loop")?
        .block_on(work)
}

fn man(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("can't make the folder {}", folder.display()))?;
    clap_mangen::generate_to(cli::command(), folder)
        .with_context(|| format!("can't write the man pages into {}", folder.display()))
}
