//! An order as one line of an export: its record as the API shows it, and what that leaves out, so that another place can have it exactly
//! as it was.
//!
//! Pure. What breaks the rules of an order is refused in words, whether it comes from a row or from a line.

use std::time::UNIX_EPOCH;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::{Amount, InvalidOrder, LATEST_MS, NewOrder, Order, OrderId, Status, Timestamp};

/// The most attempts that a row can have, wherever it is.
const MOST_ATTEMPTS: u32 = 2_000_000_000;

/// An order with all that its row says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Exported {
    /// What the client sent.
    pub(crate) order: NewOrder,
    pub(crate) status: Status,
    pub(crate) attempts: u32,
    pub(crate) created_at: Timestamp,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) completed_at: Option<Timestamp>,
    /// When it became `Failed` or `Cancelled`.
    pub(crate) ended_at: Option<Timestamp>,
    /// Before when it is not to be tried again, if it waits for that.
    pub(crate) retry_at: Option<Timestamp>,
    pub(crate) last_error: Option<String>,
}

impl Exported {
    /// What a row says: the record, the amount to the letter, and what no record has. `retry_at_ms` is 0 for none.
    ///
    /// # Errors
    /// In words, what about it is not as any order of orderd's is: someone has changed the row.
    pub(crate) fn of_row(
        record: Order,
        amount: &str,
        ended_at: Option<Timestamp>,
        retry_at_ms: i64,
    ) -> Result<Exported, String> {
        let Order { order_id, user_id, item_ids, status, created_at, started_at, completed_at, .. } = record;
        let order = NewOrder::new(order_id.0, user_id, item_ids, amount).map_err(|e| e.to_string())?;
        let retry_at = Some(Timestamp(retry_at_ms)).filter(|at| at.0 != 0);
        for (name, time) in [
            ("created_at", Some(created_at)),
            ("started_at", started_at),
            ("completed_at", completed_at),
            ("ended_at", ended_at),
            ("retry_at", retry_at),
        ] {
            if time.is_some_and(|time| !(0..=LATEST_MS).contains(&time.0)) {
                return Err(format!("{name}: it is not between 1970 and 9999"));
            }
        }
        let (attempts, last_error) = (record.attempts, record.last_error);
        Ok(Exported { order, status, attempts, created_at, started_at, completed_at, ended_at, retry_at, last_error })
    }

    /// The line, without its end.
    pub(crate) fn to_json(&self) -> String {
        let NewOrder { order_id, user_id, item_ids, total_amount } = &self.order;
        let written = Written {
            order_id,
            user_id,
            item_ids,
            total_amount,
            status: self.status,
            created_at: self.created_at,
            started_at: self.started_at,
            completed_at: self.completed_at,
            attempts: self.attempts,
            last_error: self.last_error.as_deref(),
            ended_at: self.ended_at,
            retry_at: self.retry_at,
        };
        serde_json::to_string(&written).expect("texts, numbers and times always have a JSON form")
    }

    /// Reads a line. Every field must be known; one that may be null may also be left out.
    ///
    /// # Errors
    /// In words, all that is wrong with what the client sent, or the first thing that is wrong with the rest.
    pub(crate) fn from_json(line: &[u8]) -> Result<Exported, String> {
        let order = NewOrder::from_json(line).map_err(|faults| InvalidOrder(faults).to_string())?;
        let rest: Read = serde_json::from_slice(line).map_err(|e| {
            // Without the place, which is that of another text than the one that whoever reads it has.
            e.to_string().split(" at line ").next().unwrap_or_default().to_string()
        })?;
        let status = Status::from_word(&rest.status);
        let status = status
            .ok_or_else(|| format!("status: {:?} is none; use {}", rest.status, Status::ALL.map(Status::as_str).join(", ")))?;
        let attempts = u32::try_from(rest.attempts).ok().filter(|attempts| *attempts <= MOST_ATTEMPTS);
        let attempts = attempts.ok_or_else(|| format!("attempts: {} is not between 0 and {MOST_ATTEMPTS}", rest.attempts))?;
        let optional = |name, text: Option<String>| text.map(|text| time(name, &text)).transpose();
        Ok(Exported {
            order,
            status,
            attempts,
            created_at: time("created_at", &rest.created_at)?,
            started_at: optional("started_at", rest.started_at)?,
            completed_at: optional("completed_at", rest.completed_at)?,
            ended_at: optional("ended_at", rest.ended_at)?,
            retry_at: optional("retry_at", rest.retry_at)?,
            last_error: rest.last_error,
        })
    }
}

/// Only as it is written, so that nothing of a time is lost.
fn time(name: &str, text: &str) -> Result<Timestamp, String> {
    let since = humantime::parse_rfc3339(text).ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let time = since.map(|since| Timestamp(since.as_millis() as i64)).filter(|time| time.to_string() == text);
    time.ok_or_else(|| format!("{name}: {text:?} is no time such as 2026-01-31T09:30:00.000Z"))
}

/// The fields of a line, in their order.
#[derive(Serialize)]
struct Written<'a> {
    order_id: &'a OrderId,
    user_id: &'a str,
    item_ids: &'a [String],
    total_amount: &'a Amount,
    status: Status,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    completed_at: Option<Timestamp>,
    attempts: u32,
    last_error: Option<&'a str>,
    ended_at: Option<Timestamp>,
    retry_at: Option<Timestamp>,
}

