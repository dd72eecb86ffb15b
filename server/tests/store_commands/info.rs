//! `store info`.

use wwproxy_server::store::Store;

use crate::sample::{done, execute, failed, sample, stopped, store, text, write_index};

const EXPECTED: [&str; 4] = [
    "app\tapp-1\t200 events",
    "consumer\tapp-1\taudit\t60 pending",
    "consumer\tapp-1\tdefault\t175 pending",
    "consumer\tapp-2\tdefault\t20 pending",
];

#[tokio::test]
async fn info_counts_beside_a_running_server_in_a_stopped_store_and_in_a_backup() {
    let log = sample().await;
    // The outcomes are durable a moment later.
    crate::eventually::eventually("the outcomes are stored", async || {
        done(&["info", text(log.folder.path())]).contains("5 dead")
    })
    .await;
    let running = done(&["info", text(log.folder.path())]);
    assert!(running.contains("server\trunning\nfile\tballast\t8388608 bytes\n"), "{running}");
    assert_eq!(log.status("default").await.pending, Some(175));
    let folder = stopped(log).await;
    let tail = done(&["info", text(folder.path())]);
    write_index(folder.path());
    let indexed = done(&["info", text(folder.path())]);
    let backup = folder.path().join("backup");
    execute(folder.path(), &format!("VACUUM INTO '{}'", text(&backup)));
    let of_backup = done(&["info", text(&backup)]);
    for printed in [running, tail, indexed, of_backup] {
        for line in EXPECTED {
            assert!(printed.contains(line), "{line}: {printed}");
        }
        assert!(printed.contains("events\t220\t") && printed.contains("format\t1\n"), "{printed}");
    }
    let json: serde_json::Value = serde_json::from_str(&done(&["info", "--json", text(&backup)])).unwrap();
    assert_eq!((&json["apps"][0]["consumers"][1]["dead"], &json["serverRuns"]), (&5.into(), &false.into()));
    assert_eq!(json["apps"][0]["sources"], serde_json::json!(["default", "shop"]));
    assert!(json["oldest"].as_str().unwrap().ends_with('Z'), "{json}");
}

#[tokio::test]
async fn what_is_no_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(failed(&["info", text(folder.path())]).contains("log.sqlite"));
    let file = folder.path().join("x?y");
    std::fs::write(&file, "no database".repeat(1000)).unwrap();
    for command in ["info", "check"] {
        assert!(failed(&[command, text(&file)]).contains("backup"));
    }
    assert_eq!(store(&["info"]).status.code(), Some(2));
    std::fs::write(folder.path().join("events.redb"), "").unwrap();
    assert!(failed(&["info", text(folder.path())]).contains("version 0.1"));
}

#[tokio::test]
async fn reading_a_stopped_store_changes_no_file() {
    let log = sample().await;
    log.log.close().await.unwrap();
    let before = crate::sample::files(log.folder.path());
    done(&["info", text(log.folder.path())]);
    done(&["check", text(log.folder.path())]);
    assert_eq!(
        crate::sample::files(log.folder.path()).keys().collect::<Vec<_>>(),
        before.keys().collect::<Vec<_>>()
    );
    assert!(crate::sample::files(log.folder.path()) == before);
}
