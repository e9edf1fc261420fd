//! `openapi.json` as the server gives it, and whether an answer is one that it describes.
//!
//! [`Document::faults`] holds an answer to its operation: the status, the Content-Type, the headers and the body's schema. Of JSON
//! Schema it knows the words that the document uses; one that it does not know is a fault, so nothing goes unchecked.

use serde_json::{Map, Value};

use super::{Answer, Serving};

/// Words that say something to people alone, or are held by other tests.
const NOT_HELD: [&str; 6] = ["description", "example", "examples", "default", "x-max-bytes", "x-max-characters"];
/// The two patterns, of which there is no need to be a general reader.
const NO_CONTROL_CHARACTERS: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$";
const CURSOR: &str = "^(?:0f|1e|2d|3c|4b|5a|69|78|87|96|a5|b4|c3|d2|e1|f0){16}$";

/// What the server says of itself.
pub struct Document(pub Value);

/// One thing that can be asked.
#[derive(Clone, Copy)]
pub struct Operation<'a> {
    /// In capitals.
    pub method: &'static str,
    /// With the names of parameters in braces.
    pub path: &'a str,
    /// What stands in the document.
    pub value: &'a Value,
    /// What stands around it, for its path.
    pub item: &'a Value,
}

impl Document {
    pub fn of(server: &impl Serving) -> Document {
        Document(server.get("/openapi.json").expect_status(200).json())
    }

