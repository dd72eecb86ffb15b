//! A temporary folder for a server's credentials file and store.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use tempfile::TempDir;

pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn apps(&self) -> PathBuf {
        self.0.path().join("apps.toml")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.0.path().join("store")
    }

    /// The server's command line, with an empty environment.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wwproxy-server"));
        command.env_clear().arg("--apps").arg(self.apps());
        command
    }

    /// Runs `wwproxy-server app …`.
    pub(crate) fn app_command(&self, arguments: &[&str]) -> Output {
        self.command().arg("app").args(arguments).output().unwrap()
    }

    /// Adds an app, and returns its secret.
    pub(crate) fn add_app(&self, id: &str) -> String {
        let added = self.app_command(&["add", id]);
        assert!(added.status.success(), "{added:?}");
        String::from_utf8(added.stdout).unwrap().trim().to_owned()
    }

    /// Runs `wwproxy-server app …` on the store in this folder.
    pub(crate) fn operate(&self, arguments: &[&str]) -> Output {
        self.operate_command(arguments).output().unwrap()
    }

    /// The command line of [`Home::operate`].
    pub(crate) fn operate_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command();
        command.arg("--store").arg(format!("file:{}", self.store().display())).arg("app").args(arguments);
        command
    }

    /// Removes an app from the credentials file.
    pub(crate) fn remove_app(&self, id: &str) {
        let removed = self.app_command(&["remove", id, "--yes", "--store", "memory:"]);
        assert!(removed.status.success(), "{removed:?}");
    }
}
