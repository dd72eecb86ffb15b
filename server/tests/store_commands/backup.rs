//! `store backup`, and the other commands beside a running server.

use std::{fs, process::Output, sync::Arc};

use crate::{
    common::{Home, Server},
    sample::{done, failed, text},
};

/// Runs a command in the home folder, on the server's store.
fn store_command(home: &Home, arguments: &[&str]) -> Output {
    let mut command = home.command();
    command.arg("--store").arg(format!("file:{}", home.store().display())).arg("store").args(arguments);
    command.current_dir(home.store().parent().unwrap()).output().unwrap()
}

fn assert_failed(output: &Output, why: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains(why), "{error}");
}

#[tokio::test]
async fn a_backup_of_a_running_server_is_restored() {
    let home = Arc::new(Home::new());
    let server = Server::start_in(&home, &[]);
    let app = server.app("bot").await;
    app.post("[1]").await;
    let output = store_command(&home, &["backup", "copy"]);
    assert!(output.status.success(), "{output:?}");
    app.post("[2]").await;
    assert_failed(&store_command(&home, &["backup", "copy"]), "exists already");
    assert_failed(&store_command(&home, &["backup", "no/folder"]), "no/folder");
    let copy = home.apps().with_file_name("copy");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert!(done(&["info", text(&copy)]).contains("app\tbot\t1 events"));
    assert!(store_command(&home, &["check"]).status.success(), "beside the running server");
    drop(server);
    // A restore: the key of the tokens is not in the backup, so clients get new ones.
    fs::remove_dir_all(home.store()).unwrap();
    done(&["recover", text(&copy), text(&home.store())]);
    let server = Server::start_in(&home, &[]);
    let token = server.token("bot", &app.app_secret).await;
    let app = server.known_app("bot", &app.app_secret, &token);
    assert_eq!(app.gauge("stored").await, 1);
    app.post("[3]").await;
    assert_eq!(app.gauge("stored").await, 2);
}

#[tokio::test]
async fn a_stopped_store_is_backed_up_and_recovered() {
    let home = Arc::new(Home::new());
    let server = Server::start_in(&home, &[]);
    let app = server.app("bot").await;
    for n in 0..10 {
        app.post(format!("[{n}]")).await;
    }
    let home = server.kill();
    let output = store_command(&home, &["backup", "copy"]);
    assert!(output.status.success(), "{output:?}");
    let copy = home.apps().with_file_name("copy");
    done(&["check", text(&copy)]);
    assert!(done(&["info", text(&copy)]).contains("app\tbot\t10 events"));
    assert!(store_command(&home, &["check"]).status.success());
}

#[test]
fn a_backup_needs_a_store() {
    let home = Home::new();
    assert_failed(&store_command(&home, &["backup", "copy"]), "there is no store");
    assert!(!home.store().exists());
    assert!(failed(&["info", text(&home.store())]).contains("cannot use the store"));
}
