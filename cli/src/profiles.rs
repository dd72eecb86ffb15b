//! Profiles: servers, apps and credentials in a TOML file with mode 0600.

use std::{
    env,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use directories::ProjectDirs;
use toml_edit::{DocumentMut, InlineTable, Item, Table, TableLike, Value, value};

use crate::{
    error::UsageError,
    output::print_message,
    private::{draft, make_folder, open_lock},
};

/// The folder of the file, instead of the user's configuration folder.
const FOLDER_VARIABLE: &str = "WWPROXY_CONFIG_DIR";
const FILE_NAME: &str = "profiles.toml";
/// The longest name of a profile, in characters.
const MAX_NAME_CHARS: usize = 64;

/// The values of a profile. No `Debug`: it contains secrets.
#[derive(Clone, Default)]
pub(crate) struct Profile {
    pub(crate) server: Option<String>,
    pub(crate) app_id: Option<String>,
    pub(crate) secret: Option<String>,
    pub(crate) token: Option<String>,
    /// The token endpoint that was used when the profile was saved.
    pub(crate) token_endpoint: Option<String>,
    /// Whether `http://` to another machine is allowed.
    pub(crate) allow_http: bool,
    pub(crate) ca_cert: Option<PathBuf>,
}

/// The parsed file. Unchanged parts are written back byte for byte.
pub(crate) struct Profiles {
    path: PathBuf,
    document: DocumentMut,
    /// Whether lines end with CRLF, which the document does not keep.
    crlf: bool,
    /// Held until the file is written, so that concurrent changes are serialized.
    _lock: Option<File>,
}

/// Parses the name of a profile: `A-Za-z0-9._-`.
pub(crate) fn parse_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.is_empty() || text.len() > MAX_NAME_CHARS || !text.chars().all(fits) {
        return Err(format!("a profile name has 1 to {MAX_NAME_CHARS} characters of A-Z a-z 0-9 . _ -"));
    }
    Ok(text.to_owned())
}

impl Profiles {
    /// Reads the file. A missing file is read as empty.
    pub(crate) fn read() -> anyhow::Result<Self> {
        Self::at(path()?, None)
    }

