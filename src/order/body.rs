//! How a request body becomes an order, and what is said when it does not.
//!
//! Reports every fault of a body at once, in the words that pydantic uses, because clients of the service that orderd replaces
//! match on them. Pure. Costs one pass for the depth, one for the fields and one over each field.

use std::borrow::Cow;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{Amount, MAX_AMOUNT_BYTES, MAX_ID_BYTES, MAX_ITEMS, MAX_NESTING, NewOrder, OrderId, normalised};

impl NewOrder {
    /// Reads and checks the JSON body of `POST /order`. Unknown fields are ignored; of a repeated field the last one counts.
    ///
    /// # Errors
    /// One [`Fault`] for everything that is wrong, in the order of the fields; never empty.
    pub fn from_json(body: &[u8]) -> Result<NewOrder, Vec<Fault>> {
        let text = std::str::from_utf8(body).map_err(|e| vec![json_invalid(e.valid_up_to())])?;
        if text.trim_ascii().is_empty() {
            return Err(vec![Problem::Missing.at(vec![])]);
        }
        if let Some(offset) = too_deep(text) {
            return Err(vec![json_invalid(offset)]);
        }
        let fields: Fields<'_> = serde_json::from_str(text).map_err(|e| match e.classify() {
            serde_json::error::Category::Data => vec![Problem::NotAnObject.at(vec![])],
            serde_json::error::Category::Eof => vec![json_invalid(text.len())],
            _ => vec![json_invalid(offset_of(text, e.line(), e.column()))],
        })?;

        let mut faults = Faults::default();
        let order_id = faults.field("order_id", fields.order_id, id);
        let user_id = faults.field("user_id", fields.user_id, id);
        let item_ids = faults.items(fields.item_ids);
        let total_amount = faults.field("total_amount", fields.total_amount, amount);
        match (order_id, user_id, item_ids, total_amount) {
            (Some(order_id), Some(user_id), Some(item_ids), Some(total_amount)) if faults.0.is_empty() => {
                Ok(NewOrder { order_id: OrderId(order_id), user_id, item_ids, total_amount })
            }
            _ => Err(faults.0),
        }
    }
}

/// One thing that is wrong with a request body, as pydantic would put it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// A stable word for programs: `missing`, `string_type`, …
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The way to it: `body`, the field, the index in a list.
    pub loc: Vec<Loc>,
    /// A sentence for people.
    pub msg: Cow<'static, str>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)
    }
}

/// One step on the way to a [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loc {
    /// A key of an object, or the word `body`.
    Key(&'static str),
    /// An index in a list, or the offset of a syntax error in bytes.
    Index(usize),
}

impl Serialize for Loc {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Loc::Key(key) => serializer.serialize_str(key),
            Loc::Index(index) => serializer.serialize_u64(*index as u64),
        }
    }
}

/// What can be wrong with a value, before it is known where the value stands.
pub(super) enum Problem {
    Missing,
    NotAnObject,
    NotAString,
    NotUnicode,
    NotAList,
    NotANumber,
    Empty,
    TooManyBytes,
    ControlCharacter,
    NoItems,
    TooManyItems(usize),
    TooManyDigits,
    Infinite,
    Negative,
}

impl Problem {
    pub(super) fn at(self, path: Vec<Loc>) -> Fault {
        let (kind, msg): (_, Cow<'static, str>) = match self {
            Problem::Missing => ("missing", "Field required".into()),
            Problem::NotAnObject => {
                ("model_attributes_type", "Input should be a valid dictionary or object to extract fields from".into())
            }
            Problem::NotAString => ("string_type", "Input should be a valid string".into()),
            Problem::NotUnicode => {
                ("string_unicode", "Input should be a valid string, unable to parse raw data as a unicode string".into())
            }
            Problem::NotAList => ("list_type", "Input should be a valid list".into()),
            Problem::NotANumber => ("float_type", "Input should be a valid number".into()),
            Problem::Empty => ("string_too_short", "String should have at least 1 character".into()),
            Problem::TooManyBytes => {
                ("string_too_long", format!("String should have at most {MAX_ID_BYTES} bytes of UTF-8").into())
            }
            Problem::ControlCharacter => ("value_error", "Value error, control characters are not allowed".into()),
            Problem::NoItems => ("too_short", "List should have at least 1 item after validation, not 0".into()),
            Problem::TooManyItems(n) => {
                ("too_long", format!("List should have at most {MAX_ITEMS} items after validation, not {n}").into())
            }
            Problem::TooManyDigits => (
                "decimal_max_digits",
                format!("Decimal input should have no more than {MAX_AMOUNT_BYTES} digits in total").into(),
            ),
            Problem::Infinite => ("finite_number", "Input should be a finite number".into()),
            Problem::Negative => ("greater_than_equal", "Input should be greater than or equal to 0".into()),
        };
        let loc = std::iter::once(Loc::Key("body")).chain(path).collect();
        Fault { kind, loc, msg }
    }
}

fn json_invalid(offset: usize) -> Fault {
    Fault { kind: "json_invalid", loc: vec![Loc::Key("body"), Loc::Index(offset)], msg: "JSON decode error".into() }
}

