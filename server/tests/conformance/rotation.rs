//! Rotation of a secret while webhooks arrive.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use serde_json::json;

use crate::common::{Home, Server, empty, problem};

#[tokio::test]
async fn a_webhook_of_any_of_the_secrets_is_valid() {
    let server = Server::start(&[]);
    let app = server.new_app("bot").await;
    app.new_source("repo", json!({"scheme": "github", "secrets": ["a", "b", "c", "d"]})).await;
    for secret in ["a", "b", "c", "d"] {
        empty(app.github("repo", secret, "{}").send().await.unwrap(), 201).await;
    }
    problem(app.github("repo", "e", "{}").send().await.unwrap(), 401).await;
}

/// The senders sign with a secret that is registered before and after: none of their webhooks may be refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_under_load_refuses_no_valid_webhook() {
    const ROTATIONS: usize = 60;
    const MIN_WEBHOOKS: usize = 3000;
    let home = Arc::new(Home::new());
    let server = Server::start_in(&home, &[]);
    let app = server.new_app("bot").await;
    let put = async |secrets: &[String]| {
        let response = app.put_source("repo", json!({"scheme": "github", "secrets": secrets})).await;
        assert!(response.status().is_success(), "{}", response.status());
    };
    let secret = |n: usize| format!("secret-{n}");
    put(&[secret(0)]).await;
    // What the senders sign with: changed while the old and the new secret are registered.
    let (current, sent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let stop = Arc::new(AtomicBool::new(false));
    // A sender holds a permit while its webhook is under way, so that a secret is removed only when none is signed with it.
    let under_way = Arc::new(tokio::sync::RwLock::new(()));
    let senders: Vec<_> = (0..8)
        .map(|sender| {
            let (app, current, sent) = (app.clone(), Arc::clone(&current), Arc::clone(&sent));
            let (stop, under_way) = (Arc::clone(&stop), Arc::clone(&under_way));
            tokio::spawn(async move {
                for n in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let _permit = under_way.read().await;
                    let secret = format!("secret-{}", current.load(Ordering::SeqCst));
                    let body = json!({"sender": sender, "n": n}).to_string();
                    empty(app.github("repo", &secret, body).send().await.unwrap(), 201).await;
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let mut rotation = 0;
    while rotation < ROTATIONS || sent.load(Ordering::SeqCst) < MIN_WEBHOOKS {
        put(&[secret(rotation), secret(rotation + 1)]).await;
        current.store(rotation + 1, Ordering::SeqCst);
        // No webhook is signed with the old secret any more.
        drop(under_way.write().await);
        put(&[secret(rotation + 1)]).await;
        rotation += 1;
        assert!(!senders.iter().any(tokio::task::JoinHandle::is_finished), "a sender failed");
    }
    stop.store(true, Ordering::SeqCst);
    for sender in senders {
        sender.await.unwrap();
    }
    let sent = sent.load(Ordering::SeqCst);
    println!("{sent} webhooks, {rotation} rotations");
    assert_eq!(app.gauge("stored").await, sent as u64);
    assert_eq!(app.refusals().await, [] as [serde_json::Value; 0]);
    problem(app.github("repo", &secret(0), "{}").send().await.unwrap(), 401).await;
}
