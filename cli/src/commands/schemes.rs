//! `wwproxy schemes`: the senders that the server knows.

mod example;
mod special;

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
};

use serde_json::{Value, json};
use wwproxy_sdk::scheme::{Covers, MAX_SECRETS, MAX_SIGNATURES, Preset, Scheme, preset, presets};

use self::example::Example;
use super::register::steps::{SecretOrigin, Sender};
use crate::{
    output::print_data,
    scheme,
    table::{aligned, labelled},
};

/// The width of the column of names, in characters.
const NAME_WIDTH: usize = 10;

/// List the senders whose webhooks can be verified, or show one in full
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wwproxy schemes
  wwproxy schemes stripe
  wwproxy schemes --json | jq -r 'select(.covers == \"nothing\") | .name'")]
pub(crate) struct Schemes {
    /// The scheme to show in full: one of the list, `template` or `none`
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Print JSON, one scheme a line; the default without a terminal
    #[arg(long)]
    json: bool,
}

impl Schemes {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let as_json = self.json || !io::stdout().is_terminal();
        let text = match self.name.as_deref() {
            None if as_json => presets().map(|preset| summary(preset).to_string() + "\n").collect(),
            None => table(),
            Some(name) => match special::page(name) {
                Some(page) if as_json => format!("{}\n", special::full(name, page)),
                Some(page) => page.to_owned(),
                None => {
                    scheme::preset(name)?;
                    let preset = preset(name).expect("the scheme was found");
                    if as_json { format!("{}\n", full(preset)) } else { page(preset) }
                }
            },
        };
        print_data(&text).await.map(drop)
    }
}

/// One line of the list.
fn summary(preset: &Preset) -> Value {
    let scheme = &preset.scheme;
    json!({
        "name": preset.name,
        "covers": scheme.covers(),
        "algorithms": algorithms(scheme),
        "tolerance": scheme.tolerance().map(|tolerance| tolerance.as_secs()),
        "success": scheme.success(),
        "methods": scheme.methods(),
        "challenge": challenge(scheme),
    })
}

/// The algorithms of all alternatives, each once.
fn algorithms(scheme: &Scheme) -> Vec<&'static str> {
    let mut names: Vec<_> = scheme.describe().into_iter().map(|one| one.algorithm).collect();
    names.dedup();
    names
}

/// How the sender checks the hook before it sends events.
fn challenge(scheme: &Scheme) -> Option<&'static str> {
    if scheme.learns_secret() {
        Some("sets the secret")
    } else if scheme.has_challenge_secret() {
        Some("answered, needs a challenge secret")
    } else if scheme.has_challenge() {
        Some("answered")
    } else {
        None
    }
}

fn covers(scheme: &Scheme) -> &'static str {
    match scheme.covers() {
        Covers::Body => "body",
        Covers::Url => "url",
        Covers::Nothing => "nothing",
        Covers::Unknown => "unknown",
    }
}

fn table() -> String {
    let heads = ["NAME", "ALGORITHM", "COVERS", "TOLERANCE", "ANSWER", "CHALLENGE"].map(str::to_owned);
    let mut rows = vec![heads];
    for preset in presets() {
        let scheme = &preset.scheme;
        let tolerance = scheme.tolerance().map_or_else(|| "-".into(), |time| format!("{} s", time.as_secs()));
        rows.push([
            preset.name.clone(),
            algorithms(scheme).join(", "),
            covers(scheme).into(),
            tolerance,
            scheme.success().to_string(),
            challenge(scheme).unwrap_or("-").into(),
        ]);
    }
    aligned(&rows)
}

/// One scheme in full, as JSON.
fn full(preset: &Preset) -> Value {
    let scheme = &preset.scheme;
    let mut all = summary(preset);
    all["alternatives"] = json!(scheme.describe());
    all["source"] = preset.source.as_str().into();
    all["template"] = serde_json::from_str(&preset.templates).unwrap_or_default();
    all["sampleTypes"] = json!(scheme.sample_types());
    all["steps"] = json!(Sender::of(&preset.name).map(Sender::steps));
    all["example"] = Example::new(scheme).map_or(Value::Null, |example| example.json());
    all
}

/// One scheme in full, for people.
fn page(preset: &Preset) -> String {
    let scheme = &preset.scheme;
    let mut page = format!("{}\n", preset.name);
    let alternatives = scheme.describe();
    for (number, one) in (1..).zip(&alternatives) {
        if alternatives.len() > 1 {
            let _ = write!(page, "\nAlternative {number} of {}\n", alternatives.len());
        }
        let tolerance = match one.tolerance {
            Some(seconds) => format!("; refused if it is more than {seconds} s from the clock"),
            None => "; not compared with the clock".to_owned(),
        };
        let rows = [
            ("signature", Some(one.signature.clone())),
            ("algorithm", Some(one.algorithm.to_owned())),
            ("signed", Some(one.signed.clone())),
            ("timestamp", one.timestamp.as_ref().map(|text| format!("{text}{tolerance}"))),
            ("key", Some(one.key.clone())),
            ("id", one.id.clone()),
            ("type", one.event.clone()),
        ];
        page.push_str(&labelled(NAME_WIDTH, &rows));
    }
    let url = "the public URL as registered with the sender: --url".to_owned();
    let types = scheme.sample_types().join(", ");
    // A source whose handshake has not taken place has none.
    let secrets = if scheme.learns_secret() { "0 to" } else { "1 to" };
    page.push('\n');
    page.push_str(&labelled(
        NAME_WIDTH,
        &[
            ("covers", Some(scheme::covers_in_words(scheme.covers()).to_owned())),
            ("needs", scheme.needs_url().then_some(url)),
            ("answer", Some(format!("{} when an event is stored", scheme.success()))),
            ("methods", Some(scheme.methods().join(", "))),
            ("challenge", challenge(scheme).map(str::to_owned)),
            (
                "limits",
                Some(format!("{secrets} {MAX_SECRETS} secrets, at most {MAX_SIGNATURES} signature items")),
            ),
            ("secret", Sender::of(&preset.name).map(|sender| origin(sender.secret))),
            ("samples", Some(types).filter(|types| !types.is_empty())),
            ("source", Some(preset.source.clone())),
        ],
    ));
    if let Some(sender) = Sender::of(&preset.name) {
        let _ = write!(page, "\nAt {}, after `wwproxy register --scheme {}`\n", sender.name, preset.name);
        for (number, step) in (1..).zip(sender.steps()) {
            let _ = writeln!(page, "  {number}. {step}");
        }
    }
    if preset.templates != "null" {
        let _ = write!(page, "\nTemplate\n  {}\n", preset.templates);
    }
    if let Some(example) = Example::new(scheme) {
        let _ = write!(
            page,
            "\nExample, for the secret {} at {}\n{}",
            example.registered,
            Example::TIME,
            example.text()
        );
    }
    page
}

/// Who makes the secret, in words.
fn origin(secret: SecretOrigin) -> String {
    match secret {
        SecretOrigin::Owner(field) => format!("yours, entered at the sender as {field}"),
        SecretOrigin::Sender(place) => format!("the sender's: {place}"),
        SecretOrigin::Handshake => "the sender's, sent in its handshake: `wwproxy sources arm`".to_owned(),
    }
}