    /// Follows a reference, if `value` is one.
    #[track_caller]
    pub fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(place) => self.0.pointer(place.trim_start_matches('#')).unwrap_or_else(|| panic!("there is no {place}")),
            None => value,
        }
    }

    pub fn operations(&self) -> Vec<Operation<'_>> {
        let mut all = Vec::new();
        for (path, item) in entries(&self.0["paths"]) {
            for (key, method) in [("get", "GET"), ("head", "HEAD"), ("post", "POST")] {
                let here = item.get(key).map(|value| Operation { method, path, value, item });
                all.extend(here);
            }
        }
        all
    }

    #[track_caller]
    pub fn operation(&self, method: &str, path: &str) -> Operation<'_> {
        let found = self.operations().into_iter().find(|here| (here.method, here.path) == (method, path));
        found.unwrap_or_else(|| panic!("{method} {path} is not documented"))
    }

    /// Checks that `answer` is one that the document describes for this operation.
    #[track_caller]
    pub fn expect(&self, operation: Operation<'_>, answer: &Answer) {
        let faults = self.faults(operation, answer);
        let Operation { method, path, .. } = operation;
        assert!(faults.is_empty(), "{method} {path} is not as documented: {faults:#?}{}", answer.exchange());
    }

    /// What of `answer` is not as the document describes it for this operation.
    pub fn faults(&self, operation: Operation<'_>, answer: &Answer) -> Vec<String> {
        let Some(response) = operation.value["responses"].get(answer.status.to_string()) else {
            return vec![format!("the status {} is not documented", answer.status)];
        };
        let response = self.resolved(response);
        let mut faults = Vec::new();
        for (name, header) in entries(&response["headers"]) {
            let header = self.resolved(header);
            match answer.header(name) {
                None if header["required"] == true => faults.push(format!("{name} is missing")),
                None => {}
                Some(text) => {
                    let is_number = header["schema"]["type"] == "integer";
                    let value = if is_number { text.parse::<u64>().map_or(text.into(), Value::from) } else { text.into() };
                    self.check(&header["schema"], &value, name, &mut faults);
                }
            }
        }
        if operation.method == "HEAD" {
            return faults;
        }
        let essence = answer.header("Content-Type").unwrap_or_default().split(';').next().unwrap_or_default().to_string();
        match response["content"].get(&essence) {
            None => faults.push(format!("the Content-Type {essence:?} is not documented")),
            Some(content) if essence == "application/json" => {
                self.check(&content["schema"], &answer.json(), "body", &mut faults);
            }
            Some(_) => {}
        }
        faults
    }

    /// Adds what of `value` is against `schema`; `at` names it.
    pub fn check(&self, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        let Some(words) = schema.as_object() else { return faults.push(format!("{at}: there is no schema")) };
        for (word, wanted) in words {
            if let Some(fault) = self.against(words, word, wanted, value, (at, faults)) {
                faults.push(format!("{at}: {value} is against {word} {wanted}{fault}"));
            }
        }
    }

    /// What is to be said when `value` is against one word of a schema.
    fn against(
        &self,
        words: &Map<String, Value>,
        word: &str,
        wanted: &Value,
        value: &Value,
        (at, faults): (&str, &mut Vec<String>),
    ) -> Option<&'static str> {
        let within = |fits: bool| if fits { None } else { Some("") };
        let length = |value: &Value| value.as_str().map(|text| text.chars().count() as u64);
        let items = |value: &Value| value.as_array().map(|items| items.len() as u64);
        match word {
            "$ref" => self.check(self.resolved(&Value::from(words.clone())), value, at, faults),
            "type" => {
                let kinds = wanted.as_array().cloned().unwrap_or(vec![wanted.clone()]);
                return within(kinds.iter().any(|kind| is_of(kind.as_str().unwrap_or_default(), value)));
            }
            "const" => return within(value == wanted),
            "enum" => return within(wanted.as_array().is_some_and(|words| words.contains(value))),
            "anyOf" => {
                let fits = |schema: &Value| {
                    let mut faults = Vec::new();
                    self.check(schema, value, at, &mut faults);
                    faults.is_empty()
                };
                return within(wanted.as_array().is_some_and(|schemas| schemas.iter().any(fits)));
            }
            "required" => {
                let names = wanted.as_array().into_iter().flatten().filter_map(Value::as_str);
                return within(!value.is_object() || names.into_iter().all(|name| value.get(name).is_some()));
            }
            "properties" => {
                for (name, schema) in entries(wanted) {
                    if let Some(value) = value.get(name) {
                        self.check(schema, value, &format!("{at}.{name}"), faults);
                    }
                }
            }
            "additionalProperties" => {
                let known = words.get("properties").and_then(Value::as_object);
                let is_known = |name: &str| known.is_some_and(|known| known.contains_key(name));
                return within(*wanted == true || entries(value).all(|(name, _)| is_known(name)));
            }
            "items" => {
                for (n, value) in value.as_array().into_iter().flatten().enumerate() {
                    self.check(wanted, value, &format!("{at}[{n}]"), faults);
                }
            }
            "minimum" => return within(value.as_f64() >= wanted.as_f64()),
            "maximum" => return within(value.as_f64() <= wanted.as_f64()),
            "minLength" => return within(length(value) >= wanted.as_u64()),
            "maxLength" => return within(length(value) <= wanted.as_u64()),
            "minItems" => return within(items(value) >= wanted.as_u64()),
            "maxItems" => return within(items(value) <= wanted.as_u64()),
            "pattern" if wanted == NO_CONTROL_CHARACTERS => {
                return within(value.as_str().is_some_and(|text| !text.contains(char::is_control)));
            }
            "pattern" if wanted == CURSOR => {
                let digits: Vec<_> = value.as_str().unwrap_or_default().chars().filter_map(|c| c.to_digit(16)).collect();
                return within(digits.len() == 32 && digits.chunks(2).all(|pair| pair[0] + pair[1] == 15));
            }
            "format" if wanted == "date-time" => {
                let is_time = |text: &str| humantime::parse_rfc3339(text).is_ok() && text.ends_with('Z');
                return within(value.as_str().is_some_and(is_time));
            }
            _ if NOT_HELD.contains(&word) => {}
            _ => return Some(", a word that the tests do not know"),
        }
        None
    }
}

pub fn entries(object: &Value) -> impl Iterator<Item = (&str, &Value)> {
    object.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => false,
    }
}
