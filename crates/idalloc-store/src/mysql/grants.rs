//! What an account may do: the lines of `SHOW GRANTS`, as MariaDB and MySQL write them. They may hold hashes of passwords, so
//! no line is ever shown.

use std::iter::Peekable;
use std::str::Chars;

/// One line: what may be done, and with what.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// In upper case, without the columns that a privilege may be limited to.
    pub privileges: Vec<String>,
    /// `*.*`, `` `database`.* ``, `` `database`.`table` ``, or something that has no rows.
    pub on: String,
}

/// `*.*`.
pub(super) const EVERYTHING: &str = "*.*";

impl Grant {
    /// `None` for what grants no privileges by itself, such as a role.
    pub fn parse(line: &str) -> Option<Grant> {
        let tokens = tokens(line);
        let (first, rest) = tokens.split_first()?;
        if !first.is_word("GRANT") {
            return None;
        }
        let (privileges, rest) = split_at_word(rest, "ON")?;
        let (on, to) = split_at_word(rest, "TO")?;
        let mut privileges: Vec<String> =
            privileges.split(|token| *token == Token::Sign(',')).map(phrase).collect();
        // Whoever grants is named before, and there in quotes.
        if split_at_word(to, "WITH")
            .is_some_and(|(_, options)| options.first().is_some_and(|it| it.is_word("GRANT")))
        {
            privileges.push("GRANT OPTION".to_owned());
        }
        Some(Grant { privileges, on: on.iter().map(Token::to_sql).collect() })
    }

    /// Whether the line grants a role.
    pub fn is_of_role(line: &str) -> bool {
        let tokens = tokens(line);
        let before_to = split_at_word(&tokens, "TO").map(|(before, _)| before);
        before_to.is_some_and(|it| {
            it.first().is_some_and(|it| it.is_word("GRANT")) && split_at_word(it, "ON").is_none()
        })
    }
}