/// The byte offset of a line and column, both of which serde_json counts from 1.
fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (start + column.saturating_sub(1)).min(text.len())
}

/// Gathers the faults of all fields, so that a client learns of them in one answer.
#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn field<'a, T>(
        &mut self,
        name: &'static str,
        raw: Option<&'a RawValue>,
        read: impl FnOnce(&'a str) -> Result<T, Problem>,
    ) -> Option<T> {
        raw.ok_or(Problem::Missing)
            .and_then(|raw| read(raw.get()))
            .map_err(|problem| self.0.push(problem.at(vec![Loc::Key(name)])))
            .ok()
    }

    fn items(&mut self, raw: Option<&RawValue>) -> Option<Vec<String>> {
        let raws = self.field("item_ids", raw, list)?;
        let mut items = Vec::with_capacity(raws.len());
        for (index, raw) in raws.iter().enumerate() {
            match id(raw.get()) {
                Ok(item) => items.push(item),
                Err(problem) => self.0.push(problem.at(vec![Loc::Key("item_ids"), Loc::Index(index)])),
            }
        }
        Some(items)
    }
}

fn id(json: &str) -> Result<String, Problem> {
    let inner = json.strip_prefix('"').and_then(|s| s.strip_suffix('"')).ok_or(Problem::NotAString)?;
    // An escape may still name half a surrogate pair, which is no text.
    let text =
        if inner.contains('\\') { serde_json::from_str(json).map_err(|_| Problem::NotUnicode)? } else { inner.to_string() };
    match fault_of_id(&text) {
        None => Ok(text),
        Some(problem) => Err(problem),
    }
}

pub(super) fn fault_of_id(text: &str) -> Option<Problem> {
    if text.is_empty() {
        Some(Problem::Empty)
    } else if text.len() > MAX_ID_BYTES {
        Some(Problem::TooManyBytes)
    } else if text.chars().any(char::is_control) {
        Some(Problem::ControlCharacter)
    } else {
        None
    }
}

fn list(json: &str) -> Result<Vec<&RawValue>, Problem> {
    if !json.starts_with('[') {
        return Err(Problem::NotAList);
    }
    // The text is valid JSON already; what remains to go wrong is its length.
    let Items { first, len } = serde_json::from_str(json).map_err(|_| Problem::NotAList)?;
    fault_of_items(len).map_or(Ok(first), Err)
}

pub(super) fn fault_of_items(number: usize) -> Option<Problem> {
    match number {
        0 => Some(Problem::NoItems),
        n if n > MAX_ITEMS => Some(Problem::TooManyItems(n)),
        _ => None,
    }
}

pub(super) fn amount(json: &str) -> Result<Amount, Problem> {
    if !json.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return Err(Problem::NotANumber);
    }
    if json.len() > MAX_AMOUNT_BYTES {
        return Err(Problem::TooManyDigits);
    }
    // The float only classifies; the text is what is kept.
    match json.parse::<f64>() {
        Ok(value) if !value.is_finite() => Err(Problem::Infinite),
        Ok(value) if value < 0.0 || (json.starts_with('-') && !normalised(json).0.is_empty()) => Err(Problem::Negative),
        Ok(_) => Ok(Amount(json.to_string())),
        Err(_) => Err(Problem::NotANumber),
    }
}

/// The keys of an order's object.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Key {
    OrderId,
    UserId,
    ItemIds,
    TotalAmount,
    #[serde(other)]
    Unknown,
}

/// The raw JSON of each known field.
#[derive(Default)]
struct Fields<'a> {
    order_id: Option<&'a RawValue>,
    user_id: Option<&'a RawValue>,
    item_ids: Option<&'a RawValue>,
    total_amount: Option<&'a RawValue>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some(key) = map.next_key()? {
                    let field = match key {
                        Key::OrderId => &mut fields.order_id,
                        Key::UserId => &mut fields.user_id,
                        Key::ItemIds => &mut fields.item_ids,
                        Key::TotalAmount => &mut fields.total_amount,
                        Key::Unknown => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    *field = Some(map.next_value()?);
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// The first [`MAX_ITEMS`] elements of a list, and how many it has.
struct Items<'a> {
    first: Vec<&'a RawValue>,
    len: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Items<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemsVisitor;
        impl<'de> Visitor<'de> for ItemsVisitor {
            type Value = Items<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Items<'de>, A::Error> {
                let mut items = Items { first: Vec::new(), len: 0 };
                while items.len < MAX_ITEMS {
                    let Some(raw) = seq.next_element()? else { return Ok(items) };
                    items.first.push(raw);
                    items.len += 1;
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    items.len += 1;
                }
                Ok(items)
            }
        }
        deserializer.deserialize_seq(ItemsVisitor)
    }
}

