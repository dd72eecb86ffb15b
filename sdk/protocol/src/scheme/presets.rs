//! The schemes of known senders.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::Value;

use super::{Scheme, Verification, template::Templates};

/// The table of presets: data, so that each row can be checked against the sender's documentation.
const TABLE: &str = include_str!("presets.json");

/// The scheme of a known sender.
#[derive(Debug, Clone)]
pub struct Preset {
    /// Its name in a registration.
    pub name: String,
    /// The documentation or code that the row was made from.
    pub source: String,
    /// How its webhooks are verified and its challenges answered.
    pub scheme: Scheme,
    /// The templates as JSON, as in a registration with the scheme `template`. `null` if the scheme has none.
    pub templates: String,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    source: String,
    success: u16,
    /// Whether the body must be a JSON object or array.
    #[serde(default)]
    json: bool,
    verification: Option<Code>,
    #[serde(default)]
    templates: Value,
}

/// A verification that no template describes.
#[derive(serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Code {
    Twilio,
    MsGraph,
}

impl From<Row> for Preset {
    fn from(Row { name, source, success, json, verification, templates }: Row) -> Self {
        let verification = match verification {
            Some(Code::Twilio) => Verification::Twilio,
            Some(Code::MsGraph) => Verification::MsGraph,
            None => Verification::Templates(
                Templates::from_value(&templates).expect("each row of presets.json is parsed in the tests"),
            ),
        };
        let scheme = Scheme { name: name.clone(), success, requires_json: json, verification };
        Self { name, source, scheme, templates: crate::json::encode(&templates) }
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