/// Whether the account of this line of `SHOW CREATE USER` logs in by one of these plugins.
pub(super) fn logs_in_by(line: &str, plugins: &[&str]) -> bool {
    let tokens = tokens(line);
    let Some((_, how)) = split_at_word(&tokens, "IDENTIFIED") else { return false };
    how.iter().any(|token| match token {
        Token::Word(text) | Token::Quoted(text) => {
            plugins.iter().any(|plugin| text.eq_ignore_ascii_case(plugin))
        }
        Token::Sign(_) => false,
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// Between quotes of any kind.
    Quoted(String),
    Sign(char),
}

impl Token {
    fn is_word(&self, word: &str) -> bool {
        matches!(self, Token::Word(text) if text.eq_ignore_ascii_case(word))
    }

    fn to_sql(&self) -> String {
        match self {
            Token::Word(text) => text.clone(),
            Token::Quoted(text) => format!("`{}`", text.replace('`', "``")),
            Token::Sign(sign) => sign.to_string(),
        }
    }
}

fn split_at_word<'a>(tokens: &'a [Token], word: &str) -> Option<(&'a [Token], &'a [Token])> {
    let place = tokens.iter().position(|token| token.is_word(word))?;
    Some((&tokens[..place], &tokens[place + 1..]))
}

fn phrase(tokens: &[Token]) -> String {
    let words: Vec<String> = tokens.iter().map(|token| token.to_sql().to_ascii_uppercase()).collect();
    words.join(" ")
}

/// The line without what is in parentheses: columns.
fn tokens(line: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut depth = 0_u32;
    let mut chars = line.chars().peekable();
    while let Some(next) = chars.next() {
        let token = match next {
            '(' => {
                depth += 1;
                continue;
            }
            ')' => {
                depth = depth.saturating_sub(1);
                continue;
            }
            '`' | '\'' | '"' => Token::Quoted(rest_of_quoted(&mut chars, next)),
            _ if next.is_whitespace() => continue,
            _ if is_of_word(next) => Token::Word(rest_of_word(&mut chars, next)),
            _ => Token::Sign(next),
        };
        if depth == 0 {
            tokens.push(token);
        }
    }
    tokens
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

fn rest_of_word(chars: &mut Peekable<Chars<'_>>, first: char) -> String {
    let mut word = String::from(first);
    while let Some(next) = chars.next_if(|next| is_of_word(*next)) {
        word.push(next);
    }
    word
}

/// Up to the closing quote; two of them are one that belongs to the text, and in strings a backslash is no character.
fn rest_of_quoted(chars: &mut Peekable<Chars<'_>>, quote: char) -> String {
    let mut text = String::new();
    while let Some(next) = chars.next() {
        match next {
            '\\' if quote != '`' => text.extend(chars.next()),
            _ if next == quote && chars.next_if_eq(&quote).is_none() => break,
            _ => text.push(next),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(line: &str) -> (Vec<String>, String) {
        let Grant { privileges, on } = Grant::parse(line).unwrap_or_else(|| panic!("no grant: {line}"));
        (privileges, on)
    }

    #[test]
    fn lines_of_mariadb_and_mysql_are_read() {
        for (line, privileges, on) in [
            (
                "GRANT USAGE ON *.* TO `u`@`%` IDENTIFIED BY PASSWORD '*6BB4837EB74329105EE4568DDA7DC67ED2CA2AD9'",
                "USAGE",
                "*.*",
            ),
            ("GRANT SELECT, UPDATE ON `ids`.`segments` TO `u`@`%`", "SELECT|UPDATE", "`ids`.`segments`"),
            ("GRANT SELECT, UPDATE ON `ids`.* TO 'u'@'%'", "SELECT|UPDATE", "`ids`.*"),
            (
                "GRANT ALL PRIVILEGES ON *.* TO 'root'@'localhost' WITH GRANT OPTION",
                "ALL PRIVILEGES|GRANT OPTION",
                "*.*",
            ),
            (
                "GRANT SUPER, READ_ONLY ADMIN ON *.* TO `u`@`h` REQUIRE SSL WITH GRANT OPTION MAX_USER_CONNECTIONS 5",
                "SUPER|READ_ONLY ADMIN|GRANT OPTION",
                "*.*",
            ),
            ("GRANT USAGE ON *.* TO `u`@`h` WITH MAX_USER_CONNECTIONS 5", "USAGE", "*.*"),
            (
                "GRANT SELECT (`app_tag`, `ON`), UPDATE (max_id) ON `a``b`.`x ON y` TO `u`@`h`",
                "SELECT|UPDATE",
                "`a``b`.`x ON y`",
            ),
            (
                "GRANT APPLICATION_PASSWORD_ADMIN,CONNECTION_ADMIN ON *.* TO `u`@`%`",
                "APPLICATION_PASSWORD_ADMIN|CONNECTION_ADMIN",
                "*.*",
            ),
            ("GRANT EXECUTE ON PROCEDURE `ids`.`p` TO `u`@`%`", "EXECUTE", "PROCEDURE`ids`.`p`"),
            ("GRANT PROXY ON ''@'%' TO 'root'@'localhost' WITH GRANT OPTION", "PROXY|GRANT OPTION", "``@`%`"),
            ("grant select on *.* to u@h", "SELECT", "*.*"),
            ("GRANT SELECT ON `ids`.* TO `it's\\`@`%` WITH GRANT OPTION", "SELECT|GRANT OPTION", "`ids`.*"),
            ("GRANT SELECT ON `ids`.* TO 'it\\'s WITH GRANT'@'%'", "SELECT", "`ids`.*"),
        ] {
            let (found, place) = parsed(line);
            assert_eq!((found.join("|").as_str(), place.as_str()), (privileges, on), "{line}");
        }
    }

    #[test]
    fn what_is_no_grant_of_privileges_is_none() {
        for line in [
            "",
            "GRANT",
            "GRANT `reader`@`%` TO `u`@`%`",
            "GRANT `ON` TO `u`@`%`",
            "SET DEFAULT ROLE `reader` FOR `u`@`%`",
            "REVOKE SELECT ON `mysql`.* FROM `u`@`%`",
        ] {
            assert_eq!(Grant::parse(line), None, "{line}");
            assert_eq!(Grant::is_of_role(line), line.contains("TO"), "{line}");
        }
    }

    #[test]
    fn a_plugin_is_found_by_its_name() {
        let plugins = ["caching_sha2_password", "sha256_password"];
        for (line, expected) in [
            ("CREATE USER `u`@`%` IDENTIFIED WITH 'caching_sha2_password' AS '$A$005$x' REQUIRE NONE", true),
            ("CREATE USER `u`@`%` IDENTIFIED VIA ed25519 USING 'x' OR caching_sha2_password USING 'y'", true),
            ("CREATE USER `u`@`%` IDENTIFIED BY PASSWORD '*6BB4837EB74329105EE4568DDA7DC67ED2CA2AD9'", false),
            ("CREATE USER `u`@`%` IDENTIFIED WITH 'mysql_native_password' AS '*6BB4'", false),
            ("CREATE USER `sha256_password`@`%`", false),
            ("CREATE USER `sha256_password`@`%` IDENTIFIED VIA ed25519 USING 'x'", false),
        ] {
            assert_eq!(logs_in_by(line, &plugins), expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(any in any::<String>(), odd in "(GRANT |ON |TO |WITH |[`'\"(),.*@\\\\a]){0,20}") {
            let _ = (Grant::parse(&any), Grant::parse(&odd));
        }
    }
}
