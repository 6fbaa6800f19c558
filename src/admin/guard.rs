//! Who may ask, and how: looked at before anything else.
//!
//! A browser that has a page of another site open must not be turned against this port. Such a page cannot send a
//! `Host` that is an address or one of AdminNames (its own name may well lead here: DNS rebinding), and what it sends
//! otherwise has its own `Origin`, says that it comes from elsewhere (`Sec-Fetch-Site`, an image), or has a body that is no
//! JSON (`input.rs`). No answer allows another site to read it (CORS).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, ORIGIN, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::warn;

use super::places::Place;
use super::problem::Problem;
use super::{Admin, REQUEST_TIMEOUT};
use crate::api::access::bearer;
use crate::episode::Recurrence;
use crate::http::authority;
use crate::http::origin::Site;
use crate::sync::lock;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The page may load what comes from here, its scripts may not turn text into markup, and nobody may put it into a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// Who sends a request, as far as the port knows.
#[derive(Clone)]
pub struct Caller {
    pub peer: SocketAddr,
    place: Arc<Place>,
    /// Whether it may see and change everything: it has shown a token, or none is set.
    pub is_operator: bool,
    /// What let it in, for the log: the name of its token.
    pub by: Arc<str>,
}

impl Caller {
    /// Nothing is known of it yet.
    pub fn new(peer: SocketAddr, place: Arc<Place>) -> Self {
        Self { peer, place, is_operator: false, by: "nothing".into() }
    }
}

/// Requests that were refused for want of the token.
#[derive(Default)]
pub struct Denials {
    without_token: AtomicU64,
    wrong_token: AtomicU64,
    telling: Mutex<Recurrence>,
}

impl Denials {
    pub fn without_token(&self) -> u64 {
        self.without_token.load(Relaxed)
    }

    pub fn wrong_token(&self) -> u64 {
        self.wrong_token.load(Relaxed)
    }

    fn note_wrong_token(&self, peer: SocketAddr) {
        self.wrong_token.fetch_add(1, Relaxed);
        if let Some(refused) = lock(&self.telling).happens(Instant::now()) {
            warn!(%peer, refused, "the operator's port was asked with a token that is not AdminToken, nor one of AdminTokens");
        }
    }
}

