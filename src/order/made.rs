//! An order as a program makes it, checked as strictly as one that a client sends.
//!
//! Pure. What is wrong is said in the same words as over HTTP, all of it at once.

use std::fmt;

use serde::de::IgnoredAny;

use super::body::{amount, fault_of_id, fault_of_items};
use super::{Fault, Loc, NewOrder, OrderId};

/// Why something is no order: one [`Fault`] for each thing that is wrong, never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidOrder(pub Vec<Fault>);

/// Each fault with its field.
impl fmt::Display for InvalidOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.0.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { "; " })?;
            for step in fault.loc.iter().filter(|step| **step != Loc::Key("body")) {
                match step {
                    Loc::Key(key) => write!(f, "{key}")?,
                    Loc::Index(index) => write!(f, "[{index}]")?,
                }
            }
            write!(f, ": {fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for InvalidOrder {}

impl NewOrder {
    /// Makes an order. `total_amount` is anything whose text is a JSON number: `"19.90"`, or `20`. A float has the text that Rust
    /// prints for it, so the digits are better given as text.
    ///
    /// # Errors
    /// [`InvalidOrder`].
    pub fn new<I: Into<String>>(
        order_id: impl Into<String>,
        user_id: impl Into<String>,
        item_ids: impl IntoIterator<Item = I>,
        total_amount: impl ToString,
    ) -> Result<NewOrder, InvalidOrder> {
        let (order_id, user_id) = (order_id.into(), user_id.into());
        let item_ids: Vec<String> = item_ids.into_iter().map(Into::into).collect();
        let mut faults = Vec::new();
        for (field, id) in [("order_id", &order_id), ("user_id", &user_id)] {
            faults.extend(fault_of_id(id).map(|problem| problem.at(vec![Loc::Key(field)])));
        }
        faults.extend(fault_of_items(item_ids.len()).map(|problem| problem.at(vec![Loc::Key("item_ids")])));
        for (index, item) in item_ids.iter().enumerate() {
            faults.extend(fault_of_id(item).map(|problem| problem.at(vec![Loc::Key("item_ids"), Loc::Index(index)])));
        }
        let text = total_amount.to_string();
        // What is no JSON at all would be given back as such.
        let text = if serde_json::from_str::<IgnoredAny>(&text).is_ok() { text } else { String::new() };
        let total_amount = amount(&text).map_err(|problem| faults.push(problem.at(vec![Loc::Key("total_amount")]))).ok();
        match total_amount {
            Some(total_amount) if faults.is_empty() => {
                Ok(NewOrder { order_id: OrderId(order_id), user_id, item_ids, total_amount })
            }
            _ => Err(InvalidOrder(faults)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether made by a program or read from JSON.
    #[test]
    fn an_order_that_a_program_makes_is_the_one_that_a_client_sends() {
        let json = br#"{"order_id":"1","user_id":"u","item_ids":["a","b"],"total_amount":19.90}"#;
        let made = NewOrder::new("1", "u", ["a", "b"], "19.90").unwrap();
        assert_eq!(made, NewOrder::from_json(json).unwrap());
        assert_eq!(made.total_amount.as_str(), "19.90");
        assert_eq!(NewOrder::new("1", "u", ["a"], 20).unwrap().total_amount.as_str(), "20");
    }

    #[test]
    fn all_faults_are_told_at_once_with_their_fields() {
        let invalid = NewOrder::new("", "u", ["a", "b\n"], "-1").unwrap_err();
        let words = invalid.to_string();
        for part in ["order_id: String should have", "item_ids[1]: Value error", "total_amount: Input should be greater"] {
            assert!(words.contains(part), "{words}");
        }
        assert_eq!(invalid.0.len(), 3);
        assert_eq!(NewOrder::new("1", "u", [""; 0], "1").unwrap_err().0[0].kind, "too_short");
        for amount in ["", "1.", "01", "+1", " 1", "1 ", "1_0", "NaN", "0x1", "1e999", "\"1\"", "-0.1", "1,5"] {
            assert!(NewOrder::new("1", "u", ["a"], amount).is_err(), "{amount:?}");
        }
    }
}