/// The same fields; what the client sent is read by the rules for that.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    #[serde(rename = "order_id")]
    _order_id: IgnoredAny,
    #[serde(rename = "user_id")]
    _user_id: IgnoredAny,
    #[serde(rename = "item_ids")]
    _item_ids: IgnoredAny,
    #[serde(rename = "total_amount")]
    _total_amount: IgnoredAny,
    status: String,
    created_at: String,
    started_at: Option<String>,
    completed_at: Option<String>,
    attempts: i64,
    last_error: Option<String>,
    ended_at: Option<String>,
    retry_at: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"order_id":"a\"b","user_id":"u","item_ids":["i","ü"],"total_amount":10.50,"status":"Failed","created_at":"2023-11-14T22:13:20.123Z","started_at":"1970-01-01T00:00:00.000Z","completed_at":null,"attempts":2,"last_error":"no\nstock\u0000","ended_at":"9999-12-31T23:59:59.999Z","retry_at":null}"#;

    fn refused(from: &str, to: &str) -> String {
        assert!(LINE.contains(from), "{from}");
        Exported::from_json(LINE.replace(from, to).as_bytes()).expect_err(to)
    }

    #[test]
    fn a_line_is_read_and_written_to_the_letter() {
        let read = Exported::from_json(LINE.as_bytes()).unwrap();
        assert_eq!((read.status, read.attempts, read.ended_at), (Status::Failed, 2, Some(Timestamp(LATEST_MS))));
        assert_eq!(read.order.total_amount.as_str(), "10.50");
        assert_eq!(read.to_json(), LINE);
        // As another program might write it.
        let other = LINE.replace(r#","retry_at":null"#, "").replace(r#""completed_at":null,"#, "").replace(":[", ": [");
        assert_eq!(Exported::from_json((other + "\r\n").as_bytes()).unwrap(), read);
    }

    #[test]
    fn every_status_amount_and_time_survives() {
        for (status, amount, ms) in [
            (Status::Pending, "0", 1),
            (Status::Processing, "1E+2", 0),
            (Status::Completed, "12345678901234567890.123456789", 1_700_000_000_999),
            (Status::Cancelled, "-0.0", LATEST_MS),
        ] {
            let order = NewOrder::new("1", "u", ["i"], amount).unwrap();
            let (time, last_error) = (Timestamp(ms), None);
            let written = Exported {
                order,
                status,
                attempts: MOST_ATTEMPTS,
                created_at: time,
                started_at: Some(time),
                completed_at: Some(time),
                ended_at: None,
                retry_at: Some(time),
                last_error,
            };
            let read = Exported::from_json(written.to_json().as_bytes()).unwrap();
            assert_eq!((&read, read.order.total_amount.as_str()), (&written, amount));
        }
    }

    #[test]
    fn whatever_is_wrong_with_a_line_is_named() {
        for (from, to, words) in [
            (LINE, "", "Field required"),
            (LINE, "no json", "JSON decode error"),
            (LINE, "[]", "valid dictionary"),
            ("\"retry_at\":null}", "\"retry_at\":null", "JSON decode error"),
            ("10.50", "-1", "total_amount: Input should be greater"),
            ("10.50", "\"10.50\"", "total_amount: Input should be a valid number"),
            ("10.50", "1e999", "total_amount: Input should be a finite number"),
            ("\"u\"", "\"\"", "user_id: String should have"),
            ("a\\\"b", "a\\u0007b", "order_id: Value error, control characters"),
            ("[\"i\",\"ü\"]", "[]", "item_ids: List should have at least"),
            ("\"user_id\":\"u\",", "", "user_id: Field required"),
            ("Failed", "Done", "status: \"Done\" is none; use Pending"),
            ("\"status\":\"Failed\",", "", "missing field `status`"),
            ("\"attempts\":2", "\"attempts\":-1", "attempts: -1 is not between 0 and 2000000000"),
            ("\"attempts\":2", "\"attempts\":2000000001", "attempts: 2000000001"),
            ("\"attempts\":2", "\"attempts\":1.5", "invalid type: floating point"),
            ("2023-11-14T22:13:20.123Z", "2023-11-14", "created_at: \"2023-11-14\" is no time"),
            ("2023-11-14T22:13:20.123Z", "2023-11-14T22:13:20.1234Z", "created_at: "),
            ("2023-11-14T22:13:20.123Z", "1969-11-14T22:13:20.123Z", "created_at: "),
            ("\"2023-11-14T22:13:20.123Z\"", "null", "invalid type: null"),
            ("\"last_error\"", "\"lost_error\"", "unknown field `lost_error`"),
            ("\"last_error\"", "\"attempts\"", "duplicate field `attempts`"),
        ] {
            let said = refused(from, to);
            assert!(said.contains(words) && !said.contains("at line"), "{to}: {said}");
        }
    }

    #[test]
    fn a_row_that_is_no_order_is_told_with_its_fault() {
        let record = |amount: &str, items: &[&str]| Order {
            order_id: OrderId::from_stored("1".into()),
            user_id: "u".into(),
            item_ids: items.iter().map(|item| item.to_string()).collect(),
            total_amount: Amount::from_stored(amount.into()),
            status: Status::Pending,
            created_at: Timestamp(7),
            started_at: None,
            completed_at: None,
            attempts: 0,
            last_error: None,
        };
        let of = |amount, items, ended_ms: i64| Exported::of_row(record(amount, items), amount, Some(Timestamp(ended_ms)), 0);
        assert_eq!(of("1.50", &["i"], 7).unwrap().order.total_amount.as_str(), "1.50");
        for (amount, items, ended_ms, words) in [
            ("much", &["i"][..], 7, "total_amount: "),
            ("1", &[], 7, "item_ids: "),
            ("1", &["i"], -1, "ended_at: it is not between"),
            ("1", &["i"], LATEST_MS + 1, "ended_at: "),
        ] {
            let said = of(amount, items, ended_ms).unwrap_err();
            assert!(said.contains(words), "{said}");
        }
    }
}
