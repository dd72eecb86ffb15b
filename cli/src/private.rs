//! Files and folders that only their user can read, written without following symbolic links.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::Path,
};

use tempfile::NamedTempFile;

/// Sets the mode of a file that is created to 0600.
#[cfg(unix)]
pub(crate) fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600)
}

#[cfg(not(unix))]
pub(crate) fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

/// Opens a lock file, which is created if it does not exist. Fails if the path is a symbolic link: it could create or lock
/// another file.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    {
        let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags);
    }
    private(options.create(true).append(true)).open(path)
}

/// Creates a folder and its parents with mode 0700. Folders that exist keep their mode.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// A temporary file with mode 0600 in the folder of the file that it will replace, so that `persist` renames it atomically.
pub(crate) fn draft(folder: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(".wwproxy-").suffix(".tmp").tempfile_in(folder)
}
