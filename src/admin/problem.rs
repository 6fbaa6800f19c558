//! Why a request was not served, for the operator.

use std::borrow::Cow;

use axum::http::StatusCode;
use axum::http::header::{CONNECTION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::answer::Json;
use super::places::OPERATORS_MAX;
use crate::escape::{shown, visible};
use crate::store::change::ChangeError;
use crate::store::{InvalidField, StoreError};

/// An error's status and body: `{"error":{"field":..,"message":..}}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    field: Option<Cow<'static, str>>,
    message: String,
    /// Whether the message is shown in a browser that has asked for a page.
    for_people: bool,
    ends_connection: bool,
}

impl Problem {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, field: None, message: message.into(), for_people: false, ends_connection: false }
    }

    /// The value of `field` is not allowed.
    pub fn bad(field: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// The value does not go with what is there.
    pub fn conflict(field: &'static str, message: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(StatusCode::CONFLICT, message) }
    }

    /// A value that a row may not have.
    pub fn invalid(error: InvalidField) -> Self {
        Self::bad(error.field, error.to_string())
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// A request has run out of time; what it asked of the store goes on.
    pub fn too_long(changes: bool) -> Self {
        let message = match changes {
            true => "this took too long; whether the change was made is unknown: look before you try again",
            false => "this took too long",
        };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    pub fn unauthorized() -> Self {
        let message = "the header Authorization must be: Bearer, and an operator's token (AdminToken, or one of AdminTokens)";
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    pub fn too_many_operators() -> Self {
        let message = format!("{OPERATORS_MAX} connections of operators are open already: try again");
        Self { ends_connection: true, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// The port was asked under a name that is not known to be its own.
    pub fn wrong_host(host: &str, for_people: bool) -> Self {
        let message = format!(
            "Host is {}: allowed is an IP address, localhost, or one of AdminNames; \
             if this server is reached by that name, add it to AdminNames",
            shown(host)
        );
        Self { for_people, ..Self::new(StatusCode::FORBIDDEN, message) }
    }

    /// A page asks that is not this server's, or seems not to be.
    pub fn wrong_origin(origin: &str, host: &str) -> Self {
        let message = format!(
            "Origin is {}, and Host is {}: pages of other sites may not use this port; if the page is this server's own, \
             have the proxy pass Host on (nginx: proxy_set_header Host $http_host), and add the name to AdminNames",
            shown(origin),
            shown(host)
        );
        Self::new(StatusCode::FORBIDDEN, message)
    }

    pub fn bug() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "a bug: please report it, with the log")
    }

    pub fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "the method is not allowed here; see the header Allow")
    }
}

impl Problem {
    /// Why a change was not made, or a row not found. What the store says may name a host, and never a password.
    pub fn of_change(tag: &str, error: &ChangeError) -> Self {
        let cause = match error {
            ChangeError::UnknownTag => return Self::not_found(format!("the table has no tag {tag:?}")),
            ChangeError::Conflict(invalid) => return Self::conflict(invalid.field, invalid.to_string()),
            ChangeError::Store { cause, .. } => cause,
        };
        let (status, field) = match cause {
            StoreError::UnknownTag => (StatusCode::NOT_FOUND, None),
            StoreError::TagExists(_) => (StatusCode::CONFLICT, Some("app_tag")),
            StoreError::Invalid(invalid) => (StatusCode::BAD_REQUEST, Some(invalid.field)),
            // What its account lacks, and what is wrong with the table, is for the database's administrator to mend.
            StoreError::Denied(_) => (StatusCode::FORBIDDEN, None),
            StoreError::Schema(_) | StoreError::Unreadable(_) | StoreError::Unsafe(_) => {
                (StatusCode::CONFLICT, None)
            }
            StoreError::Unavailable(_)
            | StoreError::Unexpected(_)
            | StoreError::ReadOnly(_)
            | StoreError::Replaced(_)
            | StoreError::Contended(_)
            | StoreError::GoneBack { .. }
            | StoreError::Overflow { .. } => (StatusCode::SERVICE_UNAVAILABLE, None),
        };
        let advice = if error.is_in_doubt() { ": look before you try again" } else { "" };
        Self { field: field.map(Cow::Borrowed), ..Self::new(status, format!("{error}{advice}")) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let message = visible(&self.message);
        if self.for_people {
            let text = [(CONTENT_TYPE, "text/plain; charset=utf-8")];
            return (self.status, text, format!("idalloc: {message}\n")).into_response();
        }
        let body = Json(json!({"error": {"field": self.field, "message": message}}));
        match self.status {
            StatusCode::UNAUTHORIZED => (self.status, [(WWW_AUTHENTICATE, "Bearer")], body).into_response(),
            // Its connection would be in the way of others.
            _ if self.ends_connection => (self.status, [(CONNECTION, "close")], body).into_response(),
            status => (status, body).into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_is_in_doubt() {
        for (problem, is_in_doubt) in [
            (Problem::too_long(true), true),
            (Problem::too_long(false), false),
            (of(StoreError::Unavailable("gone".into()), Some("step")), true),
            (of(StoreError::Unexpected("odd".into()), Some("step")), true),
            (of(StoreError::Unavailable("gone".into()), None), false),
            (of(StoreError::Contended("locked".into()), Some("step")), false),
        ] {
            assert_eq!(problem.status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(
                problem.message.contains("is unknown: look before you try again"),
                is_in_doubt,
                "{problem:?}"
            );
        }
    }

    fn of(cause: StoreError, part: Option<&'static str>) -> Problem {
        Problem::of_change("t", &ChangeError::Store { cause, part, done: Vec::new() })
    }
}
