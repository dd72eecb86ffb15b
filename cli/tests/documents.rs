//! The commands, flags and files that the documents name exist, and the table of senders agrees with the presets.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// The documents with shell examples: files, and folders of them.
const DOCUMENTS: [&str; 5] =
    ["README.md", "docs/cli.md", "docs/operating.md", "docs/senders", "docs/templates.md"];

/// The files of a document: itself, or all in this folder.
fn documents(name: &str) -> Vec<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    if path.is_file() {
        return vec![path];
    }
    fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// The help of a command.
fn help(command: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_wwproxy")).args([command, "--help"]).output().unwrap();
    assert!(output.status.success(), "there is no command {command}");
    String::from_utf8(output.stdout).unwrap()
}

/// The command lines of the shell examples, without what is piped into them.
fn command_lines(document: &str) -> impl Iterator<Item = &str> {
    let blocks = document.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.flat_map(str::lines).filter_map(|line| {
        let line = line.rsplit(" | ").next().unwrap();
        line.strip_prefix("wwproxy ")
    })
}

#[test]
fn the_commands_in_the_documents_have_the_flags_that_they_use() {
    let mut helps = HashMap::new();
    let mut checked = 0;
    for path in DOCUMENTS.iter().flat_map(|name| documents(name)) {
        let (document, name) = (fs::read_to_string(&path).unwrap(), path.display());
        for line in command_lines(&document) {
            let mut words = line.split_whitespace();
            let command = words.next().unwrap();
            let help = helps.entry(command.to_owned()).or_insert_with(|| help(command));
            for flag in words.filter(|word| word.starts_with("--")) {
                let known = help.split_whitespace().any(|word| word.trim_end_matches(',') == flag);
                assert!(known, "{name}: `wwproxy {line}`: {flag} is not in the help of {command}");
                checked += 1;
            }
        }
    }
    assert!(checked > 140, "only {checked} flags were found");
}

#[test]
fn examples_of_the_help_are_not_wrapped() {
    let all = Command::new(env!("CARGO_BIN_EXE_wwproxy")).arg("--help").output().unwrap();
    let all = String::from_utf8(all.stdout).unwrap();
    let lines =
        all.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A long description goes on in a line that is indented further.
    let commands = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let mut examples = 0;
    for command in commands.filter(|name| !name.is_empty() && *name != "help") {
        let help = help(command);
        for line in help.lines().skip_while(|line| !line.starts_with("Example")).skip(1) {
            assert!(line.starts_with("  ") && line.len() <= 80, "{command}: {line}");
            examples += 1;
        }
    }
    assert!(examples > 40, "only {examples} lines were found");
}

/// All files of the repository, with paths from its root, without those that are built.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        // Cargo marks its folders.
        let is_built = entry.path().join("CACHEDIR.TAG").exists();
        if entry.file_type().unwrap().is_dir() && !is_built && entry.file_name() != ".git" {
            files(&entry.path(), found);
        }
        found.push(entry.path().canonicalize().unwrap_or_else(|_| entry.path()));
    }
}

#[test]
fn no_document_has_merge_conflict_markers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = Vec::new();
    files(root, &mut found);
    found.retain(|path| path.extension() == Some("md".as_ref()));
    assert!(found.len() > 20, "only {} documents were found", found.len());
    for path in found {
        let document = fs::read_to_string(&path).unwrap();
        let marker = document.lines().find(|line| {
            let is_marker = |marker| line.strip_prefix(marker).is_some_and(|rest| rest.starts_with(' '));
            *line == "=======" || ["<<<<<<<", "|||||||", ">>>>>>>"].into_iter().any(is_marker)
        });
        assert_eq!(marker, None, "{}", path.display());
    }
}

#[test]
fn the_files_that_the_documents_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().canonicalize().unwrap();
    let mut found = Vec::new();
    files(&root, &mut found);
    let documents = found.iter().filter(|path| path.extension() == Some("md".as_ref()));
    for path in documents.filter(|path| !path.starts_with(root.join("fixtures"))) {
        let document = fs::read_to_string(path).unwrap();
        // The ends of links, `](docs/cli.md)`.
        for link in document.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let file = link.split('#').next().unwrap();
            let target = path.parent().unwrap().join(file);
            assert!(link.contains("://") || target.exists(), "{}: no file {link}", path.display());
        }
    }
    let architecture = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    for name in architecture.split('`').skip(1).step_by(2).map(Path::new) {
        let exists = found.iter().any(|path| path.ends_with(name));
        assert!(
            exists || name.extension() != Some("rs".as_ref()),
            "ARCHITECTURE.md: no file {}",
            name.display()
        );
    }
}

