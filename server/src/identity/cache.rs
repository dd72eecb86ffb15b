//! Remembers for a short while what a platform said.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use sha2::{Digest, Sha256};
use tokio::{
    sync::{Mutex as AsyncMutex, Semaphore},
    time::{Instant, timeout},
};
use wwproxy_protocol::Secret;

use super::{IdentityError, IdentityProvider, Platform};

/// How long an owner is remembered.
const KNOWN: Duration = Duration::from_secs(60);
/// How long a refusal is remembered.
const REFUSED: Duration = Duration::from_secs(5);
/// How long a platform is left alone that could not be asked.
const UNAVAILABLE: Duration = Duration::from_secs(1);
/// The most tokens remembered.
const MAX_TOKENS: usize = 10_000;
/// The most questions under way at once.
const MAX_QUESTIONS: usize = 64;

/// How long a question waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);

/// Too many questions are under way.
#[derive(Debug, thiserror::Error)]
#[error("{MAX_QUESTIONS} questions to the platform are under way already")]
struct Busy;

type Said = Result<String, IdentityError>;
/// Tokens stand here by their hash, never in clear.
type TokenHash = [u8; 32];

/// A platform that is asked once for each token in a while, however many ask at the same time.
pub struct Cached<P> {
    platform: P,
    answers: Mutex<HashMap<TokenHash, Arc<Answer>>>,
    questions: Semaphore,
}

/// Who finds no answer asks, and holds the lock until it is there.
#[derive(Default)]
struct Answer(AsyncMutex<Option<(Said, Instant)>>);

impl<P: IdentityProvider> Cached<P> {
    /// Remembers what this platform says.
    #[must_use]
    pub fn new(platform: P) -> Self {
        Self { platform, answers: Mutex::default(), questions: Semaphore::new(MAX_QUESTIONS) }
    }

    async fn ask(&self, token: &Secret) -> Said {
        let answer = self.answer(Sha256::digest(token.expose().as_bytes()).into());
        let mut answer = answer.0.lock().await;
        if let Some((said, until)) = &*answer
            && Instant::now() < *until
        {
            return said.clone();
        }
        let turn = timeout(TURN_TIMEOUT, self.questions.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(IdentityError::unavailable(Busy)) };
        let said = self.platform.identify(token).await;
        let memory = match &said {
            Ok(_) => KNOWN,
            Err(IdentityError::Refused) => REFUSED,
            Err(IdentityError::Unavailable(_)) => UNAVAILABLE,
        };
        *answer = Some((said.clone(), Instant::now() + memory));
        said
    }

    fn answer(&self, token: TokenHash) -> Arc<Answer> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MAX_TOKENS && !answers.contains_key(&token) {
            let now = Instant::now();
            // One that is locked is being asked for.
            let old = |answer: &Answer| {
                answer.0.try_lock().is_ok_and(|said| said.as_ref().is_none_or(|(_, until)| *until <= now))
            };
            answers.retain(|_, answer| !old(answer));
            // A flood of tokens that nobody has must not push out those of apps.
            if answers.len() >= MAX_TOKENS {
                let owned = |answer: &Answer| {
                    answer.0.try_lock().is_ok_and(|said| matches!(&*said, Some((Ok(_), _))))
                };
                answers.retain(|_, answer| owned(answer));
            }
            if answers.len() >= MAX_TOKENS {
                answers.clear();
            }
        }
        Arc::clone(answers.entry(token).or_default())
    }
}

impl<P: IdentityProvider> IdentityProvider for Cached<P> {
    fn identify<'a>(&'a self, token: &'a Secret) -> BoxFuture<'a, Said> {
        Box::pin(self.ask(token))
    }

    fn vouches_for(&self, token: &Secret) -> bool {
        self.platform.vouches_for(token)
    }

    fn platform(&self) -> Platform<'_> {
        self.platform.platform()
    }
}

impl<P: fmt::Debug> fmt::Debug for Cached<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached").field("platform", &self.platform).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Takes a second for each answer, and counts the questions.
    #[derive(Debug)]
    struct Slow {
        asked: AtomicUsize,
        answer: Said,
    }

    impl IdentityProvider for Slow {
        fn identify<'a>(&'a self, _: &'a Secret) -> BoxFuture<'a, Said> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            Box::pin(async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.answer.clone()
            })
        }

        fn platform(&self) -> Platform<'_> {
            Platform::Elsewhere("")
        }
    }

    fn cached(answer: Said) -> Cached<Slow> {
        Cached::new(Slow { asked: AtomicUsize::new(0), answer })
    }

    impl Cached<Slow> {
        fn asked(&self) -> usize {
            self.platform.asked.load(Ordering::SeqCst)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_questions_at_once_are_asked_once() {
        let cached = cached(Ok("bot".into()));
        let token = Secret::new("t");
        let (a, b) = tokio::join!(cached.identify(&token), cached.identify(&token));
        assert_eq!((a.unwrap(), b.unwrap()), ("bot".into(), "bot".into()));
        assert_eq!(cached.asked(), 1);
        cached.identify(&Secret::new("other")).await.unwrap();
        assert_eq!(cached.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn each_kind_of_answer_has_its_time() {
        let unavailable = IdentityError::unavailable(std::io::Error::other("down"));
        for (answer, memory) in [
            (Ok("bot".into()), KNOWN),
            (Err(IdentityError::Refused), REFUSED),
            (Err(unavailable), UNAVAILABLE),
        ] {
            let cached = cached(answer);
            let token = Secret::new("t");
            let _ = cached.identify(&token).await;
            let moment = Duration::from_millis(1);
            tokio::time::advance(memory.saturating_sub(moment)).await;
            let _ = cached.identify(&token).await;
            assert_eq!(cached.asked(), 1, "within {memory:?}");
            tokio::time::advance(moment).await;
            let _ = cached.identify(&token).await;
            assert_eq!(cached.asked(), 2, "after {memory:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded_and_not_the_token() {
        let cached = cached(Err(IdentityError::Refused));
        for n in 0..=MAX_TOKENS {
            drop(cached.answer(Sha256::digest(n.to_string()).into()));
        }
        assert!(cached.answers.lock().unwrap().len() <= MAX_TOKENS);
        let _ = cached.identify(&Secret::new("hunter2")).await;
        assert!(!format!("{cached:?}").contains("hunter2"));
    }
}
