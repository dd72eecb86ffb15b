//! Bodies of any kind, and the metadata of sources, through every output of the command line.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::Command,
};

use serde_json::Value;
use wwproxy_sdk::{Client, EventMessage, Secret, SourceSettings, sign_watson_work};

use crate::{
    target::{Request, Target},
    terminal::terminal,
    world::World,
};

const FORM: &str = "application/x-www-form-urlencoded";
const GITHUB_SECRET: &str = "github-s3cret";

/// A server with the source `repo` of GitHub and the source `any`, which verifies nothing.
fn world() -> World {
    let world = World::with_flags(&["--allow-unverified"]);
    put_source(&world, "any", &SourceSettings { scheme: "none".into(), ..SourceSettings::default() });
    let secrets = vec![Secret::new(GITHUB_SECRET)];
    put_source(
        &world,
        "repo",
        &SourceSettings { scheme: "github".into(), secrets, ..SourceSettings::default() },
    );
    world
}

/// The server's address with `http://`.
fn server(world: &World) -> String {
    let command = world.command(&[]);
    let (_, value) = command.get_envs().find(|(name, _)| *name == "WWPROXY_SERVER").unwrap();
    value.unwrap().to_str().unwrap().to_owned()
}

fn put_source(world: &World, name: &str, settings: &SourceSettings) {
    let client =
        Client::builder(server(world)).app_id("my-bot").app_secret(world.app_secret.as_str()).build();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let put = async { client.unwrap().put_source(&name.parse().unwrap(), settings).await };
    assert!(runtime.block_on(put).unwrap());
}

/// Posts a webhook to a path below the app's hook. It must be stored.
fn post(world: &World, path: &str, headers: &[(&str, &str)], body: &[u8]) {
    let mut stream = TcpStream::connect(server(world).trim_start_matches("http://")).unwrap();
    let headers: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let headers = headers.concat();
    let head = format!(
        "POST /hook/my-bot/{path} HTTP/1.1\r\nHost: proxy\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
}

fn post_as_github(world: &World, path: &str, event: &str, content_type: &str, body: &[u8]) {
    let signature = format!("sha256={}", sign_watson_work(&Secret::new(GITHUB_SECRET), body));
    let headers = [
        ("Content-Type", content_type),
        ("X-GitHub-Event", event),
        ("X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958"),
        ("X-Hub-Signature-256", &*signature),
        ("Authorization", "Basic aHVudGVyMjpodW50ZXIy"),
        ("wwproxy-source", "forged"),
    ];
    post(world, path, &headers, body);
}

/// Bodies with their content type and content encoding.
fn bodies() -> Vec<(&'static str, Option<&'static str>, Vec<u8>)> {
    let multipart = b"--x\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\n\xff\x00\r\n--x--\r\n";
    let large = (0..5usize << 20).map(|n| u8::try_from(n * 7919 % 256).unwrap()).collect();
    vec![
        ("application/json", None, b" {\"n\": 1.0,\r\n\"a\":[ ]}\n".to_vec()),
        ("application/json", None, b"\"a string\"".to_vec()),
        (FORM, None, b"From=%2B44&Body=a+b".to_vec()),
        ("multipart/form-data; boundary=x", None, multipart.to_vec()),
        ("application/xml", None, "<?xml version=\"1.0\"?>\n<a b='é'>\u{1b}[2J</a>\r\n".into()),
        (
            "application/json",
            Some("gzip"),
            b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00".to_vec(),
        ),
        ("text/plain", None, Vec::new()),
        ("text/plain", None, b"\xff\xfe\xc3(".to_vec()),
        ("application/json", None, "\u{feff}{\"a\":1}".into()),
        ("application/octet-stream", None, large),
    ]
}

fn post_all(world: &World) {
    for (content_type, encoding, body) in bodies() {
        let headers = [("Content-Type", content_type), ("Content-Encoding", encoding.unwrap_or("identity"))];
        post(world, "any", &headers, &body);
    }
}

/// Compares the events that a target got, in order, with what was posted.
fn assert_forwarded(target: &Target) {
    for (content_type, encoding, body) in bodies() {
        let request = target.next();
        assert!(request.body == body, "{content_type}: {} bytes", request.body.len());
        assert_eq!(request.header("content-type"), Some(content_type));
        assert_eq!(request.header("content-encoding"), Some(encoding.unwrap_or("identity")));
        let of_proxy = ["wwproxy-source", "wwproxy-verification"].map(|name| request.header(name));
        assert_eq!(of_proxy, [Some("any"), Some("none")]);
    }
}

#[test]
fn bodies_are_forwarded_saved_and_replayed_byte_for_byte() {
    let (world, target, folder) = (world(), Target::new(&[]), tempfile::tempdir().unwrap());
    let (saved, seen) = (folder.path().join("saved"), folder.path().join("seen"));
    fs::create_dir(&seen).unwrap();
    let (saved, count) = (saved.to_str().unwrap(), bodies().len().to_string());
    post_all(&world);
    world.run(&["listen", "-n", &count, "--save", saved, "--forward-to", &target.address]);
    assert_forwarded(&target);
    world.run(&["replay", saved, "--forward-to", &target.address]);
    assert_forwarded(&target);
    let script = format!("cat > {}/$WWPROXY_EVENT_ID", seen.display());
    world.run(&["replay", saved, "--exec", &script]);
    let mut files: Vec<_> = fs::read_dir(&seen).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), bodies().len());
    for (file, (content_type, _, body)) in files.iter().zip(bodies()) {
        assert!(fs::read(file).unwrap() == body, "{content_type}");
    }
}

