//! Parameters in a JSON body. They become the form that says the same, which is then read like any other.

use std::fmt;

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::request::PARAMETERS_MAX;

/// The parameters that there are, and whether a number may stand for them. Others are ignored, as in forms.
const PARAMETERS: [(&str, bool); 3] = [("app_tag", false), ("count", true), ("token", false)];

/// The form that says what the object `json` says, its `token` only if that is taken, or what is wrong with it. No message
/// quotes a value, which may be a token.
pub fn to_form(json: &[u8], takes_token: bool) -> Result<Vec<u8>, String> {
    if !json.trim_ascii_start().starts_with(b"{") {
        return Err("the body is not a JSON object: it must begin with a brace".to_owned());
    }
    match serde_json::from_slice::<Members>(json) {
        Ok(members) => Ok(members.form(takes_token)),
        Err(error) if error.is_data() => Err(format!("the body is not as it must be: {error}")),
        Err(error) => Err(format!("the body is not valid JSON: {error}")),
    }
}

/// The parameters among the members of an object.
#[derive(Default)]
struct Members(Vec<(&'static str, String)>);

/// A member's value, as far as it may be a parameter.
enum Member {
    Text(String),
    Number(String),
    /// This, and so neither.
    Other(&'static str),
    /// This, which no form has.
    Nested(&'static str),
}

impl Members {
    fn form(&self, takes_token: bool) -> Vec<u8> {
        let taken = self.0.iter().filter(|(name, _)| takes_token || *name != "token");
        let pair = |(name, value): &(&str, String)| {
            format!("{name}={}", percent_encode(value.as_bytes(), NON_ALPHANUMERIC))
        };
        taken.map(pair).collect::<Vec<_>>().join("&").into_bytes()
    }

    fn add(&mut self, name: &str, member: Member) -> Result<(), String> {
        if let Member::Nested(what) = member {
            return Err(format!("{} is {what}: parameters are strings and numbers", shown(name)));
        }
        let Some(&(name, takes_number)) = PARAMETERS.iter().find(|(known, _)| *known == name) else {
            return Ok(());
        };
        let allowed = if takes_number { "a number or a string of digits" } else { "a string" };
        let value = match member {
            Member::Text(text) => text,
            Member::Number(number) if takes_number => number,
            Member::Number(_) => return Err(format!("{name} is a number: it must be {allowed}")),
            Member::Other(what) | Member::Nested(what) => {
                return Err(format!("{name} is {what}: it must be {allowed}"));
            }
        };
        self.0.push((name, value));
        Ok(())
    }
}

/// A member's name, which may be long, for a message.
fn shown(name: &str) -> String {
    let start: String = name.chars().take(32).collect();
    format!("'{start}'")
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let (mut members, mut names) = (Members::default(), Vec::new());
        while let Some(name) = map.next_key::<String>()? {
            if names.contains(&name) {
                return Err(A::Error::custom(format_args!("{} is given twice", shown(&name))));
            }
            if names.len() == PARAMETERS_MAX {
                let message = format_args!("there are more than {PARAMETERS_MAX} parameters");
                return Err(A::Error::custom(message));
            }
            members.add(&name, map.next_value()?).map_err(A::Error::custom)?;
            names.push(name);
        }
        Ok(members)
    }
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MemberVisitor)
    }
}

struct MemberVisitor;

impl<'de> Visitor<'de> for MemberVisitor {
    type Value = Member;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Member, E> {
        Ok(Member::Other("null"))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Member, E> {
        Ok(Member::Other("a boolean"))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Member, E> {
        Ok(Member::Number(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Member, E> {
        Ok(Member::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Member, E> {
        // With its point, so that it is not taken for a whole one.
        Ok(Member::Number(format!("{value:?}")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Member, E> {
        Ok(Member::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Member, E> {
        Ok(Member::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Member, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Member::Nested("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Member, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Member::Nested("an object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::parameter;
    use proptest::prelude::*;
    use serde_json::json;

    fn refused(json: &str) -> String {
        to_form(json.as_bytes(), true).expect_err(json)
    }

    proptest! {
        #[test]
        fn strings_and_numbers_arrive_as_they_are(tag in any::<String>(), token in any::<String>(), count in any::<u64>()) {
            let body = json!({"x": null, "app_tag": tag, "count": count, "token": token, "y": 1.5});
            let form = to_form(body.to_string().as_bytes(), true).unwrap();
            let value = |name| parameter(&form, name).unwrap().map(|value| value.into_owned());
            prop_assert_eq!(value("app_tag"), Some(tag.into_bytes()));
            prop_assert_eq!(value("token"), Some(token.into_bytes()));
            prop_assert_eq!(value("count"), Some(count.to_string().into_bytes()));
            prop_assert_eq!(value("x"), None);
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..60), text in "[\\[\\]{}\",:a-c0-9 \\\\.-]{0,60}") {
            let _ = to_form(&bytes, true);
            let _ = to_form(format!("{{{text}").as_bytes(), true);
        }
    }

    #[test]
    fn what_a_form_cannot_have_is_refused_by_name() {
        for (json, expected) in [
            (r#"{"count": 1, "count": 2}"#, "'count' is given twice"),
            (r#"{"x": 1, "x": 2}"#, "'x' is given twice"),
            (r#"{"\u0061": 1, "a": 2}"#, "'a' is given twice"),
            (r#"{"count": [1]}"#, "'count' is an array: parameters are strings and numbers"),
            (r#"{"x": {"count": 1}}"#, "'x' is an object: parameters are strings and numbers"),
            (r#"{"app_tag": 5}"#, "app_tag is a number: it must be a string"),
            (r#"{"app_tag": null}"#, "app_tag is null: it must be a string"),
            (r#"{"token": true}"#, "token is a boolean: it must be a string"),
            (r#"{"count": false}"#, "count is a boolean: it must be a number or a string of digits"),
        ] {
            let message = refused(json);
            assert!(
                message.starts_with(&format!("the body is not as it must be: {expected} at ")),
                "{message}"
            );
        }
        let many: serde_json::Map<_, _> = (0..=PARAMETERS_MAX).map(|n| (n.to_string(), json!(n))).collect();
        assert!(refused(&json!(many).to_string()).contains("more than 100 parameters"));
        let long = refused(&format!(r#"{{"{}": []}}"#, "x".repeat(60_000)));
        assert!(long.len() < 200, "{long}");
    }

    #[test]
    fn what_is_no_object_is_refused_and_never_quoted() {
        for json in ["[]", "3", "null", "\"hunter2\"", " [{}]", "app_tag=hunter2", "\u{feff}{}", "\0"] {
            assert_eq!(refused(json), "the body is not a JSON object: it must begin with a brace");
        }
        for json in
            ["{", "{\"a\"}", "{\"a\": hunter2}", "{} {}", "{'a': 1}", "{\"a\": 1,}", "{\"a\": \"\n\"}"]
        {
            let message = refused(json);
            assert!(message.starts_with("the body is not valid JSON: "), "{json}: {message}");
            assert!(message.contains(" at line 1 column ") || json.contains('\n'), "{json}: {message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
        assert!(to_form(b"{\"a\": \"\xff\"}", true).is_err());
        let deep = format!("{{\"a\": {}", "[".repeat(60_000));
        assert!(refused(&deep).starts_with("the body is not valid JSON"));
        assert_eq!(to_form(b" {} \n", true), Ok(Vec::new()));
    }

    #[test]
    fn a_number_that_is_not_whole_stays_so() {
        for number in ["1.0", "-1", "1.5", "18446744073709551616"] {
            let form = to_form(format!(r#"{{"count": {number}}}"#).as_bytes(), true).unwrap();
            let count = parameter(&form, "count").unwrap().unwrap();
            assert!(count.iter().any(|byte| !byte.is_ascii_digit()), "{number}: {count:?}");
        }
    }
}
