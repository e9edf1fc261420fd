//! What an order is: its fields and their limits, its life, and its record as JSON. `order/body.rs` reads one
//! from a request, `order/made.rs` takes one that a program makes, `order/exported.rs` is one on its way to another place.
//!
//! Pure: no I/O, no clock, no HTTP status, no SQL. Amounts never pass through binary floating point: the decimal text that was
//! sent is what is kept, compared and given back.

mod body;
mod exported;
mod made;

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use body::fault_of_id;
pub use body::{Fault, Loc};
pub(crate) use exported::Exported;
pub use made::InvalidOrder;

/// The longest `order_id`, `user_id` or item id, in bytes of UTF-8: room for any UUID, URL-safe token or e-mail address, and
/// short enough that an index page holds several.
pub const MAX_ID_BYTES: usize = 255;
/// The most `item_ids` in one order.
pub const MAX_ITEMS: usize = 1_000;
/// The longest `total_amount`, in characters of its decimal text. No currency needs more, and it bounds every comparison.
pub const MAX_AMOUNT_BYTES: usize = 64;
/// The deepest nesting of a body, unknown fields included: serde_json's own limit, far beyond any order.
pub const MAX_NESTING: usize = 128;

/// The id of an order, as the client chose it: 1 to [`MAX_ID_BYTES`] bytes without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct OrderId(String);

impl OrderId {
    /// Checks `text` against the limits of an id.
    ///
    /// # Errors
    /// The [`Fault`] that says which limit it breaks, with an empty `loc`.
    pub fn new(text: impl Into<String>) -> Result<OrderId, Fault> {
        let text = text.into();
        match fault_of_id(&text) {
            None => Ok(OrderId(text)),
            Some(problem) => Err(problem.at(Vec::new())),
        }
    }

    /// An id as it stands in the database, where it was put by us or by someone who knows what they do.
    pub(crate) fn from_stored(text: String) -> OrderId {
        OrderId(text)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for OrderId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A non-negative decimal number, kept as the text that was sent.
#[derive(Debug, Clone)]
pub struct Amount(String);

impl Amount {
    /// An amount as it stands in the database: what was sent, or what someone has made of it since. What is no JSON number any
    /// more reads as zero.
    pub(crate) fn from_stored(text: String) -> Amount {
        let is_number = serde_json::from_str::<serde_json::Number>(&text).is_ok();
        Amount(if is_number { text } else { "0".into() })
    }

    /// The decimal text, to the letter as the client sent it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// As the JSON number that it is, to the letter.
impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.0.clone()).map_err(S::Error::custom)?.serialize(serializer)
    }
}

/// Two amounts are equal when their values are: `100`, `100.0` and `1e2` are one amount, so a client that formats a number
/// differently when it retries is still understood.
impl PartialEq for Amount {
    fn eq(&self, other: &Amount) -> bool {
        self.0 == other.0 || normalised(&self.0) == normalised(&other.0)
    }
}

/// The significant digits of a JSON number and the power of ten of the last one: `1.50e3` is `("15", 2)`, zero is `("", 0)`.
fn normalised(number: &str) -> (String, i128) {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{}{fraction}", whole.trim_start_matches('-'));
    let kept = digits.trim_end_matches('0');
    let significant = kept.trim_start_matches('0');
    if significant.is_empty() {
        return (String::new(), 0);
    }
    // The text is at most MAX_AMOUNT_BYTES long, and yet its exponent may not fit. Such numbers are told apart by its digits.
    match exponent.parse::<i128>().ok().filter(|exponent| exponent.unsigned_abs() < u128::MAX / 4) {
        Some(exponent) => (significant.to_string(), exponent - fraction.len() as i128 + (digits.len() - kept.len()) as i128),
        None => (format!("{mantissa}e{}", exponent.trim_start_matches('+')), 0),
    }
}

/// An order as a client sends it: valid, and not yet stored.
#[derive(Debug, Clone, PartialEq)]
pub struct NewOrder {
    /// Chosen by the client; unique in the database.
    pub order_id: OrderId,
    /// Who ordered.
    pub user_id: String,
    /// What was ordered: 1 to [`MAX_ITEMS`] ids.
    pub item_ids: Vec<String>,
    /// What it costs.
    pub total_amount: Amount,
}

/// A stored order, with all that is known of it. Its JSON form is the record that the API shows and that commands are given.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Order {
    /// Chosen by the client.
    pub order_id: OrderId,
    /// Who ordered.
    pub user_id: String,
    /// What was ordered.
    pub item_ids: Vec<String>,
    /// What it costs.
    pub total_amount: Amount,
    /// Where it is in its life.
    pub status: Status,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its last attempt began.
    pub started_at: Option<Timestamp>,
    /// When it was completed.
    pub completed_at: Option<Timestamp>,
    /// How often its processing has begun.
    pub attempts: u32,
    /// What the last failed attempt said.
    pub last_error: Option<String>,
}

/// The last millisecond of the year 9999, with which the text form of a time ends.
const LATEST_MS: i64 = 253_402_300_799_999;

