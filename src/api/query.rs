//! The query string of `GET /orders`: filters, the size of a page, and the cursor.
//!
//! Strict: an unknown or repeated parameter, or a value that makes no sense, is refused with a sentence that says what is allowed,
//! because a misspelt filter that is ignored shows orders that were not asked for. A cursor says everything twice, so that a text
//! which was never given out is told from one that was.

use crate::http::percent;
use crate::order::{OrderId, Status};
use crate::store::Filter;

/// The most orders on a page.
pub const MAX_LIMIT: usize = 100;
/// The orders on a page if nothing else is asked for.
pub const DEFAULT_LIMIT: usize = 20;

/// What page is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Which orders.
    pub filter: Filter,
    /// How many.
    pub limit: usize,
    /// Where the page begins, if it is not the first.
    pub after: Option<i64>,
}

impl Query {
    /// Reads the part of a request target behind the question mark.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn parse(text: &str) -> Result<Query, String> {
        let mut query = Query { filter: Filter::default(), limit: DEFAULT_LIMIT, after: None };
        let mut seen: Vec<String> = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name)?, decoded(value)?);
            if seen.contains(&name) {
                return Err(format!("{name} is given twice"));
            }
            match name.as_str() {
                "status" => query.filter.status = Some(status(&value)?),
                // The limits of an order's id are those of a user's.
                "user_id" => match OrderId::new(value) {
                    Ok(id) => query.filter.user_id = Some(id.as_str().to_string()),
                    Err(fault) => return Err(format!("user_id: {fault}")),
                },
                "limit" => query.limit = limit(&value)?,
                "after" => query.after = Some(cursor_place(&value).ok_or("after takes the next of an earlier page")?),
                _ => return Err(format!("{name:?} is no parameter; use status, user_id, limit and after")),
            }
            seen.push(name);
        }
        Ok(query)
    }
}

fn decoded(text: &str) -> Result<String, String> {
    percent::decode(&text.replace('+', " ")).ok_or_else(|| "the query is not percent-encoded UTF-8".into())
}

fn status(word: &str) -> Result<Status, String> {
    Status::from_word(word).ok_or_else(|| {
        let words = Status::ALL.map(Status::as_str).join(", ");
        format!("status is one of {words}")
    })
}

fn limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(limit @ 1..=MAX_LIMIT) => Ok(limit),
        _ => Err(format!("limit is a whole number from 1 to {MAX_LIMIT}")),
    }
}

/// The cursor that stands for a place in the order of arrival: its hexadecimal digits, each with what makes fifteen of it behind it.
/// Not a secret, only unlikely to be hit by chance or by counting. Its form can be told from its text alone, which lets the
/// API's document say it in full.
pub fn cursor(place: i64) -> String {
    format!("{place:016x}").chars().flat_map(|digit| [digit, complement(digit)]).collect()
}

fn cursor_place(cursor: &str) -> Option<i64> {
    let digits: String = cursor.chars().step_by(2).collect();
    let place = u64::from_str_radix(&digits, 16).ok()? as i64;
    // Compared as a whole, so that there is one way to write each.
    (self::cursor(place) == cursor).then_some(place)
}

fn complement(digit: char) -> char {
    char::from_digit(15 - digit.to_digit(16).unwrap_or_default(), 16).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_which_page() {
        let all = Query { filter: Filter::default(), limit: 20, after: None };
        assert_eq!(Query::parse("").unwrap(), all);
        let some = Query::parse(&format!("user_id=a%20b%2B+c&status=Failed&limit=100&after={}", cursor(7))).unwrap();
        let filter = Filter { status: Some(Status::Failed), user_id: Some("a b+ c".into()) };
        assert_eq!(some, Query { filter, limit: 100, after: Some(7) });
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_is_allowed() {
        for (query, says) in [
            ("limit=0", "1 to 100"),
            ("limit=1000000", "1 to 100"),
            ("limit=", "1 to 100"),
            ("limit=ten", "1 to 100"),
            ("status=pending", "Pending, Processing, Completed, Failed"),
            ("status", "Pending, Processing, Completed, Failed"),
            ("user_id=", "at least 1 character"),
            ("user_id=%zz", "percent-encoded"),
            ("user_id=%ff", "percent-encoded"),
            ("user=1", "use status, user_id, limit and after"),
            ("limit=1&limit=2", "twice"),
            ("after=", "next of an earlier page"),
            ("after=7", "next of an earlier page"),
            (&format!("after={}", "0f".repeat(15)), "next of an earlier page"),
            (&format!("after={}", cursor(7).to_uppercase()), "next of an earlier page"),
            (&format!("after=0{}", cursor(7)), "next of an earlier page"),
        ] {
            let refusal = Query::parse(query).expect_err(query);
            assert!(refusal.contains(says), "{query}: {refusal}");
        }
    }

    #[test]
    fn every_place_has_one_cursor() {
        for place in [0, 1, 2, 255, 5_000_000, i64::MAX, -1, i64::MIN] {
            assert_eq!(cursor_place(&cursor(place)), Some(place));
        }
        assert_eq!(cursor(7), format!("{}78", "0f".repeat(15)));
        // One letter wrong makes it none.
        let right = cursor(5_000_000);
        for at in 0..right.len() {
            for digit in "0123456789abcdef".chars().filter(|digit| !right[at..].starts_with(*digit)) {
                let wrong = format!("{}{digit}{}", &right[..at], &right[at + 1..]);
                assert_eq!(cursor_place(&wrong), None, "{wrong}");
            }
        }
    }
}
