//! The description of the API for programs: `GET /openapi.json`, OpenAPI 3.1, written by hand in the file beside this one.
//!
//! It is part of the binary and costs what any short answer costs. What it says is held to the code: here every route, refusal and
//! limit, in `tests/it/api/openapi.rs` every example, over a socket.

use std::borrow::Cow;

use crate::http::Reply;

const DOCUMENT: &str = include_str!("openapi.json");

/// Answers `GET /openapi.json`.
pub fn document() -> Reply {
    let body = Cow::Borrowed(DOCUMENT.as_bytes());
    Reply { status: 200, content_type: "application/json", headers: Vec::new(), body }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::DOCUMENT;
    use crate::api::query::{DEFAULT_LIMIT, MAX_LIMIT};
    use crate::api::reply::Refusal;
    use crate::api::{MAX_BODY_BYTES, MAX_PAGE_BYTES, route};
    use crate::http::{Method, Refused, Reply};
    use crate::order::{MAX_AMOUNT_BYTES, MAX_ID_BYTES, MAX_ITEMS, MAX_NESTING, NewOrder, Status};

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).expect("the document is JSON")
    }

    /// The headers of a request that says its body is JSON.
    fn says_json(name: &str) -> Option<&'static str> {
        (name == "Content-Type").then_some("application/json")
    }

    /// Follows a reference within the document, if `value` is one.
    fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(place) => document.pointer(place.trim_start_matches('#')).unwrap_or_else(|| panic!("no {place}")),
            None => value,
        }
    }

    fn entries(object: &Value) -> impl Iterator<Item = (&str, &Value)> {
        object.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
    }

    /// Every operation: its method in capitals, its path, and what stands there.
    fn operations(document: &Value) -> Vec<(String, &str, &Value)> {
        let of_path = |(path, item)| {
            let methods = entries(item).filter(|(key, _)| *key != "parameters");
            methods.map(move |(method, operation)| (method.to_uppercase(), path, operation))
        };
        entries(&document["paths"]).flat_map(of_path).collect()
    }

    /// Every answer of every operation that has a body, with its status. HEAD has none.
    fn answers(document: &Value) -> Vec<(u16, &Value)> {
        let mut all = Vec::new();
        for (_, _, operation) in operations(document).into_iter().filter(|(method, ..)| method != "HEAD") {
            let responses = entries(&operation["responses"]);
            all.extend(responses.map(|(status, answer)| (status.parse().expect(status), resolved(document, answer))));
        }
        all
    }

    /// The operations that the code has: the first words of each route's own line.
    fn routes() -> BTreeSet<(String, String)> {
        let code = include_str!("../api.rs");
        let routes = code.split_once("pub enum Route {").and_then(|(_, rest)| rest.split_once("\n}")).expect("the routes").0;
        let lines = routes.lines().filter_map(|line| line.trim().strip_prefix("/// `")?.split(['`', '?']).next());
        let found = lines.filter_map(|line| line.split_once(' '));
        found.map(|(method, path)| (method.to_string(), path.to_string())).collect()
    }

    #[test]
    fn the_document_has_the_operations_that_the_code_has_and_no_other() {
        let document = document();
        let documented: BTreeSet<_> =
            operations(&document).into_iter().map(|(method, path, _)| (method, path.into())).collect();
        let mut wanted = routes();
        let heads: Vec<_> = wanted.iter().filter(|(method, _)| method == "GET").map(|(_, path)| path.clone()).collect();
        wanted.extend(heads.into_iter().map(|path| ("HEAD".into(), path)));
        assert_eq!(documented, wanted);
        for (method, path, operation) in operations(&document) {
            let method = if method == "POST" { Method::Post } else { Method::Get };
            let target = path.replace("{order_id}", "1");
            assert!(route(method, &target, says_json).is_ok(), "{path}");
            let other = if method == Method::Post { Method::Get } else { Method::Post };
            let Err(refusal) = route(other, &target, says_json) else { panic!("{path} has two methods") };
            let allow = &resolved(&document, &operation["responses"]["405"])["headers"]["Allow"]["schema"]["const"];
            let answer = Reply::from(refusal);
            assert!(
                operation["operationId"].as_str().is_some_and(|id| id.starts_with("head")) || *allow == answer.headers[0].1
            );
        }
    }

    /// Status and code of every refusal: `coded(status, "code"` and `unavailable("code"` in the code.
    fn codes() -> BTreeSet<(u16, String)> {
        let code = include_str!("reply.rs");
        let word = |text: &str| Some(text.trim_start().strip_prefix('"')?.split_once('"')?.0.to_string());
        let coded = code.split("coded(").filter_map(|rest| {
            let (status, rest) = rest.split_once(',')?;
            Some((status.trim().parse().ok()?, word(rest)?))
        });
        let unavailable = code.split("unavailable(").filter_map(|rest| Some((503, word(rest)?)));
        coded.chain(unavailable).collect()
    }

    #[test]
    fn every_code_is_documented_with_its_status_and_an_example() {
        let document = document();
        let (mut in_schemas, mut in_examples) = (BTreeSet::new(), BTreeSet::new());
        for (status, answer) in answers(&document) {
            let content = &answer["content"]["application/json"];
            let code = &content["schema"]["properties"]["code"];
            let words = code["enum"].as_array().cloned().unwrap_or_default().into_iter().chain([code["const"].clone()]);
            in_schemas.extend(words.filter_map(|word| Some((status, word.as_str()?.to_string()))));
            let codes = entries(&content["examples"]).filter_map(|(_, example)| example["value"]["code"].as_str());
            in_examples.extend(codes.map(|code| (status, code.to_string())));
        }
        assert!(in_schemas.len() > 15, "the codes were not found");
        assert_eq!(in_schemas, codes());
        assert_eq!(in_examples, codes());
    }

    /// Everything that is refused, as the document has it in its examples.
    fn refusals() -> Vec<Refusal> {
        let faults = |body: &str| NewOrder::from_json(body.as_bytes()).expect_err(body);
        let bad_id = route(Method::Get, "/order/%", says_json).expect_err("no id");
        let bad_query = route(Method::Get, "/orders?limit=0", says_json).expect_err("no page");
        vec![
            bad_id,
            bad_query,
            Refusal::Unauthorized,
            Refusal::CrossSite,
            Refusal::UnknownPath,
            Refusal::UnknownOrder,
            Refusal::WrongMethod { allowed: Method::Get },
            Refusal::WrongMethod { allowed: Method::Post },
            Refusal::Conflict,
            Refusal::NotFailed,
            Refusal::NotPending,
            Refusal::NotJson,
            Refusal::UnknownHost,
            Refusal::Faults(faults(r#"{"order_id":"1","user_id":"u","item_ids":["i"]}"#)),
            Refusal::Faults(faults(r#"{"order_id":1,"user_id":"u","item_ids":["i","i",""],"total_amount":1}"#)),
            Refusal::Unavailable,
            Refusal::Unreadable,
            Refusal::ProcessorDead,
            Refusal::InTrouble,
            Refusal::Http(Refused::BadFraming("there is no Host header")),
            Refusal::Http(Refused::Broken),
            Refusal::Http(Refused::TooSlow),
            Refusal::Http(Refused::TooLarge),
            Refusal::Http(Refused::Dropped),
            Refusal::Http(Refused::Busy),
        ]
    }

    #[test]
    fn the_example_of_every_refusal_is_what_is_sent_with_its_headers() {
        let document = document();
        let mut sent: Vec<_> = refusals().into_iter().map(|refusal| (Reply::from(refusal), false)).collect();
        for (status, answer) in answers(&document).into_iter().filter(|(status, _)| *status >= 400) {
            for (name, example) in entries(&answer["content"]["application/json"]["examples"]) {
                let is_sent = |(reply, _): &&mut (Reply, bool)| {
                    let body: Value = serde_json::from_slice(&reply.body).unwrap();
                    (reply.status, &body) == (status, &example["value"])
                };
                let (reply, seen) = sent.iter_mut().find(is_sent).unwrap_or_else(|| panic!("{status} {name} is never sent"));
                *seen = true;
                let documented: Vec<_> = entries(&answer["headers"]).map(|(name, _)| name).collect();
                let names: Vec<_> = reply.headers.iter().map(|(name, _)| *name).collect();
                assert_eq!(documented, names, "{status} {name}");
            }
        }
        let missing: Vec<_> = sent.iter().filter(|(_, seen)| !seen).map(|(reply, _)| reply).collect();
        assert!(missing.is_empty(), "without an example: {missing:?}");
    }

    #[test]
    fn every_limit_in_the_document_is_the_one_in_the_code() {
        let document = document();
        let at = |place: &str| document.pointer(place).unwrap_or_else(|| panic!("no {place}")).clone();
        for (place, limit) in [
            ("/components/schemas/Id/maxLength", MAX_ID_BYTES),
            ("/components/schemas/Id/x-max-bytes", MAX_ID_BYTES),
            ("/components/schemas/Amount/x-max-characters", MAX_AMOUNT_BYTES),
            ("/components/schemas/NewOrder/properties/item_ids/maxItems", MAX_ITEMS),
            ("/components/schemas/Order/properties/item_ids/maxItems", MAX_ITEMS),
            ("/components/schemas/Page/properties/data/maxItems", MAX_LIMIT),
            ("/paths/~1orders/get/parameters/2/schema/maximum", MAX_LIMIT),
            ("/paths/~1orders/get/parameters/2/schema/default", DEFAULT_LIMIT),
        ] {
            assert_eq!(at(place), limit, "{place}");
        }
        assert_eq!(at("/components/schemas/Amount/maximum"), f64::MAX);
        assert_eq!(at("/components/schemas/Status/enum"), Value::from(Status::ALL.map(Status::as_str).to_vec()));
        let says = |place: &str, words: String| assert!(at(place).as_str().unwrap().contains(&words), "{place}: {words}");
        says("/info/description", format!("{} MiB and {MAX_NESTING} levels", MAX_BODY_BYTES >> 20));
        says("/components/schemas/Id/description", format!("1 to {MAX_ID_BYTES} bytes"));
        says("/components/schemas/Amount/description", format!("at most {MAX_AMOUNT_BYTES} characters"));
        says("/components/responses/BodyTooLarge/description", format!("{} MiB", MAX_BODY_BYTES >> 20));
        says("/paths/~1order/post/requestBody/description", format!("{} MiB", MAX_BODY_BYTES >> 20));
        says("/paths/~1orders/get/description", format!("{} MiB", MAX_PAGE_BYTES >> 20));
    }

    #[test]
    fn the_document_is_of_this_version() {
        assert_eq!(document()["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