#[test]
fn each_format_keeps_the_bytes() {
    let world = world();
    let count = bodies().len().to_string();
    let sent = || bodies().into_iter().map(|(_, _, body)| body);

    post_all(&world);
    // One JSON object, in order of arrival: JSON as it is, text as a string, other bytes as base64.
    let printed = world.run(&["get", "--keep"]);
    let values: BTreeMap<String, Box<serde_json::value::RawValue>> = serde_json::from_str(&printed).unwrap();
    let values: Vec<_> = values.values().map(|value| value.get().to_owned()).collect();
    assert_eq!(values[0], "{\"n\": 1.0,\r\n\"a\":[ ]}");
    assert_eq!(values[2], "\"From=%2B44&Body=a+b\"");
    assert_eq!(values[8], "{\"a\":1}");
    for n in [3, 5, 7, 9] {
        let event = EventMessage::parse(&values[n].replacen('{', "{\"id\":\"1\",", 1)).unwrap();
        assert!(event.body == bodies()[n].2, "{n}");
    }

    let printed = world.run(&["listen", "-n", &count, "--format", "json"]);
    assert_eq!(printed.lines().count(), bodies().len());
    for (line, body) in printed.lines().zip(sent()) {
        let event = EventMessage::parse(line).unwrap();
        // A line break in JSON is a space on the line.
        let is_json = event.data().0.name() == "json";
        let expected: Vec<u8> =
            body.iter().map(|b| if is_json && b"\r\n".contains(b) { b' ' } else { *b }).collect();
        assert!(event.body == expected, "{}", &line[..line.len().min(300)]);
        assert!(event.is_unverified() && event.source().as_str() == "any");
    }

    post_all(&world);
    let output = world.command(&["listen", "-n", &count, "--format", "raw"]).output().unwrap();
    assert!(output.status.success() && output.stdout == sent().flatten().collect::<Vec<_>>());

    post_all(&world);
    let printed = world.run(&["listen", "-n", &count, "--format", "data"]);
    let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), bodies().len());
    assert_eq!((&lines[2], &lines[8]["a"]), (&"From=%2B44&Body=a+b".into(), &1.into()));
    assert_eq!(lines[7], serde_json::json!({"encoding": "base64", "data": "//7DKA=="}));
}

