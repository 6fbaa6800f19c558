//! Who lets a browser ask: pages of other sites, and names that are not this server's.
//!
//! A page may have a browser send requests anywhere, and the answer's being kept from it brings no ID back. So a request
//! that comes from another site's page is refused unless CorsOrigins lets it in. A name of the page's own that leads to
//! this server (DNS rebinding) makes it the same site: then only the name tells, if HttpNames says which are right.

use super::authority;
use super::request::{Method, Request};
use crate::config::CorsOrigins;

/// What the head of a request says of who sends it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sender<'b> {
    /// Whom it asks: the target's authority, or else the value of `Host`. Empty if neither is there.
    pub host: &'b [u8],
    /// The value of `Origin`; empty if there is none.
    pub origin: &'b [u8],
    /// What `Sec-Fetch-Site` says.
    pub site: Site,
    /// What an OPTIONS asks for.
    pub preflight: Preflight,
}

impl Sender<'_> {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self { host: &[], origin: &[], site: Site::Unsaid, preflight: Preflight::No };
}

/// Where a browser says that a request comes from.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// It says nothing, or is none.
    #[default]
    Unsaid,
    /// From a page of the server that is asked, or from the browser's user.
    Own,
    /// From anywhere else.
    Other,
}

impl Site {
    /// Of a `Sec-Fetch-Site`; what is not known of it is no reason to trust it.
    pub fn of(value: &[u8]) -> Self {
        match value {
            b"same-origin" | b"none" => Self::Own,
            _ => Self::Other,
        }
    }
}

/// Whether a browser asks beforehand if a page may send a request.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Preflight {
    /// No.
    #[default]
    No,
    /// Yes.
    Plain,
    /// Yes, from a public network to a private one.
    PrivateNetwork,
}

/// The header lines that let a page read an answer, each but the last ended by CRLF.
#[derive(Debug, PartialEq, Eq)]
pub struct Cors(String);

impl Cors {
    /// The lines.
    pub fn lines(&self) -> &str {
        &self.0
    }
}

/// Who is let in.
#[derive(Debug, Default)]
pub struct Gate {
    /// HttpNames; empty: any name will do.
    names: Vec<String>,
    listed: Vec<(String, Grant)>,
    all: Option<Grant>,
}

