//! Files that only their owner can read, opened without following links that others may have planted.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

/// Opens the lock file of a credentials file. Only its owner can open it: another user could hold the lock and block every
/// change.
pub(super) fn open_lock(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    // Root may use the file of the server's user, who owns the folder.
    let file = open_regular(path, &mut options, owner_of_folder(path))?;
    // Earlier versions created it readable by others. Setting the mode fails if the file belongs to another user.
    #[cfg(unix)]
    let _ = file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600));
    Ok(file)
}

/// Opens a file of this user for reading.
pub(super) fn open_own(path: &Path) -> io::Result<fs::File> {
    open_regular(path, fs::OpenOptions::new().read(true), None)
}

/// Opens a regular file of this user, or of the other owner that is given. Does not follow a link or block on a FIFO, either of
/// which another user may have planted.
#[cfg(unix)]
fn open_regular(path: &Path, options: &mut fs::OpenOptions, other: Option<u32>) -> io::Result<fs::File> {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

    use rustix::{fs::OFlags, io::Errno, process::geteuid};

    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options.custom_flags(flags.bits().cast_signed()).open(path).map_err(|error| {
        let is_link = error.raw_os_error() == Some(Errno::LOOP.raw_os_error());
        if is_link { io::Error::other("it is a symbolic link, which is not followed") } else { error }
    })?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let (user, owner) = (geteuid().as_raw(), metadata.uid());
    if owner != user && Some(owner) != other {
        return Err(io::Error::other(format!(
            "it belongs to user {owner}, and this process runs as user {user}"
        )));
    }
    Ok(file)
}

#[cfg(not(unix))]
fn open_regular(path: &Path, options: &mut fs::OpenOptions, _other: Option<u32>) -> io::Result<fs::File> {
    options.open(path)
}

#[cfg(unix)]
fn owner_of_folder(path: &Path) -> Option<u32> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::metadata(folder).ok().map(|folder| std::os::unix::fs::MetadataExt::uid(&folder))
}

#[cfg(not(unix))]
fn owner_of_folder(_path: &Path) -> Option<u32> {
    None
}

/// Replaces the file atomically and durably (write, fsync, rename, fsync of the folder). A new file is readable by its owner
/// only; an existing one keeps its mode and owner.
pub(super) fn write_durably(path: &Path, contents: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Its name is random and it is created with O_EXCL and mode 0600, so no planted link is followed.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    if let Ok(metadata) = fs::metadata(path) {
        file.as_file().set_permissions(metadata.permissions())?;
        // If another user runs this, the file must stay readable to the server.
        #[cfg(unix)]
        {
            use std::os::unix::fs::{MetadataExt, fchown};
            fchown(file.as_file(), Some(metadata.uid()), Some(metadata.gid()))?;
        }
    }
    file.write_all(contents)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    #[cfg(unix)]
    fs::File::open(folder)?.sync_all()?;
    Ok(())
}
