//! Sources: settings, templates, challenges and bodies. Valid settings are read as they were written, a request without a
//! valid signature is never an event, and each body survives its encoding.
#![no_main]

use std::{
    collections::BTreeMap,
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use wwproxy_protocol::{
    Encoding, Event, Origin, Secret, Source, SourceSettings,
    message::EventMessage,
    scheme::{self, Reception, Request, Scheme},
};

/// Random secrets, each in the form of its scheme.
static SECRETS: LazyLock<BTreeMap<&str, Secret>> = LazyLock::new(|| {
    let schemes = scheme::presets().map(|preset| &preset.scheme);
    schemes.filter_map(|scheme| Some((scheme.name(), scheme.generate_secret().ok()?))).collect()
});

type Texts<'a> = (&'a str, &'a str, Option<&'a str>);

fuzz_target!(|input: (Texts<'_>, (u8, u8), Vec<(&str, &[u8])>, &[u8])| {
    let ((settings, template, query), (scheme, method), headers, body) = input;
    let methods = ["POST", "GET", "HEAD"];
    let mut request = Request::new(methods[usize::from(method) % 3], &headers, body);
    request.query = query;
    if let Ok(source) = SourceSettings::parse(settings).and_then(Source::new) {
        let again = SourceSettings::parse(&source.settings().expose()).expect("what was written can be read");
        assert_eq!(again, *source.settings());
        // Whether it is accepted does not matter: the secret is known.
        let _ = source.verify(&request, SystemTime::now());
    }
    let schemes: Vec<_> = SECRETS.keys().collect();
    refuse(schemes[usize::from(scheme) % schemes.len()], None, &request);
    refuse("template", Some(template), &request);
    check_encoding(body);
});

/// Sends a request to a source with a random secret.
fn refuse(name: &str, template: Option<&str>, request: &Request<'_>) {
    let scheme = template.map_or_else(|| Scheme::preset(name), |template| Scheme::template(template).ok());
    let Some(scheme) = scheme else { return };
    let settings = SourceSettings {
        scheme: name.to_owned(),
        secrets: vec![SECRETS.get(name).unwrap_or(&SECRETS["github"]).clone()],
        url: scheme.needs_url().then(|| "https://proxy.example/".to_owned()),
        template: template.map(str::to_owned),
        ..SourceSettings::default()
    };
    // The key of a template may have another form.
    let Ok(source) = Source::new(settings) else { return };
    let controls = |text: &str| text.contains(char::is_control);
    match source.verify(request, SystemTime::now()) {
        Ok(Reception::Event(_)) => panic!("{name} accepted a request without a valid signature"),
        Ok(Reception::Answer(answer)) => {
            assert!(!controls(&answer.body));
            assert!(answer.headers.iter().all(|(_, value)| !controls(value)));
        }
        Ok(Reception::Secret { .. }) => assert!(source.scheme().learns_secret()),
        Err(rejection) => assert!(rejection.detail.len() < 4096, "{rejection}"),
    }
}

fn check_encoding(body: &[u8]) {
    let event = Event {
        id: "1".parse().unwrap(),
        received_at: UNIX_EPOCH,
        origin: Origin::default(),
        headers: Vec::new(),
        query: None,
        body: body.to_vec().into(),
        encoding: Encoding::of(body),
    };
    let parsed = EventMessage::parse(&event.encode_v2(1, 0)).expect("a message of the server is valid");
    assert_eq!(parsed.body, body);
    let legacy = event.encode_legacy();
    serde_json::from_str::<&RawValue>(&legacy).expect("a legacy message is JSON");
}
