//! The libraries of webhook senders accept what arrives at `listen --forward-to`, and the proxy accepts what they sign.

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::SystemTime,
};

use wwproxy_sdk::{
    Secret,
    scheme::{Scheme, Unsigned},
    sha256_hex,
};

use crate::world::World;

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
/// The seed of an Ed25519 key pair, in hex.
const PRIVATE_KEY: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
/// The URL of `tests/libraries/sender.mjs`.
const URL: &str = "https://proxy.example.test/hook";
const FORM: &[u8] = b"payload=%7B%22text%22%3A%22%C3%BC%22%7D&text=a+b&empty=";
/// The size of the text in the largest webhook, in bytes.
const LARGE: usize = 3 << 20;

const JSON_TYPE: (&str, &str) = ("Content-Type", "application/json");
const FORM_TYPE: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

type Headers = Vec<(String, String)>;

#[test]
fn octokit_accepts_github() {
    let library = Library { headers: &[("X-GitHub-Event", "issues")], ..Library::node("github") };
    library.check(&[json(1), json(LARGE), form()]);
}

#[test]
fn stripe_for_node_and_python_accepts_stripe() {
    Library::node("stripe").check(&[json(1), json(LARGE)]);
    Library { signs: false, ..Library::python("stripe") }.check(&[json(1), json(LARGE)]);
}

#[test]
fn slack_sdk_accepts_slack() {
    Library::python("slack").check(&[json(1), json(LARGE), form()]);
}

#[test]
fn shopify_api_accepts_shopify() {
    let headers = &[("X-Shopify-Shop-Domain", "shop.example.test"), ("X-Shopify-API-Version", "2026-01")];
    let library = Library { signs: false, headers, ..Library::node("shopify") };
    library.check(&[json(1), json(LARGE)]);
}

#[test]
fn linear_sdk_accepts_linear() {
    Library { signs: false, ..Library::node("linear") }.check(&[json(1), json(LARGE)]);
}

#[test]
fn discord_interactions_accepts_discord() {
    let discord = Scheme::preset("discord").unwrap();
    let public_key = discord.public_key(&Secret::new(PRIVATE_KEY)).unwrap();
    let library = Library { signs: false, secret: &public_key, ..Library::node("discord") };
    library.check(&[json(1), json(LARGE)]);
}

#[test]
fn standardwebhooks_accepts_standard_webhooks() {
    Library::node("standard-webhooks").check(&[json(1), json(LARGE)]);
}

#[test]
fn twilio_accepts_twilio() {
    let hashed = |webhook: Webhook| {
        let query = format!("?bodySHA256={}", sha256_hex(&webhook.body));
        Webhook { query, ..webhook }
    };
    let settings = ("X-Twilio-Webhooks-Signature-Settings", "key=webhooks_1,algorithm=HMAC_SHA256");
    for headers in [&[][..], &[settings]] {
        let library = Library { url: Some(URL), headers, ..Library::node("twilio") };
        library.check(&[form(), hashed(json(1)), hashed(json(LARGE))]);
    }
}

/// A webhook that is not signed yet.
struct Webhook {
    /// The query, with its `?`.
    query: String,
    content_type: (&'static str, &'static str),
    body: Vec<u8>,
}

/// A webhook whose text has about this many bytes, which also make its id. Its white space, numbers and escapes do not survive
/// parsing.
fn json(bytes: usize) -> Webhook {
    let text = "ü€🚀".repeat(bytes.div_ceil(9));
    let body = format!(
        "{{ \"id\":\"evt_{bytes}\",\r\n\"object\":\"event\", \"type\":\"issue\", \"n\":1.0, \"webhookTimestamp\":0,\
         \"text\":\"{text}\\u00fc\" }}\n"
    );
    Webhook { query: String::new(), content_type: JSON_TYPE, body: body.into_bytes() }
}

fn form() -> Webhook {
    Webhook { query: String::new(), content_type: FORM_TYPE, body: FORM.to_vec() }
}

/// A library that verifies the webhooks of a scheme.
struct Library<'a> {
    program: &'static str,
    scheme: &'static str,
    /// The secret of the source.
    secret: &'a str,
    /// The URL as registered with the sender, if it is signed.
    url: Option<&'static str>,
    /// Whether the library can sign. Otherwise the protocol crate signs.
    signs: bool,
    /// Headers of the sender which are not signed.
    headers: &'a [(&'static str, &'static str)],
}