/// What an origin gets, for each [`Preflight`].
#[derive(Debug)]
struct Grant {
    answer: &'static Cors,
    preflight: &'static Cors,
    private_network: &'static Cors,
}

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal<'b> {
    /// This server does not have this name.
    Name(&'b [u8]),
    /// It comes from a page of this origin.
    Origin(&'b [u8]),
    /// It comes from a page of another site, and the browser does not say which.
    Site,
}

impl Gate {
    /// A gate for these names, or for any if there are none, and for pages of these origins beside its own.
    pub fn new(names: &[String], origins: &CorsOrigins) -> Self {
        let (listed, all) = match origins {
            CorsOrigins::Listed(origins) => (&origins[..], None),
            CorsOrigins::All => (&[][..], Some(Grant::to("*", ""))),
        };
        let grant = |origin: &String| (origin.clone(), Grant::to(origin, "\r\nVary: Origin"));
        Self { names: names.to_vec(), listed: listed.iter().map(grant).collect(), all }
    }

    /// Why the sender is not let in, if it is not.
    #[inline]
    pub fn refusal<'b>(&self, sender: &Sender<'b>) -> Option<Refusal<'b>> {
        let is_plain = sender.origin.is_empty() && sender.site != Site::Other;
        if is_plain && self.names.is_empty() { None } else { self.look_closer(sender) }
    }

    #[cold]
    fn look_closer<'b>(&self, sender: &Sender<'b>) -> Option<Refusal<'b>> {
        let Sender { host, origin, site, .. } = *sender;
        if !self.names.is_empty() && !authority::is_named(host, &self.names) {
            return Some(Refusal::Name(host));
        }
        let is_own = |origin| authority::of_origin(origin).is_some_and(|from| authority::is_same(from, host));
        match (origin, site) {
            _ if self.grant(origin).is_some() => None,
            ([], Site::Other) => Some(Refusal::Site),
            ([], _) => None,
            (_, Site::Unsaid | Site::Own) if is_own(origin) => None,
            _ => Some(Refusal::Origin(origin)),
        }
    }

    /// What goes with the answer, if a page of another origin may read it.
    #[inline]
    pub fn cors(&self, request: &Request<'_>) -> Option<&'static Cors> {
        if request.sender.origin.is_empty() { None } else { self.cors_of(request) }
    }

    #[cold]
    fn cors_of(&self, request: &Request<'_>) -> Option<&'static Cors> {
        let grant = self.grant(request.sender.origin)?;
        Some(match request.sender.preflight {
            Preflight::Plain if request.method == Method::Options => grant.preflight,
            Preflight::PrivateNetwork if request.method == Method::Options => grant.private_network,
            _ => grant.answer,
        })
    }

    fn grant(&self, origin: &[u8]) -> Option<&Grant> {
        let is_it = |listed: &str| origin.eq_ignore_ascii_case(listed.as_bytes());
        self.all.as_ref().or_else(|| self.listed.iter().find(|(listed, _)| is_it(listed)).map(|(_, it)| it))
    }
}

impl Grant {
    /// The lines stay for as long as the process does: may_minihttp takes no others. A server makes them once.
    fn to(origin: &str, vary: &str) -> Self {
        let keep = |lines: String| &*Box::leak(Box::new(Cors(lines)));
        let answer = format!(
            "Access-Control-Allow-Origin: {origin}{vary}\r\nAccess-Control-Expose-Headers: Retry-After"
        );
        let preflight = format!(
            "{answer}\r\nAccess-Control-Allow-Methods: GET, HEAD, POST\r\n\
             Access-Control-Allow-Headers: Authorization, Content-Type\r\nAccess-Control-Max-Age: 7200"
        );
        let private_network = format!("{preflight}\r\nAccess-Control-Allow-Private-Network: true");
        Self { answer: keep(answer), preflight: keep(preflight), private_network: keep(private_network) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::body::Body;
    use crate::http::request::Version;

    fn sender<'b>(host: &'b str, origin: &'b str, site: Option<&str>) -> Sender<'b> {
        let site = site.map_or(Site::Unsaid, |site| Site::of(site.as_bytes()));
        Sender { host: host.as_bytes(), origin: origin.as_bytes(), site, preflight: Preflight::No }
    }

    fn listed(origins: &[&str]) -> CorsOrigins {
        CorsOrigins::Listed(origins.iter().map(|origin| (*origin).to_owned()).collect())
    }

    fn lines(gate: &Gate, method: Method, sender: Sender<'_>) -> Option<&'static str> {
        let request = Request {
            method,
            version: Version::Http11,
            keep_alive: true,
            path: "/alloc",
            query: "",
            authorization: &[],
            sender,
            body: Body::EMPTY,
        };
        gate.cors(&request).map(Cors::lines)
    }

    #[test]
    fn a_page_of_another_site_is_refused_unless_its_origin_is_listed() {
        let plain = Gate::new(&[], &listed(&[]));
        let gate = Gate::new(&[], &listed(&["https://app.example"]));
        let all = Gate::new(&[], &CorsOrigins::All);
        let app = "https://app.example";
        // Host, Origin and Sec-Fetch-Site; whether it is let in without CorsOrigins, with app.example in it, and with "*".
        for (host, origin, site, expected) in [
            ("h", "", None, [true, true, true]),
            ("", "", None, [true, true, true]),
            ("h", "", Some("none"), [true, true, true]),
            ("h", "", Some("same-origin"), [true, true, true]),
            ("h", "", Some("same-site"), [false, false, true]),
            ("h", "", Some("cross-site"), [false, false, true]),
            ("h", "", Some("Same-Origin"), [false, false, true]),
            ("h", "", Some("news-from-the-future"), [false, false, true]),
            ("h:8880", "http://h:8880", None, [true, true, true]),
            ("H:8880", "https://h.:8880", Some("same-origin"), [true, true, true]),
            ("h", "https://h:443", None, [true, true, true]),
            ("h:8880", "http://h:8881", None, [false, false, true]),
            ("h:8880", "http://h", Some("same-origin"), [false, false, true]),
            ("h", "http://h", Some("same-site"), [false, false, true]),
            ("h", "null", None, [false, false, true]),
            ("null", "null", None, [false, false, true]),
            ("", "http://", None, [false, false, true]),
            ("h", "h", None, [false, false, true]),
            ("h", app, Some("cross-site"), [false, true, true]),
            ("h", "HTTPS://app.example", None, [false, true, true]),
            ("h", "http://app.example", Some("cross-site"), [false, false, true]),
            ("h", "https://app.example.evil", None, [false, false, true]),
            ("h", "https://app.example:8443", None, [false, false, true]),
            ("app.example", app, Some("same-origin"), [true, true, true]),
        ] {
            let sender = sender(host, origin, site);
            let is_let_in = [&plain, &gate, &all].map(|gate| gate.refusal(&sender).is_none());
            assert_eq!(is_let_in, expected, "{host:?} {origin:?} {site:?}");
        }
        assert_eq!(plain.refusal(&sender("h", "", Some("cross-site"))), Some(Refusal::Site));
        assert_eq!(plain.refusal(&sender("h", "null", None)), Some(Refusal::Origin(b"null")));
    }

    #[test]
    fn another_name_is_refused_where_names_are_given_whoever_asks() {
        let gate = Gate::new(&["ids.example".into(), "[::1]".into()], &CorsOrigins::All);
        for (host, is_ours) in [
            ("ids.example", true),
            ("IDS.example.:8880", true),
            ("[::1]:8880", true),
            ("evil.example", false),
        ] {
            for (origin, site) in [("", None), ("https://app.example", Some("cross-site"))] {
                let refusal = gate.refusal(&sender(host, origin, site));
                assert_eq!(refusal, (!is_ours).then_some(Refusal::Name(host.as_bytes())), "{host} {origin}");
            }
        }
        assert_eq!(gate.refusal(&sender("", "", None)), Some(Refusal::Name(b"")));
    }

    #[test]
    fn a_listed_origin_may_read_and_is_told_what_it_may_send() {
        let gate = Gate::new(&[], &listed(&["https://app.example", "http://other.example"]));
        let from = |origin, preflight| Sender { preflight, ..sender("h", origin, Some("cross-site")) };
        let app = "HTTPS://app.example";
        let answer = "Access-Control-Allow-Origin: https://app.example\r\nVary: Origin\r\nAccess-Control-Expose-Headers: Retry-After";
        let methods = "\r\nAccess-Control-Allow-Methods: GET, HEAD, POST\r\n\
                       Access-Control-Allow-Headers: Authorization, Content-Type\r\nAccess-Control-Max-Age: 7200";
        let private = "\r\nAccess-Control-Allow-Private-Network: true";
        for (method, preflight, expected) in [
            (Method::Get, Preflight::No, answer.to_owned()),
            (Method::Get, Preflight::Plain, answer.to_owned()),
            (Method::Options, Preflight::No, answer.to_owned()),
            (Method::Options, Preflight::Plain, format!("{answer}{methods}")),
            (Method::Options, Preflight::PrivateNetwork, format!("{answer}{methods}{private}")),
        ] {
            assert_eq!(lines(&gate, method, from(app, preflight)), Some(&*expected));
        }
        for other in ["", "https://third.example", "null", "http://h"] {
            assert_eq!(lines(&gate, Method::Options, from(other, Preflight::Plain)), None, "{other}");
        }
        let all = Gate::new(&[], &CorsOrigins::All);
        let any = "Access-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: Retry-After";
        assert_eq!(lines(&all, Method::Get, from("null", Preflight::No)), Some(any));
        assert_eq!(lines(&all, Method::Get, from("", Preflight::No)), None);
        assert_eq!(lines(&Gate::default(), Method::Get, from(app, Preflight::No)), None);
    }
}
