//! `wwproxy listen`: events as they come, one JSON object a line.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget};
use tokio::{io::AsyncWrite, select, sync::watch, time::sleep};
use wwproxy_sdk::{Client, Delivery, ListenOptions, State, Subscription};

use crate::output::{Output, push_line, say, sentence};

/// How long a write that has begun may take to end after a signal.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// How often the spinner turns.
const SPINNER_TICK: Duration = Duration::from_millis(120);

/// Print events as they come, one JSON object a line, until stopped
///
/// Each event is acknowledged after its line was written and flushed, so that none is lost; one may come twice. Reconnects
/// by itself for ever. SIGINT and SIGTERM stop it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  wwproxy listen | jq --unbuffered .data")]
pub(crate) struct Listen {
    /// Stop after so many events
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_events: Option<u64>,
    /// How many events may be on their way at once; 64 where not said, 1 for strictly one at a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    window: Option<u32>,
}

impl Listen {
    pub(crate) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let stop = stop_signal()?;
        let talk = Talk::new();
        let (told, server) = (talk.clone(), client.server().to_owned());
        let mut options = ListenOptions::new().on_state(move |state| told.state(state, &server));
        if let Some(window) = self.window {
            options = options.window(window);
        }
        let mut events = client.listen(options);
        let result =
            print_all(&mut events, &mut Output::stdout(), self.max_events.unwrap_or(u64::MAX), stop, &talk)
                .await;
        events.close().await;
        talk.end();
        result
    }
}

/// Prints and acknowledges until enough is printed, nobody reads any more, or a signal comes.
async fn print_all<W: AsyncWrite + Unpin>(
    events: &mut Subscription,
    output: &mut Output<W>,
    max: u64,
    mut stop: watch::Receiver<bool>,
    talk: &Talk,
) -> anyhow::Result<()> {
    for printed in 1..=max {
        let event = select! {
            biased;
            () = stopped(&mut stop) => return Ok(()),
            event = events.next() => event,
        };
        let Some(event) = event else { return Ok(()) };
        let event = event?;
        let go_on = select! {
            printed = print(&event, output, talk) => printed?,
            // Nobody takes what is written: it stays unacknowledged and comes again.
            () = async { stopped(&mut stop).await; sleep(STOP_GRACE).await } => return Ok(()),
        };
        if !go_on {
            return Ok(());
        }
        talk.printed(printed);
    }
    Ok(())
}

/// Writes, flushes, and only then acknowledges. `false`: nobody reads any more.
///
/// One at a time: what a reader leaves unread in the pipe when it goes is lost to it, and should be little.
async fn print<W: AsyncWrite + Unpin>(
    event: &Delivery,
    output: &mut Output<W>,
    talk: &Talk,
) -> anyhow::Result<bool> {
    let mut line = Vec::with_capacity(event.body().len() + 1024);
    push_line(&mut line, event.event(), output.terminal);
    if !output.write(&line).await? {
        return Ok(false);
    }
    if event.ack().await.is_err() {
        talk.say("the connection broke before a printed event was acknowledged; it will come again");
    }
    Ok(true)
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stopped| *stopped).await.is_err() {
        // The task that waits for signals never ends without one.
        std::future::pending::<()>().await;
    }
}

/// Turns true with the first SIGINT or SIGTERM.
fn stop_signal() -> io::Result<watch::Receiver<bool>> {
    let (sender, stop) = watch::channel(false);
    #[cfg(unix)]
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    #[cfg(unix)]
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    tokio::spawn(async move {
        #[cfg(unix)]
        select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        // Where nobody listens any more it has stopped already.
        let _ = sender.send(true);
    });
    Ok(stop)
}

/// What the person is told meanwhile.
#[derive(Clone)]
struct Talk {
    /// Only where it is seen and nothing else is: not between the events on a terminal.
    spinner: Option<ProgressBar>,
}

impl Talk {
    fn new() -> Self {
        let alone = io::stderr().is_terminal() && !io::stdout().is_terminal();
        let spinner = alone.then(|| {
            let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            spinner.set_message("connecting");
            spinner.enable_steady_tick(SPINNER_TICK);
            spinner
        });
        Self { spinner }
    }

    fn say(&self, text: &str) {
        match &self.spinner {
            Some(spinner) => spinner.suspend(|| say(text)),
            None => say(text),
        }
    }

    fn state(&self, state: &State, server: &str) {
        match state {
            State::Connected { .. } => {
                self.say(&format!("connected to {server}"));
                self.message("waiting for events");
            }
            State::Reconnecting { error, delay, .. } => {
                let why = sentence(&anyhow::Error::new(error.clone()));
                self.say(&format!("{why}; trying again in {:.1} s", delay.as_secs_f32()));
                self.message("reconnecting");
            }
            _ => {}
        }
    }

    fn printed(&self, events: u64) {
        self.message(&format!("{events} events so far"));
    }

    fn message(&self, text: &str) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(text.to_owned());
        }
    }

    fn end(&self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}
