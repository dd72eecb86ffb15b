//! Events as files: one JSON object each, which contains the body byte for byte.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use wwproxy_sdk::EventMessage;

use crate::{error::UsageError, format, private};

/// The largest event file that is read, in bytes: more than the limit of a websocket message.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// How much of an event's id is used in the file name, in characters.
const MAX_NAME_CHARS: usize = 128;
/// How many events with the same file name are saved, as the ids of a server without a store start anew with it.
const MAX_SAME_NAME: u32 = 100;

/// A folder that events are saved in.
#[derive(Debug, Clone)]
pub(crate) struct EventFolder(PathBuf);

impl EventFolder {
    /// Opens the folder. It is created with mode 0700 if it does not exist.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        private::make_folder(path).with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes an event to a file named after its id, atomically and with fsync. An earlier copy of the same event is replaced. If
    /// another event has the name, the next free one of `ID_2.json`, `ID_3.json` is used. Any other file is an error, and a symbolic
    /// link is not followed.
    pub(crate) fn save(&self, event: &EventMessage) -> anyhow::Result<PathBuf> {
        let name = file_name(event.id.as_str());
        let mut path = self.0.join(format!("{name}.json"));
        let mut write = || {
            let mut draft = private::draft(&self.0)?;
            draft.write_all(&format::object(event, &[]))?;
            draft.write_all(b"\n")?;
            draft.as_file().sync_all()?;
            for number in 2.. {
                let Err(failed) = draft.persist_noclobber(&path) else { break };
                if failed.error.kind() != io::ErrorKind::AlreadyExists {
                    return Err(failed.error.into());
                }
                draft = failed.file;
                match Existing::read(&path, event) {
                    Existing::Copy => {
                        draft.persist(&path)?;
                        break;
                    }
                    Existing::OtherEvent if number <= MAX_SAME_NAME => {
                        path = self.0.join(format!("{name}_{number}.json"));
                    }
                    Existing::OtherEvent => {
                        return Err(anyhow!(
                            "{MAX_SAME_NAME} other events with this id are saved there; use another folder"
                        ));
                    }
                    Existing::NoEvent => {
                        return Err(anyhow!("this file was not written by --save; move it away"));
                    }
                }
            }
            Ok(sync_folder(&self.0)?)
        };
        let written = write();
        written.with_context(|| format!("cannot save event {} as {}", event.id, path.display()))?;
        Ok(path)
    }
}

/// A file that has the name of an event to save.
enum Existing {
    /// An earlier copy of the event. Its attempt may differ, its body cannot.
    Copy,
    OtherEvent,
    /// Not an event, or not a regular file.
    NoEvent,
}

impl Existing {
    fn read(path: &Path, event: &EventMessage) -> Self {
        if !fs::symlink_metadata(path).is_ok_and(|file| file.is_file()) {
            return Self::NoEvent;
        }
        match read(path) {
            Ok(other) if other.id == event.id && other.body == event.body => Self::Copy,
            Ok(_) => Self::OtherEvent,
            Err(_) => Self::NoEvent,
        }
    }
}

/// Lists the event files of these paths. A folder stands for its `*.json` files in the order of their names, which is the order
/// in which the server received the events.
pub(crate) fn list(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let failed = || format!("cannot read the folder {}", path.display());
        let entries = fs::read_dir(path).with_context(failed)?;
        let found = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
        let mut found = found.with_context(failed)?;
        found.retain(|file| file.extension() == Some("json".as_ref()) && !is_hidden(file));
        if found.is_empty() {
            return Err(
                UsageError(format!("there are no saved events (*.json) in {}", path.display())).into()
            );
        }
        found.sort_unstable();
        files.append(&mut found);
    }
    Ok(files)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Reads an event file.
pub(crate) fn read(path: &Path) -> anyhow::Result<EventMessage> {
    let name = path.display();
    let size = fs::metadata(path).with_context(|| format!("cannot read {name}"))?.len();
    if size > MAX_FILE_BYTES {
        return Err(UsageError(format!(
            "{name} is larger than {MAX_FILE_BYTES} bytes; is it a saved event?"
        ))
        .into());
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    EventMessage::parse(&text).map_err(|error| {
        UsageError(format!("{name} is not an event file of `wwproxy listen --save` ({error})")).into()
    })
}

/// A file name without separators, so that an id of a hostile server cannot leave the folder.
fn file_name(id: &str) -> String {
    let replaced = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' };
    id.chars().take(MAX_NAME_CHARS).map(replaced).collect()
}

/// Syncs the directory entry, which the fsync of the file does not.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_event_is_read_back_byte_for_byte() {
        let folder = tempfile::tempdir().unwrap();
        let event = EventMessage::parse("{\"id\":\"7\",\"attempt\":1,\"data\": {\"n\": 1.0}\n}").unwrap();
        let path = EventFolder::open(&folder.path().join("new")).unwrap().save(&event).unwrap();
        assert_eq!(path.file_name().unwrap(), "7.json");
        let back = read(&path).unwrap();
        assert_eq!(back.body, " {\"n\": 1.0}\n");
        assert_eq!(back, event);
    }

    #[test]
    fn a_copy_is_replaced_and_another_event_gets_another_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("7.json");
        let event = |json: &str| EventMessage::parse(json).unwrap();
        let saved = EventFolder::open(folder.path()).unwrap();
        saved.save(&event(r#"{"id":"7","attempt":1,"data":{}}"#)).unwrap();
        saved.save(&event(r#"{"id":"7","attempt":2,"data":{}}"#)).unwrap();
        assert_eq!(read(&path).unwrap().details.attempt, Some(2));
        for (body, name) in [("[]", "7_2.json"), ("1", "7_3.json"), ("[]", "7_2.json")] {
            let other = saved.save(&event(&format!(r#"{{"id":"7","data":{body}}}"#))).unwrap();
            assert_eq!(other, folder.path().join(name));
            assert_eq!(read(&other).unwrap().body, body);
        }
        assert_eq!(read(&path).unwrap().body, "{}");
        assert_eq!(list(&[folder.path().into()]).unwrap()[0], path, "the first one is replayed first");
        for body in 2..=MAX_SAME_NAME {
            let _ = saved.save(&event(&format!(r#"{{"id":"7","data":{body}}}"#)));
        }
        let refused = saved.save(&event(r#"{"id":"7","data":"more"}"#)).unwrap_err();
        assert!(format!("{refused:#}").contains("100 other events"), "{refused:#}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 100, "no temporary file is left");
    }

    #[test]
    fn an_id_cannot_leave_the_folder() {
        assert_eq!(file_name("../../etc/passwd"), "______etc_passwd");
        assert_eq!(file_name("a\0b\u{202e}"), "a_b_");
        assert_eq!(file_name(&"x".repeat(999)).len(), MAX_NAME_CHARS);
    }

    #[test]
    fn an_invalid_event_file_is_a_usage_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        fs::write(&path, "{}").unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.is::<UsageError>() && error.to_string().contains("x.json"), "{error}");
        assert!(read(&folder.path().join("missing")).is_err());
    }
}
