//! The dashboard: one page and what belongs to it, out of the program itself.

use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use foldhash::quality::FixedState;

use super::problem::Problem;

/// One file, as it is served.
struct Asset {
    path: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

macro_rules! assets {
    ($($path:literal: $content_type:expr,)*) => {
        &[$(Asset {
            path: $path,
            content_type: $content_type,
            bytes: include_bytes!(concat!("dashboard/", $path)),
        }),*]
    };
}

const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

const PAGE: &Asset = &Asset {
    path: "index.html",
    content_type: "text/html; charset=utf-8",
    bytes: include_bytes!("dashboard/index.html"),
};

const ASSETS: &[Asset] = assets! {
    "api.js": JS,
    "app.js": JS,
    "charts.js": JS,
    "dialogs.js": JS,
    "escape.js": JS,
    "format.js": JS,
    "icon.svg": SVG,
    "shared.js": JS,
    "states.js": JS,
    "stream.js": JS,
    "style.css": CSS,
    "tags.js": JS,
    "theme.js": JS,
    "themes.js": JS,
    "vendor/eventsource-parser/errors.js": JS,
    "vendor/eventsource-parser/parse.js": JS,
    "vendor/uplot/uPlot.iife.min.js": JS,
    "vendor/uplot/uPlot.min.css": CSS,
};

/// `GET /`
pub async fn page(headers: HeaderMap) -> Response {
    PAGE.answer(&headers)
}

/// `GET /assets/{path}`
pub async fn asset(Path(path): Path<String>, headers: HeaderMap) -> Response {
    match ASSETS.iter().find(|asset| asset.path == path) {
        Some(asset) => asset.answer(&headers),
        None => Problem::not_found("there is no such file").into_response(),
    }
}

impl Asset {
    /// The file, or word that the client has it already.
    fn answer(&self, headers: &HeaderMap) -> Response {
        let tag = self.tag();
        // A browser keeps it, and asks each time: after an upgrade it must not mix the files of two versions.
        let caching = [(ETAG, tag.clone()), (CACHE_CONTROL, "no-cache".to_owned())];
        let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        if known.flat_map(|tags| tags.split(',')).any(|known| known.trim().trim_start_matches("W/") == tag) {
            return (StatusCode::NOT_MODIFIED, caching).into_response();
        }
        (caching, [(CONTENT_TYPE, self.content_type)], self.bytes).into_response()
    }

    /// Its entity tag: the same for the same bytes, in every process.
    fn tag(&self) -> String {
        static STATE: LazyLock<FixedState> = LazyLock::new(FixedState::default);
        let mut hasher = STATE.build_hasher();
        hasher.write(self.bytes);
        format!("\"{:016x}\"", hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a file names, between `before` and the next quotation mark.
    fn named<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
        text.split(before).skip(1).filter_map(|rest| rest.split('"').next())
    }

    fn text(asset: &Asset) -> &'static str {
        std::str::from_utf8(asset.bytes).expect("UTF-8")
    }

    #[test]
    fn every_file_that_is_named_is_served() {
        let page = text(PAGE);
        let scripts =
            ASSETS.iter().filter(|asset| asset.path.ends_with(".js") && !asset.path.starts_with("vendor"));
        let from_scripts = scripts.flat_map(|script| named(text(script), "from \"./"));
        let from_page =
            named(page, "src=\"").chain(named(page, "href=\"")).filter_map(|url| url.strip_prefix("assets/"));
        let names: Vec<_> = from_page.chain(from_scripts).collect();
        assert!(names.len() > ASSETS.len(), "{names:?}");
        for name in names {
            assert!(ASSETS.iter().any(|asset| asset.path == name), "{name} is named, and not served");
        }
    }

    #[test]
    fn nothing_comes_from_elsewhere_and_nothing_is_written_as_markup() {
        for asset in ASSETS.iter().chain([PAGE]).filter(|asset| !asset.path.starts_with("vendor")) {
            let text = text(asset).replace("http://www.w3.org/2000/svg", "");
            for forbidden in
                ["http:", "https:", "//cdn", "innerHTML", "outerHTML", "insertAdjacentHTML", "eval("]
            {
                assert!(!text.contains(forbidden), "{} holds {forbidden}", asset.path);
            }
        }
        // A proxy may serve the page under a path of its own.
        let own =
            ASSETS.iter().filter(|asset| !asset.path.starts_with("vendor") && asset.content_type != SVG);
        for asset in own.chain([PAGE]) {
            for forbidden in ["\"/", "`/", "'/", "url(/"] {
                assert!(!text(asset).contains(forbidden), "{} has a path from the root", asset.path);
            }
        }
        // The Content-Security-Policy would refuse them.
        for forbidden in ["<script>", "<style", " style=", " onclick=", "javascript:"] {
            assert!(!text(PAGE).contains(forbidden), "the page holds {forbidden}");
        }
    }
}
