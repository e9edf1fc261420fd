//! A pipelined conversation: requests of all kinds, sent on one connection without waiting, and what each must be answered.
//!
//! Every order is posted, read, and posted again, so that each request shows whether those before it on its connection were
//! done with. The bodies are short, long, in chunks, and behind `Expect: 100-continue`, as each kind takes another way.

use super::{
    CHUNKED, CONTINUE, Client, chunks, created, get, head, in_status, length_of, long_order, order, post, post_in_chunks,
};

/// Requests to be sent in one go, each with what its answer shows.
pub struct Conversation(Vec<(Vec<u8>, Shows)>);

enum Shows {
    Created(String),
    Replayed(String),
    Pending(String),
    Missing,
}

impl Conversation {
    /// About orders whose ids begin with `name`.
    pub fn about(name: &str) -> Conversation {
        let kinds: [fn(&str) -> Vec<u8>; 6] = [
            |id| post_in_chunks(&order(id), 9),
            |id| post(order(id)),
            |id| post(long_order(id, 2_000)),
            |id| (head(&[&length_of(order(id)), CONTINUE]) + &order(id)).into_bytes(),
            |id| post_in_chunks(&long_order(id, 5_000), 999),
            |id| (head(&[CHUNKED, CONTINUE]) + &chunks(&order(id), 50)).into_bytes(),
        ];
        let mut requests = Vec::new();
        for (n, kind) in kinds.iter().enumerate() {
            let id = format!("{name}-{n}");
            let look = || get(&format!("/order/{id}")).into_bytes();
            requests.push((look(), Shows::Missing));
            requests.push((kind(&id), Shows::Created(id.clone())));
            requests.push((look(), Shows::Pending(id.clone())));
            // In another form, as the order is the same.
            requests.push((kinds[(n + 1) % kinds.len()](&id), Shows::Replayed(id.clone())));
        }
        Conversation(requests)
    }

    /// Has it on a connection.
    #[track_caller]
    pub fn on(&self, client: &mut Client) {
        let all: Vec<u8> = self.0.iter().flat_map(|(request, _)| request.clone()).collect();
        client.send(all).unwrap();
        for (_, shows) in &self.0 {
            let answer = client.answer();
            match shows {
                Shows::Created(id) => answer.expect(200, &created(id)).expect_no_header("Idempotent-Replayed"),
                Shows::Replayed(id) => answer.expect(200, &created(id)).expect_header("Idempotent-Replayed", "true"),
                Shows::Pending(id) => answer.expect(200, &in_status(id, "Pending")),
                Shows::Missing => answer.expect_status(404),
            };
        }
    }
}
