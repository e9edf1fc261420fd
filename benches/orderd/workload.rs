//! What the client asks: orders and ids made from numbers, as the bytes of whole requests.
//!
//! Every id follows from a seed and a number and looks like a random UUID, so that nobody need remember the million ids that
//! a server acknowledged: they are made again when the file is searched for them.

/// Bytes of an order's id.
pub const ID_BYTES: usize = 36;

const ITEMS: &str = r#"["item1","item2"]"#;
const USER: &str = "user1";
const AMOUNT: &str = "100.0";

/// What is stored of every order besides its id and its status: user, items, amount.
pub const STORED: [&str; 3] = [USER, ITEMS, AMOUNT];

/// The id that belongs to `number` in the series of `seed`.
pub fn order_id(seed: u64, number: u64) -> [u8; ID_BYTES] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    const HYPHENS: [usize; 4] = [8, 13, 18, 23];
    let series = mix(seed);
    let mut bits = [mix(series ^ number), mix(series.wrapping_add(mix(number)))];
    let mut id = [b'-'; ID_BYTES];
    for (digits, at) in (0..ID_BYTES).filter(|at| !HYPHENS.contains(at)).enumerate() {
        let half = &mut bits[digits / 16];
        id[at] = DIGITS[(*half & 15) as usize];
        *half >>= 4;
    }
    id
}

/// The id as text.
pub fn order_id_text(id: &[u8; ID_BYTES]) -> &str {
    std::str::from_utf8(id).expect("an id is made of hexadecimal digits and hyphens")
}

/// Steele, Lea and Flood's SplitMix64: each input has its own output, and neighbours have nothing in common.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What to ask for, again and again.
#[derive(Debug, Clone, Copy)]
pub enum Ask {
    /// `POST /order`, each a new order of the series of `seed`.
    Create { seed: u64 },
    /// `GET /order/{id}`, each one of the first `orders` of the series of `seed`, in no order.
    Status { seed: u64, orders: u64 },
    /// `GET /metrics`
    Metrics,
}

/// Makes one request after the other in one buffer, of which only the id changes.
pub struct Requests {
    ask: Ask,
    bytes: Vec<u8>,
    id_at: usize,
    made: u64,
    draws: u64,
}

impl Requests {
    /// Starts a series; `draws` sets apart two that ask for the status of the same orders.
    pub fn new(ask: Ask, draws: u64) -> Requests {
        let gap = "?".repeat(ID_BYTES);
        let text = match ask {
            Ask::Create { .. } => {
                let body = format!(r#"{{"order_id":"{gap}","user_id":"{USER}","item_ids":{ITEMS},"total_amount":{AMOUNT}}}"#);
                format!(
                    "POST /order HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
            }
            Ask::Status { .. } => format!("GET /order/{gap} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            Ask::Metrics => "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".to_string(),
        };
        let id_at = text.find(&gap).unwrap_or(text.len());
        Requests { ask, bytes: text.into_bytes(), id_at, made: 0, draws: mix(draws) }
    }

    /// The next request.
    pub fn next(&mut self) -> &[u8] {
        let id = match self.ask {
            Ask::Create { seed } => Some(order_id(seed, self.made)),
            Ask::Status { seed, orders } => Some(order_id(seed, mix(self.draws ^ self.made) % orders)),
            Ask::Metrics => None,
        };
        if let Some(id) = id {
            self.bytes[self.id_at..self.id_at + ID_BYTES].copy_from_slice(&id);
        }
        self.made += 1;
        &self.bytes
    }
}
