//! The credentials file of the operator's apps, and their secrets on stdout.

use std::{fs, process::Output};

use crate::{
    admin::{operate, stderr},
    common::Home,
};

/// TOML has two notations for the same table; a file written by hand may have either.
#[test]
fn a_credentials_file_may_have_inline_tables() {
    const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    for file in [
        format!("# ours\napps = {{ bot = {{ secret-sha256 = \"{HASH}\" }} }}\n[other]\nx = 1 # keep\n"),
        format!("# ours\n[apps]\nbot = {{ secret-sha256 = \"{HASH}\" }}\n[other]\nx = 1 # keep\n"),
        format!("# ours\napps.bot.secret-sha256 = \"{HASH}\"\n[other]\nx = 1 # keep\n"),
        format!("# ours\napps.bot = {{ secret-sha256 = \"{HASH}\" }}\n[other]\nx = 1 # keep\n"),
    ] {
        let home = Home::new();
        fs::write(home.apps(), &file).unwrap();
        assert_eq!(operate(&home, &["list"]), "bot", "{file}");
        assert_eq!(operate(&home, &["add", "new"]).len(), 64, "{file}");
        assert_eq!(operate(&home, &["rotate", "bot"]).len(), 64, "{file}");
        operate(&home, &["disable", "new"]);
        assert_eq!(operate(&home, &["list"]), "bot\nnew\tdisabled", "{file}");
        operate(&home, &["enable", "new"]);
        let changed = fs::read_to_string(home.apps()).unwrap();
        assert!(changed.starts_with("# ours\n") && changed.contains("[other]\nx = 1 # keep"), "{changed}");
        assert!(changed.contains("created") && !changed.contains(HASH), "{changed}");
        operate(&home, &["remove", "bot", "--yes", "--store", "memory:"]);
        assert_eq!(operate(&home, &["list"]), "new", "{file}");
    }
}

/// The first steps of the README, in the shell.
#[test]
fn the_readme_tries_things_out_in_a_private_folder() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    assert!(!readme.contains("/tmp/"), "a fixed folder that others can create first");
    let mut blocks = readme.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let steps = blocks.find(|block| block.contains("mktemp")).unwrap();
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_wwproxy-server"));
    let temporary = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let steps = steps.replace("8080", &port);
    // The trap also ends the server if a step fails.
    let script = format!(
        "set -e; umask 022; trap 'kill $!; wait $! || true' EXIT; {steps}\nls -ld \"$TRYOUT\"; echo $SECRET"
    );
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script]);
    let path = std::env::join_paths(
        std::iter::once(program.parent().unwrap().to_owned())
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    shell.env("PATH", path.unwrap()).env("TMPDIR", temporary.path());
    shell.env("WWPROXY_LISTEN", format!("127.0.0.1:{port}"));
    let done = shell.output().unwrap();
    let said = String::from_utf8(done.stdout.clone()).unwrap();
    assert!(done.status.success() && said.contains("drwx------"), "{done:?}");
    let secret = said.lines().last().unwrap();
    assert!(secret.len() == 64, "{done:?}");
}

/// Runs `app …` in a shell, after this command and with this redirection.
#[cfg(target_os = "linux")]
fn operate_in_shell(home: &Home, before: &str, arguments: &[&str], redirection: &str) -> Output {
    let command = home.operate_command(arguments);
    let mut shell = std::process::Command::new("sh");
    shell.arg("-c").arg(format!("{before} exec \"$0\" \"$@\" {redirection}"));
    shell.arg(command.get_program()).args(command.get_args()).env_clear().output().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn credentials_are_changed_only_after_the_secret_is_printed() {
    let home = Home::new();
    home.add_app("bot");
    let before = fs::read_to_string(home.apps()).unwrap();
    for redirection in [">&-", ">/dev/null", ">/dev/full"] {
        for arguments in [["rotate", "bot"], ["add", "new"]] {
            let output = operate_in_shell(&home, "", &arguments, redirection);
            let messages = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{arguments:?} {redirection}: {messages}");
            assert!(messages.contains("nothing was changed"), "{messages}");
            assert_eq!(fs::read_to_string(home.apps()).unwrap(), before, "{arguments:?} {redirection}");
        }
    }
    // The credentials file cannot be written: files have a maximum of 0 bytes.
    for arguments in [["rotate", "bot"], ["add", "new"]] {
        let output = operate_in_shell(&home, "trap '' XFSZ; ulimit -f 0;", &arguments, "");
        let messages = stderr(&output);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 65), "{messages}");
        assert!(messages.contains("the secret on stdout is not in force"), "{messages}");
        assert_eq!(fs::read_to_string(home.apps()).unwrap(), before, "{arguments:?}");
    }
    let output = home.operate(&["rotate", "bot"]);
    assert!(output.status.success() && stderr(&output).contains("is in force"), "{output:?}");
    // No secret is printed that cannot be in force.
    for arguments in [["add", "bot"], ["rotate", "nosuch"]] {
        assert!(home.operate(&arguments).stdout.is_empty());
    }
}
