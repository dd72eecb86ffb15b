//! An app on this machine that takes forwarded events, or does not.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

/// How long a request may be awaited.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request as it came.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// What the target does with a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer {
    Status(u16),
    /// Asks to be left alone for so many seconds.
    Busy(u64),
    /// Leads elsewhere.
    Redirect,
    /// Never answers.
    Hang,
    /// Ends the connection without an answer.
    Close,
}

pub(crate) struct Target {
    pub(crate) address: String,
    requests: mpsc::Receiver<Request>,
}

impl Target {
    /// Answers with these one after the other, then with 204 for ever.
    pub(crate) fn new(answers: &[Answer]) -> Self {
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
        self.requests.recv_timeout(PATIENCE).expect("a request comes")
    }

    /// Whether no more requests have come.
    pub(crate) fn is_quiet(&self) -> bool {
        self.requests.try_recv().is_err()
    }
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

fn serve(stream: TcpStream, requests: &mpsc::Sender<Request>, answers: &Mutex<VecDeque<Answer>>) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        let answer = answers.lock().unwrap().pop_front().unwrap_or(Answer::Status(204));
        if requests.send(request).is_err() {
            return;
        }
        let head = match answer {
            Answer::Status(status) => format!("HTTP/1.1 {status} Said\r\n"),
            Answer::Busy(seconds) => format!("HTTP/1.1 503 Busy\r\nRetry-After: {seconds}\r\n"),
            Answer::Redirect => "HTTP/1.1 307 Elsewhere\r\nLocation: /elsewhere\r\n".into(),
            Answer::Hang => {
                // Until the other side gives up.
                let _ = reader.read(&mut [0]);
                return;
            }
            Answer::Close => return,
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
