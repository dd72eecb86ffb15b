//! `wwproxy tail`, `wwproxy get` with `--keep` and `--wait`, completions and manual pages.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
};

use serde_json::Value;

use crate::world::{World, next_event};

#[test]
fn tail_shows_new_events_and_takes_none() {
    let world = World::new();
    world.post("{\"n\":0}");
    let mut command = world.command(&["tail", "--max-events", "2", "--filter", ".n != 2"]);
    let mut tail = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(tail.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("wwproxy: ready: connected to http://"), "{line}");
    let mut output = BufReader::new(tail.stdout.take().unwrap());
    for n in 1..4 {
        world.post(&format!("{{\"n\":{n}}}"));
    }
    let first = next_event(&mut output);
    assert_eq!((&first["data"]["n"], &first["attempt"]), (&1.into(), &0.into()));
    assert_eq!(next_event(&mut output)["data"]["n"], 3);
    assert!(tail.wait().unwrap().success());
    assert_eq!((&world.status()["stored"], &world.status()["leased"]), (&4.into(), &0.into()));
    let taken: Value = serde_json::from_str(&world.run(&["listen", "-n1"])).unwrap();
    assert_eq!((&taken["data"]["n"], &taken["attempt"]), (&0.into(), &1.into()));
}

#[test]
fn tail_reports_filter_errors_at_a_limited_rate() {
    let world = World::new();
    let mut command = world.command(&["tail", "--max-events", "10", "--filter", ".n.x", "--format", "data"]);
    let mut tail = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut messages = BufReader::new(tail.stderr.take().unwrap());
    messages.read_line(&mut String::new()).unwrap();
    for n in 0..10 {
        world.post(&format!("{{\"n\":{n}}}"));
    }
    let printed = tail.wait_with_output().unwrap().stdout;
    assert_eq!(String::from_utf8(printed).unwrap().lines().count(), 10);
    let errors: Vec<_> = messages.lines().map(Result::unwrap).collect();
    assert!(errors.len() == 1 && errors[0].contains("the filter fails on event"), "{errors:?}");
}

#[test]
fn get_keep_leaves_events_on_the_server() {
    let world = World::new();
    for n in 0..250 {
        world.post(&format!("{{\"n\":{n}}}"));
    }
    let kept: Value = serde_json::from_str(&world.run(&["get", "--keep"])).unwrap();
    assert_eq!(kept.as_object().unwrap().len(), 250);
    assert_eq!((&world.status()["stored"], &world.status()["leased"]), (&250.into(), &0.into()));
    let taken: Value = serde_json::from_str(&world.run(&["get", "--max", "120"])).unwrap();
    assert_eq!(taken.as_object().unwrap().len(), 120);
    assert_eq!(taken.as_object().unwrap().keys().min(), kept.as_object().unwrap().keys().min());
    assert_eq!(world.status()["stored"], 130);
}

#[test]
fn get_waits_for_a_first_event() {
    let world = World::new();
    let waiting = world.command(&["get", "--wait", "30s"]).stdout(Stdio::piped()).spawn().unwrap();
    world.post("{\"n\":1}");
    let printed = waiting.wait_with_output().unwrap().stdout;
    assert!(String::from_utf8(printed).unwrap().ends_with(":{\"n\":1}}\n"));
    assert_eq!(world.run(&["get", "--wait", "100ms"]), "{}\n");
}

#[test]
fn completions_and_manual_pages_need_no_server() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(world.run(&["completions", shell]).contains("--forward-to"), "{shell}");
    }
    assert!(world.run(&["man"]).contains(".TH wwproxy 1"));
    let folder = tempfile::tempdir().unwrap();
    world.run(&["man", "--dir", folder.path().to_str().unwrap()]);
    let page = folder.path().join("wwproxy-listen.1");
    assert!(fs::read_to_string(&page).unwrap().contains("forward"));
    assert!(folder.path().join("wwproxy-profile-list.1").exists());

    // A page of an earlier run is replaced, a link is not followed.
    fs::write(&page, "old").unwrap();
    world.run(&["man", "--dir", folder.path().to_str().unwrap()]);
    assert!(fs::read_to_string(&page).unwrap().contains("forward"));
    let other = folder.path().join("other");
    fs::write(&other, "precious").unwrap();
    fs::remove_file(&page).unwrap();
    std::os::unix::fs::symlink(&other, &page).unwrap();
    let output = world.command(&["man", "--dir", folder.path().to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("is not a regular file"));
    assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
    assert!(
        fs::read_dir(folder.path()).unwrap().all(|file| !file.unwrap().path().is_dir()),
        "no temporary folder is left"
    );
}
