//! What was answered 201 and what was delivered, event by event.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

/// Names an event: of which account, which sender's, and its how manyth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Name {
    account: u32,
    pub(crate) sender: usize,
    pub(crate) number: usize,
}

/// What stands before the name in a body.
const BEFORE: &str = "{\"event\":\"";
const ACCOUNT_DIGITS: usize = 10;
const SENDER_DIGITS: usize = 6;
const NUMBER_DIGITS: usize = 10;

impl Name {
    /// A JSON object of so many bytes, where that is enough for the name.
    pub(crate) fn body(self, size: usize) -> String {
        let mut body = format!("{BEFORE}{self}\",\"text\":\"");
        let padding = size.saturating_sub(body.len() + 2);
        body.extend(std::iter::repeat_n('x', padding));
        body.push_str("\"}");
        body
    }

    /// The name in a message that holds one body.
    pub(crate) fn find(message: &str) -> Option<Self> {
        let start = message.find(BEFORE)? + BEFORE.len();
        let (account, rest) = message[start..].split_at_checked(ACCOUNT_DIGITS)?;
        let (sender, rest) = rest.strip_prefix('-')?.split_at_checked(SENDER_DIGITS)?;
        let number = rest.strip_prefix('-')?.get(..NUMBER_DIGITS)?;
        Some(Self {
            account: account.parse().ok()?,
            sender: sender.parse().ok()?,
            number: number.parse().ok()?,
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account, sender, number } = self;
        write!(f, "{account:0ACCOUNT_DIGITS$}-{sender:0SENDER_DIGITS$}-{number:0NUMBER_DIGITS$}")
    }
}

/// The account of one run.
#[derive(Debug)]
pub(crate) struct Account {
    /// No two runs post the same body: the server would take the second for a repetition.
    number: u32,
    is_closed: AtomicBool,
    senders: Mutex<Vec<Sender>>,
}

#[derive(Debug, Default)]
struct Sender {
    events: Vec<Event>,
}

#[derive(Debug, Clone, Copy)]
struct Event {
    posted: Instant,
    accepted: bool,
    deliveries: u8,
}

/// What an account comes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    /// Events answered 201.
    pub(crate) accepted: usize,
    /// Events delivered, each counted once.
    pub(crate) delivered: usize,
    /// Events answered 201 and not delivered.
    pub(crate) missing: usize,
    /// Deliveries beyond each event's first.
    pub(crate) repeated: usize,
}

impl Sum {
    /// Fails where an event that was answered 201 did not come, or not in its place.
    pub(crate) fn ensure_complete(self, out_of_order: usize) -> anyhow::Result<()> {
        anyhow::ensure!(self.missing == 0, "{} of {} events are missing", self.missing, self.accepted);
        anyhow::ensure!(out_of_order == 0, "{out_of_order} events came out of order");
        Ok(())
    }
}

impl Default for Account {
    fn default() -> Self {
        let number = RandomState::new().hash_one(0);
        let number = u32::try_from(number >> 32).unwrap_or(0);
        Self { number, is_closed: AtomicBool::new(false), senders: Mutex::default() }
    }
}

impl Account {
    /// Ends what is posted for it. An event that is under way may stay without an answer: whether it was stored
    /// is not known then, so it may come or not.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Notes that an event is posted, and gives its name. None is after the end.
    pub(crate) fn post(&self, sender: usize, posted: Instant) -> Option<Name> {
        if self.is_closed() {
            return None;
        }
        let mut senders = self.lock();
        if senders.len() <= sender {
            senders.resize_with(sender + 1, Sender::default);
        }
        let events = &mut senders[sender].events;
        events.push(Event { posted, accepted: false, deliveries: 0 });
        Some(Name { account: self.number, sender, number: events.len() - 1 })
    }

    pub(crate) fn accepted(&self, name: Name) {
        if let Some(event) = self.lock().get_mut(name.sender).and_then(|s| s.events.get_mut(name.number)) {
            event.accepted = true;
        }
    }

    /// Notes a delivery. Says when the event was posted, where this is its first delivery.
    pub(crate) fn delivered(&self, name: Name) -> Option<Instant> {
        if name.account != self.number {
            return None;
        }
        let mut senders = self.lock();
        let event = senders.get_mut(name.sender)?.events.get_mut(name.number)?;
        event.deliveries = event.deliveries.saturating_add(1);
        (event.deliveries == 1).then_some(event.posted)
    }

    /// How many senders posted.
    pub(crate) fn senders(&self) -> usize {
        self.lock().len()
    }

    pub(crate) fn sum(&self) -> Sum {
        let mut sum = Sum::default();
        for event in self.lock().iter().flat_map(|sender| &sender.events) {
            sum.accepted += usize::from(event.accepted);
            sum.delivered += usize::from(event.deliveries > 0);
            sum.missing += usize::from(event.accepted && event.deliveries == 0);
            sum.repeated += usize::from(event.deliveries.saturating_sub(1));
        }
        sum
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Sender>> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The order in which one reader sees one app's events: each sender's must ascend, as a sender posts
/// its next event only when the one before was answered.
#[derive(Debug, Default)]
pub(crate) struct Order {
    last: HashMap<usize, usize>,
    /// Events that came after a later one of their sender.
    pub(crate) out_of_order: usize,
}

impl Order {
    /// Notes the first delivery of an event.
    pub(crate) fn first(&mut self, name: Name) {
        let last = self.last.entry(name.sender).or_insert(name.number);
        self.out_of_order += usize::from(name.number < *last);
        *last = name.number.max(*last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_known_by_its_body() {
        let name = Name { account: 5, sender: 7, number: 123 };
        let body = name.body(1024);
        assert_eq!(body.len(), 1024);
        assert_eq!(Name::find(&format!("{{\"type\":\"event\",\"id\":\"x\",\"data\":{body}}}")), Some(name));
        assert_eq!(Name::find("{}"), None);
    }

    #[test]
    fn what_is_missing_repeated_and_out_of_order_is_told() {
        let account = Account::default();
        let now = Instant::now();
        let names = [0, 0, 0, 1].map(|sender| account.post(sender, now).expect("it is not closed"));
        names[..3].iter().for_each(|&name| account.accepted(name));
        account.close();
        assert_eq!(account.post(0, now), None);
        let mut order = Order::default();
        for name in [names[1], names[0], names[0], names[3]] {
            if account.delivered(name).is_some() {
                order.first(name);
            }
        }
        assert_eq!(account.sum(), Sum { accepted: 3, delivered: 3, missing: 1, repeated: 1 });
        assert_eq!(order.out_of_order, 1);
    }
}
