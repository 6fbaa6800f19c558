//! Who may ask, and how: looked at before anything else.
//!
//! A browser that has a page of another site open must not be turned against this port. Such a page cannot send a
//! `Host` that is an address or one of AdminNames (its own name may well lead here: DNS rebinding), and what it sends
//! otherwise has its own `Origin`, says that it comes from elsewhere (`Sec-Fetch-Site`, an image), or is no JSON. No
//! answer allows another site to read it (CORS).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::problem::Problem;
use super::{Admin, REQUEST_TIMEOUT};
use crate::dsn::Secret;
use crate::http::access::bearer;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The page may load what comes from here, its scripts may not turn text into markup, and nobody may put it into a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

pub async fn guard(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let changes = is_change(request.method());
    let mut response = match check(&admin, &request) {
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
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn check(admin: &Admin, request: &Request) -> Result<(), Problem> {
    let headers = request.headers();
    check_site(request, &admin.admin.names)?;
    if !is_public(request.uri().path())
        && let Some(token) = &admin.admin.token
    {
        check_token(headers, token)?;
    }
    if is_change(request.method()) && !is_json(headers) {
        let message = "Content-Type must be application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    Ok(())
}

fn is_change(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// What is there for probes, which have no token, and for browsers, which ask their user for it.
fn is_public(path: &str) -> bool {
    matches!(path, "/" | "/livez" | "/readyz") || path.starts_with("/assets/")
}

fn check_site(request: &Request, names: &[String]) -> Result<(), Problem> {
    let headers = request.headers();
    let in_target = request.uri().authority().map(Authority::as_str);
    let in_header = single(headers, HOST)?;
    let host = in_target.or(in_header).unwrap_or_default();
    if !is_nameless_probe(request, in_header)
        && (!is_ours(host, names) || !is_ours(in_header.unwrap_or(host), names))
    {
        let message = "Host must be an IP address, localhost, or one of AdminNames";
        return Err(Problem::new(StatusCode::FORBIDDEN, message));
    }
    let origin = single(headers, ORIGIN)?;
    let from = |origin: &str| {
        let from = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        from.is_some_and(|from| from.eq_ignore_ascii_case(host))
    };
    // A link to the page, and nothing else, may be anywhere.
    let asked_elsewhere = matches!(single(headers, SEC_FETCH_SITE)?, Some("cross-site" | "same-site"));
    if !origin.is_none_or(from) || asked_elsewhere && request.uri().path() != "/" {
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
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    !host.contains('@')
        && (name.eq_ignore_ascii_case("localhost")
            || names.iter().any(|ours| name.eq_ignore_ascii_case(ours))
            || name.parse::<Ipv4Addr>().is_ok()
            || literal.is_some_and(|literal| literal.parse::<Ipv6Addr>().is_ok()))
}

fn check_token(headers: &HeaderMap, token: &Secret) -> Result<(), Problem> {
    let given = single(headers, AUTHORIZATION)?.and_then(|value| bearer(value.as_bytes()));
    // What is compared takes as long whichever byte differs; only the token's length may show.
    match given.is_some_and(|given| given.ct_eq(token.expose().as_bytes()).into()) {
        true => Ok(()),
        false => Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "the header Authorization must be: Bearer, and the token that AdminToken is set to",
        )),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    media_type.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("application/json"))
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