    /// Locks the file against other processes and reads it, to change it.
    pub(crate) fn edit() -> anyhow::Result<Self> {
        let path = path()?;
        let folder = path.parent().unwrap_or(Path::new("."));
        make_folder(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let lock_path = path.with_extension("lock");
        let lock = open_lock(&lock_path).and_then(|lock| lock.lock().map(|()| lock));
        let lock = lock.with_context(|| {
            let hint =
                if lock_path.is_symlink() { "; it must not be a symbolic link, remove it" } else { "" };
            format!("cannot lock {}{hint}", lock_path.display())
        })?;
        Self::at(path, Some(lock))
    }

    fn at(path: PathBuf, lock: Option<File>) -> anyhow::Result<Self> {
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
            // Not the library's message: it quotes the line, which may contain a secret.
            let line =
                error.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
            UsageError(format!("{} is not valid TOML at line {line}; fix it or remove it", path.display()))
        })?;
        if !text.is_empty() && is_open_to_others(&path) {
            print_message(&format!(
                "warning: others can read the secrets in {0}; run: chmod 600 {0}",
                path.display()
            ));
        }
        Ok(Self { path, document, crlf: text.contains("\r\n"), _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the default profile.
    pub(crate) fn default(&self) -> Option<&str> {
        self.document.get("default")?.as_str()
    }

    /// All profiles with their names, in file order.
    pub(crate) fn all(&self) -> anyhow::Result<Vec<(&str, Profile)>> {
        self.items().map(|(name, item)| Ok((name, self.profile(name, item)?))).collect()
    }

    fn items(&self) -> impl Iterator<Item = (&str, &Item)> {
        let tables = self.document.get("profiles").and_then(Item::as_table_like);
        tables.into_iter().flat_map(TableLike::iter)
    }

    /// The named profile, otherwise the default one. Without a default profile all values are empty.
    pub(crate) fn get(&self, name: Option<&str>) -> anyhow::Result<Profile> {
        let Some(wanted) = name.or(self.default()) else { return Ok(Profile::default()) };
        let found = self.items().find(|(name, _)| *name == wanted);
        let (name, item) = found.ok_or_else(|| self.unknown(wanted))?;
        self.profile(name, item)
    }

    fn profile(&self, name: &str, item: &Item) -> anyhow::Result<Profile> {
        let text = |key: &str| match item.get(key) {
            None => Ok(None),
            Some(item) => {
                let text = item
                    .as_str()
                    .ok_or_else(|| self.wrong(&format!("{key} of profile {name} is not a string")))?;
                Ok::<_, UsageError>(Some(text.to_owned()).filter(|text| !text.is_empty()))
            }
        };
        if !item.is_table_like() {
            return Err(self.wrong(&format!("profile {name} is not a table")).into());
        }
        Ok(Profile {
            server: text("server")?,
            app_id: text("app_id")?,
            secret: text("secret")?,
            token: text("token")?,
            token_endpoint: text("token_endpoint")?,
            allow_http: match item.get("allow_http") {
                None => false,
                Some(item) => item.as_bool().ok_or_else(|| {
                    self.wrong(&format!("allow_http of profile {name} is not true or false"))
                })?,
            },
            ca_cert: text("ca_cert")?.map(PathBuf::from),
        })
    }

    fn wrong(&self, what: &str) -> UsageError {
        UsageError(format!("{what} in {}; fix it or remove it", self.path.display()))
    }

    fn unknown(&self, name: &str) -> UsageError {
        let names: Vec<_> = self.items().map(|(name, _)| name).collect();
        let there = if names.is_empty() {
            "there are no profiles".into()
        } else {
            format!("there is {}", names.join(", "))
        };
        UsageError(format!(
            "there is no profile {name} in {}; {there}; create it with wwproxy login",
            self.path.display()
        ))
    }

    /// Adds or replaces a profile. The first profile becomes the default.
    pub(crate) fn set(&mut self, name: &str, profile: &Profile) -> anyhow::Result<()> {
        let no_table = self.wrong("profiles is not a table");
        let profiles = self.document.entry("profiles").or_insert_with(|| {
            let mut table = Table::new();
            table.set_implicit(true);
            Item::Table(table)
        });
        let new = if profiles.is_value() { value(InlineTable::new()) } else { Item::Table(Table::new()) };
        let Some(profiles) = profiles.as_table_like_mut() else { return Err(no_table.into()) };
        let Some(table) = profiles.entry(name).or_insert(new).as_table_like_mut() else {
            return Err(no_table.into());
        };
        let ca_cert = profile.ca_cert.as_ref().map(|path| path.to_string_lossy().into_owned());
        let Profile { server, app_id, secret, token, token_endpoint, .. } = profile.clone();
        for (key, text) in [
            ("server", server),
            ("app_id", app_id),
            ("secret", secret),
            ("token", token),
            ("token_endpoint", token_endpoint),
            ("ca_cert", ca_cert),
        ] {
            match text {
                Some(text) => put(table, key, &text),
                None => drop(table.remove(key)),
            }
        }
        match (profile.allow_http, table.get("allow_http").and_then(Item::as_bool)) {
            (true, Some(true)) => {}
            (true, _) => drop(table.insert("allow_http", value(true))),
            (false, _) => drop(table.remove("allow_http")),
        }
        if self.document.get("default").is_none() {
            put(self.document.as_table_mut(), "default", name);
        }
        Ok(())
    }

    /// Removes a profile.
    pub(crate) fn remove(&mut self, name: &str) -> anyhow::Result<()> {
        let tables = self.document.get_mut("profiles").and_then(Item::as_table_like_mut);
        if tables.and_then(|tables| tables.remove(name)).is_none() {
            return Err(self.unknown(name).into());
        }
        if self.default() == Some(name) {
            self.document.remove("default");
        }
        Ok(())
    }

    /// Makes a profile the default.
    pub(crate) fn set_default(&mut self, name: &str) -> anyhow::Result<()> {
        self.get(Some(name))?;
        put(self.document.as_table_mut(), "default", name);
        Ok(())
    }

    /// Writes the file atomically, with mode 0600.
    pub(crate) fn write(self) -> anyhow::Result<()> {
        let mut text = self.document.to_string();
        if self.crlf {
            text = text.replace("\r\n", "\n").replace('\n', "\r\n");
        }
        let target = follow_link(self.path)?;
        let write = || {
            let mut draft = draft(target.parent().unwrap_or(Path::new(".")))?;
            draft.write_all(text.as_bytes())?;
            draft.as_file().sync_all()?;
            draft.persist(&target)?;
            Ok::<_, io::Error>(())
        };
        write().with_context(|| format!("cannot write {}", target.display()))
    }
}

/// Sets the string of a key. Comments and spaces around an existing value are kept, and an equal value is not touched.
fn put(table: &mut dyn TableLike, key: &str, text: &str) {
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) if old.as_str() == Some(text) => {}
        Some(old) => {
            let decor = old.decor().clone();
            *old = Value::from(text);
            *old.decor_mut() = decor;
        }
        None => drop(table.insert(key, value(text))),
    }
}

/// The target of a symbolic link: users may keep the file elsewhere. The link is kept, even if its target does not exist.
fn follow_link(path: PathBuf) -> anyhow::Result<PathBuf> {
    match fs::canonicalize(&path) {
        Ok(target) => Ok(target),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_link(&path) {
            Ok(link) => follow_link(path.parent().unwrap_or(Path::new(".")).join(link)),
            Err(_) => Ok(path),
        },
        Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
    }
}

fn path() -> anyhow::Result<PathBuf> {
    if let Some(folder) = env::var_os(FOLDER_VARIABLE).filter(|folder| !folder.is_empty()) {
        return Ok(PathBuf::from(folder).join(FILE_NAME));
    }
    let folders = ProjectDirs::from("", "", "wwproxy").ok_or_else(|| {
        UsageError(format!("there is no home folder for the profiles; set {FOLDER_VARIABLE}"))
    })?;
    Ok(folders.config_dir().join(FILE_NAME))
}

#[cfg(unix)]
fn is_open_to_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_open_to_others(_: &Path) -> bool {
    false
}
