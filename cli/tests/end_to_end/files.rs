//! Files that the command line writes: their modes, and what they do not replace.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use serde_json::Value;

use crate::{target::Target, world::World};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

/// The exit code and the stderr of `listen`.
fn listen(world: &World, args: &[&str]) -> (Option<i32>, String) {
    let output = world.command(&["listen", "-n1"]).args(args).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_ready_file_is_private_and_replaces_only_an_earlier_ready_file() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let ready = folder.path().join("ready");
    let args = ["--ready-file", ready.to_str().unwrap()];
    // As an earlier run or `mktemp` leaves it.
    for before in [None, Some("ready\n"), Some("")] {
        if let Some(content) = before {
            fs::write(&ready, content).unwrap();
            fs::set_permissions(&ready, fs::Permissions::from_mode(0o666)).unwrap();
        }
        world.post("{}");
        let (code, messages) = listen(&world, &args);
        assert_eq!((code, fs::read_to_string(&ready).unwrap().as_str()), (Some(0), "ready\n"), "{messages}");
        assert_eq!(mode(&ready), 0o600);
    }

    let other = folder.path().join("other");
    for content in ["", "ready\n", "precious"] {
        fs::write(&other, content).unwrap();
        fs::remove_file(&ready).unwrap();
        symlink(&other, &ready).unwrap();
        let (code, messages) = listen(&world, &args);
        assert!(code == Some(2) && messages.contains("is not a ready file"), "{messages}");
        assert_eq!(fs::read_to_string(&other).unwrap(), content);
    }
    fs::remove_file(&ready).unwrap();
    fs::write(&ready, "precious").unwrap();
    assert_eq!(listen(&world, &args).0, Some(2));
    assert_eq!(fs::read_to_string(&ready).unwrap(), "precious");
}

#[test]
fn a_saved_event_is_private_and_replaces_no_other_file() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let (saved, other) = (folder.path().join("new/saved"), folder.path().join("other"));
    let args = ["--save", saved.to_str().unwrap()];
    world.post("{\"n\":1}");
    listen(&world, &args);
    let file = fs::read_dir(&saved).unwrap().next().unwrap().unwrap().path();
    assert_eq!((mode(&saved), mode(&file)), (0o700, 0o600));

    world.post("{\"n\":2}");
    let stored: BTreeMap<String, Value> = serde_json::from_str(&world.run(&["get", "--keep"])).unwrap();
    let id = stored.keys().next().unwrap();
    let file = saved.join(format!("{id}.json"));
    fs::write(&other, "precious").unwrap();
    let plant_link = || {
        symlink(&other, &file).unwrap();
        symlink(&other, saved.join(format!(".{id}.tmp"))).unwrap();
    };
    let plant_file = || fs::write(&file, "precious").unwrap();
    for plant in [&plant_link as &dyn Fn(), &plant_file] {
        plant();
        let (code, messages) = listen(&world, &args);
        assert!(code == Some(1) && messages.contains("not written by --save"), "{messages}");
        assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        assert_eq!(world.status()["stored"], 1, "it was not acknowledged");
        fs::remove_file(&file).unwrap();
    }
    // Another event with the same id, as of a server without a store that restarted, is not replaced.
    let earlier = format!("{{\"id\":\"{id}\",\"data\":{{\"n\":0}}}}\n");
    fs::write(&file, &earlier).unwrap();
    assert_eq!(listen(&world, &args).0, Some(0));
    assert_eq!(fs::read_to_string(&file).unwrap(), earlier);
    let second = saved.join(format!("{id}_2.json"));
    assert!(fs::read_to_string(&second).unwrap().contains("\"n\":2"));
}

#[test]
fn a_saved_copy_of_the_same_event_is_replaced() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let args = ["--save", folder.path().to_str().unwrap()];
    world.post("{\"n\":2}");
    let stored: BTreeMap<String, Value> = serde_json::from_str(&world.run(&["get", "--keep"])).unwrap();
    let id = stored.keys().next().unwrap();
    let file = folder.path().join(format!("{id}.json"));
    fs::write(&file, format!("{{\"id\":\"{id}\",\"data\":{{\"n\":2}}}}\n")).unwrap();
    assert_eq!(listen(&world, &args).0, Some(0));
    assert_eq!(mode(&file), 0o600);
    assert!(fs::read_to_string(&file).unwrap().contains("\"attempt\":"));
}

#[test]
fn a_folder_of_saved_events_is_replayed_in_their_order() {
    let (world, folder, target) = (World::new(), tempfile::tempdir().unwrap(), Target::new(&[]));
    let path = folder.path().to_str().unwrap();
    for n in 0..3 {
        world.post(&format!("{{\"n\":{n}}}"));
    }
    world.run(&["listen", "-n3", "--save", path]);
    fs::write(folder.path().join("notes.txt"), "no event").unwrap();
    fs::write(folder.path().join(".draft.json"), "no event").unwrap();
    world.run(&["replay", path, "--forward-to", &target.address]);
    for n in 0..3 {
        assert_eq!(target.next().body, format!("{{\"n\":{n}}}").as_bytes());
    }
    assert!(target.is_quiet());

    // A file that is no event is reported before any event is sent.
    fs::write(folder.path().join("zzz.json"), "{}").unwrap();
    let output = world.command(&["replay", path, "--forward-to", &target.address]).output().unwrap();
    let talk = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && talk.contains("zzz.json is not an event file"), "{talk}");
    assert!(output.stdout.is_empty() && target.is_quiet());

    let empty = tempfile::tempdir().unwrap();
    let args = ["replay", empty.path().to_str().unwrap(), "--forward-to", &target.address];
    let output = world.command(&args).output().unwrap();
    let messages = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && messages.contains("no saved events"), "{messages}");
}

#[test]
fn an_event_with_any_number_of_headers_and_a_long_type_is_forwarded() {
    let (world, folder, target) = (World::new(), tempfile::tempdir().unwrap(), Target::new(&[]));
    let file = folder.path().join("event.json");
    // `HeaderMap` panics from about 25,000 headers.
    let (headers, kind) = (r#"["x","1"],"#.repeat(40_000), "a".repeat(100_000));
    let event = format!(
        r#"{{"id":"1","attempt":1,"source":"any","verification":null,"headers":[{headers}["y","2"]],"data":{{"type":"{kind}"}}}}"#
    );
    fs::write(&file, event).unwrap();
    world.run(&["replay", file.to_str().unwrap(), "--forward-to", &target.address]);
    let request = target.next();
    assert_eq!(request.headers.iter().filter(|(name, _)| name == "x").count(), 1000);
    assert_eq!((request.header("wwproxy-source"), request.header("wwproxy-event-type")), (Some("any"), None));
    assert_eq!(request.body.len(), kind.len() + r#"{"type":""}"#.len());
}
