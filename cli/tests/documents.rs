//! The commands in the documents have the flags that they use.

use std::{collections::HashMap, fs, process::Command};

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
