use super::*;

/// Admits a connection although all places are taken, and returns how long that took.
async fn admit_evicting(
    connections: &Arc<Connections>,
    next: Arc<Connection>,
) -> (Arc<Connection>, Duration) {
    let start = Instant::now();
    let (admitted, ()) = tokio::join!(connections.admit(), async move { next.evicted().await });
    (admitted, start.elapsed())
}

/// A request on this connection, and all of its answer.
fn answer(connection: &Arc<Connection>, is_authorised: bool) {
    connection.received();
    let serving = connection.serve();
    if is_authorised {
        connection.authorise().unwrap();
    }
    drop(serving);
    connection.flushed();
}

#[tokio::test(start_paused = true)]
async fn the_oldest_without_an_authorised_request_is_evicted_first_and_authorised_requests_never() {
    let connections = Connections::new(4);
    let authorised = connections.admit().await;
    let _serving = authorised.serve();
    authorised.authorise().unwrap();
    let idle = connections.admit().await;
    answer(&idle, true);
    let (served, pinging) = (connections.admit().await, connections.admit().await);
    drop(served.serve());
    tokio::time::advance(MIN_AGE / 2).await;
    answer(&pinging, false);
    let mut requests = vec![];
    for (next, min_age) in [(served, MIN_AGE / 2), (pinging, Duration::ZERO), (idle, Duration::ZERO)] {
        let (admitted, took) = admit_evicting(&connections, next).await;
        assert!((min_age..min_age + 2 * EVICTION_PAUSE).contains(&took), "{took:?}");
        requests.push(admitted.serve());
        admitted.authorise().unwrap();
    }
    timeout(IDLE_TIMEOUT, connections.admit()).await.expect_err("all requests are authorised");
    assert!(connections.evictable.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_evicted_connection_is_never_authorised() {
    let connections = Connections::new(1);
    let connection = connections.admit().await;
    tokio::time::advance(MIN_AGE).await;
    connections.evict_next();
    let serving = connection.serve();
    connection.authorise().unwrap_err();
    drop(serving);
    connection.flushed();
    connection.evicted().await;
    assert_eq!(connection.deadline(), None);
    assert!(connections.evictable.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_request_behind_an_authorised_one_has_to_be_authorised_itself() {
    let connections = Connections::new(1);
    let connection = connections.admit().await;
    let first = connection.serve();
    connection.authorise().unwrap();
    drop(first);
    assert!(connections.evictable.lock().is_empty(), "its answer is not sent");
    let _second = connection.serve();
    assert_eq!(connections.evictable.lock().len(), 1);
    connection.closed();
    assert!(connections.evictable.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_connection_has_a_deadline_while_it_owes_a_request() {
    let connection = Connections::new(1).admit().await;
    let start = Instant::now();
    assert_eq!(connection.deadline(), Some(start + IDLE_TIMEOUT));
    connection.received();
    assert_eq!(connection.deadline(), Some(start + HEAD_TIMEOUT));
    let serving = connection.serve();
    assert_eq!(connection.deadline(), None);
    drop(serving);
    assert_eq!(connection.deadline(), None, "its answer is not sent");
    connection.flushed();
    assert_eq!(connection.deadline(), Some(start + IDLE_TIMEOUT));
}
