//! The commands and queries of docs/store.md work.

use std::{env, fs, path::Path, process::Command, sync::Arc};

use crate::{
    common::{Home, Server},
    sample::{sample, stopped},
};

/// The blocks of this kind.
fn blocks(kind: &str) -> Vec<String> {
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/store.md")).unwrap();
    let start = format!("```{kind}\n");
    let blocks = document.split(&start).skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// Runs a block in the home folder.
fn run(block: &str, folder: &Path) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_wwproxy-server")).parent().unwrap().to_owned();
    let path = env::join_paths([program].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap())));
    let mut shell = Command::new("sh");
    shell.args(["-ec", block]).current_dir(folder).env_clear().env("PATH", path.unwrap()).env("HOME", folder);
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{block}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// In the order of the document: all but the recovery beside a running server.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_commands_work() {
    let home = Arc::new(Home::new());
    let folder = home.apps().parent().unwrap().to_owned();
    let mut command = home.command();
    command.env("HOME", &folder).args(["--listen", "127.0.0.1:0"]);
    let server = Server::launch(Arc::clone(&home), command);
    server.app("my-bot").await.post("[1]").await;
    // The program of the queries may not be installed.
    let has_sqlite = Command::new("sqlite3").arg("-version").output().is_ok();
    let blocks = blocks("sh").into_iter().filter(|block| has_sqlite || !block.contains("sqlite3"));
    let (recoveries, others): (Vec<_>, Vec<_>) = blocks.partition(|block| block.contains("store recover"));
    let printed: String = others.iter().map(|block| run(block, &folder)).collect();
    assert!(printed.contains("app\tmy-bot\t1 events"), "{printed}");
    drop(server);
    assert_eq!((others.len() >= 3, recoveries.len()), (true, 2));
    for block in recoveries {
        assert_eq!(run(&block, &folder), "");
    }
    run("wwproxy-server store check restored; wwproxy-server store check recovered", &folder);
}

#[tokio::test]
async fn the_queries_work() {
    let folder = stopped(sample().await).await;
    let db = rusqlite::Connection::open(folder.path().join("log.sqlite")).unwrap();
    db.execute_batch("UPDATE apps SET name = 'my-bot' WHERE name = 'app-1'").unwrap();
    let rows = |sql: &str| {
        let mut statement = db.prepare(sql).unwrap();
        let columns = statement.column_count();
        let text = |value| match value {
            rusqlite::types::Value::Blob(blob) => String::from_utf8(blob).unwrap(),
            value => format!("{value:?}"),
        };
        let row = |row: &rusqlite::Row<'_>| (0..columns).map(|n| Ok(text(row.get(n)?))).collect();
        let rows: Result<Vec<Vec<String>>, _> = statement.query_map([], row).unwrap().collect();
        rows.unwrap()
    };
    let [newest, body, pending, dead] = &blocks("sql").iter().map(|sql| rows(sql)).collect::<Vec<_>>()[..]
    else {
        panic!("there are four queries");
    };
    assert_eq!((newest.len(), newest[0][3].as_str()), (50, r#"Text("ping")"#));
    assert!(body[0][0].starts_with(r#"{"n":000000}"#), "{body:?}");
    let default = pending.iter().find(|row| row[0].contains("my-bot") && row[1].contains("default")).unwrap();
    assert_eq!(default[2..], ["Integer(170)", "Integer(5)"]);
    assert_eq!((dead.len(), dead[0][4].as_str()), (5, r#"Text("bad")"#));
}
