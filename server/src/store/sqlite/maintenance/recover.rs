//! Copies what is readable and whole of a damaged store into a new one. Never writes to the damaged store.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::Path,
};

use super::{
    super::{folder::Folder, schema},
    check::last_seq,
    read_only::ReadOnly,
    recover_consumers,
    recovery::{RecoverError, Recovered, Recovery},
    report::Report,
};

/// Copies what is readable and whole of the store in a folder, or of a backup file, into a new folder, and reports what is left out.
/// Until it is finished, a server refuses the new store as incomplete.
pub fn recover(from: &Path, to: &Path, report: &mut dyn Report) -> Result<Recovered, RecoverError> {
    let from = ReadOnly::open(from)?;
    if from.server_runs {
        return Err(RecoverError::Running(from.file));
    }
    let failed = |error| RecoverError::Io(to.to_owned(), error);
    match fs::read_dir(to).map(|mut entries| entries.next().is_none()) {
        Ok(true) => {}
        Ok(false) => return Err(RecoverError::NotEmpty(to.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let (folder, _) = Folder::open(to)?;
    let file = folder.database();
    let db = schema::connect(&file, schema::WRITER_CACHE_KIB, true)?;
    // An interrupted recovery is begun anew, so nothing needs to be durable before its end.
    db.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA temp_store = FILE;")?;
    schema::create(&db)?;
    db.pragma_update(None, "user_version", schema::UNFINISHED)?;
    let mut recovery = Recovery {
        from: &from.db,
        to: &db,
        report,
        apps: BTreeMap::new(),
        last: last_seq(&from.db).max(from.high_water().unwrap_or(0)),
        done: Recovered::default(),
    };
    db.execute_batch("BEGIN")?;
    recovery.copy_log()?;
    recover_consumers::copy_all(&mut recovery)?;
    let (done, last) = (recovery.done, last_seq(&db));
    db.pragma_update(None, "user_version", schema::VERSION)?;
    db.execute_batch("COMMIT; PRAGMA journal_mode = WAL;")?;
    db.close().map_err(|(_, error)| error)?;
    File::open(&file).and_then(|file| file.sync_all()).map_err(failed)?;
    folder.write_high_water(last).map_err(failed)?;
    File::open(to).and_then(|folder| folder.sync_all()).map_err(failed)?;
    Ok(done)
}
