//! `GET /webhooks/{appId}?since=` with an upgrade: a consumer of one websocket.

use serde_json::{Value, json};

use crate::common::{Server, eventually, number};

#[tokio::test]
async fn an_ephemeral_consumer_gets_history_and_then_live_events() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post_numbers(0..2).await;
    let polled = app.poll("").await;
    app.post(number(2)).await;
    let all = (0..4).map(number).collect::<Vec<_>>();
    let (mut hour, hello) = app.listen_v2("?since=1h").await;
    assert_eq!((&hello["missed"], hello.get("consumer"), hello.get("tap")), (&json!(0), None, None));
    let mut after = app.listen(&format!("?since={}", polled[0].0)).await;
    let mut new = app.listen("?since=new").await;
    app.post(number(3)).await;
    let mut history = Vec::new();
    for _ in 0..4 {
        let event: Value = serde_json::from_str(&hour.next().await).unwrap();
        assert_eq!(event["attempt"], 1);
        history.push(event["data"].to_string());
        hour.ack(event["id"].as_str().unwrap()).await;
    }
    assert_eq!(history, all);
    assert_eq!(after.bodies(3).await, all[1..]);
    assert_eq!(new.bodies(1).await, all[3..]);
    let status = app.status().await;
    assert_eq!((status["consumers"].as_array().unwrap().len(), &status["stored"]), (1, &json!(2)));
    drop((hour, after, new));
    eventually("the websockets are closed", async || app.gauge("clients").await == 0).await;
    assert_eq!(app.drain("default").await, all[2..], "no other consumer is affected");
}

#[tokio::test]
async fn an_ephemeral_consumer_redelivers_what_is_nacked_and_takes_none_of_the_32() {
    let server = Server::start(&["--lease", "300ms"]);
    let app = server.app("bot").await;
    for n in 1..32 {
        app.new_consumer(&format!("c{n}"), json!({})).await;
    }
    app.post("[1]").await;
    let (mut socket, _) = app.listen_v2("?since=all").await;
    let first: Value = serde_json::from_str(&socket.next().await).unwrap();
    socket.send(json!({"type": "event_nack", "id": first["id"], "delayMs": 0}).to_string()).await;
    for attempt in 2..4 {
        let event: Value = serde_json::from_str(&socket.next().await).unwrap();
        assert_eq!((&event["id"], &event["attempt"]), (&first["id"], &json!(attempt)), "the lease expired");
    }
}

/// Without history an event is removed once it is settled.
#[tokio::test]
async fn the_hello_says_how_many_events_are_missing() {
    let server = Server::start(&["--history", "0"]);
    let app = server.app("bot").await;
    app.post_numbers(0..4).await;
    let ids: Vec<_> = app.poll("").await.into_iter().map(|(id, _)| id).collect();
    app.post(number(4)).await;
    // A consumer that reads them would keep them, so their removal is observed without one.
    eventually("the events are removed", async || {
        // A seek makes the server search again from the oldest event: leave it time for that.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        app.seek_response("default", &ids[3]).await.status() == 404
    })
    .await;
    for (since, missed) in [(&*ids[0], 3), (&ids[3], 0), ("all", 0), ("1970-01-01T00:00:00Z", 4)] {
        let (mut socket, hello) = app.listen_v2(&format!("?since={since}")).await;
        assert_eq!(hello["missed"], missed, "{since}");
        let event: Value = serde_json::from_str(&socket.next().await).unwrap();
        assert_eq!(event["data"]["n"], 4);
    }
}

#[tokio::test]
async fn an_ephemeral_consumer_ends_with_the_registration() {
    let server = Server::start(&[]);
    let app = server.app("bot").await;
    app.post("[1]").await;
    let mut socket = app.listen("?since=all&window=1").await;
    assert_eq!(socket.bodies(1).await, ["[1]"]);
    app.unregister().await;
    assert_eq!(socket.close_code().await, 1008);
}
