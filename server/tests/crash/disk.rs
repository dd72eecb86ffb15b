//! A simulated disk under the real server: it loses unsynced writes in a power cut, and fails on demand (fault injection).
//!
//! `disk.c` is compiled and loaded into the server with `LD_PRELOAD`. It injects the faults, and appends every change of the
//! store's files to a journal. The model here reads the journal: a write is readable at once, and durable after the next fsync, or
//! possibly before. A failed fsync drops the dirty pages: they stay readable and never reach the disk, as on Linux.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
};

use tempfile::TempDir;

use crate::{
    common::{Home, Server},
    image::Image,
    random::Random,
};

/// The fields of the shared memory, as in `disk.c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Field {
    Attached,
    WriteError,
    FreeBytes,
    SyncError,
    SyncSuccesses,
    SyncFailures,
    SyncHangs,
    ReadError,
    ReadFailures,
    ReadFrom,
    ReadTo,
    FaultyFile,
    ChangesLeft,
    Syncs,
    Faults,
    Hanging,
}

const FIELDS: u64 = 16;
const NEVER: u64 = u64::MAX;
const EIO: u64 = 5;
const EROFS: u64 = 30;

/// A file of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreFile {
    Database = 1,
    Wal = 2,
}

/// A fault of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Every change fails: the file system is read-only.
    ReadOnly,
    /// Every write fails with an I/O error.
    EveryWrite,
    /// Every fsync fails and drops the dirty pages.
    EverySync,
    /// One fsync of this file fails, after N that succeed. An fsync without dirty pages does not count.
    OneSync(StoreFile, u64),
    /// Every fsync of this file hangs.
    Hang(StoreFile),
    /// One read of the database fails.
    OneRead,
    /// Every read of this byte of the database fails.
    BadSector(u64),
}

/// A disk with the store of one server.
pub(crate) struct Disk {
    pub(crate) home: Arc<Home>,
    /// The shared memory and the journal.
    folder: TempDir,
    control: File,
    image: Image,
}

impl Disk {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = File::options();
        let control =
            options.create_new(true).read(true).write(true).open(folder.path().join("control")).unwrap();
        control.set_len(8 * FIELDS).unwrap();
        let disk = Self { home: Arc::new(Home::new()), folder, control, image: Image::default() };
        disk.clear();
        disk
    }

    /// Starts a server on this disk, with the faults that are set. `Err` is its log, if it ended before it listened.
    pub(crate) fn try_start(&mut self, flags: &[&str]) -> Result<Server, String> {
        self.read_journal();
        self.set(Field::Attached, 0);
        let store = self.home.store();
        let mut command = self.home.command();
        command
            .env("LD_PRELOAD", library())
            .env("WWPROXY_DISK_FOLDER", &store)
            .env("WWPROXY_DISK_CONTROL", self.folder.path().join("control"))
            .env("WWPROXY_DISK_JOURNAL", self.journal())
            .args(["--store", &format!("file:{}", store.display()), "--listen", "127.0.0.1:0"])
            .args(flags);
        let server = Server::try_launch(Arc::clone(&self.home), command);
        assert_ne!(self.get(Field::Attached), 0, "the library is loaded into the server");
        server
    }

    pub(crate) fn start(&mut self, flags: &[&str]) -> Server {
        self.try_start(flags).unwrap_or_else(|log| panic!("the server did not start: {log}"))
    }

    /// Cuts the power, after the server was killed: any subset of the unsynced changes survives.
    pub(crate) fn cut_power(&mut self, random: &mut Random) {
        self.read_journal();
        self.image.cut_power(random);
        self.image.write(&self.home.store());
        self.clear();
    }

    /// Injects a fault, or clears all of them.
    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        for field in
            [Field::WriteError, Field::SyncError, Field::SyncHangs, Field::ReadError, Field::FaultyFile]
        {
            self.set(field, 0);
        }
        let sync = |file, successes, failures| {
            self.set(Field::FaultyFile, file);
            self.set(Field::SyncSuccesses, successes);
            self.set(Field::SyncFailures, failures);
            self.set(Field::SyncError, EIO);
        };
        let read = |failures, from, to| {
            self.set(Field::FaultyFile, StoreFile::Database as u64);
            self.set(Field::ReadFailures, failures);
            self.set(Field::ReadFrom, from);
            self.set(Field::ReadTo, to);
            self.set(Field::ReadError, EIO);
        };
        match fault {
            None => {}
            Some(Fault::ReadOnly) => self.set(Field::WriteError, EROFS),
            Some(Fault::EveryWrite) => self.set(Field::WriteError, EIO),
            Some(Fault::EverySync) => sync(0, 0, NEVER),
            Some(Fault::OneSync(file, successes)) => sync(file as u64, successes, 1),
            Some(Fault::Hang(file)) => {
                self.set(Field::FaultyFile, file as u64);
                self.set(Field::SyncHangs, 1);
            }
            Some(Fault::OneRead) => read(1, 0, NEVER),
            Some(Fault::BadSector(byte)) => read(NEVER, byte, byte + 1),
        }
    }

    /// The free space, if it is limited.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        Some(self.get(Field::FreeBytes)).filter(|bytes| *bytes != NEVER)
    }

    /// Limits the free space, or removes the limit.
    pub(crate) fn set_free_bytes(&self, bytes: Option<u64>) {
        self.set(Field::FreeBytes, bytes.unwrap_or(NEVER));
    }

    /// Kills the server before the change after this number of changes.
    pub(crate) fn kill_after(&self, changes: u64) {
        self.set(Field::ChangesLeft, changes);
    }

    /// Whether [`Self::kill_after`] has killed the server.
    pub(crate) fn has_killed(&self) -> bool {
        self.get(Field::ChangesLeft) == 0
    }

    /// The number of faults that were injected.
    pub(crate) fn faults(&self) -> u64 {
        self.get(Field::Faults)
    }

    /// The number of fsyncs that succeeded.
    pub(crate) fn syncs(&self) -> u64 {
        self.get(Field::Syncs)
    }

    /// Whether an fsync hangs now.
    pub(crate) fn is_hanging(&self) -> bool {
        self.get(Field::Hanging) > 0
    }

    /// Clears all faults and limits.
    pub(crate) fn clear(&self) {
        self.set_fault(None);
        self.set_free_bytes(None);
        self.kill_after(NEVER);
    }

    fn read_journal(&mut self) {
        let path = self.journal();
        if path.exists() {
            self.image.replay(&fs::read(&path).unwrap());
            fs::remove_file(path).unwrap();
        }
    }

    fn journal(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    fn set(&self, field: Field, value: u64) {
        self.control.write_all_at(&value.to_ne_bytes(), 8 * field as u64).unwrap();
    }

    fn get(&self, field: Field) -> u64 {
        let mut value = [0; 8];
        self.control.read_exact_at(&mut value, 8 * field as u64).unwrap();
        u64::from_ne_bytes(value)
    }
}

/// Compiles the library once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let own = tempfile::Builder::new().suffix(".so").tempfile_in(folder).unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/crash/disk.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-U_FORTIFY_SOURCE", "-o"]).arg(own.path()).arg(source);
        let status = compiler.args(["-ldl", "-lpthread"]).status().expect("a C compiler, named cc");
        assert!(status.success(), "disk.c is compiled");
        // Another test process may use the file of this name: it is replaced, never changed.
        let library = folder.join("crash-disk.so");
        own.persist(&library).unwrap();
        library
    })
}
