//! Files of the server that only its user may read, and links that it does not follow.
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
fn the_lock_of_the_credentials_file_is_its_owners() {
    let home = Home::new();
    let lock = home.apps().with_file_name("apps.lock");
    home.add_app("a");
    assert_eq!(mode(&lock), 0o600);
    // As an earlier version left it.
    set_mode(&lock, 0o644);
    home.add_app("b");
    assert_eq!(mode(&lock), 0o600);
}

#[test]
fn a_planted_link_beside_the_credentials_file_is_not_followed() {
    let home = Home::new();
    let victim = home.apps().with_file_name("victim");
    fs::write(&victim, "precious").unwrap();
    let draft = home.apps().with_file_name("apps.new");
    symlink(&victim, &draft).unwrap();
    home.add_app("a");
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    assert_eq!(mode(&home.apps()), 0o600);
    assert!(!draft.exists());

    let lock = home.apps().with_file_name("apps.lock");
    fs::remove_file(&lock).unwrap();
    symlink(&victim, &lock).unwrap();
    let refused = home.app_command(&["add", "b"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
}

#[tokio::test]
async fn a_token_key_that_others_can_read_is_refused_with_what_to_do() {
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
    // Without it there is a new one, and older tokens are void.
    drop(server);
    fs::remove_file(&key).unwrap();
    let server = Server::start_in(&home, &[]);
    let app = crate::common::App { address: server.address.clone(), ..app };
    let refused = app.request(reqwest::Method::GET, "").send().await.unwrap();
    assert_eq!(refused.status(), 401);
}
