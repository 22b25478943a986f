use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn folder() -> (tempfile::TempDir, StateFolder) {
    let root = tempfile::tempdir().unwrap();
    let folder = StateFolder::open(&root.path().join("state")).unwrap();
    (root, folder)
}

#[test]
fn the_key_pair_is_made_once_and_kept_private() {
    let (_root, folder) = folder();
    let first = Identity::load_or_create(&folder).unwrap();
    let again = Identity::load_or_create(&folder).unwrap();
    assert_eq!(first.public_key(), again.public_key());
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(folder.path()), 0o700);
    assert_eq!(mode(&folder.path().join("node.json")), 0o600);
}

#[test]
fn a_second_daemon_is_told_the_pid_of_the_first() {
    let (_root, folder) = folder();
    let error = StateFolder::open(folder.path()).unwrap_err();
    let StateError::InUse { pid, .. } = &error else { panic!("{error}") };
    assert_eq!(*pid, std::process::id().to_string());
    assert!(error.to_string().contains("--state"), "{error}");
    let path = folder.path().to_owned();
    drop(folder);
    StateFolder::open(&path).unwrap();
}

#[test]
fn a_damaged_identity_is_reported_and_left_alone() {
    let (_root, folder) = folder();
    let file = folder.path().join("node.json");
    for contents in ["", "{", "{\"format\":1}", "{\"format\":1,\"private_key\":\"AAAA\"}"] {
        std::fs::write(&file, contents).unwrap();
        let error = Identity::load_or_create(&folder).unwrap_err();
        assert!(matches!(error, StateError::Damaged { .. }), "{contents:?}: {error}");
        assert!(error.to_string().contains("node.json is damaged"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), contents);
    }
    std::fs::write(&file, "{\"format\":99}").unwrap();
    let error = Identity::load_or_create(&folder).unwrap_err();
    assert!(matches!(error, StateError::Newer { format: 99, .. }), "{error}");
}

#[test]
fn a_crash_between_writing_and_renaming_leaves_the_old_contents() {
    let (_root, folder) = folder();
    let mut identity = Identity::load_or_create(&folder).unwrap();
    identity.listen_port = Some(50_000);
    identity.save(folder.path()).unwrap();
    std::fs::write(folder.path().join(".node.json.new"), "{\"format\":1,\"priv").unwrap();
    let read = Identity::load_or_create(&folder).unwrap();
    assert_eq!(read.listen_port, Some(50_000));
    assert_eq!(read.public_key(), identity.public_key());
    identity.save(folder.path()).unwrap();
    assert!(!folder.path().join(".node.json.new").exists());
}

#[test]
fn a_damaged_cached_map_is_no_error() {
    let (_root, folder) = folder();
    assert!(CachedMap::load(folder.path()).is_none());
    std::fs::write(folder.path().join("netmap.json"), "{\"current_at\":1").unwrap();
    assert!(CachedMap::load(folder.path()).is_none());
    CachedMap::remove(folder.path()).unwrap();
    CachedMap::remove(folder.path()).unwrap();
}

#[test]
fn the_clock_never_starts_before_its_floor_and_survives_garbage() {
    use std::time::Duration;
    let (_root, folder) = folder();
    assert_eq!(clock::floor(folder.path()), Duration::ZERO);
    clock::set_floor(folder.path(), Duration::from_millis(1_700_000_000_500)).unwrap();
    assert_eq!(clock::floor(folder.path()), Duration::from_secs(1_700_000_001));
    for garbage in ["", "soon", "-1", "99999999999999"] {
        std::fs::write(folder.path().join("clock"), garbage).unwrap();
        assert_eq!(clock::floor(folder.path()), Duration::ZERO, "{garbage:?}");
    }
}

#[test]
fn the_private_key_is_not_in_the_debug_text() {
    let identity = Identity::generate();
    let json = serde_json::to_value(&identity).unwrap();
    let key = json["private_key"].as_str().unwrap();
    assert!(!format!("{identity:?}").contains(key));
}
