//! Receiving a webhook: verify, answer a challenge, append to the store.

use std::{sync::Arc, time::Duration};

use tokio::{task::spawn_blocking, time::timeout_at};
use wwproxy_protocol::{AppId, SourceName, scheme::Answer};

use super::{
    Proxy, ProxyError,
    permits::Permit,
    webhook::{Verified, Webhook},
};
use crate::store::{Appended, StoreError};

/// How long a webhook may wait from its last byte on: for its verification, also if it is verified again, and to be stored. The
/// platform gives up after 3 s and retries: if the event was stored after all, the retry is recognised as a duplicate.
pub(crate) const RECEIVE_TIMEOUT: Duration = Duration::from_millis(2500);
/// How often a webhook is verified at most: again if its source was replaced before the event was committed.
const MAX_VERIFICATIONS: u32 = 3;
/// From this size on, in bytes, verifying a body takes about 0.2 ms or longer. Large bodies are verified on blocking
/// threads, on at most half of the processors, and one of each app at a time.
const LARGE_BODY: usize = 64 << 10;

/// The outcome of a webhook that was accepted.
pub(crate) enum Received {
    /// The event is durable, now or since its first delivery. The HTTP status that the sender takes as a success.
    Stored(u16),
    /// The webhook was a challenge: the answer to it.
    Answer(Answer),
}

/// The permit to verify a webhook, which limits how many large bodies are verified at once.
#[derive(Debug)]
pub(crate) struct VerificationPermit(Option<Permit>);

impl Proxy {
    /// Waits for the permit to verify a webhook. A small body needs none.
    pub(crate) async fn verification_permit(
        &self,
        app: &AppId,
        webhook: &Webhook,
    ) -> Result<VerificationPermit, ProxyError> {
        if webhook.body.len() < LARGE_BODY {
            return Ok(VerificationPermit(None));
        }
        let permit = timeout_at(webhook.deadline, self.large_bodies.acquire(app)).await;
        Ok(VerificationPermit(Some(permit.map_err(|_| ProxyError::Busy)?)))
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
        for _ in 1..MAX_VERIFICATIONS {
            match self.receive_once(app, name, webhook, verified).await {
                Err(ProxyError::SourceChanged) => {}
                outcome => return outcome,
            }
            let permit = self.verification_permit(app, webhook).await?;
            verified = self.verify(app, name, webhook, permit).await?;
        }
        self.receive_once(app, name, webhook, verified).await
    }

    async fn receive_once(
        self: &Arc<Self>,
        app: &AppId,
        name: &SourceName,
        webhook: &Webhook,
        verified: Verified,
    ) -> Result<Received, ProxyError> {
        let (source, event, dedupe, success) = match verified {
            Verified::Event { source, event, dedupe, success } => (source, event, dedupe, success),
            Verified::Challenge(answer) => return Ok(Received::Answer(answer)),
            Verified::Handshake { source, secret, answer } => {
                self.learn_secret(app, name, source, secret).await?;
                return Ok(Received::Answer(answer));
            }
        };
        let appended = timeout_at(webhook.deadline, self.store.append(app, source, event, dedupe));
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

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use tokio::time::{Instant, sleep};
    use wwproxy_protocol::{ConsumerName, Secret, SourceSettings, sign_watson_work};

    use super::{
        super::fixture::{proxy, webhook},
        *,
    };
    use crate::store::{Limits, SqliteStore, fake::FakeStore};

    fn bot() -> AppId {
        "bot".parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_body_waits_for_its_verifications_until_its_deadline() {
        let proxy = proxy(FakeStore::default());
        let (large, start) = (webhook(HeaderMap::new(), vec![b'x'; LARGE_BODY]), Instant::now());
        let before = proxy.verification_permit(&bot(), &large).await.unwrap();
        tokio::spawn(async move {
            sleep(RECEIVE_TIMEOUT / 2).await;
            drop(before);
        });
        let permit = proxy.verification_permit(&bot(), &large).await;
        assert!(permit.is_ok());
        assert_eq!(start.elapsed(), RECEIVE_TIMEOUT / 2);
        let again = proxy.verification_permit(&bot(), &large).await;
        assert!(matches!(again, Err(ProxyError::Busy)));
        assert_eq!(start.elapsed(), RECEIVE_TIMEOUT, "both waits count");
        let small = webhook(HeaderMap::new(), "{}");
        assert!(proxy.verification_permit(&bot(), &small).await.is_ok(), "a small body does not wait");
    }

    #[tokio::test]
    async fn a_webhook_of_an_ended_registration_is_not_stored_in_the_next_one() {
        let proxy = proxy(SqliteStore::in_memory(Limits::default()).await.unwrap());
        let (app, name, token) = (bot(), SourceName::default(), Secret::new("token"));
        for (next, stored) in [("old", true), ("new", false)] {
            let put = async |secret: &'static str| {
                let settings = SourceSettings { secrets: vec![Secret::new(secret)], ..Default::default() };
                proxy.put_source(&app, &token, &name, settings).await.unwrap();
            };
            put("old").await;
            let signature = sign_watson_work(&Secret::new("old"), b"{}").parse().unwrap();
            let webhook =
                webhook([("x-outbound-token".parse().unwrap(), signature)].into_iter().collect(), "{}");
            let permit = proxy.verification_permit(&app, &webhook).await.unwrap();
            let verified = proxy.verify(&app, &name, &webhook, permit).await.unwrap();
            proxy.unregister(&app, &token).await.unwrap();
            put(next).await;
            let received = proxy.receive(&app, &name, &webhook, verified).await;
            assert_eq!(received.is_ok(), stored, "verified again with the secret {next}");
            assert!(stored || matches!(received, Err(ProxyError::Rejected(_))));
            assert_eq!(proxy.status(&app, &ConsumerName::default()).await.unwrap().stored, u64::from(stored));
            proxy.unregister(&app, &token).await.unwrap();
        }
    }
}
