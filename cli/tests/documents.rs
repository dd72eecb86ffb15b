//! The commands, flags and files that the documents name exist.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const DOCUMENTS: [&str; 3] = ["README.md", "docs/cli.md", "docs/operating.md"];

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
    for name in DOCUMENTS {
        let document = fs::read_to_string(format!("{}/../{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
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
    assert!(checked > 40, "only {checked} flags were found");
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
