//! `GET /api/openapi.json`: what there is to ask, for people and for generators of clients.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

/// The document. That it says what is true is tested.
const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /api/openapi.json`
pub async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}

#[cfg(test)]
mod tests {
    use super::DOCUMENT;
    use serde_json::Value;
    use std::collections::BTreeSet;

    #[test]
    fn the_document_has_every_path_and_no_other() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let documented: BTreeSet<_> =
            document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(documented, super::super::routes().map(|(path, _)| path).into());
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