/// A time of day in milliseconds since 1970 (UTC). Its text form is RFC 3339 with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Kept to what RFC 3339 can say, whatever someone has put into the database.
        let since = Duration::from_millis(self.0.clamp(0, LATEST_MS) as u64);
        humantime::format_rfc3339_millis(UNIX_EPOCH + since).fmt(f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where an order is in its life. Drawn in the crate's front page; changed only by a [`Transition`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Status {
    /// On disk, waiting for the processor.
    Pending,
    /// Claimed by the processor.
    Processing,
    /// Done. Final.
    Completed,
    /// Given up. Stays so until an operator has it tried again.
    Failed,
    /// Taken back before anything came of it. Final.
    Cancelled,
}

impl Status {
    /// The word that the API, the database and the logs use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::Pending => "Pending",
            Status::Processing => "Processing",
            Status::Completed => "Completed",
            Status::Failed => "Failed",
            Status::Cancelled => "Cancelled",
        }
    }

    /// Every status, in the order of life.
    pub const ALL: [Status; 5] = [Status::Pending, Status::Processing, Status::Completed, Status::Failed, Status::Cancelled];

    /// The status that `word` names, if any.
    pub fn from_word(word: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.as_str() == word)
    }
}

/// A step in the life of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// The processor takes an order up.
    Claim,
    /// Its processing has ended well.
    Complete,
    /// Its processing has failed, and will begin anew later.
    Retry,
    /// Its processing has failed for good.
    Fail,
    /// Its processing was interrupted, by a stop or a crash, and will begin anew.
    Requeue,
    /// An operator has it tried again.
    Revive,
    /// A client takes it back.
    Cancel,
}

impl Transition {
    /// The status that an order must have for this step, and the one it has afterwards. The store guards every change with the
    /// first, so that a late or doubled step changes nothing.
    pub const fn ends(self) -> (Status, Status) {
        match self {
            Transition::Claim => (Status::Pending, Status::Processing),
            Transition::Complete => (Status::Processing, Status::Completed),
            Transition::Retry => (Status::Processing, Status::Pending),
            Transition::Fail => (Status::Processing, Status::Failed),
            Transition::Requeue => (Status::Processing, Status::Pending),
            Transition::Revive => (Status::Failed, Status::Pending),
            Transition::Cancel => (Status::Pending, Status::Cancelled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_equal_when_their_values_are() {
        let amount = |text: &str| Amount(text.to_string());
        for (a, b) in [
            ("100", "100.00"),
            ("1e2", "100"),
            ("0.10", "1E-1"),
            ("0", "0e9"),
            ("-0.0", "0"),
            ("0.1e-9223372036854775808", "1e-9223372036854775809"),
        ] {
            assert_eq!(amount(a), amount(b));
        }
        for (a, b) in [
            ("1e-99999999999999999999", "1e-77777777777777777777"),
            ("1e-99999999999999999999999999999999999999999", "1e-77777777777777777777777777777777777777777"),
            ("0.1e-9223372036854775808", "1"),
            ("1", "10"),
            ("0.1", "0.01"),
            ("100.0", "100.0000000000000000001"),
            ("1", "0"),
        ] {
            assert_ne!(amount(a), amount(b));
        }
    }

    #[test]
    fn ids_keep_to_their_limits() {
        let max = "i".repeat(MAX_ID_BYTES);
        assert!(OrderId::new(max.clone()).is_ok());
        assert_eq!(OrderId::new(max + "i").unwrap_err().kind, "string_too_long");
        assert_eq!(OrderId::new("ä".repeat(128)).unwrap_err().kind, "string_too_long");
        assert_eq!(OrderId::new("").unwrap_err().kind, "string_too_short");
        assert_eq!(OrderId::new("a\u{7f}").unwrap_err().kind, "value_error");
    }

    #[test]
    fn every_transition_starts_where_another_status_ends() {
        use Transition::{Cancel, Claim, Complete, Fail, Requeue, Retry, Revive};
        for step in [Claim, Complete, Retry, Fail, Requeue, Revive, Cancel] {
            let (from, to) = step.ends();
            assert_ne!(from, to);
            assert!(![Status::Completed, Status::Cancelled].contains(&from), "what is completed or cancelled never changes");
        }
    }

    #[test]
    fn a_record_is_json_with_the_amount_to_the_letter_and_times_in_utc() {
        let order = Order {
            order_id: OrderId::new("a\"b").unwrap(),
            user_id: "u".into(),
            item_ids: vec!["i".into()],
            total_amount: Amount::from_stored("10.50".into()),
            status: Status::Failed,
            created_at: Timestamp(1_700_000_000_123),
            started_at: Some(Timestamp(0)),
            completed_at: None,
            attempts: 2,
            last_error: Some("no stock".into()),
        };
        assert_eq!(
            serde_json::to_string(&order).unwrap(),
            r#"{"order_id":"a\"b","user_id":"u","item_ids":["i"],"total_amount":10.50,"status":"Failed","created_at":"2023-11-14T22:13:20.123Z","started_at":"1970-01-01T00:00:00.000Z","completed_at":null,"attempts":2,"last_error":"no stock"}"#
        );
    }
}
