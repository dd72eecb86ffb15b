use wwproxy_protocol::message::EventDetails;

use super::*;

fn event(id: &str) -> EventMessage {
    EventMessage {
        id: id.parse().unwrap(),
        body: Bytes::from_static(b"{\"n\":1}"),
        details: EventDetails::default(),
    }
}

#[tokio::test]
async fn duplicates_of_an_event_in_flight_are_dropped() {
    let (commands, mut connection) = mpsc::channel(4);
    let deliverer = Deliverer::new(commands);
    let first = deliverer.deliver(event("a")).unwrap();
    assert!(deliverer.deliver(event("a")).is_none());
    assert!(deliverer.deliver(event("b")).is_some());
    drop(first);
    let second = deliverer.deliver(event("a")).unwrap();
    let nack = async {
        second.nack(Duration::ZERO).await.unwrap();
    };
    let flush = async { connection.recv().await.unwrap().flushed.send(()).unwrap() };
    tokio::join!(nack, flush);
    let third = deliverer.deliver(event("a")).unwrap();
    drop(second);
    assert!(deliverer.deliver(event("a")).is_none(), "the third delivery is in flight");
    drop(third);
    let fourth = deliverer.deliver(event("a")).unwrap();
    let mut replayed = event("a");
    replayed.details.replay = 1;
    let replayed = deliverer.deliver(replayed).expect("a replay is no duplicate");
    assert_eq!((fourth.replay_count(), replayed.replay_count()), (0, 1));
}

#[tokio::test]
async fn an_ack_after_the_connection_is_lost_fails() {
    let (commands, mut connection) = mpsc::channel(4);
    let delivery = Deliverer::new(commands).deliver(event("a")).unwrap();
    let (acked, ()) = tokio::join!(delivery.ack(), async { drop(connection.recv().await) });
    assert_eq!(acked.unwrap_err().kind(), ErrorKind::Disconnected);
    drop(connection);
    assert!(delivery.is_stale());
    assert_eq!(delivery.ack().await.unwrap_err().kind(), ErrorKind::Disconnected);
}

#[test]
fn a_legacy_event_has_only_id_and_body() {
    let (commands, _connection) = mpsc::channel(4);
    let delivery = Deliverer::new(commands).deliver(event("a")).unwrap();
    assert_eq!(
        (delivery.attempt(), delivery.received_at(), delivery.headers(), delivery.query()),
        (None, None, None, None)
    );
    assert_eq!(delivery.value().unwrap(), serde_json::json!({"n": 1}));
    assert_eq!(delivery.json::<Vec<u8>>().unwrap_err().kind(), ErrorKind::Protocol);
    assert_eq!((delivery.text().unwrap(), delivery.content_type()), ("{\"n\":1}", None));
    let not_text = EventMessage { body: Bytes::from_static(b"\xff"), ..event("b") };
    let (commands, _connection) = mpsc::channel(4);
    let error = Deliverer::new(commands).deliver(not_text).unwrap().text().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert_eq!(error.to_string(), "the body of event b is not UTF-8 text");
}
