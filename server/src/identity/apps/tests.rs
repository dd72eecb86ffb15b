use super::*;

fn app(id: &str) -> AppId {
    id.parse().unwrap()
}

#[test]
fn adding_and_removing_an_app_keeps_the_rest_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/apps.toml");
    let apps = Apps::new(&path);
    assert_eq!(apps.list().unwrap(), []);

    let secret = apps.add(&app("my.bot")).unwrap();
    assert_eq!(apps.secret_hash(&app("my.bot")).unwrap(), Some(hash(secret.expose())));
    let text = fs::read_to_string(&path).unwrap();
    assert!(!text.contains(secret.expose()), "only a hash is kept");
    assert!(matches!(apps.add(&app("my.bot")), Err(AppsError::Exists(_))));

    fs::write(&path, format!("# ours\n{text}\n[other]\nx = 1 # keep\n")).unwrap();
    apps.add(&app("b")).unwrap();
    apps.remove(&app("my.bot")).unwrap();
    assert_eq!(apps.list().unwrap(), [app("b")]);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("[other]\nx = 1 # keep"), "{text}");
    assert!(matches!(apps.remove(&app("my.bot")), Err(AppsError::Missing(_))));
}

#[cfg(unix)]
#[test]
fn a_new_file_is_readable_by_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("apps.toml");
    Apps::new(&path).add(&app("a")).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_file_that_cannot_be_parsed_is_not_parsed_again_until_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("apps.toml");
    fs::write(&path, "a =").unwrap();
    let apps = Apps::new(&path);
    assert!(apps.list().is_err());
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    // Looks the same, so that only a cached result is still an error.
    fs::write(&path, "a=1").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert!(apps.list().is_err());
    assert!(apps.is_suspended(&app("a")), "no version of the file was valid");
    fs::write(&path, "").unwrap();
    assert_eq!(apps.list().unwrap(), []);
}

#[test]
fn an_invalid_file_is_an_error_and_not_an_empty_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("apps.toml");
    for broken in [
        "[apps.a]",
        "apps = 1",
        "[apps.a]\nsecret-sha256 = \"xyz\"",
        "[apps.\"a/b\"]\nsecret-sha256 = \"\"",
        "=",
    ] {
        fs::write(&path, broken).unwrap();
        let apps = Apps::new(&path);
        assert!(matches!(apps.list(), Err(AppsError::Invalid(..))), "{broken}");
        assert!(apps.add(&app("b")).is_err(), "{broken}");
        assert_eq!(fs::read_to_string(&path).unwrap(), broken);
    }
}
