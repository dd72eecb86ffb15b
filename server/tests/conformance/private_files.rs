//! Private files of the server: their permissions, and symlinks that it does not follow.
#![cfg(unix)]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    sync::Arc,
};

use crate::common::{Home, Server};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_lock_of_the_credentials_file_is_private() {
    let home = Home::new();
    let lock = home.apps().with_file_name("apps.lock");
    home.add_app("a");
    assert_eq!(mode(&lock), 0o600);
    // The mode that earlier versions created.
    set_mode(&lock, 0o644);
    home.add_app("b");
    assert_eq!(mode(&lock), 0o600);
}

#[test]
fn symlinks_beside_the_credentials_file_are_not_followed() {
    let home = Home::new();
    let victim = home.apps().with_file_name("victim");
    fs::write(&victim, "precious").unwrap();
    let planted = home.apps().with_file_name("apps.new");
    symlink(&victim, &planted).unwrap();
    home.add_app("a");
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    assert_eq!(mode(&home.apps()), 0o600);
    assert!(!home.apps().is_symlink());
    fs::remove_file(&planted).unwrap();
    let folder = fs::read_dir(home.apps().parent().unwrap()).unwrap();
    let mut names: Vec<_> = folder.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["apps.lock", "apps.toml", "victim"], "no temporary file is left");

    let lock = home.apps().with_file_name("apps.lock");
    fs::remove_file(&lock).unwrap();
    symlink(&victim, &lock).unwrap();
    let refused = home.app_command(&["add", "b"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let error = String::from_utf8(refused.stderr).unwrap();
    for named in [lock.to_str().unwrap(), "symbolic link", "remove it"] {
        assert!(error.contains(named), "{error}");
    }
    assert_eq!(fs::read(&victim).unwrap(), b"precious");

    fs::remove_file(&lock).unwrap();
    make_fifo(&lock);
    let refused = home.app_command(&["add", "b"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
}

fn make_fifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[tokio::test]
async fn a_token_key_that_is_a_symlink_a_fifo_or_of_another_user_is_rejected() {
    let home = Arc::new(Home::new());
    drop(Server::start_in(&home, &[]));
    let key = home.store().join("token.key");
    let elsewhere = home.apps().with_file_name("elsewhere");
    fs::rename(&key, &elsewhere).unwrap();
    let refused = |reason: &str| {
        let mut command = home.command();
        command.arg("--store").arg(format!("file:{}", home.store().display()));
        // A server that opens the FIFO as a regular file waits for a writer forever.
        let ended = command.args(["--listen", "127.0.0.1:0"]).output().unwrap();
        let error = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{reason}: {error}");
        assert!(error.contains(key.to_str().unwrap()) && error.contains(reason), "{reason}: {error}");
        fs::remove_file(&key).unwrap();
    };
    symlink(&elsewhere, &key).unwrap();
    refused("symbolic link");
    make_fifo(&key);
    set_mode(&key, 0o600);
    refused("not a regular file");
    fs::copy(&elsewhere, &key).unwrap();
    // Only root can give a file to another user.
    if std::os::unix::fs::chown(&key, Some(12345), None).is_ok() {
        refused("belongs to user 12345");
    }
}

#[tokio::test]
async fn a_token_key_with_permissions_for_others_is_rejected_with_a_hint() {
    let home = Arc::new(Home::new());
    let app = Server::start_in(&home, &[]).app("bot").await;
    let key = home.store().join("token.key");
    assert_eq!(mode(&key), 0o600);
    for open in [0o644, 0o640, 0o602] {
        set_mode(&key, open);
        let mut command = home.command();
        command.arg("--store").arg(format!("file:{}", home.store().display()));
        let refused = command.args(["--listen", "127.0.0.1:0"]).output().unwrap();
        let error = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(1), "{open:o}: {error}");
        for named in [key.to_str().unwrap(), &format!("{open:o}"), "chmod 600", "delete"] {
            assert!(error.contains(named), "{open:o}: {error}");
        }
    }
    set_mode(&key, 0o600);
    let server = Server::start_in(&home, &[]);
    let app = crate::common::App { address: server.address.clone(), ..app };
    assert_eq!(app.poll("").await, []);
    // A deleted key is replaced, which invalidates all tokens.
    drop(server);
    fs::remove_file(&key).unwrap();
    let server = Server::start_in(&home, &[]);
    let app = crate::common::App { address: server.address.clone(), ..app };
    let refused = app.request(reqwest::Method::GET, "").send().await.unwrap();
    assert_eq!(refused.status(), 401);
}
