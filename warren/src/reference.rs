//! `docs/cli.md`: the reference of every command, made from the commands themselves.

use std::fmt::Write as _;

use clap::{Command, CommandFactory as _};

use crate::cli::Cli;

fn reference() -> String {
    let mut text = String::from(
        "# Command line\n\nMade by `cargo xtask docs` from the program's own help; not edited by hand.\n",
    );
    let mut root = Cli::command().term_width(100);
    root.build();
    describe(&root, "warren", &mut text);
    text
}

fn describe(command: &Command, name: &str, text: &mut String) {
    let help = command.clone().term_width(100).render_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    let _ = write!(text, "\n## `{name}`\n\n```text\n{}\n```\n", help.join("\n").trim_end());
    for subcommand in command.get_subcommands().filter(|command| command.get_name() != "help") {
        describe(subcommand, &format!("{name} {}", subcommand.get_name()), text);
    }
}

#[test]
fn the_reference_in_docs_is_what_the_program_says() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let made = reference();
    if std::env::var_os("WARREN_REGENERATE").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(made == kept, "docs/cli.md is out of date: run `cargo xtask docs`");
}

#[test]
fn the_definitions_are_sound() {
    Cli::command().debug_assert();
}

#[test]
fn the_configuration_file_sets_defaults_that_flags_override() {
    use clap::FromArgMatches as _;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("warren.toml");
    std::fs::write(
        &path,
        "json = true\n[serve]\nlisten = \"127.0.0.1:1\"\nsuffix = \"a.example\"\n",
    )
    .unwrap();
    let args = ["warren", "--config", path.to_str().unwrap(), "serve", "--suffix", "b.example"];
    let args: Vec<std::ffi::OsString> = args.iter().map(Into::into).collect();
    let command = crate::config_file::apply(Cli::command(), &args).unwrap();
    let cli = Cli::from_arg_matches(&command.try_get_matches_from(&args).unwrap()).unwrap();
    assert!(cli.global.json);
    let crate::cli::Command::Serve(serve) = cli.command else { panic!("not serve") };
    assert_eq!(serve.listen, Some("127.0.0.1:1".parse().unwrap()));
    assert_eq!(serve.suffix, "b.example");
}

#[test]
fn a_mistake_in_the_configuration_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("warren.toml");
    for (text, complaint) in [
        ("[serv]\nlisten = \"x\"", "no command 'serv'"),
        ("[serve]\nlisen = \"x\"", "'serve' has no flag '--lisen'"),
        ("[serve", "isn't valid TOML"),
    ] {
        std::fs::write(&path, text).unwrap();
        let args = ["warren".into(), "--config".into(), path.clone().into_os_string()];
        let error = crate::config_file::apply(Cli::command(), &args).unwrap_err();
        assert!(format!("{error:#}").contains(complaint), "{error:#}");
    }
}
