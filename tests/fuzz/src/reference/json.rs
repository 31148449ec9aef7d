// SPDX-License-Identifier: MIT OR Apache-2.0
//! A reader of JSON that follows RFC 8259 to the letter.

/// A value, and the text that it was read from.
#[derive(Debug, PartialEq)]
pub(crate) struct Node<'a> {
    pub(crate) text: &'a str,
    pub(crate) value: Value<'a>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool,
    Number,
    String(String),
    Array(Vec<Node<'a>>),
    Object(Vec<(String, Node<'a>)>),
}

/// Parses a text that is one value and nothing else. `None` if it is not,
/// if brackets nest deeper than `max_depth`, or if a string contains half of
/// a surrogate pair.
pub(crate) fn read(text: &str, max_depth: usize) -> Option<Node<'_>> {
    Reader::new(text, false).whole(max_depth)
}

/// The same, but strings may contain halves of surrogate pairs.
pub(crate) fn read_structure(text: &str) -> Option<Node<'_>> {
    // The stack could not hold more; no input has it.
    Reader::new(text, true).whole(20_000)
}

impl Node<'_> {
    pub(crate) fn depth(&self) -> usize {
        match &self.value {
            Value::Array(items) => 1 + items.iter().map(Node::depth).max().unwrap_or(0),
            Value::Object(members) => {
                1 + members.iter().map(|(_, it)| it.depth()).max().unwrap_or(0)
            }
            _ => 0,
        }
    }

    /// Whether a string in it, including the names of members, contains a NUL.
    pub(crate) fn has_nul(&self) -> bool {
        match &self.value {
            Value::String(text) => text.contains('\0'),
            Value::Array(items) => items.iter().any(Node::has_nul),
            Value::Object(members) => members
                .iter()
                .any(|(name, it)| name.contains('\0') || it.has_nul()),
            _ => false,
        }
    }

    /// Whether an object in it has two members of the same name.
    pub(crate) fn has_twins(&self) -> bool {
        match &self.value {
            Value::Array(items) => items.iter().any(Node::has_twins),
            Value::Object(members) => members.iter().enumerate().any(|(at, (name, it))| {
                it.has_twins() || members[..at].iter().any(|(other, _)| other == name)
            }),
            _ => false,
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// Half of a surrogate pair becomes U+FFFD.
    takes_halves: bool,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, takes_halves: bool) -> Self {
        Self {
            text,
            at: 0,
            takes_halves,
        }
    }

    fn whole(mut self, max_depth: usize) -> Option<Node<'a>> {
        let node = self.node(max_depth)?;
        self.blanks();
        (self.at == self.text.len()).then_some(node)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    /// Consumes `word` if it comes next.
    fn takes(&mut self, word: &str) -> bool {
        let comes = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        self.at += if comes { word.len() } else { 0 };
        comes
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn node(&mut self, depth: usize) -> Option<Node<'a>> {
        self.blanks();
        let start = self.at;
        let value = match self.peek()? {
            b'{' => Value::Object(self.members(depth.checked_sub(1)?)?),
            b'[' => Value::Array(self.items(depth.checked_sub(1)?)?),
            b'"' => Value::String(self.string()?),
            b'n' => self.takes("null").then_some(Value::Null)?,
            b't' => self.takes("true").then_some(Value::Bool)?,
            b'f' => self.takes("false").then_some(Value::Bool)?,
            _ => self.number().then_some(Value::Number)?,
        };
        Some(Node {
            text: &self.text[start..self.at],
            value,
        })
    }

    fn items(&mut self, depth: usize) -> Option<Vec<Node<'a>>> {
        let mut items = Vec::new();
        self.list(b']', |reader| {
            items.push(reader.node(depth)?);
            Some(())
        })?;
        Some(items)
    }

    fn members(&mut self, depth: usize) -> Option<Vec<(String, Node<'a>)>> {
        let mut members = Vec::new();
        self.list(b'}', |reader| {
            let name = reader.string()?;
            reader.blanks();
            (reader.take()? == b':').then_some(())?;
            members.push((name, reader.node(depth)?));
            Some(())
        })?;
        Some(members)
    }

    /// From the opening bracket to the closing one, with commas between.
    fn list(&mut self, close: u8, mut one: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.at += 1;
        self.blanks();
        if self.peek()? == close {
            self.at += 1;
            return Some(());
        }
        loop {
            self.blanks();
            one(self)?;
            self.blanks();
            match self.take()? {
                b',' => {}
                byte if byte == close => return Some(()),
                _ => return None,
            }
        }
    }

    fn string(&mut self) -> Option<String> {
        (self.take()? == b'"').then_some(())?;
        let mut string = String::new();
        loop {
            let next = self.text[self.at..].chars().next()?;
            self.at += next.len_utf8();
            match next {
                '"' => return Some(string),
                '\\' => string.push(self.escape()?),
                '\0'..='\x1f' => return None,
                next => string.push(next),
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        Some(match self.take()? {
            b'b' => '\x08',
            b'f' => '\x0c',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            byte @ (b'"' | b'\\' | b'/') => byte.into(),
            b'u' if self.takes_halves => {
                let unit = self.unit()?;
                char::from_u32(unit.into()).unwrap_or('\u{FFFD}')
            }
            b'u' => match self.unit()? {
                first @ 0xD800..=0xDBFF => {
                    self.takes("\\u").then_some(())?;
                    let pair = char::decode_utf16([first, self.unit()?]);
                    pair.collect::<Result<String, _>>().ok()?.chars().next()?
                }
                unit => char::from_u32(unit.into())?,
            },
            _ => return None,
        })
    }

    fn unit(&mut self) -> Option<u16> {
        let mut unit = 0;
        for _ in 0..4 {
            unit = unit * 16 + char::from(self.take()?).to_digit(16)?;
        }
        u16::try_from(unit).ok()
    }

    fn number(&mut self) -> bool {
        self.takes("-");
        if !self.takes("0") && !self.digits() {
            return false;
        }
        if self.takes(".") && !self.digits() {
            return false;
        }
        if self.takes("e") || self.takes("E") {
            let _ = self.takes("+") || self.takes("-");
            return self.digits();
        }
        true
    }

    /// Consumes digits; returns whether there was one.
    fn digits(&mut self) -> bool {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        self.at > start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_json(text: &str) -> bool {
        read(text, 4).is_some()
    }

    #[test]
    fn json_is_told_from_the_rest() {
        for text in [
            "null",
            " true\r\n",
            "\tfalse",
            "0",
            "-0",
            "10",
            "-1.5e+3",
            "1E9",
            "\"\"",
            "[]",
            "[ ]",
            "[1 ,{}]",
            "{}",
            r#"{"a": {"b" :[[1]]}, "a":2}"#,
            r#""\"\\\/\b\f\n\r\t\u00e9""#,
            r#""\ud83d\ude00""#,
            "\"\u{7f}\u{2028}\"",
        ] {
            assert!(is_json(text), "{text}");
        }
        for text in [
            "",
            " ",
            "nul",
            "True",
            "00",
            "01",
            "-",
            "+1",
            ".5",
            "1.",
            "1e",
            "1e+",
            "0x1",
            "[",
            "[1,]",
            "[1 2]",
            "[,]",
            "]",
            "{",
            "{a:1}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            "1 2",
            "\"",
            "\"\n\"",
            r#""\x""#,
            r#""\u12""#,
            r#""\u+123""#,
            r#""\ud800""#,
            r#""\udc00""#,
            r#""\ud800\u0041""#,
            "\u{a0}1",
            "\u{feff}1",
            "[[[[[]]]]]",
        ] {
            assert!(!is_json(text), "{text}");
        }
    }

    #[test]
    fn values_know_their_text() {
        let node = read(r#" {"\u0061" : [ 1.50, "x\ty" ] } "#, 4).unwrap();
        assert_eq!(node.text, r#"{"\u0061" : [ 1.50, "x\ty" ] }"#);
        assert_eq!((node.depth(), node.has_nul()), (2, false));
        let Value::Object(members) = node.value else {
            panic!("no object");
        };
        let (name, value) = &members[0];
        assert_eq!((&**name, value.text), ("a", r#"[ 1.50, "x\ty" ]"#));
        let Value::Array(items) = &value.value else {
            panic!("no array");
        };
        assert_eq!(items[0].text, "1.50");
        assert_eq!(items[1].value, Value::String("x\ty".into()));
        assert!(read(r#"{"\u0000":1}"#, 4).unwrap().has_nul());
        assert!(read(r#"[{"a":1,"\u0061":1}]"#, 4).unwrap().has_twins());
        assert!(!read(r#"[{"a":{"a":1},"b":1}]"#, 4).unwrap().has_twins());
        assert!(read_structure(r#"[["\ud800\udc00\udc00"]]"#).is_some());
        assert!(read_structure(r#"["\ud80"]"#).is_none());
    }
}
