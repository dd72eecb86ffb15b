//! Opens a store, or a backup of one, for reading.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags};

use super::super::{
    Seq,
    error::OpenError,
    folder::{self, Folder},
    load,
};

/// A store that is read only. A server may be running on it.
#[derive(Debug)]
pub(super) struct ReadOnly {
    pub(super) db: Connection,
    pub(super) file: PathBuf,
    /// The folder of the store. A backup file has none.
    pub(super) folder: Option<PathBuf>,
    /// Keeps a server from starting.
    _lock: Option<File>,
    pub(super) server_runs: bool,
}

impl ReadOnly {
    /// Opens the store in a folder, or a backup file.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let folder = folder::of(path);
        let file = folder.as_ref().map_or_else(|| path.to_owned(), |folder| folder.join(folder::DATABASE));
        let io = |error| OpenError::Io(file.clone(), error);
        if folder.as_ref().is_some_and(|folder| folder::is_former(folder)) {
            return Err(OpenError::Former(path.to_owned()));
        }
        fs::metadata(&file).map_err(io)?;
        let (lock, server_runs) = match &folder {
            Some(folder) => lock(folder).map_err(io)?,
            None => (None, false),
        };
        // Without a WAL no other file is needed, and SQLite then creates none. A server creates one when it starts.
        let is_alone = !server_runs && fs::metadata(folder::wal_of(&file)).map_or(true, |wal| wal.len() == 0);
        let unreadable = |error| OpenError::Unreadable(file.clone(), error);
        let db = connect(&file, is_alone).map_err(unreadable)?;
        load::prepare(&db, &file, false)?;
        Ok(Self { db, file, folder, _lock: lock, server_runs })
    }

    /// The file, and the files beside it that belong to the store, with their sizes in bytes.
    pub(super) fn files(&self) -> BTreeMap<String, u64> {
        let size = |path: &Path| {
            let size = fs::metadata(path).ok()?.len();
            Some((path.file_name()?.to_string_lossy().into_owned(), size))
        };
        let others = self.folder.iter().flat_map(|folder| folder::OTHERS.map(|name| folder.join(name)));
        [self.file.clone(), folder::wal_of(&self.file)]
            .into_iter()
            .chain(others)
            .filter_map(|path| size(&path))
            .collect()
    }

    /// The high-water mark, if there is a readable one.
    pub(super) fn high_water(&self) -> Option<Seq> {
        Folder::read_high_water(self.folder.as_ref()?).ok()?
    }
}

/// Locks a folder against a server. Returns whether one runs.
fn lock(folder: &Path) -> io::Result<(Option<File>, bool)> {
    let lock = match File::open(folder.join(folder::LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((None, false)),
        opened => opened?,
    };
    match lock.try_lock() {
        Ok(()) => Ok((Some(lock), false)),
        Err(TryLockError::WouldBlock) => Ok((None, true)),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn connect(file: &Path, is_alone: bool) -> rusqlite::Result<Connection> {
    let mut uri = "file:".to_owned();
    for byte in file.as_os_str().as_encoded_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(byte) {
            uri.push(char::from(*byte));
        } else {
            // Writing to a text never fails.
            let _ = write!(uri, "%{byte:02x}");
        }
    }
    uri.push_str(if is_alone { "?immutable=1" } else { "?mode=ro" });
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(uri, flags)
}
