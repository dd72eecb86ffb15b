//! Receiving a webhook: verify, answer a challenge, append to the store.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::OwnedSemaphorePermit,
    task::spawn_blocking,
    time::{Instant, timeout, timeout_at},
};
use wwproxy_protocol::{AppId, SourceName, scheme::Answer};

use super::{
    Proxy, ProxyError,
    webhook::{Verified, Webhook},
};
use crate::store::{Appended, StoreError};

/// How long an append may take. The platform gives up after 3 s and retries: if the event was stored after all, the retry is
/// recognised as a duplicate.
const APPEND_TIMEOUT: Duration = Duration::from_millis(2500);
/// How often a webhook is verified at most: again if its source was replaced before the event was committed.
const MAX_VERIFICATIONS: u32 = 3;
/// From this size on, in bytes, verifying a body takes about 0.2 ms or longer. Large bodies are verified on blocking
/// threads, on at most half of the processors.
const LARGE_BODY: usize = 64 << 10;

/// How long a large body waits for its verification. Longer than that most senders do not wait, and retry.
const VERIFICATION_WAIT: Duration = Duration::from_secs(2);

/// The outcome of a webhook that was accepted.
pub(crate) enum Received {
    /// The event is durable, now or since its first delivery. The HTTP status that the sender takes as a success.
    Stored(u16),
    /// The webhook was a challenge: the answer to it.
    Answer(Answer),
}

/// The permit to verify a webhook, which limits how many large bodies are verified at once.
#[derive(Debug)]
pub(crate) struct VerificationPermit(Option<OwnedSemaphorePermit>);

impl Proxy {
    /// Waits for the permit to verify a webhook. A small body needs none.
    pub(crate) async fn verification_permit(
        &self,
        webhook: &Webhook,
    ) -> Result<VerificationPermit, ProxyError> {
        if webhook.body.len() < LARGE_BODY {
            return Ok(VerificationPermit(None));
        }
        let permit = timeout(VERIFICATION_WAIT, Arc::clone(&self.large_bodies).acquire_owned()).await;
        let permit = permit.map_err(|_| ProxyError::Busy)?;
        Ok(VerificationPermit(Some(permit.expect("the semaphore is never closed"))))
    }

    /// Verifies a webhook with the current settings of its source, which may have been replaced while the body was read. A
    /// large body is verified on a blocking thread, so that other connections do not wait for it.
    pub(crate) async fn verify(
        &self,
        app: &AppId,
        name: &SourceName,
        webhook: &Arc<Webhook>,
        permit: VerificationPermit,
    ) -> Result<Verified, ProxyError> {
        let source = self.receiving_source(app, Some(name), &webhook.method).await?;
        if permit.0.is_none() {
            return webhook.verify(name, source);
        }
        let (name, webhook) = (name.clone(), Arc::clone(webhook));
        let verified = spawn_blocking(move || {
            // Held until the work is done, even if the sender has disconnected.
            let _permit = permit;
            webhook.verify(&name, source)
        });
        verified.await.map_err(StoreError::engine)?
    }

    /// Stores a verified webhook, or answers its challenge. If its source was replaced since the verification nothing is stored,
    /// and the webhook is verified again with the current settings.
    pub(crate) async fn receive(
        self: &Arc<Self>,
        app: &AppId,
        name: &SourceName,
        webhook: &Arc<Webhook>,
        mut verified: Verified,
    ) -> Result<Received, ProxyError> {
        let deadline = Instant::now() + APPEND_TIMEOUT;
        for _ in 1..MAX_VERIFICATIONS {
            match self.receive_once(app, name, verified, deadline).await {
                Err(ProxyError::SourceChanged) => {}
                outcome => return outcome,
            }
            let permit = self.verification_permit(webhook).await?;
            verified = self.verify(app, name, webhook, permit).await?;
        }
        self.receive_once(app, name, verified, deadline).await
    }

    async fn receive_once(
        self: &Arc<Self>,
        app: &AppId,
        name: &SourceName,
        verified: Verified,
        deadline: Instant,
    ) -> Result<Received, ProxyError> {
        let (source, event, dedupe, success) = match verified {
            Verified::Event { source, event, dedupe, success } => (source, event, dedupe, success),
            Verified::Challenge(answer) => return Ok(Received::Answer(answer)),
            Verified::Handshake { source, secret, answer } => {
                self.learn_secret(app, name, source, secret).await?;
                return Ok(Received::Answer(answer));
            }
        };
        let appended = timeout_at(deadline, self.store.append(app, source, event, dedupe));
        match appended.await.map_err(|_| ProxyError::Slow)?? {
            Appended::Stored(id) => {
                tracing::debug!(%app, source = %name, %id, "stored");
                Ok(Received::Stored(success))
            }
            Appended::Duplicate => Ok(Received::Stored(success)),
            Appended::Full => Err(ProxyError::Full),
            Appended::SourceChanged => Err(ProxyError::SourceChanged),
        }
    }
}