impl Library<'_> {
    fn node(scheme: &'static str) -> Self {
        Self { program: "node", scheme, secret: SECRET, url: None, signs: true, headers: &[] }
    }

    fn python(scheme: &'static str) -> Self {
        Self { program: "python3", ..Self::node(scheme) }
    }

    /// Posts signed webhooks, forwards them to the library, and checks that it accepts them. Server and library refuse the
    /// same webhooks once a bit of their body is changed.
    fn check(&self, webhooks: &[Webhook]) {
        let Some(receiver) = Receiver::start(self) else { return };
        let world = World::new();
        self.register(&world);
        let hook = format!("/hook/my-bot/{}", self.scheme);
        for webhook in webhooks {
            let (headers, body) = self.sign(&receiver, webhook);
            let hook = format!("{hook}{}", webhook.query);
            let verify = format!("/{}", webhook.query);
            let mut tampered = body.clone();
            tampered[body.len() / 2] ^= 1;
            assert_eq!(post(&world.address, &hook, &headers, &tampered).0, 401, "{} is forged", self.scheme);
            assert_eq!(
                post(&receiver.address, &verify, &headers, &tampered).0,
                422,
                "{} is forged",
                self.scheme
            );
            let (status, answer) = post(&world.address, &hook, &headers, &body);
            assert!((200..=204).contains(&status), "{}: {status} {answer}", self.scheme);
        }
        let (url, count) = (format!("http://{}/", receiver.address), webhooks.len().to_string());
        let until = ["--max-events", &count, "--exit-after-idle", "30s"];
        let listen = ["listen", "--forward-to", &url, "--max-attempts", "1", "--on-failure", "drop"];
        let printed = world.run(&[&listen[..], &until].concat());
        assert_eq!(printed.matches("\"outcome\":\"accepted\"").count(), webhooks.len(), "{printed:.1000}");
    }

    fn register(&self, world: &World) {
        let mut register = vec!["register", "--scheme", self.scheme, "--source", self.scheme];
        register.extend(self.url.iter().flat_map(|url| ["--url", url]));
        register.push("-");
        world.run_with_input(&register, self.secret);
    }

    /// The headers and the body of a signed request.
    fn sign(&self, receiver: &Receiver, webhook: &Webhook) -> (Headers, Vec<u8>) {
        let kept = self.headers.iter().chain([&webhook.content_type]).copied();
        let mut headers: Headers = kept.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        if self.signs {
            let path = format!("/sign{}", webhook.query);
            let (status, signed) = post(&receiver.address, &path, &headers, &webhook.body);
            assert_eq!(status, 200, "{signed}");
            headers.extend(serde_json::from_str::<BTreeMap<String, String>>(&signed).unwrap());
            return (headers, webhook.body.clone());
        }
        let secret = if self.scheme == "discord" { PRIVATE_KEY } else { self.secret };
        let unsigned = Unsigned {
            method: "POST",
            url: None,
            headers: &[],
            body: &webhook.body,
            delivery_id: "delivery-1",
            event_type: Some("issue"),
            time: SystemTime::now(),
        };
        let signed = Scheme::preset(self.scheme).unwrap().sign(&Secret::new(secret), &unsigned).unwrap();
        headers.extend(signed.headers);
        (headers, signed.body.unwrap_or_else(|| webhook.body.clone()))
    }
}

/// A program of `tests/libraries`, killed when dropped.
struct Receiver {
    process: Child,
    address: String,
}

impl Receiver {
    /// Returns `None` if the libraries are not installed, which in CI is a failure.
    fn start(library: &Library<'_>) -> Option<Self> {
        let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let installed = root.join("target/libraries");
        // The last step of the installation makes this folder.
        if !installed.join("python").exists() {
            assert!(env::var_os("CI").is_none(), "run tests/libraries/install first");
            eprintln!("skipped: run tests/libraries/install first");
            return None;
        }
        let program = |name| Stdio::from(File::open(root.join("tests/libraries").join(name)).unwrap());
        let mut command = Command::new(library.program);
        // Programs on stdin import modules from the current folder.
        match library.program {
            "node" => command.arg("--input-type=module").stdin(program("sender.mjs")).current_dir(installed),
            _ => command.stdin(program("sender.py")).current_dir(installed.join("python")),
        };
        command.args(["-", library.scheme, library.secret]).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut port = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut port).unwrap();
        assert!(!port.is_empty(), "{} {} did not start", library.program, library.scheme);
        Some(Self { process, address: format!("127.0.0.1:{}", port.trim()) })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Posts a request, and returns the status and the body of the answer.
fn post(address: &str, path: &str, headers: &[(String, String)], body: &[u8]) -> (u16, String) {
    let mut head = format!("POST {path} HTTP/1.1\r\nHost: proxy.example.test\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{head}Content-Length: {}\r\n\r\n", body.len()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}
