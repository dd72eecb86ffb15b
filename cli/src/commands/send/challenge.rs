//! `wwproxy send --challenge`: checks a hook as its sender does before the first webhook.

use std::{path::Path, time::SystemTime};

use anyhow::{Context as _, anyhow};
use reqwest::{Response, StatusCode};
use serde_json::Value;
use wwproxy_sdk::{
    Secret, Source, SourceSettings,
    hook::OUTBOUND_TOKEN,
    scheme::{Answer, ChallengeRequest, Reception, Request, new_delivery_id},
    verify_watson_work,
};

use super::{
    post::{Hook, Outgoing, read},
    request::Sender,
};
use crate::{
    error::{Refusal, UsageError},
    output::print_message,
    secret,
};

/// Sends the sender's challenge, and checks the response as the sender does.
pub(super) async fn send(hook: &Hook, sender: &Sender, token_file: Option<&Path>) -> anyhow::Result<()> {
    let verify_token = challenge_secret(sender, token_file)?;
    let token = new_delivery_id();
    let challenge = sender.scheme.challenge_request(&token, verify_token.as_ref());
    let challenge = challenge.ok_or_else(|| no_challenge(sender))?;
    let request = sender.challenge(challenge.clone(), hook)?;
    let expected = expected(sender, verify_token, &request)?;
    let response = hook.send(request).await?;
    check(sender, &expected, response).await?;
    if sender.scheme.name() == "discord" {
        check_bad_signature(hook, sender, challenge).await?;
    }
    print_message(&format!("{} answered the challenge", hook.display()));
    Ok(())
}

fn no_challenge(sender: &Sender) -> UsageError {
    let name = sender.scheme.name();
    UsageError(if sender.scheme.learns_secret() {
        format!(
            "the handshake of {name} sets the secret of the source: start it at the sender, after `wwproxy sources arm`"
        )
    } else {
        format!("{name} sends no challenge")
    })
}

fn challenge_secret(sender: &Sender, file: Option<&Path>) -> anyhow::Result<Option<Secret>> {
    match file {
        _ if !sender.scheme.has_challenge_secret() && file.is_some() => {
            let name = sender.scheme.name();
            Err(UsageError(format!(
                "the challenge of {name} has no secret of its own: leave out --challenge-secret-file"
            ))
            .into())
        }
        None if sender.scheme.has_challenge_secret() => {
            Err(UsageError("give the secret of the challenge: --challenge-secret-file FILE".into()).into())
        }
        None => Ok(None),
        Some(file) => Ok(Some(Secret::new(secret::read_file(file, "--challenge-secret-file")?))),
    }
}

/// The answer that the server would give with the same secrets.
fn expected(sender: &Sender, verify_token: Option<Secret>, request: &Outgoing) -> anyhow::Result<Answer> {
    let secret = match &sender.secret {
        // The key that is registered, of senders that sign with a private key.
        Some(secret) => Some(sender.scheme.public_key(secret).map_or_else(|_| secret.clone(), Secret::new)),
        // Any secret: this challenge is verified with the challenge's own.
        None => sender.scheme.generate_secret().ok(),
    };
    let settings = SourceSettings {
        scheme: sender.scheme.name().to_owned(),
        secrets: secret.into_iter().collect(),
        url: sender.scheme.needs_url().then(|| sender.url.clone().unwrap_or_else(|| request.url.to_string())),
        challenge_secret: verify_token,
        ..SourceSettings::default()
    };
    let source = Source::new(settings).map_err(|error| UsageError(error.to_string()))?;
    let headers: Vec<_> =
        request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let challenge = Request {
        query: request.url.query(),
        ..Request::new(request.method.as_str(), &headers, &request.body)
    };
    match source.verify(&challenge, SystemTime::now()) {
        Ok(Reception::Answer(answer)) => Ok(answer),
        Ok(_) => Err(anyhow!("{} sends no challenge", sender.scheme.name())),
        Err(rejection) => Err(UsageError(format!("the challenge cannot be made: {rejection}")).into()),
    }
}

async fn check(sender: &Sender, expected: &Answer, response: Response) -> anyhow::Result<()> {
    let status = response.status();
    let headers = response.headers().clone();
    let body = read(response).await.context("the response to the challenge is incomplete")?;
    if status != expected.status {
        let message = format!("the challenge was answered {status}, not {}", expected.status);
        return Err(Refusal { status: Some(status), message }.into());
    }
    let json = serde_json::from_slice::<Value>(&body).ok();
    let matches = match serde_json::from_str::<Value>(&expected.body) {
        Ok(value) if expected.content_type.starts_with("application/json") => json == Some(value),
        // Slack takes its challenge also as a member of a JSON object.
        _ => {
            body == expected.body.as_bytes()
                || json.is_some_and(|json| json["challenge"] == expected.body.as_str())
        }
    };
    if !matches {
        return Err(anyhow!("the response to the challenge is not {}", in_words(expected)));
    }
    let signature = headers.get(OUTBOUND_TOKEN);
    let is_signed = |secret| signature.is_some_and(|it| verify_watson_work(secret, &body, it.as_bytes()));
    if sender.scheme.name() == "watsonwork" && !sender.secret.as_ref().is_some_and(is_signed) {
        return Err(anyhow!(
            "the response to the challenge is not signed with the webhook secret (X-OUTBOUND-TOKEN)"
        ));
    }
    Ok(())
}

/// The expected answer in words. Its values are not shown, as some are signatures.
fn in_words(expected: &Answer) -> String {
    match serde_json::from_str(&expected.body) {
        Ok(Value::Object(members)) => {
            let names: Vec<_> = members.keys().map(String::as_str).collect();
            format!("a JSON object with the right {}", names.join(" and "))
        }
        _ if expected.body.is_empty() => "empty".to_owned(),
        _ => "the text of the challenge".to_owned(),
    }
}

/// Discord also sends a challenge with a wrong signature, and expects 401.
async fn check_bad_signature(
    hook: &Hook,
    sender: &Sender,
    challenge: ChallengeRequest,
) -> anyhow::Result<()> {
    let other = Secret::new("22".repeat(32));
    let forger = Sender { scheme: sender.scheme.clone(), secret: Some(other), url: sender.url.clone() };
    let status = hook.send(forger.challenge(challenge, hook)?).await?.status();
    if status == StatusCode::UNAUTHORIZED {
        return Ok(());
    }
    Err(anyhow!(
        "a challenge with a wrong signature was answered {status}, not 401: Discord rejects such a hook"
    ))
}
