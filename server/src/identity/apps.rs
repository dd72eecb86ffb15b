//! The credentials file of the builtin identity: the apps and the hashes of their secrets.
//!
//! ```toml
//! [apps.my-bot]
//! secret-sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
//! created = 2026-01-31T12:00:00Z
//! disabled = true # or absent
//! ```
//!
//! Secrets are 32 random bytes that are generated here, so one round of SHA-256 is enough.

mod contents;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use parking_lot::Mutex;
use toml_edit::{DocumentMut, Item, Table, TableLike, TomlError, value};
use wwproxy_protocol::{AppId, Secret, hex};

pub use self::contents::ErrorLine;
use self::contents::{Entries, parse};
pub(super) use self::contents::{SecretHash, hash};
use super::private_file::{open_lock, write_durably};

type Parsed = Result<Arc<Entries>, ErrorLine>;

/// The apps of a credentials file, which is read again whenever it changes.
#[derive(Debug)]
pub struct Apps {
    path: PathBuf,
    cache: Mutex<Cache>,
}

/// The parsed file, while it does not change.
#[derive(Debug, Default)]
struct Cache {
    parsed: Option<(Option<Stamp>, Parsed)>,
    last_valid: Option<Arc<Entries>>,
}

/// The version of a file: it is read again if one of these differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    /// Changes when another file replaces it.
    inode: u64,
}