pub async fn guard(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    mut request: Request,
    next: Next,
) -> Response {
    let changes = is_change(request.method());
    let mut response = match check(&admin, caller, &mut request) {
        Ok(()) => match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Problem::too_long(changes).into_response(),
        },
        Err(problem) => problem.into_response(),
    };
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value| drop(headers.insert(name, HeaderValue::from_static(value)));
    set(X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(CONTENT_SECURITY_POLICY, POLICY);
    set(REFERRER_POLICY, "no-referrer");
    set(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    set(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Finds out who asks, for those who answer, and whether it may.
fn check(admin: &Admin, mut caller: Caller, request: &mut Request) -> Result<(), Problem> {
    check_site(request, &admin.config.operator.names)?;
    let path = request.uri().path();
    if !is_for_all(path) {
        caller.by = identify(admin, request.headers(), caller.peer)?;
        caller.is_operator = true;
        if !caller.place.admit() {
            return Err(Problem::too_many_operators());
        }
    } else if path == "/readyz" {
        // A wrong token is counted here too, or it could be guessed here.
        caller.is_operator = identify(admin, request.headers(), caller.peer).is_ok();
    }
    request.extensions_mut().insert(caller);
    Ok(())
}

fn is_change(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// What is there for probes, which have no token, and for browsers, which ask their user for it.
fn is_for_all(path: &str) -> bool {
    matches!(path, "/" | "/livez" | "/readyz") || path.starts_with("/assets/")
}

fn check_site(request: &Request, names: &[String]) -> Result<(), Problem> {
    let headers = request.headers();
    let in_target = request.uri().authority().map(Authority::as_str);
    let in_header = single(headers, HOST)?;
    let host = in_target.or(in_header).unwrap_or_default();
    let hosts = [host, in_header.unwrap_or(host)];
    if let Some(host) = hosts.into_iter().find(|host| !is_ours(host, names))
        && !is_nameless_probe(request, in_header)
    {
        return Err(Problem::wrong_host(host, request.uri().path() == "/"));
    }
    let browser_says = single(headers, SEC_FETCH_SITE)?;
    // The page's own files hold nothing that others may not see. Browsers send an Origin for some of them, which a proxy that
    // changes Host makes look like another's; without them the page could not even say so.
    if let Some(origin) = single(headers, ORIGIN)?
        && !request.uri().path().starts_with("/assets/")
    {
        let from = authority::of_origin(origin.as_bytes());
        // A proxy may put another Host in place of ours. The page is ours all the same if the browser says that it is of
        // the address that it asked, and the operator that this address is one of the port's names.
        let is_from = |from: &[u8]| {
            authority::is_same(from, host.as_bytes())
                || browser_says == Some("same-origin") && authority::is_named(from, names)
        };
        if !from.is_some_and(is_from) {
            return Err(Problem::wrong_origin(origin, host));
        }
    }
    // A link to the page, and nothing else, may be anywhere.
    let is_of_another = browser_says.is_some_and(|site| Site::of(site.as_bytes()) == Site::Other);
    if is_of_another && request.uri().path() != "/" {
        return Err(Problem::new(StatusCode::FORBIDDEN, "pages of other sites may not use this port"));
    }
    Ok(())
}

/// Whether this is a balancer's probe whose `Host` is empty, or missing in HTTP/1.0. A browser always names a host.
fn is_nameless_probe(request: &Request, host: Option<&str>) -> bool {
    let names_none = host.map_or(request.version() == Version::HTTP_10, str::is_empty);
    names_none && request.uri().authority().is_none() && matches!(request.uri().path(), "/livez" | "/readyz")
}

/// Whether `host`, with a port or without, is an IP address, `localhost`, or one of `names`.
fn is_ours(host: &str, names: &[String]) -> bool {
    let Ok(parsed) = host.parse::<Authority>() else { return false };
    let name = parsed.host();
    let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    !host.contains('@')
        && (name.eq_ignore_ascii_case("localhost")
            || authority::is_named(host.as_bytes(), names)
            || name.parse::<Ipv4Addr>().is_ok()
            || literal.is_some_and(|literal| literal.parse::<Ipv6Addr>().is_ok()))
}

/// What lets the request in.
fn identify(admin: &Admin, headers: &HeaderMap, peer: SocketAddr) -> Result<Arc<str>, Problem> {
    let tokens = &admin.config.operator.tokens;
    if tokens.is_empty() {
        return Ok("no token is set".into());
    }
    let Some(given) = single(headers, AUTHORIZATION)? else {
        admin.denials.without_token.fetch_add(1, Relaxed);
        return Err(Problem::unauthorized());
    };
    if let Some(name) = bearer(given.as_bytes()).and_then(|given| tokens.name_of(given)) {
        return Ok(name.clone());
    }
    admin.denials.note_wrong_token(peer);
    Err(Problem::unauthorized())
}

/// A header that must not be given twice: two readers might each look at another one.
fn single(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(&name).iter();
    let bad = || Problem::new(StatusCode::BAD_REQUEST, format!("the header {name} is not well-formed"));
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| bad()),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::is_ours;

    #[test]
    fn addresses_and_localhost_are_hosts_and_names_are_not_unless_they_are_given() {
        let names = ["ids.example".to_owned()];
        let is_address = |host: &str| is_ours(host, &names);
        for host in ["ids.example", "IDS.example:8881"] {
            assert!(is_ours(host, &names) && !is_ours(host, &[]), "{host}");
        }
        for host in
            ["127.0.0.1", "127.0.0.1:8881", "localhost", "LOCALHOST:1", "[::1]", "[::1]:8881", "10.1.2.3"]
        {
            assert!(is_address(host), "{host}");
        }
        for host in [
            "",
            ":8881",
            "example.com",
            "ids.example.evil.example",
            "a.ids.example",
            "127.0.0.1.example.com",
            "localhost.example.com",
            "127.1",
            "2130706433",
            "::1",
            "[::1",
            "a@127.0.0.1",
            "127.0.0.1 ",
            "[127.0.0.1]",
            "0x7f000001",
        ] {
            assert!(!is_address(host), "{host}");
        }
    }
}
