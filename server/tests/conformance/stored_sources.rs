//! Stored sources of other versions of the server: an invalid one stops nothing but itself.

use std::sync::Arc;

use redb::{Database, ReadableTable as _, TableDefinition};
use reqwest::Method;
use serde_json::{Value, json};

use crate::common::{App, Home, Server, empty, problem};

const REGISTRATIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("registrations");

/// Stops the server and starts it again, with the stored registration of the app edited in between.
async fn restart_with(mut server: Server, app: &App, edit: impl FnOnce(&mut Value)) -> (Server, App) {
    server.signal("TERM");
    assert!(server.exited().await.success());
    let home = Arc::clone(&server.home);
    let database = Database::open(home.store().join("events.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    let mut table = transaction.open_table(REGISTRATIONS).unwrap();
    let mut registration: Value =
        serde_json::from_slice(table.get(&*app.id).unwrap().unwrap().value()).unwrap();
    edit(&mut registration);
    table.insert(&*app.id, registration.to_string().as_bytes()).unwrap();
    drop(table);
    transaction.commit().unwrap();
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
    let (server, app) = restart_with(server, &app, |registration| {
        registration["sources"]["newer"]["scheme"] = "semaphore".into();
        registration["sources"]["old"]["colour"] = "red".into();
    })
    .await;
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
    let (_server, app) = restart_with(server, &app, |registration| {
        assert_eq!(registration["sources"]["newer"], json!({"scheme": "semaphore", "secrets": ["hush"]}));
    })
    .await;
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
    let (_server, app) = restart_with(server, &app, |registration| {
        *registration = json!({"scheme": "watsonwork", "secrets": ["whpk_1"], "life": registration["life"]});
    })
    .await;
    App { secret: "whpk_1".into(), ..app.clone() }.post("{}").await;
    app.register("whpk_2").await;
    App { secret: "whpk_2".into(), ..app.clone() }.post("{}").await;
    problem(app.hook("{}").send().await.unwrap(), 401).await;
}
