//! Reading back: the record of an order, and the listing of all of them, page by page.
//!
//! A record says everything that is known of its order, to the letter. A walk over the pages shows each order once while others
//! arrive. What pages of large records cost is held in `pages.rs`.

use std::collections::BTreeSet;
use std::time::Duration;

use orderd::order::Status;
use orderd::{Work, WorkError};
use serde_json::{Value, json};

use crate::harness::{
    Local, PATIENCE, Serving, T0, asked_by_hand, by_hand, created, get, ids, in_status, is_server, order, poll_until, post,
    request,
};

/// A page: its ids, and the cursor behind it.
#[track_caller]
fn page(server: &Local, query: &str) -> (Vec<String>, Option<String>) {
    let answer = server.get(&format!("/orders?{query}"));
    let json = answer.expect_status(200).json();
    let ids = json["data"].as_array().unwrap().iter().map(|order| order["order_id"].as_str().unwrap().to_string()).collect();
    let next = json["next"].as_str().map(str::to_string);
    assert_eq!(json["has_more"], next.is_some(), "{}", answer.exchange());
    assert_eq!(json.as_object().unwrap().len(), 3, "{}", answer.exchange());
    (ids, next)
}

/// All pages of so many orders from the first to the last.
#[track_caller]
fn walk(server: &Local, query: &str, limit: usize) -> Vec<String> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let (ids, next) = page(server, &format!("{query}&limit={limit}{after}"));
        all.extend(ids.iter().cloned());
        match next {
            Some(next) => {
                assert_eq!(ids.len(), limit, "only the last page is short");
                after = format!("&after={next}");
            }
            None => return all,
        }
    }
}

/// Orders `o-0` to `o-39` of four users in turn, of which every tenth part is as the statuses say. None are processed.
fn assorted() -> Local {
    let server = Local::idle();
    for n in 0..40 {
        server.post(order(&format!("o-{n}")).replace("user1", &format!("u{}", n % 4))).expect_status(200);
    }
    by_hand(
        &server.db(),
        "UPDATE orders SET status = 'Completed', completed_at = created_at WHERE seq % 10 IN (1, 2, 3);
         UPDATE orders SET status = 'Failed', last_error = 'x' WHERE seq % 10 = 4;
         UPDATE orders SET status = 'Processing', started_at = created_at WHERE seq % 10 = 5;
         UPDATE orders SET retry_at = created_at + 1000000 WHERE seq % 10 IN (6, 7)",
    );
    server
}

