//! Caches for a short while what a platform said.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::{
    sync::{Mutex as AsyncMutex, Semaphore},
    time::{Instant, timeout},
};
use wwproxy_protocol::{AppId, Secret};

use super::{IdentityError, IdentityProvider, TokenIssuer};

/// How long an answer of each kind is used before the platform is asked again, and how long a question waits for its turn.
struct Terms {
    owner: Duration,
    refusal: Duration,
    /// The platform could not be asked.
    failure: Duration,
    turn: Duration,
}

/// For a request, whose client waits.
const REQUEST: Terms = Terms {
    owner: Duration::from_secs(60),
    refusal: Duration::from_secs(5),
    failure: Duration::from_secs(1),
    turn: Duration::from_secs(5),
};
/// For a websocket that is open, at each of its heartbeats. It does not wait for a turn, as the next heartbeat asks
/// again: ten thousand websockets must not delay requests.
const WEBSOCKET: Terms = Terms {
    owner: Duration::from_secs(300),
    refusal: Duration::from_secs(5),
    failure: Duration::from_secs(60),
    turn: Duration::ZERO,
};

/// The most tokens in the cache.
const MAX_TOKENS: usize = 20_000;
/// The most known tokens that are kept when the cache is full: the rest is room for unknown ones.
const MAX_KNOWN_TOKENS: usize = 10_000;
/// A known token that was not asked about for so long makes room for others.
const UNUSED: Duration = Duration::from_secs(3600);
/// The most questions about known tokens under way at once.
const MAX_QUESTIONS: usize = 64;
/// The most questions about unknown tokens under way at once. Anybody can ask them, so they have a budget of their own.
const MAX_UNKNOWN_QUESTIONS: usize = 32;

/// Too many questions are under way.
#[derive(Debug, thiserror::Error)]
#[error("too many questions to the platform are under way already")]
struct Busy;

type Said = Result<String, IdentityError>;
/// Tokens are kept by their hash, never in clear.
type TokenHash = [u8; 32];

/// A platform that is asked once for each token in a while, however many ask at the same time.
pub struct Cached<P> {
    platform: P,
    answers: Mutex<HashMap<TokenHash, Arc<Answer>>>,
    known: Semaphore,
    unknown: Semaphore,
}

/// What the platform said of one token.
#[derive(Default)]
struct Answer {
    /// The answer and when it came. Whoever finds no fresh one asks, and holds the lock meanwhile.
    said: AsyncMutex<Option<(Said, Instant)>>,
    /// Whether the platform has named an owner, and has not refused the token since.
    known: AtomicBool,
}

impl Answer {
    fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// One that is locked is being asked for.
    fn is_in_use(&self) -> bool {
        self.said
            .try_lock()
            .map_or(true, |said| said.as_ref().is_some_and(|(_, asked)| asked.elapsed() < UNUSED))
    }
}

impl<P: IdentityProvider> Cached<P> {
    /// Remembers what this platform says.
    #[must_use]
    pub fn new(platform: P) -> Self {
        Self {
            platform,
            answers: Mutex::default(),
            known: Semaphore::new(MAX_QUESTIONS),
            unknown: Semaphore::new(MAX_UNKNOWN_QUESTIONS),
        }
    }

    async fn ask(&self, token: &Secret, terms: &Terms) -> Said {
        let answer = self.answer(Sha256::digest(token.expose().as_bytes()).into());
        let mut said = answer.said.lock().await;
        if let Some((said, asked)) = &*said
            && asked.elapsed() < terms.lifetime(said)
        {
            return said.clone();
        }
        let budget = if answer.is_known() { &self.known } else { &self.unknown };
        let turn = timeout(terms.turn, budget.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(IdentityError::unavailable(Busy)) };
        let new = self.platform.identify(token).await;
        match &new {
            Ok(_) => answer.known.store(true, Ordering::Relaxed),
            Err(IdentityError::Refused) => answer.known.store(false, Ordering::Relaxed),
            Err(IdentityError::Unavailable(_)) => {}
        }
        *said = Some((new.clone(), Instant::now()));
        new
    }

    fn answer(&self, token: TokenHash) -> Arc<Answer> {
        let mut answers = self.answers.lock();
        if answers.len() >= MAX_TOKENS && !answers.contains_key(&token) {
            evict(&mut answers);
        }
        Arc::clone(answers.entry(token).or_default())
    }
}

/// Evicts the unknown tokens first: a flood of them must not evict those of apps.
fn evict(answers: &mut HashMap<TokenHash, Arc<Answer>>) {
    answers.retain(|_, answer| answer.is_known());
    if answers.len() > MAX_KNOWN_TOKENS {
        answers.retain(|_, answer| answer.is_in_use());
    }
    let mut kept = 0;
    answers.retain(|_, _| {
        kept += 1;
        kept <= MAX_KNOWN_TOKENS
    });
}

impl Terms {
    fn lifetime(&self, said: &Said) -> Duration {
        match said {
            Ok(_) => self.owner,
            Err(IdentityError::Refused) => self.refusal,
            Err(IdentityError::Unavailable(_)) => self.failure,
        }
    }
}

