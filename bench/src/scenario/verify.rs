use std::{
    hint::black_box,
    time::{Instant, SystemTime},
};

use anyhow::{Context, ensure};
use clap::Args;
use wwproxy_protocol::{
    Secret, Source, SourceSettings,
    scheme::{Reception, Request, Scheme, Unsigned, new_delivery_id, presets},
};

use super::median;

/// How many verifications are timed together: short enough that most samples are free of interruptions.
const BATCH: u32 = 20;
const URL: &str = "https://hooks.example.com/hook/my-bot";
/// A private key of P-256, made for this benchmark: PKCS#8 in base64.
const P256_KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgMXsFDETkwt7XnFjkAzEVrVG0CSfQok33gbFYX80dovyh\
                        RANCAAT19UZvXFffGDofCReoM2swo8+iT9Nb04ioV4O6p6+fNFZzsENQd6LowO4kx0hEI5OyLX5MORoo8aJAw4CpuZeO";

/// Verification time by scheme, in one thread and without a server
///
/// The time is that of the signature and the timestamp, of the event type and the delivery id, and of the search for a
/// challenge.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Body size, in bytes
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Number of rounds; each has a sample of every scheme
    #[arg(long, default_value_t = 500)]
    rounds: usize,
}

impl Verify {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let now = SystemTime::now();
        let mut webhooks = presets()
            .map(|preset| {
                Webhook::new(&preset.name, self.size, now).with_context(|| format!("scheme {}", preset.name))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        // In each round a slow phase of the machine affects all schemes.
        for _ in 0..self.rounds {
            for webhook in &mut webhooks {
                webhook.sample(now)?;
            }
        }
        println!("| scheme | algorithm | body bytes | µs |\n|--|--|--:|--:|");
        for webhook in webhooks {
            let (name, bytes) = (webhook.source.scheme().name().to_owned(), webhook.body.len());
            println!("| {name} | {} | {bytes} | {:.1} |", webhook.algorithm, median(webhook.micros));
        }
        Ok(())
    }
}

/// A signed webhook and its source.
struct Webhook {
    source: Source,
    algorithm: &'static str,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// The time of one verification, by sample.
    micros: Vec<f64>,
}

impl Webhook {
    fn new(name: &str, size: usize, now: SystemTime) -> anyhow::Result<Self> {
        let scheme = Scheme::preset(name).context("not a preset")?;
        let (content_type, body) = body(name, size);
        let (private, registered) = keys(&scheme)?;
        let unsigned = Unsigned {
            method: "POST",
            url: Some(URL),
            headers: &[("Content-Type", content_type)],
            body: body.as_bytes(),
            delivery_id: &new_delivery_id(),
            event_type: Some("sample"),
            time: now,
        };
        let signed = scheme.sign(&private, &unsigned)?;
        let settings = SourceSettings {
            scheme: name.to_owned(),
            secrets: vec![registered],
            url: scheme.needs_url().then(|| URL.to_owned()),
            ..SourceSettings::default()
        };
        let sent =
            [("Host", "hooks.example.com"), ("User-Agent", "wwproxy-bench"), ("Content-Type", content_type)];
        let mut headers: Vec<_> = sent.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        headers.extend(signed.headers);
        Ok(Self {
            source: Source::new(settings)?,
            algorithm: scheme.describe().first().map_or("none", |template| template.algorithm),
            headers,
            body: signed.body.unwrap_or_else(|| body.into_bytes()),
            micros: Vec::new(),
        })
    }

    fn sample(&mut self, now: SystemTime) -> anyhow::Result<()> {
        let headers: Vec<(&str, &[u8])> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let request = Request::new("POST", &headers, &self.body);
        let started = Instant::now();
        for _ in 0..BATCH {
            let reception = self.source.verify(black_box(&request), now)?;
            ensure!(matches!(black_box(reception), Reception::Event(_)), "a valid webhook is an event");
        }
        self.micros.push(started.elapsed().as_secs_f64() * 1e6 / f64::from(BATCH));
        Ok(())
    }
}

/// The key that signs and the one to register.
fn keys(scheme: &Scheme) -> anyhow::Result<(Secret, Secret)> {
    let private = match scheme.name() {
        "discord" => Secret::new("11".repeat(32)),
        "sendgrid" => Secret::new(P256_KEY),
        // Their secrets are set by a handshake.
        "asana" | "notion" => return Ok((Secret::new("bench-secret"), Secret::new("bench-secret"))),
        _ => {
            let secret = scheme.generate_secret()?;
            return Ok((secret.clone(), secret));
        }
    };
    let public = scheme.public_key(&private)?;
    Ok((private, Secret::new(public)))
}

/// The content type and a body of about this size. The members that a scheme reads come last: the whole body is searched.
fn body(name: &str, size: usize) -> (&'static str, String) {
    let (content_type, start, end) = match name {
        "gitea-form" => ("application/x-www-form-urlencoded", "payload=", ""),
        "twilio" => ("application/x-www-form-urlencoded", "Body=", "&From=%2B15550100&To=%2B15550101"),
        _ => ("application/json", "{", members(name)),
    };
    let is_json = start == "{";
    let mut body = start.to_owned();
    for number in 0.. {
        let field =
            if is_json { format!(r#""field-{number}":"value {number}","#) } else { "sample+text%21+".into() };
        if body.len() + field.len() + end.len() > size {
            break;
        }
        body.push_str(&field);
    }
    (content_type, body + end)
}

/// The members that senders of this scheme write.
fn members(name: &str) -> &'static str {
    match name {
        "adyen-payments" => {
            r#""notificationItems":[{"NotificationRequestItem":{"additionalData":{"hmacSignature":""},"pspReference":"7","eventCode":"sample"}}]}"#
        }
        "linear" => r#""action":"create","type":"Issue","webhookTimestamp":0}"#,
        "mailgun" => {
            r#""signature":{"token":"5f3a","timestamp":"0","signature":""},"event-data":{"id":"7","event":"opened"}}"#
        }
        "msgraph" => r#""value":[{"clientState":"","changeType":"created","resource":"me/messages/1"}]}"#,
        _ => r#""action":"opened","event":{"type":"sample"},"type":"sample","id":"7"}"#,
    }
}
