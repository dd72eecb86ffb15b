//! A local app with canned responses.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

/// The deadline for a request.
const PATIENCE: Duration = Duration::from_secs(30);

/// A received request.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// How the target responds to a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum CannedResponse {
    Status(u16),
    /// 503 with this `Retry-After`, in seconds.
    Busy(u64),
    /// A redirect.
    Redirect,
    /// No response.
    Hang,
    /// Closes the connection without a response.
    Close,
}

pub(crate) struct Target {
    pub(crate) address: String,
    requests: mpsc::Receiver<Request>,
}

impl Target {
    /// Responds with these one by one, then always with 204.
    pub(crate) fn new(answers: &[CannedResponse]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, requests) = mpsc::channel();
        let answers = Arc::new(Mutex::new(answers.iter().copied().collect::<VecDeque<_>>()));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (sender, answers) = (sender.clone(), answers.clone());
                thread::spawn(move || serve(stream.unwrap(), &sender, &answers));
            }
        });
        Self { address, requests }
    }

    pub(crate) fn next(&self) -> Request {
        self.requests.recv_timeout(PATIENCE).expect("a request arrives")
    }

    /// Whether no further request has arrived.
    pub(crate) fn is_quiet(&self) -> bool {
        self.requests.try_recv().is_err()
    }
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

fn serve(stream: TcpStream, requests: &mpsc::Sender<Request>, answers: &Mutex<VecDeque<CannedResponse>>) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        let answer = answers.lock().unwrap().pop_front().unwrap_or(CannedResponse::Status(204));
        if requests.send(request).is_err() {
            return;
        }
        let head = match answer {
            CannedResponse::Status(status) => format!("HTTP/1.1 {status} Said\r\n"),
            CannedResponse::Busy(seconds) => format!("HTTP/1.1 503 Busy\r\nRetry-After: {seconds}\r\n"),
            CannedResponse::Redirect => "HTTP/1.1 307 Elsewhere\r\nLocation: /elsewhere\r\n".into(),
            CannedResponse::Hang => {
                // Until the client closes the connection.
                let _ = reader.read(&mut [0]);
                return;
            }
            CannedResponse::Close => return,
        };
        let length = if head.contains(" 204 ") { "" } else { "Content-Length: 0\r\n" };
        if write!(reader.get_mut(), "{head}{length}\r\n").is_err() {
            return;
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or("0", |(_, value)| value);
    let mut body = vec![0; length.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    Some(Request { path, headers, body })
}
