//! Limits how many large bodies are verified at once.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wwproxy_protocol::AppId;

/// The permits to verify large bodies: one for each app, and some for all apps together.
#[derive(Debug)]
pub(super) struct Permits {
    all: Arc<Semaphore>,
    /// The apps that have a permit or wait for one. Other entries are removed by the next body.
    apps: Mutex<HashMap<AppId, Arc<Semaphore>>>,
}

/// The permit to verify one large body.
#[derive(Debug)]
pub(super) struct Permit {
    _app: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Permits {
    /// `limit` is the most bodies of all apps that are verified at once.
    pub(super) fn new(limit: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(limit)), apps: Mutex::default() }
    }

    /// Waits for a permit, in order of arrival. Only one body of each app waits for a permit of all apps, so that the bodies of
    /// another app wait for at most one of this app.
    pub(super) async fn acquire(&self, app: &AppId) -> Permit {
        let app = acquire(self.app(app)).await;
        Permit { _app: app, _all: acquire(Arc::clone(&self.all)).await }
    }

    fn app(&self, app: &AppId) -> Arc<Semaphore> {
        let mut apps = self.apps.lock();
        apps.retain(|_, permit| Arc::strong_count(permit) > 1);
        Arc::clone(apps.entry(app.clone()).or_insert_with(|| Arc::new(Semaphore::new(1))))
    }
}

async fn acquire(semaphore: Arc<Semaphore>) -> OwnedSemaphorePermit {
    semaphore.acquire_owned().await.expect("the semaphore is never closed")
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn an_app_waits_for_one_body_of_another_app_at_most() {
        let permits = Permits::new(1);
        let [one, other]: [AppId; 2] = ["one", "other"].map(|id| id.parse().unwrap());
        let verified = permits.acquire(&one).now_or_never().unwrap();
        let mut waiting: Vec<_> = (0..5).map(|_| Box::pin(permits.acquire(&one))).collect();
        assert!(waiting.iter_mut().all(|body| body.now_or_never().is_none()));
        let mut late = Box::pin(permits.acquire(&other));
        assert!((&mut late).now_or_never().is_none(), "the only permit is in use");
        drop(verified);
        assert!(waiting.iter_mut().all(|body| body.now_or_never().is_none()));
        let late = late.now_or_never().expect("it is before the waiting bodies of the first app");
        drop(late);
        for body in waiting {
            assert!(body.now_or_never().is_some());
        }
    }

    #[test]
    fn an_app_has_one_permit_and_apps_share_the_others() {
        let permits = Permits::new(2);
        let ids: Vec<AppId> = (0..3).map(|n| format!("app-{n}").parse().unwrap()).collect();
        let acquire = |n: usize| permits.acquire(&ids[n]).now_or_never();
        let first = acquire(0).unwrap();
        assert!(acquire(0).is_none(), "one body of an app");
        let second = acquire(1).unwrap();
        assert!(acquire(2).is_none(), "two bodies of all apps");
        drop(first);
        assert!(acquire(2).is_some());
        drop(second);
        assert_eq!(permits.apps.lock().len(), 2, "the app without a body has no entry");
        assert!(acquire(0).is_some());
        assert_eq!(permits.apps.lock().len(), 1);
    }
}
