//! The page about templates: its examples work, and it has every field and placeholder.

use std::{fs, path::Path, process::Command};

use wwproxy_sdk::scheme::Scheme;

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/templates.md");
    fs::read_to_string(path).unwrap()
}

/// The files in the examples: name and text.
fn files(document: &str) -> Vec<(&str, &str)> {
    let blocks = document.split("```json ").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.map(|block| block.split_once('\n').unwrap()).collect()
}

/// Runs a command line of the page in a folder, with its output to a file. Returns the exit code.
fn run(line: &str, folder: &Path) -> Option<i32> {
    let (line, output) = line.split_once(" > ").unwrap_or((line, "output.txt"));
    let mut words = line.split_whitespace();
    assert_eq!(words.next(), Some("wwproxy"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_wwproxy"));
    let command = command.args(words).env_clear().current_dir(folder);
    let output = fs::File::create(folder.join(output)).unwrap();
    command.stdout(output).output().unwrap().status.code()
}

#[test]
fn the_examples_sign_and_verify() {
    let document = document();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    let files = files(&document);
    for (name, text) in &files {
        write(name, text);
    }
    write("secret.txt", "hush\n");
    let body = files.iter().find(|(name, _)| *name == "body.json").unwrap().1;
    let of = |command: &'static str| document.lines().filter(move |line| line.starts_with(command));
    let pairs: Vec<_> = of("wwproxy sign").zip(of("wwproxy verify")).collect();
    for (sign, verify) in &pairs {
        assert_eq!(run(sign, folder), Some(0), "{sign}");
        assert_eq!(run(verify, folder), Some(0), "{verify}");
        write("body.json", &body.replace('7', "8"));
        assert_eq!(run(verify, folder), Some(1), "{verify}, with another body");
        write("body.json", body);
    }
    let templates = files.iter().filter(|(name, _)| *name != "body.json");
    let is_tried = |name: &str| pairs.iter().any(|(sign, _)| sign.contains(name));
    assert!(templates.clone().all(|(name, _)| is_tried(name)));
    assert!(pairs.len() == 3 && templates.count() == 3);
}

#[test]
fn the_page_has_every_field_and_placeholder() {
    let document = document();
    let known = |template: &str| {
        let reason = Scheme::template(template).unwrap_err().reason;
        reason.rsplit_once(": ").unwrap().1.split(", ").map(str::to_owned).collect::<Vec<_>>()
    };
    let fields = known(r#"{"algorithm":"token","signature":"header:X","x":"y"}"#);
    for field in &fields {
        assert!(document.contains(&format!("\n| `{field}` |")), "{field}");
    }
    let unknown = r#"{"algorithm":"hmac-sha256","signature":"header:X","encoding":"hex","content":"{x}"}"#;
    let placeholders = known(unknown);
    for placeholder in &placeholders {
        assert!(document.contains(&format!("`{placeholder}`")), "{placeholder}");
    }
    assert_eq!((fields.len(), placeholders.len()), (13, 8));
}

#[test]
fn a_list_in_which_a_webhook_could_be_sent_as_another_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    write(
        "list.json",
        r#"[{"algorithm": "hmac-sha256", "signature": "header:X-Sig", "encoding": "hex", "content": "{timestamp}.{body}", "timestamp": "header:X-Time"},
            {"algorithm": "hmac-sha256", "signature": "header:X-Sig", "encoding": "hex", "content": "{body}"}]"#,
    );
    write("secret.txt", "hush\n");
    write("body.json", "{}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_wwproxy"));
    let line = "sign --template list.json --webhook-secret-file secret.txt body.json";
    let output = command.args(line.split(' ')).env_clear().current_dir(folder).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{stderr}");
    assert!(stderr.contains("\"1.content\" must sign the same as 0.content"), "{stderr}");
}

#[test]
fn zendesk_signs_bodies_of_any_kind() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("secret.txt"), "hush\n").unwrap();
    for body in ["<ticket><id>35436</id></ticket>", "ticket=35436", "35436"] {
        fs::write(folder.join("body"), body).unwrap();
        let sign = "wwproxy sign --scheme zendesk --webhook-secret-file secret.txt body > headers.txt";
        assert_eq!(run(sign, folder), Some(0), "{body}");
        let verify = "wwproxy verify --scheme zendesk --webhook-secret-file secret.txt -H @headers.txt body";
        assert_eq!(run(verify, folder), Some(0), "{body}");
    }
}
