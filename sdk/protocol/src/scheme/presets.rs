//! The schemes of known senders.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::Value;

use super::template::Templates;

/// The table of presets: data, so that each row can be checked against the sender's documentation.
const TABLE: &str = include_str!("presets.json");

/// The scheme of a known sender.
#[derive(Debug, Clone)]
pub struct Preset {
    /// Its name in a registration.
    pub name: String,
    /// The documentation or code that the row was made from.
    pub source: String,
    /// The HTTP status that the sender takes as a success.
    pub success: u16,
    /// How its webhooks are verified.
    pub templates: Templates,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    source: String,
    success: u16,
    templates: Value,
}

impl From<Row> for Preset {
    fn from(Row { name, source, success, templates }: Row) -> Self {
        let templates =
            Templates::from_value(&templates).expect("each row of presets.json is parsed in the tests");
        Self { name, source, success, templates }
    }
}

static PRESETS: LazyLock<BTreeMap<String, Preset>> = LazyLock::new(|| {
    let rows: Vec<Row> = serde_json::from_str(TABLE).expect("presets.json is parsed in the tests");
    rows.into_iter().map(|row| (row.name.clone(), row.into())).collect()
});

/// All presets, sorted by name.
pub fn presets() -> impl Iterator<Item = &'static Preset> {
    PRESETS.values()
}

/// Returns the preset of this name.
#[must_use]
pub fn preset(name: &str) -> Option<&'static Preset> {
    PRESETS.get(name)
}
