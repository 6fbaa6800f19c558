//! Why a request was not served, for the operator.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::WWW_AUTHENTICATE;
use axum::response::{IntoResponse, Response};
use serde_json::json;

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

    /// The table has no such row.
    pub fn no_tag(tag: &str) -> Self {
        Self::not_found(format!("the table has no tag {tag:?}"))
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "the method is not allowed here; see the header Allow")
    }
}

/// What the store says to operators: it may name a host, and never a password.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let status = match &error {
            StoreError::UnknownTag => return Self::not_found("the table has no such tag (any more)"),
            StoreError::TagExists(_) => return Self::conflict("app_tag", error.to_string()),
            StoreError::Invalid(invalid) => return Self::invalid(invalid.clone()),
            StoreError::Unavailable(_) | StoreError::Unexpected(_) => {
                let message =
                    format!("{error}; whether the change was made is not known: look before you try again");
                return Self::new(StatusCode::SERVICE_UNAVAILABLE, message);
            }
            StoreError::ReadOnly(_) | StoreError::Contended(_) => StatusCode::SERVICE_UNAVAILABLE,
            StoreError::Overflow { .. } | StoreError::Schema(_) | StoreError::Denied(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self::new(status, error.to_string())
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
