//! Events as files: one JSON object each, the body in it byte for byte.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use wwproxy_sdk::EventMessage;

use crate::{args::Usage, format};

/// The largest file that is taken for an event, in bytes: more than any websocket message holds.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// The longest part of an event's id that goes into a file name, in characters.
const MAX_NAME_CHARS: usize = 128;

/// A folder that events are saved in.
#[derive(Debug, Clone)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// The folder, made if need be.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    /// Saves an event under its id, in place of an earlier copy. It is on disk when this returns, whole or not at all.
    pub(crate) fn save(&self, event: &EventMessage) -> anyhow::Result<PathBuf> {
        let name = file_name(event.id.as_str());
        let (path, draft) = (self.0.join(format!("{name}.json")), self.0.join(format!(".{name}.tmp")));
        let write = || {
            let mut file = File::create(&draft)?;
            file.write_all(&format::object(event, &[]))?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            sync_folder(&self.0)
        };
        write().with_context(|| format!("cannot save event {} as {}", event.id, path.display()))?;
        Ok(path)
    }
}

/// Reads an event that was saved.
pub(crate) fn read(path: &Path) -> anyhow::Result<EventMessage> {
    let name = path.display();
    let size = fs::metadata(path).with_context(|| format!("cannot read {name}"))?.len();
    if size > MAX_FILE_BYTES {
        return Err(
            Usage(format!("{name} is larger than {MAX_FILE_BYTES} bytes; is it a saved event?")).into()
        );
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    EventMessage::parse(&text).map_err(|error| {
        Usage(format!("{name} is no event as `wwproxy listen --save` writes them ({error})")).into()
    })
}

/// A name that stays in its folder, whatever a server calls its events.
fn file_name(id: &str) -> String {
    let harmless = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' };
    id.chars().take(MAX_NAME_CHARS).map(harmless).collect()
}

/// The folder's entry is on disk too, not only the file.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_event_comes_back_to_the_last_byte() {
        let folder = tempfile::tempdir().unwrap();
        let event = EventMessage::parse("{\"id\":\"7\",\"attempt\":1,\"data\": {\"n\": 1.0}\n}").unwrap();
        let path = Folder::open(&folder.path().join("new")).unwrap().save(&event).unwrap();
        assert_eq!(path.file_name().unwrap(), "7.json");
        let back = read(&path).unwrap();
        assert_eq!(back.body, " {\"n\": 1.0}\n");
        assert_eq!(back, event);
    }

    #[test]
    fn an_id_cannot_leave_its_folder() {
        assert_eq!(file_name("../../etc/passwd"), "______etc_passwd");
        assert_eq!(file_name("a\0b\u{202e}"), "a_b_");
        assert_eq!(file_name(&"x".repeat(999)).len(), MAX_NAME_CHARS);
    }

    #[test]
    fn what_is_no_event_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        fs::write(&path, "{}").unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("x.json"), "{error}");
        assert!(read(&folder.path().join("missing")).is_err());
    }
}
