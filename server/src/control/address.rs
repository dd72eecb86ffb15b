//! Paths of Unix sockets, which the system limits to about 100 bytes.

use std::{io, path::Path};

/// Binds or connects to the socket `name` in `folder`. A path that is too long for a socket address is replaced by one through
/// an open descriptor of the folder, if the system has `/proc`.
pub(super) fn with_address<T>(
    folder: &Path,
    name: &str,
    open: impl Fn(&Path) -> io::Result<T>,
) -> io::Result<T> {
    match open(&folder.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => through_descriptor(folder, name, open),
        opened => opened,
    }
}

#[cfg(target_os = "linux")]
fn through_descriptor<T>(folder: &Path, name: &str, open: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    use std::os::fd::AsRawFd;
    let folder = std::fs::File::open(folder)?;
    open(&Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}

#[cfg(not(target_os = "linux"))]
fn through_descriptor<T>(folder: &Path, name: &str, _open: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    let length = folder.join(name).as_os_str().len();
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!(
            "its path has {length} bytes, and this system takes some 100: use a store with a shorter path"
        ),
    ))
}
