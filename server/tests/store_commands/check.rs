//! `store check`.

use std::fs;

use crate::{
    fixture::copy,
    sample::{done, execute, failed, sample, stopped, text, write_index},
};

#[tokio::test]
async fn a_whole_store_passes_stopped_running_and_as_a_backup() {
    let log = sample().await;
    done(&["check", text(log.folder.path())]);
    let folder = stopped(log).await;
    done(&["check", text(folder.path())]);
    write_index(folder.path());
    done(&["check", text(folder.path())]);
    let backup = folder.path().join("backup # 1");
    execute(folder.path(), &format!("VACUUM INTO '{}'", text(&backup)));
    done(&["check", text(&backup)]);
}

#[tokio::test]
async fn each_damage_is_printed_without_contents_and_exits_1() {
    let folder = stopped(sample().await).await;
    write_index(folder.path());
    for (damage, printed) in [
        ("UPDATE events SET body = replace(body, '\"n\"', '\"N\"') WHERE seq = 3", "event 3 (0"),
        ("UPDATE bodies SET body = body || 'x' WHERE seq = 11", "event 11 (0"),
        ("DELETE FROM bodies WHERE seq = 11", "its body is missing"),
        ("UPDATE events SET type = 'pull' WHERE seq = 4", "event 4 (0"),
        ("UPDATE events SET size = size + 1 WHERE seq = 5", "its size is wrong"),
        ("UPDATE events SET app_count = 3 WHERE seq = 9", "event 9 (0"),
        ("DELETE FROM by_app WHERE seq = 6", "the index does not list it"),
        ("UPDATE by_app SET type = 'pull' WHERE seq = 6", "the index says something else"),
        ("DELETE FROM events WHERE seq = 7", "event 7: it is in the index of app app-1"),
        ("UPDATE events SET id = x'00112233445566778899aabbccddeeff' WHERE seq = 8", "event 8: "),
        ("UPDATE consumers SET settings = replace(settings, 'push', 'pusi')", "consumer audit of app app-1"),
        (
            "DELETE FROM consumers WHERE name = 'default' AND app_id = 2",
            "app app-2: it has no consumer default",
        ),
        ("UPDATE open SET state = 'x' WHERE seq = 25", "event 25 at consumer"),
        ("UPDATE sources SET settings = replace(settings, 'secret', 'Secret')", "a source of app app-1"),
        ("UPDATE sources SET name = 'sh/op' WHERE name = 'shop' AND app_id = 1", "a source of app app-1"),
        ("UPDATE open SET attempt = -1 WHERE seq = 25", "event 25 at consumer"),
        ("UPDATE apps SET name = 'app/2' WHERE app_id = 2", "app 2: its name is not valid"),
        (
            "DELETE FROM events WHERE seq > 218; DELETE FROM by_app WHERE seq > 218; UPDATE watermark SET seq = 218; \
          UPDATE consumers SET position_seq = 0",
            "missing: 219 to 220",
        ),
    ] {
        let damaged = tempfile::tempdir().unwrap();
        copy(folder.path(), damaged.path());
        execute(damaged.path(), damage);
        let output = failed(&["check", text(damaged.path())]);
        assert!(output.contains(printed), "{damage}: {output}");
        assert!(output.contains("store recover"), "{output}");
        for secret in ["{\"N", "{\"n", "Secret", "pull", "pusi"] {
            assert!(!output.contains(secret), "{damage}: {output}");
        }
    }
}

#[tokio::test]
async fn unreadable_pages_are_printed_and_the_rest_is_checked() {
    let folder = stopped(sample().await).await;
    let file = folder.path().join("log.sqlite");
    let mut bytes = fs::read(&file).unwrap();
    let place = bytes.windows(12).position(|window| window == br#"{"n":000052}"#).unwrap();
    let page = place / 4096 * 4096;
    bytes[page..page + 4096].fill(0);
    let place = bytes.windows(12).position(|window| window == br#"{"n":000101}"#).unwrap();
    bytes[place + 1] = b'X';
    fs::write(&file, bytes).unwrap();
    let output = failed(&["check", text(folder.path())]);
    assert!(output.contains("on pages that cannot be read") && output.contains("SQLite: "), "{output}");
    assert!(output.contains("event 102 ("), "{output}");
}
