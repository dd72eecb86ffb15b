//! `wwproxy get`: the stored events as one JSON object.
//!
//! `GET /webhooks/{appId}` would take the events before they are printed. So they are leased, printed,
//! and acknowledged only when they have been written: what cannot be written is handed back.

use anyhow::Context as _;
use tokio::io::AsyncWrite;
use wwproxy_sdk::{Client, LeaseOptions, LeasedEvent};

use crate::output::{Output, say, shown};

/// How many events are leased at once.
const LEASE_EVENTS: u32 = 100;

/// Print the stored events as one JSON object, `{"<id>":<body>,...}`, and take them from the server
///
/// Events are taken from the server only after they were written: a failed write loses none.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  wwproxy get --max 10 > events.json")]
pub(crate) struct Get {
    /// Print so many at most; all that are stored where not said
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max: Option<u32>,
}

impl Get {
    pub(crate) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let mut output = Output::stdout();
        let mut printed = 0;
        let result = print_all(client, &mut output, self.max.unwrap_or(u32::MAX), &mut printed).await;
        let end: &[u8] = match (&result, printed) {
            (Ok(false), _) => return Ok(()),
            (Ok(true), 0) => b"{}\n",
            (Err(_), 0) => b"",
            // Also after an error: what was printed stays one JSON object.
            _ => b"}\n",
        };
        let ended = output.write(end).await;
        result.and(ended).map(drop)
    }
}

/// Prints until nothing is stored any more, or as many as wanted. `false`: nobody reads any more.
async fn print_all<W: AsyncWrite + Unpin>(
    client: &Client,
    output: &mut Output<W>,
    max: u32,
    printed: &mut u32,
) -> anyhow::Result<bool> {
    while *printed < max {
        let events = client.lease(LeaseOptions::new().max(LEASE_EVENTS.min(max - *printed))).await?;
        if events.is_empty() {
            break;
        }
        let text = text(&events, *printed == 0, output.terminal);
        let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
        let receipts = events.into_iter().map(|event| event.receipt);
        match output.write(&text).await {
            Ok(true) => {}
            failed => {
                if let Err(error) = client.release(receipts).await {
                    say(&format!(
                        "events could not be handed back and come again when their lease ends: {error}"
                    ));
                }
                return failed;
            }
        }
        *printed = printed.saturating_add(count);
        let settled =
            client.ack(receipts).await.context("the last events were printed but will come again")?;
        if !settled.stale.is_empty() {
            say(&format!("{} events were printed too late and will come again", settled.stale.len()));
        }
    }
    Ok(true)
}

/// The events as members of one object.
fn text(events: &[LeasedEvent], first: bool, terminal: bool) -> Vec<u8> {
    let mut text = Vec::new();
    for (n, event) in events.iter().enumerate() {
        text.push(if first && n == 0 { b'{' } else { b',' });
        text.extend_from_slice(serde_json::Value::from(event.id.as_str()).to_string().as_bytes());
        text.push(b':');
        text.extend_from_slice(&shown(&event.body, terminal));
    }
    text
}
