//! The two schemes that belong to no sender.

use serde_json::{Value, json};

const NONE: &str = "\
none

Accepts every webhook without verification: anyone who knows the hook's URL can send events. The server must
run with --allow-unverified. It takes no secret, and its events are shown as unverified everywhere.

  wwproxy register --scheme none --source test
";

const TEMPLATE: &str = "\
template

A sender that has no scheme is described by a template, a file of JSON of at most 1 KiB:

  {\"algorithm\": \"hmac-sha256\", \"signature\": \"header:X-Signature\", \"prefix\": \"sha256=\", \"encoding\": \"hex\",
   \"content\": \"{body}\", \"id\": \"header:X-Delivery\", \"event\": \"json:type\"}

  algorithm  hmac-sha256, hmac-sha1, hmac-sha512, ed25519, ecdsa-p256-sha256 or token
  signature  header:NAME, header:PREFIX* or json:PATH
  split      the separator of several items in the header: blank , ; | or &
  prefix     what precedes the signature in its item
  encoding   hex or base64
  content    what is signed: {body} {timestamp} {id} {url} {method} {header:NAME} {json:PATH} {form:NAME}
  timestamp  header:NAME, json:PATH or item:PREFIX
  unit       of the timestamp: s, ms or rfc3339
  tolerance  of the timestamp in seconds, 1 to 86400; 300 if it is missing, null for no limit
  key        how the secret is written: text, base64 or hex, after strip:PREFIX if it has a prefix
  id         the delivery id: header:NAME or json:PATH
  event      the type: header:NAME, json:PATH, or two of them joined by a dot
  covers     body, url or nothing; required if the content has no {body}

A list of up to 4 templates accepts what one of them accepts. `wwproxy schemes NAME` shows the template of a known sender.
docs/templates.md has the rules and examples.

  wwproxy sign --template shop.json --webhook-secret-file shop-secret.txt body.json
  wwproxy verify --template shop.json --webhook-secret-file shop-secret.txt -H @headers.txt body.json
  wwproxy register --template shop.json --source shop --webhook-secret-file shop-secret.txt
";

/// The page of `none` or `template`.
pub(super) fn page(name: &str) -> Option<&'static str> {
    match name {
        "none" => Some(NONE),
        "template" => Some(TEMPLATE),
        _ => None,
    }
}

/// The page as JSON.
pub(super) fn full(name: &str, page: &str) -> Value {
    let description = page.strip_prefix(name).unwrap_or(page).trim();
    json!({"name": name, "description": description})
}
