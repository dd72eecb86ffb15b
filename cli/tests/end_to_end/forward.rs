//! `wwproxy listen` with a target, and `wwproxy replay`.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read},
    process::Stdio,
};

use serde_json::Value;
use wwproxy_sdk::{Secret, sign_watson_work};

use crate::{
    target::{CannedResponse, Target},
    world::{WEBHOOK_SECRET, World, next_event},
};

const BODY: &str = "{ \"type\":\"message-created\",\"n\": 1.0, \"text\":\"ü\" }\r\n";

#[test]
fn body_bytes_and_sender_headers_are_forwarded_unchanged() {
    let (world, target) = (World::new(), Target::new(&[]));
    world.post_to("?a=1&b=%20c", BODY);
    world.run(&["listen", "--forward-to", &format!("http://{}/", target.address), "--max-events", "1"]);
    let request = target.next();
    assert_eq!(request.body, BODY.as_bytes());
    assert_eq!(request.path, "/hook/my-bot?a=1&b=%20c");
    let signature = sign_watson_work(&Secret::new(WEBHOOK_SECRET), BODY.as_bytes());
    assert_eq!(request.header("x-outbound-token"), Some(&*signature));
    assert_eq!(request.header("x-forwarded-host"), Some("proxy"));
    assert_eq!(request.header("host"), Some(&*target.address));
    assert_eq!(request.header("wwproxy-attempt"), Some("1"));
    assert!(request.header("wwproxy-event-id").is_some());
    assert_eq!(request.headers.iter().filter(|(name, _)| name == "content-length").count(), 1);
    assert_eq!(world.status()["stored"], 0);
}

#[test]
fn a_port_alone_gets_events_in_order_at_the_root() {
    let (world, target) = (World::new(), Target::new(&[]));
    for n in 0..20 {
        world.post(&format!("{{\"n\":{n}}}"));
    }
    let port = target.address.rsplit(':').next().unwrap().to_owned();
    let printed = world.run(&["listen", "--forward-to", &port, "--max-events", "20"]);
    for (n, line) in (0..20).zip(printed.lines()) {
        let (request, line) = (target.next(), serde_json::from_str::<Value>(line).unwrap());
        assert_eq!((request.path, request.body), ("/".into(), format!("{{\"n\":{n}}}").into_bytes()));
        assert_eq!(
            (&line["outcome"], &line["data"]["n"], &line["tries"]),
            (&"accepted".into(), &n.into(), &1.into())
        );
        assert!(line["answer"].as_str().unwrap().starts_with("204 POST http://localhost:"), "{line}");
    }
    assert_eq!(world.status()["stored"], 0);
}

#[test]
fn a_rejected_event_is_retried_in_order() {
    let answers = [
        CannedResponse::Status(500),
        CannedResponse::Redirect,
        CannedResponse::Close,
        CannedResponse::Hang,
        CannedResponse::Status(404),
    ];
    let (world, target) = (World::new(), Target::new(&answers));
    world.post("{\"n\":1}");
    world.post("{\"n\":2}");
    world.run(&["listen", "--forward-to", &target.address, "--timeout", "300ms", "--max-events", "2"]);
    let mut ids = Vec::new();
    for attempt in 1..=6 {
        let request = target.next();
        assert_eq!(request.body, b"{\"n\":1}");
        assert_eq!(request.header("wwproxy-attempt"), Some(&*attempt.to_string()));
        ids.push(request.header("wwproxy-event-id").unwrap().to_owned());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "a redelivery has the same id");
    assert_eq!(target.next().body, b"{\"n\":2}");
    assert!(target.is_quiet(), "no redirect is followed");
    assert_eq!(world.status()["stored"], 0);
}

#[test]
fn an_event_is_acknowledged_only_after_its_target_accepted_it() {
    let (world, target) = (World::new(), Target::new(&[CannedResponse::Hang]));
    world.post("{\"n\":1}");
    let (mut listen, _output) = world.listen(&["--forward-to", &target.address]);
    target.next();
    assert_eq!((&world.status()["stored"], &world.status()["leased"]), (&1.into(), &1.into()));
    listen.kill().unwrap();
    listen.wait().unwrap();
    let printed = world.run(&["listen", "--forward-to", &target.address, "--max-events", "1"]);
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap()["attempt"], 2);
    assert_eq!(target.next().header("wwproxy-attempt"), Some("2"));
    assert_eq!(world.status()["stored"], 0);
}

