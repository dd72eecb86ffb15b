//! A cache of a platform's answers about tokens.

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

/// How long an answer of each kind is cached, and how long a query waits for a permit.
struct CachePolicy {
    owner: Duration,
    refusal: Duration,
    /// The platform was unavailable.
    failure: Duration,
    queue_timeout: Duration,
}

/// For a request, whose client waits for the answer.
const REQUEST: CachePolicy = CachePolicy {
    owner: Duration::from_secs(60),
    refusal: Duration::from_secs(5),
    failure: Duration::from_secs(1),
    queue_timeout: Duration::from_secs(5),
};
/// For the heartbeat of an open websocket. It does not wait for a permit, since the next heartbeat tries again: ten thousand
/// websockets must not delay requests.
const WEBSOCKET: CachePolicy = CachePolicy {
    owner: Duration::from_secs(300),
    refusal: Duration::from_secs(5),
    failure: Duration::from_secs(60),
    queue_timeout: Duration::ZERO,
};

/// The most tokens in the cache.
const MAX_TOKENS: usize = 20_000;
/// The most known tokens that are kept when the cache is full; the rest is room for unknown ones.
const MAX_KNOWN_TOKENS: usize = 10_000;
/// A known token that was not queried for this long may be evicted.
const UNUSED: Duration = Duration::from_secs(3600);
/// The most concurrent queries about known tokens.
const MAX_QUERIES: usize = 64;
/// The most concurrent queries about unknown tokens. Anyone can cause them, so they have a separate limit.
const MAX_UNKNOWN_QUERIES: usize = 32;

/// The limit of concurrent queries is reached.
#[derive(Debug, thiserror::Error)]
#[error("too many concurrent queries to the platform")]
struct Busy;

/// The id of a token's owner.
type Owner = Result<String, IdentityError>;
/// Tokens are cached by their hash, never in clear.
type TokenHash = [u8; 32];

/// Caches the answers of a platform. Concurrent requests for the same token cause one query.
pub struct Cached<P> {
    platform: P,
    entries: Mutex<HashMap<TokenHash, Arc<Entry>>>,
    known: Semaphore,
    unknown: Semaphore,
}

/// The cache entry of one token.
#[derive(Default)]
struct Entry {
    /// The answer and its time. Locked while the platform is queried.
    answer: AsyncMutex<Option<(Owner, Instant)>>,
    /// Whether the platform has returned an owner, and has not refused the token since.
    known: AtomicBool,
}

impl Entry {
    fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// Whether the token was queried lately. A locked entry is being queried.
    fn is_in_use(&self) -> bool {
        self.answer
            .try_lock()
            .map_or(true, |answer| answer.as_ref().is_some_and(|(_, queried)| queried.elapsed() < UNUSED))
    }
}

impl<P: IdentityProvider> Cached<P> {
    /// Caches the answers of this platform.
    #[must_use]
    pub fn new(platform: P) -> Self {
        Self {
            platform,
            entries: Mutex::default(),
            known: Semaphore::new(MAX_QUERIES),
            unknown: Semaphore::new(MAX_UNKNOWN_QUERIES),
        }
    }

    async fn owner(&self, token: &Secret, policy: &CachePolicy) -> Owner {
        let entry = self.entry(Sha256::digest(token.expose().as_bytes()).into());
        let mut answer = entry.answer.lock().await;
        if let Some((owner, queried)) = &*answer
            && queried.elapsed() < policy.lifetime(owner)
        {
            return owner.clone();
        }
        let permits = if entry.is_known() { &self.known } else { &self.unknown };
        let permit = timeout(policy.queue_timeout, permits.acquire()).await;
        let Ok(Ok(_permit)) = permit else { return Err(IdentityError::unavailable(Busy)) };
        let owner = self.platform.identify(token).await;
        match &owner {
            Ok(_) => entry.known.store(true, Ordering::Relaxed),
            Err(IdentityError::Refused) => entry.known.store(false, Ordering::Relaxed),
            Err(IdentityError::Unavailable(_)) => {}
        }
        *answer = Some((owner.clone(), Instant::now()));
        owner
    }

