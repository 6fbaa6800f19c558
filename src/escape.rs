//! Text of others, made safe to show: tags, descriptions, what a database or a client says. Every output goes through
//! here: terminals, logs, bodies of errors, labels of metrics. The dashboard does the same in `dashboard/escape.js`.

use std::borrow::Cow;

/// The text with every hidden character escaped as in Rust source, such as `\n` or `\u{202e}`. What stays steers no terminal,
/// begins no line, does not turn the direction of writing, and can be seen.
pub fn visible(text: &str) -> Cow<'_, str> {
    if is_visible_ascii(text) || !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hidden(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// One value that stands alone: as it is, or quoted where it could pass for something else. No two texts look the same.
pub fn shown(text: &str) -> Cow<'_, str> {
    let is_plain = !text.is_empty() && text.trim() == text && !text.starts_with('"');
    if is_plain && !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if is_hidden(c) => quoted.extend(c.escape_default()),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    Cow::Owned(quoted)
}

/// JSON with every hidden character of its strings escaped: the same value for a program, and harmless on a terminal.
pub fn json(text: &str) -> Cow<'_, str> {
    // Line feeds are between values: in strings they are escaped already.
    if is_visible_ascii(text) || !text.chars().any(|c| c != '\n' && is_hidden(c)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c == '\n' || !is_hidden(c) {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            out += &format!("\\u{unit:04x}");
        }
    }
    Cow::Owned(out)
}

/// A quick look that is enough for most texts: no branch for each byte.
fn is_visible_ascii(text: &str) -> bool {
    text.bytes().fold(true, |is_visible, byte| is_visible & matches!(byte, b' '..=b'~'))
}

/// Whether a character is not seen as itself: a control, a space other than the blank, a mark of direction, a character
/// without a shape or a meaning.
pub fn is_hidden(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    has_no_shape(c) || is_unprintable(c)
}

/// What the standard library takes for printable, or for a mark on the character before it, though nothing is seen of it:
/// Unicode's Default_Ignorable_Code_Point, and the blank of Braille.
fn has_no_shape(c: char) -> bool {
    matches!(c,
        '\u{34f}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{2800}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{1bca0}'..='\u{1bca3}' | '\u{e0000}'..='\u{e0fff}')
}

/// Whether the standard library escapes it inside of a text: at the beginning of one it escapes marks too, which can be
/// seen on the character before them.
fn is_unprintable(c: char) -> bool {
    let mut bytes = [b'a'; 5];
    let end = 1 + c.encode_utf8(&mut bytes[1..]).len();
    std::str::from_utf8(&bytes[..end]).is_ok_and(|text| text.escape_debug().count() > 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Newline, ESC, C1 CSI, DEL, bidi override and isolate, zero-width space and joiner, BOM, soft hyphen, line separator,
    /// fillers, a variation selector, a tag character, no-break space, a private and an unassigned one.
    const HIDDEN: &str = "\n\u{1b}\u{9b}\u{7f}\u{202e}\u{2066}\u{200b}\u{200d}\u{feff}\u{ad}\u{2028}\u{3164}\u{115f}\
                          \u{2800}\u{fe0f}\u{e0041}\u{a0}\u{e000}\u{378}";

    #[test]
    fn what_is_hidden_is_escaped_and_nothing_else() {
        for plain in ["orders", "o'neil \"x\" \\", "🦀 crab", "für 订单", "ก็", "नमस्ते", "e\u{301}", "שלום", ""]
        {
            assert_eq!(visible(plain), plain);
            assert_eq!(json(plain), plain);
        }
        for c in HIDDEN.chars() {
            assert!(is_hidden(c), "{c:?}");
            let escaped = visible(&format!("a{c}b")).into_owned();
            assert!(escaped.is_ascii() && !escaped.contains(char::is_control), "{escaped}");
        }
        assert_eq!(visible("a\n\u{1b}[2J\u{202e}b"), "a\\n\\u{1b}[2J\\u{202e}b");
    }

    #[test]
    fn a_value_is_quoted_where_it_could_pass_for_another() {
        for plain in ["orders", "o'neil \"x\" \\", "🦀 crab", "für 订单"] {
            assert_eq!(shown(plain), plain);
        }
        for (odd, expected) in [
            ("", r#""""#),
            (" a", r#"" a""#),
            ("a\n", r#""a\n""#),
            ("\u{1b}[2J", r#""\u{1b}[2J""#),
            ("\u{202e}a", r#""\u{202e}a""#),
            ("a\u{fe0f}", r#""a\u{fe0f}""#),
            (r#""a\n""#, r#""\"a\\n\"""#),
        ] {
            assert_eq!(shown(odd), expected);
        }
    }

    #[test]
    fn json_means_the_same_and_hides_nothing() {
        let text = serde_json::to_string_pretty(&[HIDDEN]).expect("JSON");
        let safe = json(&text);
        assert!(safe.chars().all(|c| c == '\n' || !is_hidden(c)), "{safe}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&safe).expect("JSON"), [HIDDEN]);
    }
}
