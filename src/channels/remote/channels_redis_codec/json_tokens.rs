//! JSON tokens: the parts of JSON that is known to be valid, in their order.

use memchr::memchr2;

/// A token. Colons, commas and whitespace are skipped: an object's tokens are names and values in
/// turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Token<'a> {
    OpenObject,
    OpenArray,
    CloseObject,
    CloseArray,
    /// With its quotes and escapes.
    Text(&'a str),
    Number(&'a str),
    True,
    False,
    Null,
}

/// The tokens of valid JSON.
pub(super) struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(json: &'a str) -> Self {
        Self { rest: json }
    }

    fn take(&mut self, len: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at_checked(len).unwrap_or((self.rest, ""));
        self.rest = rest;
        taken
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let between = |byte: u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b',' | b':');
        let skipped = self.rest.bytes().take_while(|byte| between(*byte)).count();
        self.take(skipped);
        let token = match self.rest.bytes().next()? {
            b'"' => return Some(Token::Text(self.take(text_len(self.rest.as_bytes())))),
            b'{' => Token::OpenObject,
            b'[' => Token::OpenArray,
            b'}' => Token::CloseObject,
            b']' => Token::CloseArray,
            b't' => Token::True,
            b'f' => Token::False,
            b'n' => Token::Null,
            _ => {
                let ends = |byte: &u8| between(*byte) || matches!(byte, b']' | b'}');
                let len = self.rest.bytes().take_while(|byte| !ends(byte)).count();
                return Some(Token::Number(self.take(len)));
            }
        };
        self.take(match token {
            Token::True | Token::Null => 4,
            Token::False => 5,
            _ => 1,
        });
        Some(token)
    }
}

/// Returns the length of a string with its quotes.
fn text_len(json: &[u8]) -> usize {
    let mut at = 1;
    while let Some(found) = memchr2(b'"', b'\\', json.get(at..).unwrap_or_default()) {
        at += found + 1;
        if json[at - 1] == b'"' {
            return at;
        }
        at += 1; // whatever is escaped
    }
    json.len()
}