#[test]
fn retry_after_delays_the_next_try() {
    let (world, target) = (World::new(), Target::new(&[CannedResponse::Busy(1)]));
    world.post("{}");
    let start = std::time::Instant::now();
    world.run(&["listen", "--forward-to", &target.address, "--max-events", "1"]);
    assert!(start.elapsed() >= std::time::Duration::from_secs(1));
    assert_eq!(target.next().header("wwproxy-attempt"), Some("1"));
    assert_eq!(target.next().header("wwproxy-attempt"), Some("2"));
}

#[test]
fn an_event_that_is_given_up_is_kept_dropped_or_saved() {
    let folder = tempfile::tempdir().unwrap();
    let save = format!("save={}", folder.path().display());
    for (on_failure, stored, outcome) in [("keep", 1, "kept"), ("drop", 0, "dropped"), (&*save, 0, "saved")] {
        let (world, target) =
            (World::new(), Target::new(&[CannedResponse::Status(500), CannedResponse::Status(400)]));
        world.post(BODY);
        let args =
            ["listen", "--forward-to", &target.address, "--max-attempts", "2", "--on-failure", on_failure];
        let idle = ["--exit-after-idle", "1s"];
        let ended = world.command(&args).args(idle).output().unwrap();
        assert_eq!(ended.status.code(), Some(1), "{on_failure}");
        let messages = String::from_utf8(ended.stderr).unwrap();
        let place = match outcome {
            "kept" => "kept on the server".into(),
            "saved" => format!("saved in {}", folder.path().display()),
            _ => outcome.to_owned(),
        };
        let last = format!("wwproxy: 1 event was not accepted by its target; {place}\n");
        assert!(messages.ends_with(&last), "{messages}");
        // The failed try before it does not hide the outcome.
        assert!(
            messages.contains(&format!(": 400 POST http://{}/, {outcome}\n", target.address)),
            "{messages}"
        );
        let counts =
            if outcome == "kept" { "1 kept, 0 skipped".into() } else { format!("1 {outcome}, 0 kept") };
        assert!(messages.contains(&format!("wwproxy: 0 taken, {counts}")), "{messages}");
        let line: Value = serde_json::from_slice(&ended.stdout).unwrap();
        assert_eq!((&line["outcome"], &line["tries"]), (&outcome.into(), &2.into()));
        assert_eq!(world.status()["stored"], stored, "{on_failure}");
        assert_eq!((target.next().body, target.next().body), (BODY.into(), BODY.into()));
    }
    let saved: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(saved.len(), 1);
    let target = Target::new(&[CannedResponse::Status(500)]);
    let world = World::new();
    let printed =
        world.run(&["replay", saved[0].to_str().unwrap(), "--forward-to", &format!("{}/", target.address)]);
    assert!(printed.contains("<-- 204 POST"), "{printed}");
    target.next();
    let request = target.next();
    assert_eq!((request.body, &*request.path), (BODY.into(), "/hook/my-bot"));
    let headers: BTreeMap<_, _> = request.headers.into_iter().collect();
    let signature = sign_watson_work(&Secret::new(WEBHOOK_SECRET), BODY.as_bytes());
    assert_eq!(headers["x-outbound-token"], signature);
}

#[test]
fn routes_types_and_filters_select_events() {
    let (world, messages, spaces) = (World::new(), Target::new(&[]), Target::new(&[]));
    for body in [
        r#"{"type":"message-created","n":1}"#,
        r#"{"type":"space-deleted","n":2}"#,
        r#"{"type":"reaction-added","n":3}"#,
        r#"{"type":"message-deleted","n":4}"#,
        r#"{"type":"space-updated","n":99}"#,
    ] {
        world.post(body);
    }
    let (to_messages, to_spaces) =
        (format!("message-*={}", messages.address), format!("space-*={}/s", spaces.address));
    let args = ["listen", "--route", &to_messages, "--route", &to_spaces, "--filter", ".n < 10"];
    let printed = world.run(&[&args[..], &["--max-events", "3", "--format", "data"]].concat());
    assert_eq!(printed.lines().count(), 3);
    assert!(messages.next().body.ends_with(b"1}") && messages.next().body.ends_with(b"4}"));
    let space = spaces.next();
    assert_eq!((&*space.path, space.body.ends_with(b"2}")), ("/s", true));
    let printed = world.run(&["listen", "--filter", ".n < 10", "--exit-after-idle", "500ms"]);
    assert_eq!(
        (printed, world.status()["stored"].clone()),
        (String::new(), 0.into()),
        "the last one was skipped"
    );
}

