//! `warren demo`.

use warren_lab::demo;

use crate::cli::{Demo, DemoCommand, Global};

pub(crate) fn run(global: &Global, args: Demo) -> anyhow::Result<()> {
    match args.command {
        None => demo::run(demo::Options { json: global.json, once: args.once }),
        Some(DemoCommand::Shell { host, command }) => demo::shell(&host, &command),
    }
}
