//! The invariants of `ARCHITECTURE.md`, as absences: what depends on what, and what is nowhere.

#![expect(clippy::unwrap_used, reason = "a test that can't read the workspace fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Per crate, which crates of this workspace its product code may name.
const ARROWS: &[(&str, &[&str])] = &[
    ("warren-proto", &[]),
    ("warren-wg", &[]),
    ("warren-turn", &[]),
    ("warren-pair", &[]),
    ("warren-proxy", &[]),
    ("warren-coord", &["warren-proto", "warren-turn"]),
    ("warren-mesh", &["warren-proto", "warren-wg", "warren-turn"]),
    ("warren-scan", &["warren-proto"]),
    ("warren-net", &[]),
    ("warren-control", &["warren-net", "warren-proto"]),
    ("warren-store", &["warren-coord", "warren-proto"]),
    ("warren-tls", &[]),
    ("warren-web", &[]),
    (
        "warren-broker",
        &[
            "warren-control",
            "warren-coord",
            "warren-proto",
            "warren-store",
            "warren-tls",
            "warren-turn",
            "warren-web",
        ],
    ),
    (
        "warren-node",
        &[
            "warren-control",
            "warren-mesh",
            "warren-net",
            "warren-proto",
            "warren-scan",
            "warren-turn",
            "warren-wg",
        ],
    ),
    ("warren-edge", &["warren-net", "warren-proto", "warren-proxy", "warren-scan"]),
    ("warren-edge-web", &["warren-edge", "warren-proto", "warren-scan", "warren-web"]),
    (
        "warren-relay",
        &[
            "warren-control",
            "warren-net",
            "warren-pair",
            "warren-proto",
            "warren-tls",
            "warren-turn",
        ],
    ),
    ("warren-lab", &["warren-proto"]),
    (
        "warren",
        &[
            "warren-broker",
            "warren-edge",
            "warren-edge-web",
            "warren-lab",
            "warren-node",
            "warren-proto",
            "warren-relay",
            "warren-scan",
        ],
    ),
];

const CORES: &[&str] = &[
    "warren-proto",
    "warren-wg",
    "warren-turn",
    "warren-pair",
    "warren-proxy",
    "warren-coord",
    "warren-mesh",
    "warren-scan",
];

/// Crates that read clocks, open sockets or files, or bring an executor.
const NOT_IN_A_CORE: &[&str] =
    &["tokio", "mio", "socket2", "async-std", "hyper", "rustls", "nix", "rustix", "sqlx", "rand"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata() -> Value {
    // What only other systems need was never fetched where nothing but the tests was built.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", &platform])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Package name → names of its normal dependencies, for the whole tree as resolved.
fn normal_dependencies(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let name_by_id: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (package["id"].as_str().unwrap(), package["name"].as_str().unwrap()))
        .collect();
    let mut dependencies = BTreeMap::<String, BTreeSet<String>>::new();
    for node in metadata["resolve"]["nodes"].as_array().unwrap() {
        let of =
            dependencies.entry(name_by_id[node["id"].as_str().unwrap()].to_owned()).or_default();
        for dependency in node["deps"].as_array().unwrap() {
            let is_normal = dependency["dep_kinds"]
                .as_array()
                .unwrap()
                .iter()
                .any(|kind| kind["kind"].is_null());
            if is_normal {
                of.insert(name_by_id[dependency["pkg"].as_str().unwrap()].to_owned());
            }
        }
    }
    dependencies
}

fn closure(of: &str, dependencies: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut open = vec![of.to_owned()];
    while let Some(name) = open.pop() {
        for dependency in dependencies.get(&name).into_iter().flatten() {
            if seen.insert(dependency.clone()) {
                open.push(dependency.clone());
            }
        }
    }
    seen
}

#[test]
fn arrows_point_one_way() {
    let dependencies = normal_dependencies(&metadata());
    for (name, allowed) in ARROWS {
        let ours = dependencies[*name].iter().filter(|other| other.starts_with("warren"));
        for other in ours {
            assert!(allowed.contains(&other.as_str()), "{name} must not depend on {other}");
        }
    }
}

#[test]
fn a_core_brings_no_clock_socket_file_or_executor() {
    let dependencies = normal_dependencies(&metadata());
    for core in CORES {
        let all = closure(core, &dependencies);
        for banned in NOT_IN_A_CORE {
            assert!(!all.contains(*banned), "{core} pulls in {banned}");
        }
    }
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    for manifest in manifests() {
        let text = fs::read_to_string(&manifest).unwrap();
        let is_net = manifest.ends_with("shell/net/Cargo.toml");
        assert!(
            is_net || text.contains("[lints]\nworkspace = true"),
            "{} has lints of its own",
            manifest.display()
        );
    }
}

#[test]
fn unsafe_stands_in_shell_net_alone_and_nothing_is_skipped_or_left_for_later() {
    for file in sources() {
        let text = fs::read_to_string(&file).unwrap();
        let relative = file.strip_prefix(root()).unwrap();
        if relative == Path::new("warren/tests/architecture.rs") {
            continue;
        }
        let in_shell_net = relative.starts_with("shell/net");
        for (number, line) in text.lines().enumerate() {
            let place = format!("{}:{}", relative.display(), number + 1);
            assert!(in_shell_net || !line.contains("unsafe {"), "unsafe at {place}");
            // The halves of a test that runs itself again are ignored, and asked for by name.
            let ignored = line.trim_start().starts_with("#[ignore");
            assert!(!ignored || text.contains("--ignored"), "ignored test at {place}");
            for word in ["TODO", "FIXME", "todo!(", "unimplemented!("] {
                assert!(!line.contains(word), "{word} at {place}");
            }
        }
    }
}

fn manifests() -> Vec<PathBuf> {
    files_below(&root(), "Cargo.toml")
        .into_iter()
        .filter(|path| path.parent() != Some(&root()))
        .collect()
}

fn sources() -> Vec<PathBuf> {
    files_below(&root(), ".rs")
}

fn files_below(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files_below(&path, ending));
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
    found
}
