//! What a row has in common wherever it is kept: how a list of items stands in it, and how long it is as a record.

use std::io;

use crate::order::Order;

/// A list of items as it stands in a row.
pub(super) fn items_to_text(items: &[String]) -> String {
    serde_json::to_string(items).expect("a list of strings always has a JSON form")
}

/// A list that someone damaged by hand reads as empty: it then differs from every order that can be sent.
pub(super) fn items_from_text(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_default()
}

/// How long the record is as JSON.
pub(super) fn json_bytes(order: &Order) -> usize {
    struct Counter(usize);
    impl io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, order).expect("a record always has a JSON form");
    counter.0
}
