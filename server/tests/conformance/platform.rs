//! A fake Watson Work platform. The token selects its response.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

/// How long a request with a `flood` token waits for a permit. Shorter than the server's timeout for the platform, so that a
/// request leaves the count before the server sends another one.
const FLOOD_WAIT: Duration = Duration::from_secs(3);

pub(crate) struct Platform {
    pub(crate) url: String,
    /// The requests so far, in lower case.
    questions: Arc<Mutex<Vec<String>>>,
    /// A request with a token that begins with `slow` takes one permit before its response.
    pub(crate) gate: Arc<Semaphore>,
    flood: Arc<Flood>,
}

/// Counts the requests with a token that begins with `flood`.
#[derive(Default)]
struct Flood {
    in_flight: AtomicUsize,
    peak: AtomicUsize,
}

impl Platform {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let questions = Arc::<Mutex<Vec<String>>>::default();
        let gate = Arc::new(Semaphore::new(0));
        let flood = Arc::<Flood>::default();
        let (log, permits, counts) = (Arc::clone(&questions), Arc::clone(&gate), Arc::clone(&flood));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(respond(stream, Arc::clone(&log), Arc::clone(&permits), Arc::clone(&counts)));
            }
        });
        Self { url, questions, gate, flood }
    }

    /// The number of requests with a `flood` token that are waiting, and its peak.
    pub(crate) fn flood(&self) -> (usize, usize) {
        (self.flood.in_flight.load(Ordering::SeqCst), self.flood.peak.load(Ordering::SeqCst))
    }

    pub(crate) fn questions(&self) -> Vec<String> {
        self.questions.lock().unwrap().clone()
    }
}

impl Flood {
    async fn wait(&self, gate: &Semaphore) {
        let in_flight = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak.fetch_max(in_flight, Ordering::SeqCst);
        if let Ok(permit) = timeout(FLOOD_WAIT, gate.acquire()).await {
            permit.unwrap().forget();
        }
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn respond(
    mut stream: TcpStream,
    log: Arc<Mutex<Vec<String>>>,
    gate: Arc<Semaphore>,
    flood: Arc<Flood>,
) {
    let (mut request, mut piece) = (String::new(), [0; 4096]);
    while !request.ends_with("{ me { id } }") {
        let Ok(length @ 1..) = stream.read(&mut piece).await else { return };
        request.push_str(&String::from_utf8_lossy(&piece[..length]).to_ascii_lowercase());
    }
    log.lock().unwrap().push(request.clone());
    let token = request.split("bearer ").nth(1).and_then(|rest| rest.lines().next()).unwrap_or_default();
    let me = r#"{"data":{"me":{"id":"bot"}}}"#;
    let (status, body) = match token {
        token if token.starts_with("slow") => {
            gate.acquire().await.unwrap().forget();
            ("200 OK", me.into())
        }
        token if token.starts_with("flood") => {
            flood.wait(&gate).await;
            ("200 OK", me.into())
        }
        token if token.starts_with("good") => ("200 OK", me.into()),
        "other" => ("200 OK", r#"{"data":{"me":{"id":"other"}}}"#.into()),
        "person" => ("200 OK", r#"{"data":{"me":{"id":"11112222-3333"}}}"#.into()),
        "401" => ("401 Unauthorized", "{}".into()),
        "403" => ("403 Forbidden", me.into()),
        "null" => ("200 OK", r#"{"data":{"me":null}}"#.into()),
        "errors" => {
            ("200 OK", r#"{"data":{"me":null},"errors":[{"message":"no","field":{"name":"me"}}]}"#.into())
        }
        "both" => ("200 OK", r#"{"data":{"me":{"id":"bot"}},"errors":[{"message":"late"}]}"#.into()),
        "errors-empty" => ("200 OK", r#"{"data":{"me":{"id":"bot"}},"errors":[]}"#.into()),
        "errors-object" => ("200 OK", r#"{"data":{"me":{"id":"bot"}},"errors":{"message":"no"}}"#.into()),
        "errors-text" => ("200 OK", r#"{"data":{"me":{"id":"bot"}},"errors":"no"}"#.into()),
        "500" => ("500 Internal Server Error", me.into()),
        "502" => ("502 Bad Gateway", "<html>".into()),
        "429" => ("429 Too Many Requests", "{}".into()),
        "400" => ("400 Bad Request", r#"{"status":400,"message":"…"}"#.into()),
        "404" => ("404 Not Found", me.into()),
        "201" => ("201 Created", me.into()),
        "garbage" => ("200 OK", "<html>".into()),
        "empty" => ("200 OK", String::new()),
        "cut" => ("200 OK", r#"{"data":{"me":{"id":"bo"#.into()),
        "nobody" => ("200 OK", r#"{"data":{}}"#.into()),
        "number" => ("200 OK", r#"{"data":{"me":{"id":7}}}"#.into()),
        "list" => ("200 OK", "[]".into()),
        "huge" => ("200 OK", format!(r#"{{"x":"{}","data":{{"me":{{"id":"bot"}}}}}}"#, "x".repeat(1 << 20))),
        "close" => return,
        "hang" => return std::future::pending().await,
        redirect => ("307 Temporary Redirect", format!("{}\u{0}", redirect.trim_start_matches("to-"))),
    };
    let (body, location) = match body.strip_suffix('\0') {
        Some(target) => (String::new(), format!("location: {target}/graphql\r\n")),
        None => (body, String::new()),
    };
    let head =
        format!("HTTP/1.1 {status}\r\n{location}connection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    // The result is ignored: the server may have closed the connection already.
    let _ = stream.write_all((head + &body).as_bytes()).await;
}
