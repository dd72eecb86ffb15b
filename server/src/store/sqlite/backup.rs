//! Backup: a copy of the database, made while the store is in use.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{
    folder::{create_private, free_bytes},
    schema::{OTHER_CACHE_KIB, connect},
};

/// Why a backup failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum BackupError {
    #[error("cannot write the backup {}", .0.display())]
    Io(PathBuf, #[source] io::Error),
    #[error("the disk of the backup has {free} bytes free, and the backup needs {needed}")]
    NoRoom { free: u64, needed: u64 },
    #[error("cannot copy the database")]
    Sqlite(#[from] rusqlite::Error),
}

/// Copies the database into a file that does not exist yet, and that only this user can read. The copy has no WAL. As long as it is
/// written, the WAL of the store cannot begin anew.
pub(super) fn backup(database: &Path, to: &Path) -> Result<(), BackupError> {
    let io = |error| BackupError::Io(to.to_owned(), error);
    let file = create_private(to).map_err(io)?;
    let copied = copy(database, to).and_then(|()| file.sync_all().and_then(|()| sync_parent(to)).map_err(io));
    if copied.is_err() {
        // Half a backup is none. The error says more than that of removing it.
        let _ = fs::remove_file(to);
    }
    copied
}

fn copy(database: &Path, to: &Path) -> Result<(), BackupError> {
    let db = connect(database, OTHER_CACHE_KIB, false)?;
    let pragma = |name| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let pages = pragma("page_count")? - pragma("freelist_count")?;
    let needed = (pages * pragma("page_size")?).cast_unsigned();
    let io = |error| BackupError::Io(to.to_owned(), error);
    let free = free_bytes(to).map_err(io)?;
    if free < needed {
        return Err(BackupError::NoRoom { free, needed });
    }
    let name = to.to_str().ok_or_else(|| io(io::Error::other("its name is not valid UTF-8")))?;
    db.execute("VACUUM INTO ?", [name])?;
    Ok(())
}

/// Makes the name of the file durable.
fn sync_parent(file: &Path) -> io::Result<()> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix) { File::open(parent)?.sync_all() } else { Ok(()) }
}
