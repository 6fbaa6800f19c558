//! What an operator sends: bodies, parts of paths and parameters, and what is wrong with them.

use std::borrow::Cow;

use axum::body::Bytes;
use axum::extract::rejection::RawPathParamsRejection::InvalidUtf8InPathParam;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::problem::Problem;

/// A request's body: JSON, or nothing. A page of another site could send a body of some other type without asking first.
pub struct Sent(Bytes);

impl<S: Send + Sync> FromRequest<S> for Sent {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let is_json = is_json(request.headers());
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
        if !bytes.is_empty() && !is_json {
            let message = "Content-Type must be application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        Ok(Self(bytes))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    media_type.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("application/json"))
}

/// The object of a request's body; no body is an empty one.
#[derive(Debug)]
pub struct Body(Map<String, Value>);

impl Body {
    /// Reads it; other members than `allowed` are an error, so that a misspelt one is not ignored.
    pub fn read(Sent(bytes): Sent, allowed: &[&'static str]) -> Result<Self, Problem> {
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
            // Not what else Rust takes for a number, such as "+5".
            Some(Value::String(text)) => {
                Some(text).filter(|text| !text.starts_with('+')).and_then(|text| text.parse().ok())
            }
            Some(value) => value.as_i64().or_else(|| whole(value.as_f64()?)),
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

/// A whole number that is written with a point or an exponent, such as `5.0`, which JSON's schemas take for an integer. Not
/// beyond 2^53, where it might be another than was written.
fn whole(number: f64) -> Option<i64> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    (number.fract() == 0.0 && number.abs() <= EXACT_MAX).then_some(number as i64)
}

/// The tag that a request is about: a part of its path, or its parameter app_tag. What names a part of a path that browsers
/// and clients take for a direction (`..`), or none at all, can only be said in the latter way.
pub struct TagName(pub String);

impl<S: Send + Sync> FromRequestParts<S> for TagName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let in_path = match RawPathParams::from_request_parts(parts, state).await {
            Ok(parameters) => {
                parameters.iter().find(|(name, _)| *name == "tag").map(|(_, tag)| tag.to_owned())
            }
            Err(InvalidUtf8InPathParam(_)) => {
                return Err(Problem::bad("app_tag", "the tag in the path is not percent-encoded UTF-8"));
            }
            Err(_) => None,
        };
        let tag = match in_path {
            Some(tag) => Some(tag),
            None => parameter(parts.uri.query(), "app_tag")?,
        };
        Body::required("app_tag", tag).map(Self)
    }
}

/// The parameter of this name.
///
/// # Errors
/// It is given twice, or is not percent-encoded UTF-8.
pub fn parameter(query: Option<&str>, name: &'static str) -> Result<Option<String>, Problem> {
    let pairs = query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut values = pairs.filter(|(given, _)| decoded(given).as_deref() == Some(name));
    let Some((_, value)) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::bad(name, format!("{name} is given twice")));
    }
    match decoded(value) {
        Some(value) => Ok(Some(value)),
        None => Err(Problem::bad(name, format!("{name} is not percent-encoded UTF-8"))),
    }
}

fn decoded(text: &str) -> Option<String> {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8().ok().map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &str) -> Result<Body, Problem> {
        Body::read(Sent(Bytes::from(text.to_owned())), &["step", "app_tag"])
    }

    #[test]
    fn a_number_may_be_written_either_way_and_is_exact() {
        for text in ["9223372036854775807", "\"9223372036854775807\""] {
            let body = body(&format!("{{\"step\":{text}}}")).unwrap();
            assert_eq!(body.integer("step"), Ok(Some(i64::MAX)));
        }
        for bad in [
            "1.5",
            "9007199254740994.0",
            "1e16",
            "\"\"",
            "\" 1\"",
            "\"1x\"",
            "true",
            "[1]",
            "9223372036854775808",
            "\"+\"",
            "\"+5\"",
        ] {
            let problem = body(&format!("{{\"step\":{bad}}}")).unwrap().integer("step").unwrap_err();
            assert!(format!("{problem:?}").contains("Some(\"step\")"), "{bad}: {problem:?}");
        }
        for (text, number) in [("1e3", 1000), ("5.0", 5), ("-0.0", 0)] {
            assert_eq!(body(&format!("{{\"step\":{text}}}")).unwrap().integer("step"), Ok(Some(number)));
        }
        assert_eq!(body("{\"step\":null}").unwrap().integer("step"), Ok(None));
        assert_eq!(body("").unwrap().integer("step"), Ok(None));
        assert!(body("{\"step\":null}").unwrap().is_empty());
    }

    #[test]
    fn a_parameter_is_read_strictly() {
        for (query, expected) in [
            ("app_tag=a", Some("a")),
            ("x=1&app%5Ftag=..%2F+%25&y", Some("../ %")),
            ("app_tag=", Some("")),
            ("app_tag", Some("")),
            ("tag=a", None),
            ("", None),
        ] {
            assert_eq!(parameter(Some(query), "app_tag").unwrap().as_deref(), expected, "{query}");
        }
        assert_eq!(parameter(None, "app_tag"), Ok(None));
        for (query, message) in
            [("app_tag=a&app_tag=a", "given twice"), ("app_tag=%ff", "not percent-encoded UTF-8")]
        {
            let problem = format!("{:?}", parameter(Some(query), "app_tag").unwrap_err());
            assert!(problem.contains(message) && problem.contains("Some(\"app_tag\")"), "{problem}");
        }
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
