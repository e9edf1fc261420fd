//! Percent-encoding (RFC 3986, 2.1), for ids in paths and queries.

use std::fmt::Write;

/// The text that `encoded` stands for, or `None` if that is no UTF-8 or a `%` is not followed by two hexadecimal digits.
pub fn decode(encoded: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            (digit()? * 16 + digit()?) as u8
        } else {
            byte
        });
    }
    String::from_utf8(bytes).ok()
}

/// `text` as one segment of a path or one value of a query.
pub fn encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to memory can't fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        for text in ["", "plain-id_1.~", "a/b c+d%e?f&g=h", "ä€😀"] {
            assert_eq!(decode(&encode(text)).as_deref(), Some(text));
        }
        assert_eq!(encode("a/b ä"), "a%2Fb%20%C3%A4");
    }

    #[test]
    fn what_stands_for_no_text_is_refused() {
        for bad in ["%", "%4", "%zz", "%ff", "%+1", "a%"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
