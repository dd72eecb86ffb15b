//! Bodies of settling leases: acknowledgements, rejections, releases and extensions.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{MAX_REASON_BYTES, Receipt};
use crate::{ConsumerName, text::truncate};

/// Body of `POST /webhooks/{appId}/ack`: at most [`MAX_RECEIPTS`](super::MAX_RECEIPTS), all lists together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AckRequest {
    /// The consumer of the leases: `default` if it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<ConsumerName>,
    /// Receipts of events that the client has processed.
    pub ack: Vec<Receipt>,
    /// Events that no client can process: they are dead from now on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reject: Vec<Rejection>,
    /// Events to redeliver.
    pub release: Vec<Release>,
    /// Leases that run their time again from now on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extend: Vec<Extension>,
}

impl AckRequest {
    /// The number of receipts in all lists.
    #[must_use]
    pub fn receipts(&self) -> usize {
        self.ack.len() + self.reject.len() + self.release.len() + self.extend.len()
    }
}

/// Rejects an event: it is dead for the consumer, not redelivered, and kept with the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// The lease.
    pub receipt: Receipt,
    /// Why no client can process the event. Cut to [`MAX_REASON_BYTES`](super::MAX_REASON_BYTES).
    #[serde(default, deserialize_with = "reason", skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Releases an event, which is then redelivered. A receipt alone is a JSON string, as in version 0.1.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "ReceiptOr<ReleaseMembers>")]
pub struct Release {
    /// The lease.
    pub receipt: Receipt,
    /// The delay before the redelivery in milliseconds. `None`: at once, at the event's place in the order.
    pub delay_ms: Option<u64>,
    /// Why the client could not process the event. Cut to [`MAX_REASON_BYTES`](super::MAX_REASON_BYTES).
    pub reason: Option<String>,
}

/// Extends a lease, within 12 h of the delivery. A receipt alone is a JSON string.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "ReceiptOr<ExtensionMembers>")]
pub struct Extension {
    /// The lease.
    pub receipt: Receipt,
    /// How long the lease lasts from now on, in milliseconds. `None`: the server's lease time.
    pub lease_ms: Option<u64>,
}

/// A receipt, or an object with it.
#[derive(Deserialize)]
#[serde(untagged)]
enum ReceiptOr<T> {
    Receipt(Receipt),
    Object(T),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReleaseMembers {
    receipt: Receipt,
    #[serde(default, alias = "delay_ms", skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
    #[serde(default, deserialize_with = "reason", skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExtensionMembers {
    receipt: Receipt,
    #[serde(default, alias = "lease_ms", skip_serializing_if = "Option::is_none")]
    lease_ms: Option<u64>,
}

impl From<Receipt> for Release {
    fn from(receipt: Receipt) -> Self {
        Self { receipt, delay_ms: None, reason: None }
    }
}

impl From<ReceiptOr<ReleaseMembers>> for Release {
    fn from(value: ReceiptOr<ReleaseMembers>) -> Self {
        match value {
            ReceiptOr::Receipt(receipt) => receipt.into(),
            ReceiptOr::Object(ReleaseMembers { receipt, delay_ms, reason }) => {
                Self { receipt, delay_ms, reason }
            }
        }
    }
}

impl Serialize for Release {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { receipt, delay_ms, reason } = self.clone();
        match (delay_ms, &reason) {
            // A server of version 0.1 knows this form only.
            (None, None) => receipt.serialize(serializer),
            _ => ReleaseMembers { receipt, delay_ms, reason }.serialize(serializer),
        }
    }
}

impl From<Receipt> for Extension {
    fn from(receipt: Receipt) -> Self {
        Self { receipt, lease_ms: None }
    }
}

impl From<ReceiptOr<ExtensionMembers>> for Extension {
    fn from(value: ReceiptOr<ExtensionMembers>) -> Self {
        match value {
            ReceiptOr::Receipt(receipt) => receipt.into(),
            ReceiptOr::Object(ExtensionMembers { receipt, lease_ms }) => Self { receipt, lease_ms },
        }
    }
}

impl Serialize for Extension {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { receipt, lease_ms } = self.clone();
        ExtensionMembers { receipt, lease_ms }.serialize(serializer)
    }
}

fn reason<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let reason = Option::<String>::deserialize(deserializer)?;
    Ok(reason.map(|reason| truncate(&reason, MAX_REASON_BYTES).to_owned()))
}

/// The result of an [`AckRequest`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckResponse {
    /// The number of acknowledged events.
    pub acked: u64,
    /// The number of rejected events. 0 from a server of version 0.1.
    #[serde(default)]
    pub rejected: u64,
    /// The number of released events.
    pub released: u64,
    /// The number of extended leases. 0 from a server of version 0.1.
    #[serde(default)]
    pub extended: u64,
    /// Receipts of leases that have expired or are already settled, or that belong to another consumer.
    pub stale: Vec<Receipt>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(text: &str) -> Receipt {
        Receipt::new(text)
    }

    #[test]
    fn a_receipt_may_be_alone_or_have_members() {
        let request: AckRequest = serde_json::from_str(
            r#"{"consumer":"audit","ack":["a"],"reject":[{"receipt":"b","reason":"no such user"},{"receipt":"c","reason":null}],
                "release":["d",{"receipt":"e","delayMs":5,"reason":"busy"},{"receipt":"f","delay_ms":7}],
                "extend":["g",{"receipt":"h","leaseMs":9},{"receipt":"i","lease_ms":8}],"later":1}"#,
        )
        .unwrap();
        assert_eq!((request.receipts(), request.consumer.as_ref().unwrap().as_str()), (9, "audit"));
        let release = |name, delay_ms, reason: Option<&str>| Release {
            receipt: receipt(name),
            delay_ms,
            reason: reason.map(Into::into),
        };
        assert_eq!(
            request.release,
            [release("d", None, None), release("e", Some(5), Some("busy")), release("f", Some(7), None),]
        );
        let extensions: Vec<_> = request.extend.iter().map(|extension| extension.lease_ms).collect();
        assert_eq!(extensions, [None, Some(9), Some(8)]);
        assert_eq!(request.reject[0].reason.as_deref(), Some("no such user"));
        assert_eq!(request.reject[1].reason, None);
        let again = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<AckRequest>(&again).unwrap(), request, "{again}");
        for wrong in
            [r#"{"release":[7]}"#, r#"{"reject":["a"]}"#, r#"{"consumer":"a/b"}"#, r#"{"extend":[{}]}"#]
        {
            assert!(serde_json::from_str::<AckRequest>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_version_0_1_knows_is_written_as_ever() {
        let request = AckRequest {
            ack: vec![receipt("a")],
            release: vec![receipt("b").into()],
            ..AckRequest::default()
        };
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"ack":["a"],"release":["b"]}"#);
        let response: AckResponse = serde_json::from_str(r#"{"acked":1,"released":2,"stale":[]}"#).unwrap();
        assert_eq!((response.acked, response.rejected, response.released, response.extended), (1, 0, 2, 0));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let text = format!(r#"{{"receipt":"a","reason":"{}"}}"#, "é".repeat(600));
        let rejection: Rejection = serde_json::from_str(&text).unwrap();
        assert_eq!(rejection.reason.unwrap(), "é".repeat(512));
        let release: Release = serde_json::from_str(&text).unwrap();
        assert_eq!(release.reason.unwrap(), "é".repeat(512));
    }
}
