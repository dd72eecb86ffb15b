//! What may happen while something else is under way.

use std::time::Duration;

use tokio::{io::AsyncBufReadExt, time::timeout};

use crate::common::{Raw, Server, eventually, number, sign};

/// The head of a webhook whose body is still to come.
fn head(path: &str, signature: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: proxy\r\nX-OUTBOUND-TOKEN: {signature}\r\nContent-Length: {length}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_secret_that_is_replaced_while_the_body_comes_counts_no_more() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    let body = number(1);
    let mut slow = Raw::open(&server.address).await;
    let head = head(&app.hook_path(), &sign(&app.secret, &body), body.len());
    slow.send(head.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n")).await;
    // The app was registered when its body was asked for.
    assert_eq!(slow.response().await.status, 100);
    app.unregister().await;
    app.register("another").await;
    slow.send(&body).await;
    assert_eq!(slow.response().await.status, 401);
    assert_eq!(app.gauge("stored").await, 0);
}

#[tokio::test]
async fn a_poll_that_outlasts_the_lease_time_still_takes_its_events() {
    let server = Server::start(&["--lease", "200ms", "--max-body", "16MiB"]);
    let app = server.app("bot").await;
    // More than a connection takes on its own: the answer is under way until its client reads.
    app.post(format!("[\"{}\"]", "x".repeat(12 << 20))).await;
    app.post("[2]").await;
    let mut slow = Raw::open(&server.address).await;
    let path = app.path("?max=1");
    slow.send(format!("GET {path} HTTP/1.1\r\nHost: proxy\r\nAuthorization: Bearer {}\r\n\r\n", app.token))
        .await;
    eventually("the poll has its event", async || app.gauge("leased").await == 1).await;
    // Another event's lease of the server's length begins later, and ends.
    let mut socket = app.listen("?window=1").await;
    let (id, _) = socket.event().await;
    assert_eq!(socket.event().await.0, id, "its lease has ended");
    assert_eq!(slow.response().await.body.len(), (12 << 20) + 45);
    socket.ack(&id).await;
    eventually("both are gone", async || app.gauge("stored").await == 0).await;
}

#[tokio::test]
async fn a_body_that_is_not_complete_makes_room_for_a_later_one() {
    let server = Server::start(&["--max-buffered-bytes", "64KiB", "--max-body", "60KiB"]);
    let app = server.app("bot").await;
    let mut slow = Raw::open(&server.address).await;
    slow.send(head(&app.hook_path(), "0", 60_000)).await;
    slow.send("x".repeat(50_000)).await;
    let body = format!("[\"{}\"]", "y".repeat(30_000));
    // A later one is stored, whether the server has read the other before or not.
    eventually("the other is refused", async || {
        app.post(&*body).await;
        timeout(Duration::ZERO, slow.0.fill_buf()).await.is_ok()
    })
    .await;
    let refused = slow.response().await;
    assert_eq!(refused.status, 503);
    assert!(refused.head.contains("retry-after: "), "{}", refused.head);
}