impl<P: IdentityProvider> IdentityProvider for Cached<P> {
    fn identify<'a>(&'a self, token: &'a Secret) -> BoxFuture<'a, Said> {
        Box::pin(self.ask(token, &REQUEST))
    }

    fn revalidate<'a>(&'a self, token: &'a Secret) -> BoxFuture<'a, Said> {
        Box::pin(self.ask(token, &WEBSOCKET))
    }

    fn serves(&self, app: &AppId) -> bool {
        self.platform.serves(app)
    }

    fn is_suspended(&self, app: &AppId) -> bool {
        self.platform.is_suspended(app)
    }

    fn issuer(&self) -> Option<&dyn TokenIssuer> {
        self.platform.issuer()
    }

    fn platform_url(&self) -> Option<&str> {
        self.platform.platform_url()
    }
}

impl<P: fmt::Debug> fmt::Debug for Cached<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached").field("platform", &self.platform).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Takes a second for each answer, and counts the questions.
    #[derive(Debug)]
    struct Slow {
        asked: AtomicUsize,
        answer: Mutex<Said>,
    }

    impl IdentityProvider for Slow {
        fn identify<'a>(&'a self, _: &'a Secret) -> BoxFuture<'a, Said> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            Box::pin(async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.answer.lock().clone()
            })
        }

        fn is_suspended(&self, app: &AppId) -> bool {
            app.as_str() == "suspended"
        }
    }

    fn cached(answer: Said) -> Cached<Slow> {
        Cached::new(Slow { asked: AtomicUsize::new(0), answer: Mutex::new(answer) })
    }

    fn unavailable() -> Said {
        Err(IdentityError::unavailable(std::io::Error::other("down")))
    }

    impl Cached<Slow> {
        fn asked(&self) -> usize {
            self.platform.asked.load(Ordering::SeqCst)
        }

        fn answer_with(&self, answer: Said) {
            *self.platform.answer.lock() = answer;
        }
    }

    #[test]
    fn what_the_platform_says_of_apps_is_passed_on() {
        let cached = cached(Ok("bot".into()));
        assert!(cached.is_suspended(&"suspended".parse().unwrap()));
        assert!(!cached.is_suspended(&"bot".parse().unwrap()));
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
        for (terms, is_request) in [(&REQUEST, true), (&WEBSOCKET, false)] {
            for answer in [Ok("bot".into()), Err(IdentityError::Refused), unavailable()] {
                let lifetime = terms.lifetime(&answer);
                let cached = cached(answer);
                let token = Secret::new("t");
                let ask = || if is_request { cached.identify(&token) } else { cached.revalidate(&token) };
                let _ = ask().await;
                let moment = Duration::from_millis(1);
                tokio::time::advance(lifetime.saturating_sub(moment)).await;
                let _ = ask().await;
                assert_eq!(cached.asked(), 1, "within {lifetime:?}");
                tokio::time::advance(moment).await;
                let _ = ask().await;
                assert_eq!(cached.asked(), 2, "after {lifetime:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn questions_about_unknown_tokens_do_not_delay_those_about_known_ones() {
        let cached = Arc::new(cached(Ok("bot".into())));
        let known = Secret::new("known");
        cached.identify(&known).await.unwrap();
        tokio::time::advance(REQUEST.owner).await;
        cached.answer_with(Err(IdentityError::Refused));
        let flood: Vec<_> = (0..10 * MAX_QUESTIONS)
            .map(|n| {
                let cached = Arc::clone(&cached);
                tokio::spawn(async move { cached.identify(&Secret::new(n.to_string())).await })
            })
            .collect();
        tokio::task::yield_now().await;
        let under_way = cached.asked();
        assert!(under_way <= 1 + MAX_UNKNOWN_QUESTIONS, "{under_way}");
        cached.answer_with(Ok("bot".into()));
        let began = Instant::now();
        cached.identify(&known).await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(1), "no time but the platform's own");
        flood.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_unknown_tokens_evicts_no_known_one() {
        let cached = cached(Ok("bot".into()));
        let known = Secret::new("known");
        cached.identify(&known).await.unwrap();
        tokio::time::advance(REQUEST.owner).await;
        for n in 0..3 * MAX_TOKENS {
            drop(cached.answer(Sha256::digest(n.to_string()).into()));
        }
        assert!(cached.answers.lock().len() <= MAX_TOKENS);
        assert!(cached.answer(Sha256::digest("known").into()).is_known());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded_and_not_the_token() {
        let cached = cached(Err(IdentityError::Refused));
        for n in 0..2 * MAX_TOKENS {
            let answer = cached.answer(Sha256::digest(n.to_string()).into());
            answer.known.store(true, Ordering::Relaxed);
        }
        assert!(cached.answers.lock().len() <= MAX_TOKENS);
        let _ = cached.identify(&Secret::new("hunter2")).await;
        assert!(!format!("{cached:?}").contains("hunter2"));
    }
}
