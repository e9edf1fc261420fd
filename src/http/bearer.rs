//! The token that a request must bear (RFC 6750), where a server asks for one.
//!
//! [`Token`] says where it is from: a file, or a text. A server reads it once, when it starts, into a [`Secret`]; so a renewal takes up
//! what is in the file by then. A token that others could read or guess is refused with the remedy. Neither ever shows itself:
//! `Debug` says that there is one, and no answer and no log line has it.

use std::fmt;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// The shortest token, in characters: of a random one, more than can be guessed.
pub const MIN_TOKEN_BYTES: usize = 16;
/// The longest token, in characters.
pub const MAX_TOKEN_BYTES: usize = 512;

/// How a token is made.
const RECIPE: &str = "head -c 32 /dev/urandom | base64";

/// Where the token is from that a server asks for, or that a client bears.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Source);

#[derive(Clone, PartialEq, Eq)]
enum Source {
    File(PathBuf),
    Text(Secret),
}

/// A token, read and checked.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Token {
    /// A token of 16 to 512 characters: letters, digits and `-._~+/=`.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn new(text: &str) -> Result<Token, Error> {
        check(text).map_err(|why| Error::Usage(format!("the token {why}; make one with: {RECIPE}")))?;
        Ok(Token(Source::Text(Secret(text.into()))))
    }

    /// The token in this file, which a server reads when it starts. Only the file's owner may have access to it. Line ends behind
    /// the token are no part of it.
    pub fn in_file(path: impl Into<PathBuf>) -> Token {
        Token(Source::File(path.into()))
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`Error::Usage`], which names the file and the remedy.
    pub fn read(&self) -> Result<Secret, Error> {
        match &self.0 {
            Source::Text(secret) => Ok(secret.clone()),
            Source::File(path) => read(path).map_err(Error::Usage),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::File(path) => f.debug_tuple("Token").field(path).finish(),
            Source::Text(secret) => f.debug_tuple("Token").field(secret).finish(),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hidden")
    }
}

impl Secret {
    /// Whether the value of an `Authorization` header bears this token. Takes as long whichever of its characters are right.
    pub fn is_borne_by(&self, authorization: Option<&str>) -> bool {
        let Some((scheme, token)) = authorization.and_then(|value| value.trim().split_once(' ')) else { return false };
        scheme.eq_ignore_ascii_case("Bearer") && is_equal(self.0.as_bytes(), token.trim_start().as_bytes())
    }

    /// The value of the `Authorization` header that bears it.
    pub(super) fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

/// Looks at each byte of what was given, wherever the first difference is, so that time tells nothing of the secret but its length.
/// The secret is never empty.
fn is_equal(secret: &[u8], given: &[u8]) -> bool {
    let mut difference = secret.len() ^ given.len();
    for (at, byte) in given.iter().enumerate() {
        // Opaque, so that the loop can't be left early.
        difference = black_box(difference | usize::from(secret[at % secret.len()] ^ byte));
    }
    difference == 0
}

fn read(path: &Path) -> Result<Secret, String> {
    let file = path.display();
    let make = format!("make one with: (umask 077; {RECIPE} > {file})");
    let cannot = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => format!("the token file {file} does not exist; {make}"),
        _ => format!("cannot read the token file {file}: {e}; mend that, or name another with --token-file"),
    };
    // Opening a pipe would wait for its writer, at each start anew.
    if !fs::metadata(path).map_err(cannot)?.is_file() {
        return Err(format!("the token file {file} is no plain file; name another with --token-file"));
    }
    let mut opened = File::open(path).map_err(cannot)?;
    let mode = opened.metadata().map_err(cannot)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("the token file {file} is open to others (mode {mode:03o}); close it with: chmod 600 {file}"));
    }
    let mut text = String::new();
    // More than the longest with its line end is wrong in any case.
    match opened.by_ref().take(MAX_TOKEN_BYTES as u64 + 3).read_to_string(&mut text) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::InvalidData => text = "\0".into(),
        Err(e) => return Err(cannot(e)),
    }
    let token = text.trim_end_matches(['\r', '\n']);
    match check(token) {
        Ok(()) => Ok(Secret(token.into())),
        Err(why) => Err(format!("the token in {file} {why}; {make}")),
    }
}

/// The characters are those of RFC 6750, 2.1: they may stand in a header, a shell's word and a page's field as they are.
fn check(token: &str) -> Result<(), String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    match token.len() {
        0 => Err("is empty".into()),
        _ if !token.chars().all(is_allowed) => Err("may have letters, digits and -._~+/= alone".into()),
        1..MIN_TOKEN_BYTES => Err(format!("has fewer than {MIN_TOKEN_BYTES} characters")),
        MIN_TOKEN_BYTES..=MAX_TOKEN_BYTES => Ok(()),
        _ => Err(format!("has more than {MAX_TOKEN_BYTES} characters")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_texts_are_equal_if_every_byte_is_and_their_lengths_are() {
        for length in 1..=MAX_TOKEN_BYTES + 8 {
            let secret: Vec<u8> = (0..length).map(|at| b'a' + (at % 26) as u8).collect();
            assert!(is_equal(&secret, &secret), "{length}");
            for shorter in 0..length {
                assert!(!is_equal(&secret, &secret[..shorter]), "{shorter} of {length}");
            }
            // What follows again from the start is where a longer one would be compared.
            let longer = [&secret[..], &secret].concat();
            assert!((1..=length).all(|more| !is_equal(&secret, &longer[..length + more])), "{length}");
            for at in 0..length {
                let mut other = secret.clone();
                other[at] ^= 1;
                assert!(!is_equal(&secret, &other), "{at} of {length}");
            }
        }
    }

    #[test]
    fn a_header_bears_the_token_whatever_the_case_of_its_scheme() {
        let Source::Text(secret) = Token::new("0123456789abcdef").unwrap().0 else { panic!("no text") };
        for yes in ["Bearer 0123456789abcdef", "bearer  0123456789abcdef", " BEARER 0123456789abcdef ", &secret.authorization()]
        {
            assert!(secret.is_borne_by(Some(yes)), "{yes}");
        }
        for no in [
            "",
            "Bearer",
            "Bearer ",
            "0123456789abcdef",
            "Basic 0123456789abcdef",
            "Bearer 0123456789abcdeF",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer0123456789abcdef",
            "Bearer 0123456789abcdef, Bearer x",
        ] {
            assert!(!secret.is_borne_by(Some(no)), "{no}");
        }
        assert!(!secret.is_borne_by(None));
    }

    #[test]
    fn a_token_shows_itself_to_nobody() {
        let token = Token::new("0123456789abcdef").unwrap();
        assert_eq!(format!("{token:?} {:?}", token.read().unwrap()), "Token(hidden) hidden");
    }

    #[test]
    fn a_token_has_bounds() {
        for good in ["a".repeat(16), "a".repeat(512), "Az09-._~+/==abcd".into()] {
            Token::new(&good).unwrap();
        }
        for (bad, says) in [
            ("", "is empty"),
            (&"a".repeat(15)[..], "fewer than 16"),
            (&"a".repeat(513), "more than 512"),
            ("0123456789 abcdef", "letters"),
            ("0123456789äbcdefg", "letters"),
            ("0123456789abcde\n", "letters"),
        ] {
            let error = Token::new(bad).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("base64"), "{bad:?}: {error}");
        }
    }
}