#[test]
fn a_record_has_every_field_to_the_letter() {
    let server = Local::idle();
    server.post(r#"{"total_amount":10.50,"item_ids":["b","ä\""],"user_id":"u 1","order_id":"a/b","x":1}"#).expect_status(200);
    let fields = r#""order_id":"a/b","user_id":"u 1","item_ids":["b","ä\""],"total_amount":10.50"#;
    let fresh = format!(
        r#"{{{fields},"status":"Pending","created_at":"2023-11-14T22:13:20.000Z","started_at":null,"completed_at":null,"attempts":0,"last_error":null}}"#
    );
    server.get("/orders/a%2Fb").expect(200, &fresh);
    server.get("/orders").expect(200, &format!(r#"{{"data":[{fresh}],"has_more":false,"next":null}}"#));
    let ended = format!(
        "UPDATE orders SET status = 'Completed', attempts = 3, started_at = {}, completed_at = {}, last_error = 'no \"stock\"'",
        T0 + 7,
        T0 + 61_020
    );
    by_hand(&server.db(), &ended);
    server.get("/orders/a%2Fb").expect(
        200,
        &format!(
            r#"{{{fields},"status":"Completed","created_at":"2023-11-14T22:13:20.000Z","started_at":"2023-11-14T22:13:20.007Z","completed_at":"2023-11-14T22:14:21.020Z","attempts":3,"last_error":"no \"stock\""}}"#
        ),
    );
    server.get("/order/a%2Fb").expect(200, &in_status("a/b", "Completed"));
}

/// Never through binary floating point, on its way in or out.
#[test]
fn an_amount_is_kept_and_given_back_to_the_letter() {
    let server = Local::idle();
    let amounts = [
        "100.0",
        "0.1",
        "0.10",
        "1E+2",
        "-0.0",
        "0",
        "12345678901234567890.123456789",
        "9007199254740993",
        "1e-7",
        "0.1000000000000000055511151231257827",
    ];
    for (n, amount) in amounts.iter().enumerate() {
        server.post(order(&n.to_string()).replace("100.0", amount)).expect_status(200);
        let answer = server.get(&format!("/orders/{n}"));
        assert!(answer.body.contains(&format!(r#""total_amount":{amount},"#)), "{}", answer.exchange());
    }
    let all = server.get("/orders").body;
    assert!(amounts.iter().all(|amount| all.contains(&format!(r#""total_amount":{amount},"#))), "{all}");
    assert_eq!(server.rows().into_iter().map(|row| row.total_amount).collect::<Vec<_>>(), amounts);
    // Where a column may hold whatever it is given.
    if !is_server(&server.db()) {
        assert_eq!(asked_by_hand(&server.db(), "SELECT DISTINCT typeof(total_amount) FROM orders"), "text");
    }
    // Nearly the same is another amount.
    server.post(order("7").replace("100.0", "9007199254740992")).expect_error(409, "order_id_conflict");
}

#[test]
fn a_record_tells_the_life_of_its_order() {
    let server = Local::start(|config| {
        config.retry_delay = Duration::from_secs(10);
        config.work = Work::function(|order| match order.attempts {
            1 => Err(WorkError::retry("no stock")),
            _ => Ok(()),
        });
    });
    server.create(ids(0..1));
    let is = |attempts: u64, status: &str| {
        let record = server.record("o-0");
        record["attempts"] == attempts && record["status"] == status
    };
    poll_until(PATIENCE, || is(1, "Pending"));
    let record = server.record("o-0");
    assert_eq!((&record["started_at"], &record["completed_at"]), (&record["created_at"], &Value::Null));
    assert_eq!(record["last_error"], "no stock");
    server.turn(Duration::from_secs(20));
    poll_until(PATIENCE, || is(2, "Completed"));
    let record = server.record("o-0");
    assert_eq!(record["created_at"], "2023-11-14T22:13:20.000Z");
    assert_eq!((&record["started_at"], &record["completed_at"]), (&json!("2023-11-14T22:13:40.000Z"), &record["started_at"]));
}

#[test]
fn an_unknown_record_is_not_found_and_a_bad_id_refused() {
    let server = Local::idle();
    server.get("/orders/nobody").expect(404, r#"{"detail":"Order not found"}"#);
    server.get("/orders/").expect(404, r#"{"detail":"Not Found"}"#);
    for path in ["/orders/%ff", "/orders/%00"] {
        server.get(path).expect_error(400, "bad_order_id");
    }
    server.get("/orders/1/2").expect(404, r#"{"detail":"Not Found"}"#);
    for (path, method) in [("/orders", "POST"), ("/orders/1", "POST"), ("/orders/1", "DELETE"), ("/orders", "PUT")] {
        let answer = server.ask(request(method, path, &["Content-Length: 0"], ""));
        answer.expect_error(405, "method_not_allowed").expect_header("Allow", "GET, HEAD");
    }
}

#[test]
fn head_says_of_records_what_get_does() {
    let server = assorted();
    for path in ["/orders/o-1", "/orders?limit=3", "/orders/nobody", "/orders?limit=0"] {
        let (whole, head) = (server.get(path), server.ask(request("HEAD", path, &[], "")));
        assert_eq!((head.status, head.header("Content-Length")), (whole.status, whole.header("Content-Length")), "{path}");
    }
}

#[test]
fn an_empty_listing_is_an_empty_page() {
    let server = Local::idle();
    for query in ["", "?", "?status=Failed", "?user_id=nobody", "?status=Pending&user_id=nobody&limit=100"] {
        server.get(&format!("/orders{query}")).expect(200, r#"{"data":[],"has_more":false,"next":null}"#);
    }
}

#[test]
fn a_page_has_the_newest_twenty_unless_told_otherwise() {
    let server = Local::idle();
    server.create(ids(0..101));
    let newest = |count: usize| (0..101).rev().take(count).map(|n| format!("o-{n}")).collect::<Vec<_>>();
    assert_eq!(page(&server, "").0, newest(20));
    for limit in [1, 2, 99, 100] {
        let (ids, next) = page(&server, &format!("limit={limit}"));
        assert_eq!(ids, newest(limit));
        assert!(next.is_some());
    }
    // A full page that is the last one says so.
    let (_, next) = page(&server, "limit=100");
    let (ids, next) = page(&server, &format!("limit=1&after={}", next.unwrap()));
    assert_eq!((ids, next), (vec!["o-0".to_string()], None));
}

#[test]
fn filters_select_and_combine_on_pages_of_any_size() {
    let server = assorted();
    let rows: Vec<_> = server.rows().into_iter().rev().collect();
    for status in [None].into_iter().chain(Status::ALL.map(Some)) {
        for user in [None, Some(0), Some(1), Some(2), Some(3), Some(4)] {
            let expected: Vec<_> = rows
                .iter()
                .filter(|row| status.is_none_or(|status| row.status == status.as_str()))
                .filter(|row| user.is_none_or(|user| row.order_id[2..].parse::<u32>().unwrap() % 4 == user))
                .map(|row| row.order_id.clone())
                .filter(|_| user != Some(4))
                .collect();
            let status = status.map(|status| format!("status={}", status.as_str())).unwrap_or_default();
            let user = user.map(|user| format!("&user_id=u{user}")).unwrap_or_default();
            for limit in [1, 3, 7, 100] {
                assert_eq!(walk(&server, &format!("{status}{user}"), limit), expected, "{status}{user} by {limit}");
            }
        }
    }
}

#[test]
fn a_user_id_in_a_query_is_percent_decoded() {
    let server = Local::idle();
    for (n, user) in ["a b", "a+b", "ä&x=1", "100%"].iter().enumerate() {
        server.post(order(&n.to_string()).replace("user1", user)).expect(200, &created(&n.to_string()));
    }
    for (n, encoded) in [(0, "a%20b"), (0, "a+b"), (1, "a%2Bb"), (2, "%C3%A4%26x%3D1"), (3, "100%25")] {
        assert_eq!(page(&server, &format!("user_id={encoded}")).0, [n.to_string()], "{encoded}");
    }
}

#[test]
fn a_walk_sees_every_order_once_and_newest_first_while_others_arrive_and_end() {
    let server = Local::start(|config| config.processing_time = Duration::ZERO);
    server.create(ids(0..300));
    std::thread::scope(|scope| {
        let server = &server;
        let arriving = scope.spawn(move || (300..600).step_by(10).for_each(|n| server.create(ids(n..n + 10))));
        loop {
            let over = arriving.is_finished();
            let seen: Vec<usize> = walk(server, "", 7).iter().map(|id| id[2..].parse().unwrap()).collect();
            assert!(seen.is_sorted_by(|a, b| a > b), "not newest first: {seen:?}");
            assert!(seen.len() == seen[0] + 1, "{} of {} seen", seen.len(), seen[0] + 1);
            if over {
                assert_eq!(seen.len(), 600);
                break;
            }
        }
    });
    server.wait_until_completed(600);
}

/// Orders change their status between pages; none of those that stay as they are is missed.
#[test]
fn a_walk_of_one_status_misses_none_that_stays_in_it() {
    let server = assorted();
    let (first, next) = page(&server, "status=Pending&limit=4");
    // Those that were shown go, and so does the one that the cursor names.
    by_hand(&server.db(), "UPDATE orders SET status = 'Failed' WHERE seq > 31; DELETE FROM orders WHERE order_id = 'o-35'");
    let (second, _) = page(&server, &format!("status=Pending&limit=100&after={}", next.unwrap()));
    let seen: BTreeSet<_> = first.iter().chain(&second).collect();
    assert_eq!(seen.len(), first.len() + second.len(), "one was seen twice");
    let pending = server.rows().into_iter().filter(|row| row.status == "Pending").map(|row| row.order_id).collect::<Vec<_>>();
    assert!(pending.iter().all(|id| seen.contains(id)), "{pending:?} are not all in {seen:?}");
}

#[test]
fn a_query_that_makes_no_sense_is_refused_with_what_is_allowed() {
    let server = assorted();
    let next = page(&server, "limit=1").1.unwrap();
    let mut forged = next.clone().into_bytes();
    *forged.last_mut().unwrap() = if forged.ends_with(b"0") { b"1" } else { b"0" }[0];
    let forged = String::from_utf8(forged).unwrap();
    let page_before = "next of an earlier page";
    for (query, says) in [
        ("limit=0", "1 to 100"),
        ("limit=101", "1 to 100"),
        ("limit=1000000", "1 to 100"),
        ("limit=99999999999999999999999", "1 to 100"),
        ("limit=-1", "1 to 100"),
        ("limit=abc", "1 to 100"),
        ("limit=", "1 to 100"),
        ("limit", "1 to 100"),
        ("status=Lost", "Pending, Processing, Completed, Failed"),
        ("status=failed", "Pending, Processing, Completed, Failed"),
        ("status=", "Pending, Processing, Completed, Failed"),
        ("user_id=", "at least 1 character"),
        ("user_id=%ff", "percent-encoded"),
        ("user_id=a%00", "control"),
        ("page=2", "status, user_id, limit and after"),
        ("Limit=2", "status, user_id, limit and after"),
        ("limit=1&limit=1", "twice"),
        ("status=Failed&limit=1&status=Failed", "twice"),
        ("after=", page_before),
        ("after=1", page_before),
        ("after=9999999", page_before),
        (&format!("after={forged}"), page_before),
        (&format!("after={}", next.to_uppercase() + "0"), page_before),
        (&format!("after=+{next}"), page_before),
        (&format!("after={}", "9".repeat(5_000)), page_before),
    ] {
        let answer = server.get(&format!("/orders?{query}"));
        let detail = answer.expect_error(400, "bad_query").json()["detail"].as_str().unwrap().to_string();
        assert!(detail.contains(says), "expected {says:?}{}", answer.exchange());
    }
}

#[test]
fn a_reader_behind_an_order_of_its_own_connection_sees_it() {
    let server = Local::idle();
    let mut client = server.client();
    let body = post(order("1"));
    client.send([body, get("/orders/1").into_bytes(), get("/orders").into_bytes()].concat()).unwrap();
    client.answer().expect(200, &created("1"));
    assert_eq!(client.answer().expect_status(200).json()["order_id"], "1");
    assert_eq!(client.answer().expect_status(200).json()["data"][0]["order_id"], "1");
}