#[test]
fn a_source_is_selected_and_its_metadata_reach_the_target() {
    let (world, target) = (world(), Target::new(&[]));
    let body = b"payload=%7B%22action%22%3A%22opened%22%7D";
    post_as_github(&world, "repo/a%20b/../c?x=1&y=%20", "issues", FORM, b"payload=%7B%7D");
    post_as_github(&world, "repo/deep/path?x=1", "issues", FORM, body);
    post(&world, "any", &[], b"type=issues");
    post_as_github(&world, "repo", "push", "application/json", b"{\"type\":\"issues\"}");
    let url = format!("{}/hooks?own=1", target.address);
    let args = ["listen", "--source", "rep*", "--type", "issues*", "--forward-to", &url];
    let ended = world.command(&args).args(["--exit-after-idle", "1s"]).output().unwrap();
    let messages = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success() && messages.contains("no --source matches any"), "{messages}");
    assert!(messages.ends_with("2 taken, 0 kept, 1 left, 1 skipped: 1 × push\n"), "{messages}");

    assert_eq!(target.next().path, "/hooks?own=1&x=1&y=%20", "a path with .. is not appended");
    let request = target.next();
    assert!(target.is_quiet());
    assert_eq!((&*request.path, &request.body[..]), ("/hooks/deep/path?own=1&x=1", &body[..]));
    let header = |name| request.header(name);
    let signature = format!("sha256={}", sign_watson_work(&Secret::new(GITHUB_SECRET), body));
    for (name, value) in [
        ("content-type", FORM),
        ("x-hub-signature-256", &*signature),
        ("x-github-event", "issues"),
        ("wwproxy-event-type", "issues"),
        ("wwproxy-source", "repo"),
        ("wwproxy-delivery-id", "72d3162e-cc78-11e3-81ab-4c9367dc0958"),
        ("wwproxy-verification", "github"),
        ("x-forwarded-host", "proxy"),
    ] {
        assert_eq!(header(name), Some(value), "{name}");
    }
    assert_eq!(header("authorization"), None);
    assert_eq!(repeated(&request), Vec::<&str>::new());
}

/// The names of headers that a request has twice.
fn repeated(request: &Request) -> Vec<&str> {
    let mut names: Vec<_> = request.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect()
}

#[test]
fn a_command_gets_the_metadata_and_the_exact_bytes() {
    let (world, folder) = (world(), tempfile::tempdir().unwrap());
    post_as_github(&world, "repo/t%20x?q=%24(id)", "push", FORM, b"a=\x00\xff");
    let script = format!("cd {}; env | grep ^WWPROXY_ > env; cat > body", folder.path().display());
    world.run(&["listen", "-n1", "--exec", &script]);
    assert_eq!(fs::read(folder.path().join("body")).unwrap(), b"a=\x00\xff");
    let env = fs::read_to_string(folder.path().join("env")).unwrap();
    for line in [
        "WWPROXY_EVENT_TYPE=push",
        "WWPROXY_SOURCE=repo",
        "WWPROXY_VERIFICATION=github",
        "WWPROXY_DELIVERY_ID=72d3162e-cc78-11e3-81ab-4c9367dc0958",
        "WWPROXY_CONTENT_TYPE=application/x-www-form-urlencoded",
        "WWPROXY_TAIL=/t%20x",
        "WWPROXY_QUERY=q=%24(id)",
        "WWPROXY_HEADER_X_GITHUB_EVENT=push",
    ] {
        assert!(env.lines().any(|it| it == line), "{line}: {env}");
    }
}

/// What the command shows on a terminal, and whether it succeeded.
fn shown(mut command: Command) -> (String, bool) {
    let mut child = command.spawn().unwrap();
    let mut screen = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut screen).unwrap();
    (String::from_utf8(screen).unwrap(), child.wait().unwrap().success())
}

#[test]
fn a_terminal_shows_an_unverified_event_plainly_and_obeys_nothing_in_it() {
    let world = world();
    let evil = "a=1\u{1b}]0;owned\u{7}\r\n2026-01-01T00:00:00Z push 8 -->\u{9b}2J\u{202e}\n";
    for args in [&["listen", "-n1"][..], &["listen", "-n1", "--format", "json"], &["get"]] {
        post(&world, "any", &[("Content-Type", FORM)], evil.as_bytes());
        let (screen, success) = shown(terminal(&world, args));
        assert!(success, "{screen}");
        for unsafe_text in ["\u{1b}]", "\u{7}", "\u{9b}", "\u{202e}", "\n2026-01-01"] {
            assert!(!screen.contains(unsafe_text), "{args:?} {unsafe_text:?}: {screen:?}");
        }
        if args.len() == 2 {
            assert!(screen.contains("any, 54 B of application/x-www-form-urlencoded"), "{screen:?}");
            assert!(screen.contains("unverified") && screen.contains("\n  2026-01-01"), "{screen:?}");
        }
    }
    post_as_github(&world, "repo", "push", "application/json", b"{}");
    let (screen, _) = shown(terminal(&world, &["listen", "-n1"]));
    assert!(screen.contains("repo, 2 B of application/json") && !screen.contains("unverified"), "{screen:?}");

    post(&world, "any", &[], b"\x1b[2J");
    let (screen, success) = shown(terminal(&world, &["listen", "-n1", "--format", "raw"]));
    assert!(!success && screen.contains("it is a terminal") && !screen.contains("\u{1b}[2J"), "{screen:?}");
}
