//! Bodies of answers.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::problem::Problem;
use crate::escape;

/// An answer's JSON. It may hold text of others and be read on a terminal, so hidden characters are escaped.
pub struct Json<T>(pub T);

/// The JSON of a value of ours.
pub fn json(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string(value).map(|text| escape::json(&text).into_owned())
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match json(&self.0) {
            Ok(body) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
            // Numbers, texts, and maps with texts as keys: this cannot be.
            Err(_) => Problem::bug().into_response(),
        }
    }
}
