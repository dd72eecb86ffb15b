//! A peer that does not read, or sends too much.

use super::*;

#[tokio::test(start_paused = true)]
async fn reading_pauses_at_the_prefetch_window_while_pings_and_acks_are_sent() {
    let Setup { mut server, mut deliveries, client } = connect(true, 2, 256).await;
    let mut sent = 0;
    let flood = async {
        loop {
            send_event(&mut server, &format!("e{sent}")).await;
            sent += 1;
        }
    };
    // Paused time advances only if all tasks are idle, so the pipe is full then.
    assert!(timeout(Duration::from_secs(300), flood).await.is_err());
    assert!(sent < 12, "{sent} events were read ahead of a window of 2 and a pipe of 256 bytes");
    assert!(!client.is_finished(), "a slow consumer does not end the connection");
    assert!(matches!(receive(&mut server).await, Message::Ping(_)));

    // Acks are sent while the server's output is blocked.
    let all = async {
        for n in 0..sent {
            let event = next(&mut deliveries).await;
            assert_eq!(event.id().as_str(), format!("e{n}"));
            event.ack().await.unwrap();
        }
    };
    let receive_acks = async {
        let mut acked = 0;
        while acked < sent {
            let message = receive(&mut server).await;
            if message.is_text() {
                acked += ids(&message).len();
            }
        }
    };
    tokio::join!(all, receive_acks);
}

#[tokio::test(start_paused = true)]
async fn a_window_of_large_events_is_acknowledged_by_a_consumer_slower_than_the_idle_timeout() {
    const EVENTS: usize = 8;
    let Setup { mut server, mut deliveries, client } = connect(true, EVENTS, 4096).await;
    let body = "x".repeat(3 << 20);
    let send_all = async {
        for n in 0..EVENTS {
            let text = format!(r#"{{"type":"event","id":"e{n}","data":["{body}"]}}"#);
            server.send(Message::text(text)).await.unwrap();
        }
    };
    // A server closes a connection that is not read for 30 s.
    timeout(Duration::from_secs(30), send_all)
        .await
        .expect("a window of events is read before the first is taken");
    let handle_all = async {
        for _ in 0..EVENTS {
            let event = next(&mut deliveries).await;
            sleep(Duration::from_secs(70)).await;
            event.ack().await.unwrap();
        }
    };
    let receive_acks = async {
        let mut acked = Vec::new();
        while acked.len() < EVENTS {
            let message = receive(&mut server).await;
            if message.is_text() {
                acked.extend(ids(&message));
            }
        }
        acked
    };
    let ((), acked) = tokio::join!(handle_all, receive_acks);
    assert_eq!(acked, (0..EVENTS).map(|n| format!("e{n}")).collect::<Vec<_>>());
    assert!(!client.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_read_is_closed_after_the_write_timeout() {
    let Setup { mut server, mut deliveries, client } = connect(true, 64, 64).await;
    let events = async {
        let mut events = Vec::new();
        for n in 0..20 {
            send_event(&mut server, &format!("e{n}")).await;
            events.push(next(&mut deliveries).await);
        }
        events
    };
    let events = events.await;
    // Acks of 20 ids exceed the pipe of 64 bytes. The server sends, but does not read.
    let acks = join_all(events.iter().map(Delivery::ack));
    let chatter = async {
        loop {
            if server.get_mut().write_all(&[0x89, 0]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    };
    let (acked, ()) = tokio::join!(acks, chatter);
    assert!(acked.iter().all(|acked| acked.as_ref().is_err_and(|e| e.kind() == ErrorKind::Disconnected)));
    lost_with(client).await;
}

#[tokio::test(start_paused = true)]
async fn reading_pauses_while_pongs_are_unflushed() {
    let opened = Instant::now();
    let Setup { mut server, deliveries: _deliveries, client } = connect(true, 8, 4096).await;
    let ping = [&[0x89, 125][..], &[7; 125]].concat();
    let mut sent = 0;
    let flood = async {
        while sent < 1 << 20 && server.get_mut().write_all(&ping).await.is_ok() {
            sent += ping.len();
        }
    };
    let (outcome, ()) = tokio::join!(lost_with(client), flood);
    assert!(outcome.0.to_string().contains("dead"), "{}", outcome.0);
    // Both directions of the pipe, the read buffer, the pong limit and one ping above it.
    assert!(sent < 64 * 1024, "{sent} bytes of pings were read");
    assert_eq!(opened.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn acks_are_sent_during_a_flood_of_pings() {
    let Setup { mut server, mut deliveries, client } = connect(true, 8, 256).await;
    send_event(&mut server, "a").await;
    let event = take(&mut deliveries, 1).await.remove(0);
    let (reader, mut writer) = tokio::io::split(server.into_inner());
    let flood = tokio::spawn(async move { while writer.write_all(&[0x89, 1, 7]).await.is_ok() {} });
    let mut server =
        WebSocketStream::from_raw_socket(tokio::io::join(reader, tokio::io::sink()), Role::Server, None)
            .await;
    let acked = async {
        loop {
            if let Some(Ok(message)) = server.next().await
                && message.is_text()
            {
                return ids(&message);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let (sent, ids) = tokio::join!(event.ack(), acked);
    sent.unwrap();
    assert_eq!(ids, ["a"]);
    assert!(!client.is_finished());
    flood.abort();
}
