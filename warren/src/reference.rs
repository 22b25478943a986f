//! `docs/cli.md`: the reference of every command, made from the commands themselves.

use std::fmt::Write as _;

use clap::{ArgAction, Command};

use crate::cli::{self, Cli};

fn reference() -> String {
    let mut text = String::from(
        "# Command line\n\nMade by `cargo xtask docs` from the program's own help; not edited by hand.\n",
    );
    let mut root = cli::command().term_width(100);
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
    cli::command().debug_assert();
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
    let command = crate::config_file::apply(cli::command(), &args).unwrap();
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
        let error = crate::config_file::apply(cli::command(), &args).unwrap_err();
        assert!(format!("{error:#}").contains(complaint), "{error:#}");
    }
}

#[test]
fn whatever_is_wrong_in_the_configuration_file_the_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("warren.toml");
    for text in [
        "[serve]\nlisten = \"nowhere\"",
        "log = \"lots=of=it\"",
        "json = \"perhaps\"",
        "[node]\nlisten-port = [1, 2]",
        "[node]\nlisten-port = 70000",
        "[serve]\nstate = \"/tmp\"",
    ] {
        std::fs::write(&path, text).unwrap();
        let args = ["warren".into(), "--config".into(), path.clone().into_os_string()];
        let error = crate::config_file::apply(cli::command(), &args).unwrap_err();
        assert!(format!("{error:#}").contains("warren.toml"), "{error:#}");
    }
}

#[test]
fn lists_in_the_configuration_file_go_by_the_flags_own_names() {
    use clap::FromArgMatches as _;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("warren.toml");
    std::fs::write(&path, "[admin.join-keys.create]\ntag = [\"a\", \"b\"]\nreusable = true")
        .unwrap();
    let args = ["warren", "--config", path.to_str().unwrap(), "admin", "join-keys", "create"];
    let args: Vec<std::ffi::OsString> = args.iter().map(Into::into).collect();
    let command = crate::config_file::apply(cli::command(), &args).unwrap();
    let found = Cli::from_arg_matches(&command.try_get_matches_from(&args).unwrap()).unwrap();
    let cli::Command::Admin(admin) = found.command else { panic!("not admin") };
    let cli::AdminCommand::JoinKeys(cli::JoinKeys::Create { tags, reusable, .. }) = admin.command
    else {
        panic!("not create")
    };
    assert_eq!((tags, reusable), (vec!["a".to_owned(), "b".to_owned()], true));
}

fn for_every_flag(command: &Command, name: &str, check: &mut dyn FnMut(&str, &clap::Arg)) {
    for arg in command.get_arguments().filter(|arg| arg.get_long().is_some() && !arg.is_hide_set())
    {
        check(&format!("{name} --{}", arg.get_long().unwrap()), arg);
    }
    for subcommand in command.get_subcommands() {
        for_every_flag(subcommand, &format!("{name} {}", subcommand.get_name()), check);
    }
}

#[test]
fn every_flag_has_its_environment_variable() {
    let mut flags = 0;
    for_every_flag(&cli::command(), "warren", &mut |name, arg| {
        flags += 1;
        let variable = arg.get_env().map(|name| name.to_string_lossy().into_owned());
        let wanted = arg.get_long().unwrap().to_uppercase().replace('-', "_");
        assert_eq!(variable, Some(format!("WARREN_{wanted}")), "{name}");
    });
    assert!(flags > 40, "{flags}");
}

#[test]
fn a_switch_is_set_as_people_set_switches() {
    for_every_flag(&cli::command(), "warren", &mut |name, arg| {
        if !matches!(arg.get_action(), ArgAction::SetTrue) {
            return;
        }
        for (text, wanted) in
            [("1", true), ("true", true), ("yes", true), ("", false), ("0", false)]
        {
            let id = arg.get_id().as_str();
            let alone = clap::Arg::new(id.to_owned())
                .long(id.to_owned())
                .action(ArgAction::SetTrue)
                .value_parser(arg.get_value_parser().clone())
                .default_value(text);
            let found = Command::new("x").arg(alone).get_matches_from(["x"]);
            assert_eq!(found.get_flag(id), wanted, "{name} {text}");
        }
    });
}

/// Every `warren …` line of a document's code blocks and inline code, without `sudo`.
fn documented_commands(document: &str) -> Vec<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(document);
    let text = std::fs::read_to_string(path).unwrap();
    let joined = text.replace("\\\n", " ");
    let spans = joined.split('`').skip(1).step_by(2).filter(|span| !span.contains('\n'));
    let lines = joined.lines().map(str::trim);
    spans
        .chain(lines)
        .map(|line| line.trim_start_matches("$ ").trim_start_matches("sudo "))
        .filter(|line| line.starts_with("warren ") && !line.contains(" | "))
        .map(|line| line.split("  ").next().unwrap().to_owned())
        .collect()
}

/// Whether the words are a command's name and nothing else: it is spoken of, not given.
fn names_a_command(words: &[String]) -> bool {
    let root = cli::command();
    let mut command = &root;
    words.iter().skip(1).all(|word| match command.find_subcommand(word) {
        Some(found) => {
            command = found;
            true
        }
        None => false,
    })
}

/// Splits as a shell does, as far as the documents need it.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn every_command_in_the_documents_is_one_that_the_program_takes() {
    let mut count = 0;
    for document in ["README.md", "docs/operating.md"] {
        for line in documented_commands(document) {
            let words = words(&line);
            let parsed = cli::command().try_get_matches_from(&words);
            let is_fine = parsed.as_ref().map_or_else(
                |error| {
                    error.exit_code() == 0
                        || error.kind()
                            == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                        || names_a_command(&words)
                },
                |_| true,
            );
            assert!(is_fine, "{document}: `{line}`: {}", parsed.unwrap_err());
            count += 1;
        }
    }
    assert!(count >= 10, "{count}");
}
