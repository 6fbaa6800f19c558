//! What an operator sends: bodies and parts of paths, and what is wrong with them.

use axum::body::Bytes;
use axum::extract::Path;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::http::StatusCode;
use serde_json::{Map, Value};

use super::problem::Problem;

/// The object of a request's body; no body is an empty one.
#[derive(Debug)]
pub struct Body(Map<String, Value>);

impl Body {
    /// Reads it; other members than `allowed` are an error, so that a misspelt one is not ignored.
    pub fn read(bytes: Result<Bytes, BytesRejection>, allowed: &[&'static str]) -> Result<Self, Problem> {
        let bytes = bytes.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
        if bytes.is_empty() {
            return Ok(Self(Map::new()));
        }
        let bad = |message: String| Problem::new(StatusCode::BAD_REQUEST, message);
        let value = serde_json::from_slice(&bytes)
            .map_err(|error| bad(format!("the body is not valid JSON: {error}")))?;
        let Value::Object(members) = value else {
            return Err(bad("the body is not a JSON object".to_owned()));
        };
        match members.keys().find(|name| !allowed.contains(&name.as_str())) {
            None => Ok(Self(members)),
            Some(name) => {
                let name: String = name.chars().take(64).collect();
                let message = format!("unknown field {name:?}: allowed is {}", allowed.join(", "));
                Err(Problem::bad(name, message))
            }
        }
    }

    /// A member that is text; `None` if it is absent or null.
    pub fn text(&self, name: &'static str) -> Result<Option<&str>, Problem> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Problem::bad(name, format!("{name} is not a string"))),
        }
    }

    /// A member that is a whole number, written as such or, as JavaScript must beyond 2^53, as a string.
    pub fn integer(&self, name: &'static str) -> Result<Option<i64>, Problem> {
        let number = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => text.parse().ok(),
            Some(value) => value.as_i64(),
        };
        let message =
            || format!("{name} is not a whole number of 64 bits: allowed is a number, or one as a string");
        number.map(Some).ok_or_else(|| Problem::bad(name, message()))
    }

    /// A member that must be there.
    pub fn required<T>(name: &'static str, value: Option<T>) -> Result<T, Problem> {
        value.ok_or_else(|| Problem::bad(name, format!("{name} is missing")))
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.values().all(Value::is_null)
    }
}

/// The tag that the path names.
pub fn tag_of(path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    let Path(tag) =
        path.map_err(|_| Problem::bad("app_tag", "the tag in the path is not percent-encoded UTF-8"))?;
    Ok(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &str) -> Result<Body, Problem> {
        Body::read(Ok(Bytes::from(text.to_owned())), &["step", "app_tag"])
    }

    #[test]
    fn a_number_may_be_written_either_way_and_is_exact() {
        for text in ["9223372036854775807", "\"9223372036854775807\""] {
            let body = body(&format!("{{\"step\":{text}}}")).unwrap();
            assert_eq!(body.integer("step"), Ok(Some(i64::MAX)));
        }
        for bad in ["1.5", "1e3", "\"\"", "\" 1\"", "\"1x\"", "true", "[1]", "9223372036854775808", "\"+\""] {
            let problem = body(&format!("{{\"step\":{bad}}}")).unwrap().integer("step").unwrap_err();
            assert!(format!("{problem:?}").contains("Some(\"step\")"), "{bad}: {problem:?}");
        }
        assert_eq!(body("{\"step\":null}").unwrap().integer("step"), Ok(None));
        assert_eq!(body("").unwrap().integer("step"), Ok(None));
        assert!(body("{\"step\":null}").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_object_of_known_fields_is_refused() {
        for (text, expected) in [
            ("[]", "not a JSON object"),
            ("3", "not a JSON object"),
            ("{", "not valid JSON"),
            ("{} x", "not valid JSON"),
            ("{\"Step\":1}", "unknown field \\\"Step\\\": allowed is step, app_tag"),
        ] {
            let problem = format!("{:?}", body(text).unwrap_err());
            assert!(
                problem.contains(&expected.replace("\\\"", "\\\\\\\"")) || problem.contains(expected),
                "{problem}"
            );
        }
        assert!(body("{\"app_tag\":1}").unwrap().text("app_tag").is_err());
    }
}
