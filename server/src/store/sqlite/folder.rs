//! The store's folder: the database, the lock against a second server, the ballast and the high-water mark.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use twox_hash::xxhash3_64::Hasher;

use super::{Seq, error::OpenError};

/// The files of a store. SQLite adds `-wal` and `-shm` to the name of the database.
pub(super) const DATABASE: &str = "log.sqlite";
pub(super) const LOCK: &str = "lock";
const BALLAST: &str = "ballast";
pub(super) const HIGH_WATER: &str = "high-water";
/// The files beside the database and its WAL.
pub(super) const OTHERS: [&str; 2] = [BALLAST, HIGH_WATER];
/// The files of the former engine.
const FORMER: [&str; 2] = ["events.redb", "events.journal"];

/// Space on the disk that is given back when the disk is full, so that acknowledgements and checkpoints can be written.
const BALLAST_BYTES: usize = 8 << 20;
/// The ballast is written in pieces of this size.
const PIECE_BYTES: usize = 64 << 10;

/// Whether a folder holds a store of the former engine.
pub(super) fn is_former(folder: &Path) -> bool {
    FORMER.iter().any(|name| folder.join(name).exists())
}

/// The WAL of a database.
pub(super) fn wal_of(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push("-wal");
    path.into()
}

/// The folder of the store that this path names: the folder itself, or the database in it. Any other file is a backup.
pub(super) fn of(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        return Some(path.to_owned());
    }
    let folder = path.parent().filter(|_| path.ends_with(DATABASE))?;
    Some(folder.to_owned())
}

/// The folder of an open store. Dropping it releases the lock.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
    /// Removes the folder when it is dropped.
    temporary: Option<TempDir>,
}

impl Folder {
    /// Locks the folder and checks that it holds a whole store, or none. Returns whether the store is new, or its creation was cut off:
    /// the high-water mark is written last.
    pub(super) fn open(path: &Path) -> Result<(Self, bool), OpenError> {
        let io = |error| OpenError::Io(path.to_owned(), error);
        fs::create_dir_all(path).map_err(io)?;
        if is_former(path) {
            return Err(OpenError::Former(path.to_owned()));
        }
        let lock = File::create(path.join(LOCK)).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let folder = Self { path: path.to_owned(), _lock: lock, temporary: None };
        let (database, mark) = (folder.database().exists(), path.join(HIGH_WATER).exists());
        match (database, mark) {
            (true, true) => Ok((folder, false)),
            (false, false) if !wal_of(&folder.database()).exists() => {
                create_private(&folder.database()).map_err(io)?;
                Ok((folder, true))
            }
            (false, _) => Err(OpenError::Incomplete(path.to_owned(), DATABASE)),
            (true, false) => Ok((folder, true)),
        }
    }

    /// Creates a store in a folder that only this user can read, and that is removed with this value.
    pub(super) fn temporary() -> Result<(Self, bool), OpenError> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("wwproxy-");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let temporary = builder.tempdir().map_err(|error| OpenError::Io(std::env::temp_dir(), error))?;
        let (folder, is_new) = Self::open(temporary.path())?;
        Ok((Self { temporary: Some(temporary), ..folder }, is_new))
    }

    pub(super) fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the folder holds a store.
    pub(super) fn exists(path: &Path) -> io::Result<bool> {
        path.join(DATABASE).try_exists()
    }

    pub(super) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// Writes the ballast if it is not there. Fails if the disk has no room for it.
    pub(super) fn write_ballast(&self) -> io::Result<()> {
        let path = self.path.join(BALLAST);
        let length = u64::try_from(BALLAST_BYTES).expect("a constant of 8 MiB");
        if fs::metadata(&path).is_ok_and(|ballast| ballast.len() == length) {
            return Ok(());
        }
        let written = (|| {
            let mut file = File::create(&path)?;
            // Not a sparse file: its blocks must be allocated.
            let piece = vec![0xa5; PIECE_BYTES];
            for _ in 0..BALLAST_BYTES / PIECE_BYTES {
                file.write_all(&piece)?;
            }
            file.sync_all()
        })();
        if written.is_err() {
            // What was written of it may be the last room on the disk.
            let _ = fs::remove_file(&path);
        }
        written
    }

    /// Gives the ballast back to the disk.
    pub(super) fn release_ballast(&self) -> io::Result<()> {
        fs::remove_file(self.path.join(BALLAST))
    }

    /// Makes the high-water mark durable: without it a power cut would leave half a store.
    pub(super) fn end_creation(&self) -> io::Result<()> {
        File::open(self.path.join(HIGH_WATER))?.sync_all()?;
        File::open(&self.path)?.sync_all()
    }

    /// Records that the database had this seq committed. Not synced: an older mark misses less, but is never wrong.
    pub(super) fn write_high_water(&self, seq: Seq) -> io::Result<()> {
        let mark = format!("{seq} {:016x}\n", Hasher::oneshot(seq.to_string().as_bytes()));
        let mut file =
            OpenOptions::new().create(true).truncate(false).write(true).open(self.path.join(HIGH_WATER))?;
        file.write_all(mark.as_bytes())?;
        file.set_len(mark.len().try_into().unwrap_or(u64::MAX))
    }

    /// Reads the high-water mark. `None` if the file is damaged or empty, as after a power cut.
    pub(super) fn high_water(&self) -> io::Result<Option<Seq>> {
        Self::read_high_water(&self.path)
    }

    /// Reads the high-water mark in a folder.
    pub(super) fn read_high_water(folder: &Path) -> io::Result<Option<Seq>> {
        let text = String::from_utf8_lossy(&fs::read(folder.join(HIGH_WATER))?).into_owned();
        Ok(text.trim_end().split_once(' ').and_then(|(seq, checksum)| {
            let is_whole = format!("{:016x}", Hasher::oneshot(seq.as_bytes())) == checksum;
            seq.parse().ok().filter(|_| is_whole)
        }))
    }
}

/// Creates a file that only this user can read: it will contain secrets. SQLite gives its WAL the same mode.
pub(super) fn create_private(file: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.write(true).create_new(true).open(file)
}

/// The bytes on the disk of a file that an unprivileged user may fill.
#[cfg(unix)]
pub(super) fn free_bytes(file: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(file)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(not(unix))]
pub(super) fn free_bytes(_file: &Path) -> io::Result<u64> {
    Ok(u64::MAX)
}
