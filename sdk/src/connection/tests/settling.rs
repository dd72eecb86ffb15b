//! Acks, releases, rejections and extensions.

use tokio::task::unconstrained;

use super::*;
use crate::connection::settle::UNDECODABLE_DELAY;

#[tokio::test(start_paused = true)]
async fn concurrent_acks_are_batched() {
    let Setup { mut server, mut deliveries, client: _client } = connect(true, 8, 4096).await;
    for id in ["a", "b", "c"] {
        send_event(&mut server, id).await;
    }
    let events = take(&mut deliveries, 3).await;
    assert_eq!(events[0].body().as_ref(), br#"{"n":1}"#);
    let (acked, message) = tokio::join!(join_all(events.iter().map(Delivery::ack)), receive(&mut server));
    assert!(acked.iter().all(Result::is_ok));
    assert_eq!(ids(&message), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_legacy_server_gets_single_acks_and_no_nacks() {
    let Setup { mut server, mut deliveries, client: _client } = connect(false, 8, 4096).await;
    for id in ["a", "b", "c"] {
        send_event(&mut server, id).await;
    }
    let events = take(&mut deliveries, 3).await;
    events[1].nack(Duration::ZERO).await.unwrap();
    let acks = async { tokio::try_join!(events[0].ack(), events[2].ack()).unwrap() };
    let messages = async { [receive(&mut server).await, receive(&mut server).await] };
    let (_, [first, second]) = tokio::join!(acks, messages);
    assert_eq!((ids(&first), ids(&second)), (vec!["a".into()], vec!["c".into()]));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_cannot_be_decoded_is_left_on_the_server() {
    for v2 in [true, false] {
        let Setup { mut server, mut deliveries, client: _client } = connect(v2, 1, 4096).await;
        let unknown = r#"{"type":"event","id":"a","encoding":"cbor","data":"?"}"#;
        server.send(Message::text(unknown)).await.unwrap();
        send_event(&mut server, "b").await;
        let event = next(&mut deliveries).await;
        assert_eq!(event.id().as_str(), "b");
        if v2 {
            let nack = ClientMessage::parse(receive(&mut server).await.to_text().unwrap()).unwrap();
            assert_eq!(nack, ClientMessage::Nack { id: "a".into(), delay: UNDECODABLE_DELAY, reason: None });
        }
        let (acked, message) = tokio::join!(event.ack(), receive(&mut server));
        acked.unwrap();
        assert_eq!(ids(&message), ["b"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_nack_carries_its_delay() {
    let Setup { mut server, mut deliveries, client: _client } = connect(true, 8, 4096).await;
    send_event(&mut server, "a").await;
    let events = take(&mut deliveries, 1).await;
    let delay = Duration::from_millis(1500);
    let (done, message) = tokio::join!(events[0].nack(delay), receive(&mut server));
    done.unwrap();
    let message = ClientMessage::parse(message.to_text().unwrap()).unwrap();
    assert_eq!(message, ClientMessage::Nack { id: "a".into(), delay, reason: None });
}

#[tokio::test(start_paused = true)]
async fn releases_rejections_and_extensions_are_sent_with_their_reasons() {
    let Setup { mut server, mut deliveries, client: _client } = connect(true, 8, 4096).await;
    send_event(&mut server, "a").await;
    let event = next(&mut deliveries).await;
    let (delay, reason) = (Duration::from_secs(2), Some("busy".to_owned()));
    let settle = async {
        event.extend().await.unwrap();
        event.release(delay, reason.as_deref()).await.unwrap();
        event.reject("").await.unwrap();
        event.reject("no such user").await.unwrap();
    };
    let receive = async {
        let mut messages = Vec::new();
        for _ in 0..4 {
            let message = receive(&mut server).await;
            messages.push(ClientMessage::parse(message.to_text().unwrap()).unwrap());
        }
        messages
    };
    let ((), messages) = tokio::join!(settle, receive);
    let id = || "a".to_owned();
    assert_eq!(
        messages,
        [
            ClientMessage::Progress { id: id() },
            ClientMessage::Nack { id: id(), delay, reason },
            ClientMessage::Reject { id: id(), reason: None },
            ClientMessage::Reject { id: id(), reason: Some("no such user".into()) },
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_legacy_server_gets_no_rejections_and_extensions() {
    let Setup { mut server, mut deliveries, client: _client } = connect(false, 8, 4096).await;
    send_event(&mut server, "a").await;
    let event = next(&mut deliveries).await;
    event.extend().await.unwrap();
    event.reject("no such user").await.unwrap();
    let (acked, message) = tokio::join!(event.ack(), receive(&mut server));
    acked.unwrap();
    assert_eq!(ids(&message), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn the_leases_of_events_in_flight_are_extended_twice_in_a_lease_time() {
    let Setup { mut server, mut deliveries, client: _client } = connect(true, 8, 4096).await;
    let second = Duration::from_secs(1);
    let (lease, ping) = (second * 6, second * 60);
    let hello = wwproxy_protocol::message::Hello::new("bot".parse().unwrap(), 8, lease, ping, ping);
    server.send(Message::text(hello.encode())).await.unwrap();
    send_event(&mut server, "a").await;
    send_event(&mut server, "b").await;
    let start = Instant::now();
    let a = next(&mut deliveries).await;
    let extended = |message: Message| match ClientMessage::parse(message.to_text().unwrap()).unwrap() {
        ClientMessage::Progress { id } => id,
        other => panic!("{other:?}"),
    };
    // One of them waits in the channel.
    let mut both = [extended(receive(&mut server).await), extended(receive(&mut server).await)];
    both.sort();
    assert_eq!((both, start.elapsed().as_secs()), (["a".to_owned(), "b".to_owned()], 3));
    drop(a);
    assert_eq!(extended(receive(&mut server).await), "b");
    assert_eq!(start.elapsed().as_secs(), 6);
}

/// When a database is down, all handlers fail at once.
#[tokio::test(start_paused = true)]
async fn a_window_of_long_reasons_is_sent_over_a_slow_connection() {
    const EVENTS: usize = MAX_ACK_BATCH + 44;
    // Each character takes six bytes as JSON.
    let reason = "\u{1}".repeat(wwproxy_protocol::api::MAX_REASON_BYTES);
    for closes in [false, true] {
        let Setup { mut server, mut deliveries, client } = connect(true, EVENTS, 256).await;
        let mut events = Vec::new();
        for n in 0..EVENTS {
            send_event(&mut server, &format!("e{n}")).await;
            events.push(next(&mut deliveries).await);
        }
        let releases = events.iter().map(|event| event.release(Duration::ZERO, Some(&reason)));
        let mut releases = pin!(unconstrained(join_all(releases)));
        // Polled once: the commands are queued.
        assert!(releases.as_mut().now_or_never().is_none());
        let open = (!closes).then_some(deliveries);
        let receive = async {
            for n in 0..EVENTS {
                let message = ClientMessage::parse(receive(&mut server).await.to_text().unwrap()).unwrap();
                let ClientMessage::Nack { id, reason: Some(received), .. } = message else {
                    panic!("no nack")
                };
                assert_eq!((id, received.len()), (format!("e{n}"), reason.len()));
            }
        };
        let (sent, ()) = tokio::join!(releases, receive);
        assert!(sent.iter().all(Result::is_ok));
        if closes {
            assert!(matches!(client.await.unwrap(), ConnectionEnd::Unsubscribed));
        } else {
            assert!(!client.is_finished());
        }
        drop(open);
    }
}