/// Why a command on the credentials file failed.
#[derive(Debug, thiserror::Error)]
pub enum AppsError {
    /// It cannot be read.
    #[error("the credentials file {0} cannot be read: check its permissions")]
    Read(PathBuf, #[source] io::Error),
    /// It cannot be written.
    #[error(
        "the credentials file {0} cannot be written: run this where it is writable, the server only reads it"
    )]
    Write(PathBuf, #[source] io::Error),
    /// Its lock cannot be used.
    #[error(
        "the lock of the credentials file, {0}, cannot be used: remove it, unless it is a regular file of the server's user"
    )]
    Lock(PathBuf, #[source] io::Error),
    /// It is not valid TOML. A quotation of it could show a secret that was written there by mistake.
    #[error(
        "the credentials file {0} is not valid{1}: each app is a table [apps.ID] with secret-sha256, 64 hex digits"
    )]
    Invalid(PathBuf, ErrorLine),
    /// The app exists already.
    #[error("the app {0} exists already: `wwproxy-server app rotate {0}` gives it a new secret")]
    Exists(AppId),
    /// The app does not exist.
    #[error("there is no app {0}: `wwproxy-server app list` shows those there are")]
    Missing(AppId),
    /// The new secret could not be delivered to the operator.
    #[error(
        "the secret cannot be written to stdout, so nothing was changed: run this again with an open stdout"
    )]
    Deliver(#[source] io::Error),
    /// The system's random number generator failed.
    #[error("the system's random number generator failed: no secret was made")]
    Random(#[source] io::Error),
}

impl Apps {
    /// The apps of the file at `path`. A missing file has no apps.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), cache: Mutex::default() }
    }

    /// The path of the file, which may not exist.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the hash of the app's secret. A disabled app has none.
    pub(super) fn secret_hash(&self, app: &AppId) -> Result<Option<SecretHash>, AppsError> {
        let entries = self.entries()?;
        let entry = entries.get(app).filter(|entry| !entry.disabled);
        Ok(entry.map(|entry| entry.secret_sha256.0))
    }

    /// Whether the app has no valid credentials: it is disabled, or it is not in the file. While the file cannot be read,
    /// its last valid version is used; without one, every app is suspended.
    pub(super) fn is_suspended(&self, app: &AppId) -> bool {
        let entries = self.entries().ok().or_else(|| self.cache.lock().last_valid.clone());
        let entry = entries.as_ref().and_then(|entries| entries.get(app));
        entry.is_none_or(|entry| entry.disabled)
    }

    /// The apps of the file in order, and whether each is disabled.
    pub fn states(&self) -> Result<Vec<(AppId, bool)>, AppsError> {
        Ok(self.entries()?.iter().map(|(app, entry)| (app.clone(), entry.disabled)).collect())
    }

    /// The ids of all apps.
    pub fn list(&self) -> Result<Vec<AppId>, AppsError> {
        Ok(self.entries()?.keys().cloned().collect())
    }

    /// Adds an app and returns its secret, which is stored nowhere else.
    pub fn add(&self, app: &AppId) -> Result<Secret, AppsError> {
        let mut added = None;
        self.add_with(app, |secret| {
            added = Some(secret.clone());
            Ok(())
        })?;
        Ok(added.expect("a successful change has delivered the secret"))
    }

    /// Adds an app. `deliver` gets its secret before the file is changed: if that fails, nothing is changed.
    pub fn add_with(
        &self,
        app: &AppId,
        deliver: impl FnOnce(&Secret) -> io::Result<()>,
    ) -> Result<(), AppsError> {
        let secret = new_secret()?;
        self.change(|apps| {
            if apps.contains_key(app.as_str()) {
                return Err(AppsError::Exists(app.clone()));
            }
            deliver(&secret).map_err(AppsError::Deliver)?;
            let mut entry = Table::new();
            entry["secret-sha256"] = value(hex(&hash(secret.expose())));
            let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
            let created: toml_edit::Datetime = now.parse().expect("TOML's dates are those of RFC 3339");
            entry["created"] = value(created);
            apps.insert(app.as_str(), Item::Table(entry));
            Ok(())
        })
    }

    /// Replaces an app's secret: the old one and its tokens are refused from now on. `deliver` gets the new secret before the file is
    /// changed: if that fails, nothing is changed.
    pub fn rotate(
        &self,
        app: &AppId,
        deliver: impl FnOnce(&Secret) -> io::Result<()>,
    ) -> Result<(), AppsError> {
        let secret = new_secret()?;
        self.change_entry(app, |entry| {
            deliver(&secret).map_err(AppsError::Deliver)?;
            // In place: inserting would drop a comment before the key.
            *entry.entry("secret-sha256").or_insert(Item::None) = value(hex(&hash(secret.expose())));
            Ok(())
        })
    }

    /// Disables an app, so that its secret and tokens are refused, or enables it again. Returns whether this changed it.
    pub fn set_disabled(&self, app: &AppId, disabled: bool) -> Result<bool, AppsError> {
        let mut was_disabled = false;
        self.change_entry(app, |entry| {
            was_disabled = entry.get("disabled").and_then(Item::as_bool).unwrap_or(false);
            if disabled {
                entry.insert("disabled", value(true));
            } else {
                entry.remove("disabled");
            }
            Ok(())
        })?;
        Ok(was_disabled != disabled)
    }

    /// Removes an app; its tokens are refused from now on.
    pub fn remove(&self, app: &AppId) -> Result<(), AppsError> {
        self.change(|apps| match apps.remove(app.as_str()) {
            Some(_) => Ok(()),
            None => Err(AppsError::Missing(app.clone())),
        })
    }

    fn entries(&self) -> Result<Arc<Entries>, AppsError> {
        let stamp = match fs::metadata(&self.path) {
            Ok(metadata) => Some(Stamp::of(&metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(AppsError::Read(self.path.clone(), error)),
        };
        let mut cache = self.cache.lock();
        let cached =
            cache.parsed.as_ref().filter(|(version, _)| *version == stamp).map(|(_, parsed)| parsed.clone());
        let parsed = if let Some(parsed) = cached {
            parsed
        } else {
            let parsed = parse(&self.text()?).map(Arc::new);
            if let Ok(entries) = &parsed {
                cache.last_valid = Some(Arc::clone(entries));
            }
            let is_reload = cache.parsed.replace((stamp, parsed.clone())).is_some();
            drop(cache);
            if let (true, Ok(entries)) = (is_reload, &parsed) {
                let disabled = entries.values().filter(|entry| entry.disabled).count();
                let (file, apps) = (self.path.display(), entries.len());
                tracing::info!(%file, apps, disabled, "the credentials file has changed and was read again");
            }
            parsed
        };
        parsed.map_err(|line| AppsError::Invalid(self.path.clone(), line))
    }

    fn text(&self) -> Result<String, AppsError> {
        match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            read => read.map_err(|error| AppsError::Read(self.path.clone(), error)),
        }
    }

    fn change_entry(
        &self,
        app: &AppId,
        change: impl FnOnce(&mut dyn TableLike) -> Result<(), AppsError>,
    ) -> Result<(), AppsError> {
        self.change(|apps| {
            let entry = apps.get_mut(app.as_str()).ok_or_else(|| AppsError::Missing(app.clone()))?;
            change(entry.as_table_like_mut().expect("`entries` found a table"))
        })
    }

    /// Changes the table of apps and keeps the rest of the file. The change is atomic, and concurrent changes are serialised
    /// by a lock file.
    fn change(
        &self,
        change: impl FnOnce(&mut dyn TableLike) -> Result<(), AppsError>,
    ) -> Result<(), AppsError> {
        self.entries()?;
        let failed = |error| AppsError::Write(self.path.clone(), error);
        // Write through a symbolic link instead of replacing it.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let lock_path = path.with_extension("lock");
        let unusable = |error| AppsError::Lock(lock_path.clone(), error);
        let lock = open_lock(&lock_path).map_err(unusable)?;
        lock.lock().map_err(unusable)?;
        let text = self.text()?;
        let invalid =
            |error: TomlError| AppsError::Invalid(self.path.clone(), ErrorLine::at(&text, error.span()));
        let mut document: DocumentMut = text.parse().map_err(invalid)?;
        let apps = document.entry("apps").or_insert_with(|| {
            let mut apps = Table::new();
            apps.set_implicit(true);
            Item::Table(apps)
        });
        // A file written by hand may have an inline table: apps = { … }.
        change(apps.as_table_like_mut().expect("`entries` found a table or nothing"))?;
        write_durably(&path, document.to_string().as_bytes()).map_err(failed)
    }
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Self { modified: metadata.modified().ok(), length: metadata.len(), inode }
    }
}

fn new_secret() -> Result<Secret, AppsError> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| AppsError::Random(error.into()))?;
    Ok(Secret::new(hex(&random)))
}

#[cfg(test)]
mod tests;
