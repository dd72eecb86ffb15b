//! Files for their owner only, opened without following links that others may have planted.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

/// Opens the lock of a credentials file, for its owner only: who else could open it could hold up every change.
pub(super) fn open_lock(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    }
    let file = options.open(path)?;
    // One of an earlier version could be read by others. Of another user's the mode stays as it is.
    #[cfg(unix)]
    let _ = file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600));
    Ok(file)
}

/// Writes beside the file and moves it there, readable by its owner only where it is new.
pub(super) fn write_durably(path: &Path, contents: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    // One that is there was left by a process that was killed, or is a link that must not be followed.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside)?;
    if let Ok(metadata) = fs::metadata(path) {
        file.set_permissions(metadata.permissions())?;
        // Run by another user, it must stay readable to the server.
        #[cfg(unix)]
        {
            use std::os::unix::fs::{MetadataExt, fchown};
            fchown(&file, Some(metadata.uid()), Some(metadata.gid()))?;
        }
    }
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(beside, path)?;
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}