#[test]
fn leave_unmatched_leaves_events_on_the_server() {
    let world = World::new();
    for kind in ["a", "b", "c"] {
        world.post(&format!("{{\"type\":\"{kind}\"}}"));
    }
    world.post("{\"type\":\"b\",\"n\":\"x\"}");
    // The filter fails on the last one, which is left on the server.
    let args = ["listen", "--type", "[ab]", "--type", "b", "--filter", ".n + 1 > 0", "--leave-unmatched"];
    let more = ["--on-filter-error", "leave", "--exit-after-idle", "1s", "--format", "data"];
    let ended = world.command(&args).args(more).output().unwrap();
    assert!(ended.status.success());
    assert_eq!(ended.stdout, b"{\"type\":\"b\"}\n");
    assert!(String::from_utf8_lossy(&ended.stderr).contains("the filter fails on event"));
    assert_eq!((&world.status()["stored"], &world.status()["leased"]), (&3.into(), &0.into()));
}

#[test]
fn a_command_takes_events_with_exit_0() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    world.post(BODY);
    let script = format!(
        "cd {}; cat > body; echo $WWPROXY_EVENT_TYPE $WWPROXY_ATTEMPT $WWPROXY_HEADER_HOST >> seen; test -e ok || {{ touch ok; exit 3; }}",
        folder.path().display()
    );
    let printed = world.run(&["listen", "--exec", &script, "--max-events", "1"]);
    let line: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&line["outcome"], &line["tries"]), (&"accepted".into(), &2.into()));
    assert_eq!(fs::read_to_string(folder.path().join("body")).unwrap(), BODY);
    let seen = fs::read_to_string(folder.path().join("seen")).unwrap();
    assert_eq!(seen, "message-created 1 proxy\nmessage-created 2 proxy\n");
    assert_eq!(world.status()["stored"], 0);
}

#[test]
fn a_command_that_exceeds_the_timeout_is_killed_with_its_children() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    world.post("{}");
    let pid = folder.path().join("pid");
    let script = format!("sleep 600 & echo $! > {}; wait", pid.display());
    let args =
        ["listen", "--exec", &script, "--timeout", "1s", "--max-attempts", "1", "--on-failure", "drop"];
    let ended = world.command(&args).args(["--exit-after-idle", "1s"]).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let pid = fs::read_to_string(pid).unwrap();
    let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
}

#[test]
fn the_ready_file_appears_after_the_connection() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let ready = folder.path().join("ready");
    let mut command = world.command(&["listen", "--ready-file", ready.to_str().unwrap()]);
    let mut listen = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut messages = BufReader::new(listen.stderr.take().unwrap());
    let mut line = String::new();
    messages.read_line(&mut line).unwrap();
    assert!(line.starts_with("wwproxy: ready: connected to http://"), "{line}");
    // An event after the ready message is delivered at once.
    world.post("{\"n\":1}");
    let mut output = BufReader::new(listen.stdout.take().unwrap());
    assert_eq!(next_event(&mut output)["data"]["n"], 1);
    assert_eq!(fs::read_to_string(ready).unwrap(), "ready\n");
    listen.kill().unwrap();
    listen.wait().unwrap();
}

#[test]
fn listen_gives_up_after_the_max_reconnect_time() {
    let mut world = World::new();
    world.kill();
    let ended = world.command(&["listen", "--max-reconnect-time", "1s"]).output().unwrap();
    assert_eq!(ended.status.code(), Some(5), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn every_event_reaches_the_target_while_server_and_client_are_killed() {
    let mut world = World::new();
    let failing: Vec<_> = (0..40)
        .map(|n| if n % 4 == 3 { CannedResponse::Status(500) } else { CannedResponse::Status(200) })
        .collect();
    let target = Target::new(&failing);
    let mut counts = BTreeMap::new();
    let take = |counts: &mut BTreeMap<Vec<u8>, u32>| *counts.entry(target.next().body).or_default() += 1;
    let (mut listen, mut output) = world.listen(&["--forward-to", &target.address]);
    for n in 0..30 {
        world.post(&format!("{{\"n\":{n}}}"));
        if n == 10 {
            world.kill();
            world.start();
        }
        if n == 20 {
            take(&mut counts);
            listen.kill().unwrap();
            listen.wait().unwrap();
            output.read_to_string(&mut String::new()).unwrap();
            (listen, output) = world.listen(&["--forward-to", &target.address]);
        }
    }
    while counts.len() < 30 {
        take(&mut counts);
    }
    world.wait_until_stored(0);
    listen.kill().unwrap();
    listen.wait().unwrap();
}