    fn entry(&self, token: TokenHash) -> Arc<Entry> {
        let mut entries = self.entries.lock();
        if entries.len() >= MAX_TOKENS && !entries.contains_key(&token) {
            evict(&mut entries);
        }
        Arc::clone(entries.entry(token).or_default())
    }
}

/// Evicts the unknown tokens first: a flood of them must not evict those of apps.
fn evict(entries: &mut HashMap<TokenHash, Arc<Entry>>) {
    entries.retain(|_, entry| entry.is_known());
    if entries.len() > MAX_KNOWN_TOKENS {
        entries.retain(|_, entry| entry.is_in_use());
    }
    let mut kept = 0;
    entries.retain(|_, _| {
        kept += 1;
        kept <= MAX_KNOWN_TOKENS
    });
}

impl CachePolicy {
    fn lifetime(&self, owner: &Owner) -> Duration {
        match owner {
            Ok(_) => self.owner,
            Err(IdentityError::Refused) => self.refusal,
            Err(IdentityError::Unavailable(_)) => self.failure,
        }
    }
}

impl<P: IdentityProvider> IdentityProvider for Cached<P> {
    fn identify<'a>(&'a self, token: &'a Secret) -> BoxFuture<'a, Owner> {
        Box::pin(self.owner(token, &REQUEST))
    }

    fn revalidate<'a>(&'a self, token: &'a Secret) -> BoxFuture<'a, Owner> {
        Box::pin(self.owner(token, &WEBSOCKET))
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

    /// A platform that takes a second for each answer, and counts the queries.
    #[derive(Debug)]
    struct Slow {
        asked: AtomicUsize,
        answer: Mutex<Owner>,
    }

    impl IdentityProvider for Slow {
        fn identify<'a>(&'a self, _: &'a Secret) -> BoxFuture<'a, Owner> {
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

    fn cached(answer: Owner) -> Cached<Slow> {
        Cached::new(Slow { asked: AtomicUsize::new(0), answer: Mutex::new(answer) })
    }

    fn unavailable() -> Owner {
        Err(IdentityError::unavailable(std::io::Error::other("down")))
    }

    impl Cached<Slow> {
        fn asked(&self) -> usize {
            self.platform.asked.load(Ordering::SeqCst)
        }

        fn answer_with(&self, answer: Owner) {
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
    async fn each_kind_of_answer_is_cached_for_its_own_time() {
        for (policy, is_request) in [(&REQUEST, true), (&WEBSOCKET, false)] {
            for answer in [Ok("bot".into()), Err(IdentityError::Refused), unavailable()] {
                let lifetime = policy.lifetime(&answer);
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
    async fn queries_about_unknown_tokens_do_not_delay_those_about_known_ones() {
        let cached = Arc::new(cached(Ok("bot".into())));
        let known = Secret::new("known");
        cached.identify(&known).await.unwrap();
        tokio::time::advance(REQUEST.owner).await;
        cached.answer_with(Err(IdentityError::Refused));
        let flood: Vec<_> = (0..10 * MAX_QUERIES)
            .map(|n| {
                let cached = Arc::clone(&cached);
                tokio::spawn(async move { cached.identify(&Secret::new(n.to_string())).await })
            })
            .collect();
        tokio::task::yield_now().await;
        let under_way = cached.asked();
        assert!(under_way <= 1 + MAX_UNKNOWN_QUERIES, "{under_way}");
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
            drop(cached.entry(Sha256::digest(n.to_string()).into()));
        }
        assert!(cached.entries.lock().len() <= MAX_TOKENS);
        assert!(cached.entry(Sha256::digest("known").into()).is_known());
    }

    #[tokio::test(start_paused = true)]
    async fn the_cache_is_bounded_and_does_not_contain_tokens() {
        let cached = cached(Err(IdentityError::Refused));
        for n in 0..2 * MAX_TOKENS {
            let answer = cached.entry(Sha256::digest(n.to_string()).into());
            answer.known.store(true, Ordering::Relaxed);
        }
        assert!(cached.entries.lock().len() <= MAX_TOKENS);
        let _ = cached.identify(&Secret::new("hunter2")).await;
        assert!(!format!("{cached:?}").contains("hunter2"));
    }
}
