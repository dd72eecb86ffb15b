//! Stored sources of other versions of the server: an invalid one stops nothing but itself.

use std::sync::Arc;

use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};
use twox_hash::xxhash3_64::Hasher;

use crate::common::{App, Home, Server, empty, problem};

type Edit = fn(&mut Value);

/// Stops the server and starts it again, with the stored settings of some sources edited in between.
async fn restart_with<const N: usize>(
    mut server: Server,
    app: &App,
    edits: [(&str, Edit); N],
) -> (Server, App) {
    server.signal("TERM");
    assert!(server.exited().await.success());
    let home = Arc::clone(&server.home);
    let database = Connection::open(home.store().join("log.sqlite")).unwrap();
    for (name, edit) in edits {
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, String>(1)?));
        let (app_id, settings): (i64, _) =
            database.query_row("SELECT app_id, settings FROM sources WHERE name = ?", [name], row).unwrap();
        let mut settings = serde_json::from_str(&settings).unwrap();
        edit(&mut settings);
        let settings = settings.to_string();
        let checksum = Hasher::oneshot(format!("{app_id}\0{name}\0{settings}").as_bytes()).cast_signed();
        let update = "UPDATE sources SET settings = ?, checksum = ? WHERE name = ?";
        assert_eq!(database.execute(update, (&settings, checksum, name)).unwrap(), 1);
    }
    drop(database);
    let server = Server::start_in(&home, &[]);
    let app = App { address: server.address.clone(), ..app.clone() };
    (server, app)
}

#[tokio::test]
async fn an_invalid_stored_source_is_skipped_until_it_is_replaced_or_deleted() {
    let server = Server::start_in(&Arc::new(Home::new()), &[]);
    let app = server.new_app("bot").await;
    for name in ["good", "newer", "old"] {
        app.new_source(name, json!({"scheme": "github", "secrets": ["hush"]})).await;
    }
    let post = async |app: &App, name: &str| app.github(name, "hush", "{}").send().await.unwrap();
    let edits: [(_, Edit); 2] = [
        ("newer", |settings| settings["scheme"] = "semaphore".into()),
        ("old", |settings| settings["colour"] = "red".into()),
    ];
    let (server, app) = restart_with(server, &app, edits).await;
    empty(post(&app, "good").await, 201).await;
    let refused = post(&app, "newer").await;
    assert!(refused.headers().contains_key("retry-after"));
    problem(refused, 503).await;
    problem(app.request(Method::POST, "/sources/newer/arm").send().await.unwrap(), 503).await;
    let shown = app.source("newer").await;
    assert_eq!((&shown["scheme"], &shown["secrets"]), (&json!("invalid"), &json!(0)));
    assert!(shown["invalid"].as_str().unwrap().contains("semaphore"), "{shown}");
    assert_eq!(app.status().await["sources"].as_array().unwrap().len(), 3);
    let log = server.log();
    for name in ["newer", "old"] {
        let line = |line: &&str| line.contains("ERROR") && line.contains(&format!("source={name}"));
        assert_eq!(log.lines().filter(|l| line(l) && l.contains("app=bot")).count(), 1, "{log}");
    }
    assert!(!log.contains("hush"), "{log}");

    // A change of another source keeps the settings of the invalid one.
    app.new_source("more", json!({"scheme": "github", "secrets": ["hush"]})).await;
    let check: Edit = |settings| assert_eq!(*settings, json!({"scheme": "semaphore", "secrets": ["hush"]}));
    let (_server, app) = restart_with(server, &app, [("newer", check)]).await;
    problem(post(&app, "newer").await, 503).await;
    empty(app.put_source("newer", json!({"scheme": "github", "secrets": ["hush"]})).await, 200).await;
    empty(post(&app, "newer").await, 201).await;
    assert_eq!(app.source("newer").await.get("invalid"), None);
    empty(app.request(Method::DELETE, "/sources/old").send().await.unwrap(), 200).await;
    problem(post(&app, "old").await, 404).await;
}

#[tokio::test]
async fn a_secret_of_the_first_version_is_used_as_its_bytes() {
    let server = Server::start_in(&Arc::new(Home::new()), &[]);
    let app = server.app("bot").await;
    let edit: Edit = |settings| *settings = json!({"scheme": "watsonwork", "secrets": ["whpk_1"]});
    let (_server, app) = restart_with(server, &app, [("default", edit)]).await;
    App { secret: "whpk_1".into(), ..app.clone() }.post("{}").await;
    app.register("whpk_2").await;
    App { secret: "whpk_2".into(), ..app.clone() }.post("{}").await;
    problem(app.hook("{}").send().await.unwrap(), 401).await;
}