#[test]
fn the_tests_that_the_guarantees_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = Vec::new();
    files(&root.join("server/tests"), &mut found);
    found.retain(|path| path.extension() == Some("rs".as_ref()));
    let code: String = found.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let document = fs::read_to_string(root.join("docs/guarantees.md")).unwrap();
    let quoted = document.split('`').skip(1).step_by(2);
    let (files, others): (Vec<_>, Vec<_>) =
        quoted.partition(|name| Path::new(name).extension() == Some("rs".as_ref()));
    let tests: Vec<_> = others.into_iter().filter(|name| name.contains('_')).collect();
    assert!(files.len() > 20 && tests.len() > 20, "{files:?} {tests:?}");
    for file in files {
        assert!(found.iter().any(|path| path.ends_with(file)) || root.join(file).exists(), "no file {file}");
    }
    for test in tests {
        assert!(code.contains(&format!("fn {test}(")), "no test {test}");
    }
}

/// Where a value is in a request, as the table of senders writes it: `header:NAME`, `json:a.0`, or two joined by a dot.
fn place(source: &str) -> String {
    let joint = [".json:", ".header:"].iter().filter_map(|joint| source.find(joint)).min();
    if let Some(joint) = joint {
        return format!("{} + {}", place(&source[..joint]), place(&source[joint + 1..]));
    }
    let Some(path) = source.strip_prefix("json:") else {
        return format!("`{}`", source.strip_prefix("header:").unwrap());
    };
    let segment = |name: &str| match name.parse::<usize>() {
        Ok(index) => format!("[{index}]"),
        Err(_) => format!(".{name}"),
    };
    let path: String = path.split('.').map(segment).collect();
    format!("`{}{path}`", if path.starts_with('.') { "" } else { "." })
}

/// Where the delivery id is, and whether the signature covers it.
fn delivery_id(template: &Value) -> Option<String> {
    let id = template["id"].as_str()?;
    let content = template["content"].as_str().unwrap_or_default();
    let is_signed = content.contains("{id}") || (id.starts_with("json:") && content.contains("{body}"));
    Some(place(id) + if is_signed { " (signed)" } else { "" })
}

fn algorithm(template: &Value) -> Option<String> {
    let name = match template["algorithm"].as_str()? {
        "hmac-sha1" => "HMAC-SHA1",
        "hmac-sha256" => "HMAC-SHA256",
        "ed25519" => "Ed25519",
        "ecdsa-p256-sha256" => "ECDSA P-256",
        name => name,
    };
    Some(name.to_owned())
}

fn tolerance(template: &Value) -> Option<String> {
    template["timestamp"].as_str()?;
    Some(
        template["tolerance"]
            .as_u64()
            .map_or("signed, no limit".to_owned(), |seconds| format!("{seconds} s")),
    )
}

/// The cells of a preset's row, from `covers` to `answer`. A cell has the different values of its templates.
fn cells(preset: &Value) -> [String; 6] {
    let cell = |value: &dyn Fn(&Value) -> Option<String>| {
        let mut values = Vec::new();
        for value in preset["templates"].as_array().unwrap().iter().filter_map(value) {
            if !values.contains(&value) {
                values.push(value);
            }
        }
        if values.is_empty() { "–".to_owned() } else { values.join(", ") }
    };
    let event = |template: &Value| template["event"].as_str().map(place);
    let covers = |template: &Value| template["covers"].as_str().map(str::to_owned);
    let success = preset["success"].to_string();
    [cell(&covers), cell(&algorithm), cell(&tolerance), cell(&delivery_id), cell(&event), success]
}

#[test]
fn the_table_of_senders_agrees_with_the_presets() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let document = fs::read_to_string(root.join("docs/senders/README.md")).unwrap();
    let rows: Vec<Vec<_>> = document
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.split(" | ").collect())
        .collect();
    let presets = fs::read_to_string(root.join("sdk/protocol/src/scheme/presets.json")).unwrap();
    let presets: Vec<Value> = serde_json::from_str(&presets).unwrap();
    assert!(presets.len() >= 39);
    let challenges = fs::read_to_string(root.join("sdk/protocol/src/scheme/challenges.json")).unwrap();
    let challenges: Vec<Value> = serde_json::from_str(&challenges).unwrap();
    for preset in &presets {
        let name = format!("`{}`", preset["name"].as_str().unwrap());
        let row =
            rows.iter().find(|row| row[0].contains(&name)).unwrap_or_else(|| panic!("no row of {name}"));
        match &preset["templates"] {
            // Twilio and msgraph are verified by code.
            Value::Null => assert_eq!(row[6], preset["success"].to_string(), "{name}"),
            _ => assert_eq!(row[1..7], cells(preset), "{name}"),
        }
        // Watson Work's challenge is answered by code.
        let has_challenge = preset["name"] == "watsonwork"
            || challenges.iter().any(|challenge| challenge["scheme"] == preset["name"]);
        assert_eq!(row.len(), 10, "{name}");
        assert_eq!(row[9] != "– |", has_challenge, "{name}: {}", row[9]);
    }
}
