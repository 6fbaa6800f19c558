//! Why a request was not served, for the operator.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::WWW_AUTHENTICATE;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::store::change::ChangeError;
use crate::store::{InvalidField, StoreError};

/// An error's status and body: `{"error":{"field":..,"message":..}}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    field: Option<&'static str>,
    message: String,
}

impl Problem {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, field: None, message: message.into() }
    }

    /// The value of `field` is not allowed.
    pub fn bad(field: &'static str, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, field: Some(field), message: message.into() }
    }

    /// The value does not go with what is there.
    pub fn conflict(field: &'static str, message: impl Into<String>) -> Self {
        Self { status: StatusCode::CONFLICT, field: Some(field), message: message.into() }
    }

    /// A value that a row may not have.
    pub fn invalid(error: InvalidField) -> Self {
        Self::bad(error.field, error.to_string())
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
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
            StoreError::Schema(_) => (StatusCode::CONFLICT, None),
            StoreError::Unavailable(_)
            | StoreError::Unexpected(_)
            | StoreError::ReadOnly(_)
            | StoreError::Contended(_)
            | StoreError::Overflow { .. } => (StatusCode::SERVICE_UNAVAILABLE, None),
        };
        let advice = if error.is_in_doubt() { ": look before you try again" } else { "" };
        Self { status, field, message: format!("{error}{advice}") }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Json(json!({"error": {"field": self.field, "message": self.message}}));
        match self.status {
            StatusCode::UNAUTHORIZED => (self.status, [(WWW_AUTHENTICATE, "Bearer")], body).into_response(),
            status => (status, body).into_response(),
        }
    }
}