/// The offset at which `json` nests deeper than [`MAX_NESTING`], if it does. Looked at before parsing, because a value that
/// is skipped is not held to any depth by serde_json.
fn too_deep(json: &str) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (offset, byte) in json.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > MAX_NESTING {
                    return Some(offset);
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    const GOOD: &str = r#"{"order_id":"1","user_id":"u","item_ids":["a"],"total_amount":100.0}"#;

    fn faults(body: &str) -> Vec<(&'static str, String)> {
        let found = NewOrder::from_json(body.as_bytes()).expect_err(body);
        found.iter().map(|f| (f.kind, serde_json::to_string(&f.loc).unwrap())).collect()
    }

    fn with_amount(number: &str) -> Result<NewOrder, Vec<Fault>> {
        NewOrder::from_json(GOOD.replace("100.0", number).as_bytes())
    }

    #[test]
    fn a_good_body_becomes_an_order_with_its_amount_to_the_letter() {
        for number in ["100.0", "0", "0.10", "12345678901234567890.123456789", "1E+2", "-0.0"] {
            assert_eq!(with_amount(number).expect(number).total_amount.as_str(), number);
        }
    }

    #[test]
    fn all_faults_are_reported_at_once_in_the_order_of_the_fields() {
        assert_eq!(
            faults(r#"{"item_ids":["a",2,""],"order_id":7,"total_amount":"1"}"#),
            [
                ("string_type", r#"["body","order_id"]"#.to_string()),
                ("missing", r#"["body","user_id"]"#.to_string()),
                ("string_type", r#"["body","item_ids",1]"#.to_string()),
                ("string_too_short", r#"["body","item_ids",2]"#.to_string()),
                ("float_type", r#"["body","total_amount"]"#.to_string()),
            ]
        );
    }

    #[test]
    fn amounts_that_are_no_amounts_are_refused() {
        let long = "9".repeat(400);
        for (number, kind) in [
            ("-1", "greater_than_equal"),
            ("-1e-400", "greater_than_equal"),
            ("1e400", "finite_number"),
            (long.as_str(), "decimal_max_digits"),
            ("true", "float_type"),
            ("null", "float_type"),
            ("\"1\"", "float_type"),
            ("[1]", "float_type"),
            ("NaN", "json_invalid"),
            ("01", "json_invalid"),
        ] {
            assert_eq!(with_amount(number).expect_err(number)[0].kind, kind, "{number}");
        }
    }

    #[test]
    fn what_is_no_json_says_where_it_stops_being_json() {
        for (body, offset) in [("{", 1), ("{\"order_id\":\n }", 14), ("{} x", 3)] {
            assert_eq!(faults(body), [("json_invalid", format!("[\"body\",{offset}]"))], "{body}");
        }
        let broken = NewOrder::from_json(b"{\"order_id\":\"\xff\"}").unwrap_err();
        assert_eq!((broken[0].kind, &broken[0].loc[1]), ("json_invalid", &Loc::Index(13)));
    }

    #[test]
    fn nesting_beyond_the_limit_is_refused_wherever_it_stands() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let unknown = |levels: usize| GOOD.replace("100.0", &format!("1,\"x\":{}", nested(levels)));
        assert!(NewOrder::from_json(unknown(MAX_NESTING - 1).as_bytes()).is_ok());
        assert_eq!(faults(&unknown(MAX_NESTING))[0].0, "json_invalid");
        assert_eq!(faults(&GOOD.replace("[\"a\"]", &nested(MAX_NESTING + 10)))[0].0, "json_invalid");
        assert_eq!(faults(&nested(MAX_NESTING + 10))[0].0, "json_invalid");
        assert_eq!(faults(&nested(2))[0].0, "model_attributes_type");
        assert!(NewOrder::from_json(GOOD.replace("\"a\"", &format!("\"\\\"{}\"", "[".repeat(200))).as_bytes()).is_ok());
    }

    #[test]
    fn lists_keep_to_their_limits() {
        let items = |n: usize| GOOD.replace("[\"a\"]", &format!("[{}]", vec!["\"a\""; n].join(",")));
        assert_eq!(NewOrder::from_json(items(MAX_ITEMS).as_bytes()).unwrap().item_ids.len(), MAX_ITEMS);
        assert_eq!(faults(&items(MAX_ITEMS + 1))[0].0, "too_long");
        assert_eq!(faults(&items(0))[0].0, "too_short");
        assert_eq!(faults(&GOOD.replace("[\"a\"]", "\"a\""))[0].0, "list_type");
    }

    #[test]
    fn the_last_of_a_repeated_field_counts_and_unknown_fields_do_not() {
        let body = r#"{"order_id":1,"z":{"a":[1e999,null,"x",1.5,-1,true]},"order_id":"2","user_id":"u","item_ids":["a"],"total_amount":1}"#;
        assert_eq!(NewOrder::from_json(body.as_bytes()).unwrap().order_id.as_str(), "2");
    }

    #[test]
    fn ids_in_a_body_keep_to_their_limits() {
        assert_eq!(faults(&GOOD.replace("\"u\"", r#""\u0000""#))[0].0, "value_error");
        assert_eq!(faults(&GOOD.replace("\"u\"", r#""\ud800""#))[0].0, "string_unicode");
    }
}
