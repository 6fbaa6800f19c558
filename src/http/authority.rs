//! `host[:port]`, as `Host`, targets and origins have it: which of them name the same server.

use std::net::Ipv6Addr;

/// Ports that URLs leave out. A proxy that speaks TLS may keep that of one scheme in `Host` where `Origin` has the other
/// scheme and none, so they count as none.
const DEFAULT_PORTS: [&[u8]; 3] = [b"", b"80", b"443"];

/// Whether two authorities are the same, whatever their case, a dot at the end of their names, and default ports.
pub fn is_same(one: &[u8], other: &[u8]) -> bool {
    let ((host, port), (other_host, other_port)) = (split(one), split(other));
    is_same_host(host, other_host)
        && (port == other_port || DEFAULT_PORTS.contains(&port) && DEFAULT_PORTS.contains(&other_port))
}

/// Whether the host of `authority` is one of `names`: host names, IPv4 addresses, and IPv6 addresses in brackets.
pub fn is_named(authority: &[u8], names: &[String]) -> bool {
    let (host, _) = split(authority);
    names.iter().any(|name| is_same_host(host, name.as_bytes()))
}

/// The authority of an `Origin` that has one: of `http` or of `https`.
pub fn of_origin(origin: &[u8]) -> Option<&[u8]> {
    let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
    authority.filter(|authority| !authority.is_empty())
}

/// The host, and the port, which is empty if there is none.
fn split(authority: &[u8]) -> (&[u8], &[u8]) {
    let digits = authority.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (start, port) = authority.split_at(authority.len() - digits);
    match start.strip_suffix(b":") {
        Some(host) => (host, port),
        None => (authority, b""),
    }
}

fn is_same_host(one: &[u8], other: &[u8]) -> bool {
    let name = |host| <[u8]>::strip_suffix(host, b".").unwrap_or(host);
    name(one).eq_ignore_ascii_case(name(other)) || ipv6(one).is_some_and(|ip| ipv6(other) == Some(ip))
}

/// An address in brackets may be written in several ways.
fn ipv6(host: &[u8]) -> Option<Ipv6Addr> {
    let literal = host.strip_prefix(b"[")?.strip_suffix(b"]")?;
    str::from_utf8(literal).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_dots_and_default_ports_make_no_difference() {
        for (one, other) in [
            ("a.example", "A.Example"),
            ("a.example", "a.example."),
            ("a.example.:80", "a.example"),
            ("a.example:443", "a.example"),
            ("a.example:443", "a.example:80"),
            ("a.example:", "a.example"),
            ("a.example:8880", "a.example.:8880"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]:8880", "[0:0::1]:8880"),
            ("[::1]", "[::1]:443"),
        ] {
            assert!(is_same(one.as_bytes(), other.as_bytes()), "{one} {other}");
            assert!(is_same(other.as_bytes(), one.as_bytes()), "{other} {one}");
        }
        for (one, other) in [
            ("a.example", "b.example"),
            ("a.example", "a.example.b"),
            ("a.example", "x.a.example"),
            ("a.example:8880", "a.example"),
            ("a.example:8880", "a.example:8881"),
            ("a.example..", "a.example"),
            ("127.0.0.1", "127.0.0.2"),
            ("[::1]", "[::2]"),
            ("[::1", "[::1]"),
            ("", "a.example"),
        ] {
            assert!(!is_same(one.as_bytes(), other.as_bytes()), "{one} {other}");
        }
    }

    #[test]
    fn a_name_is_one_of_the_names_with_any_port() {
        let names = ["ids.example", "10.0.0.1", "[::1]"].map(str::to_owned);
        for named in ["ids.example", "IDS.example.:8880", "10.0.0.1:80", "[0::1]:8880", "[::1]"] {
            assert!(is_named(named.as_bytes(), &names), "{named}");
        }
        for other in ["", ":80", "example", "x.ids.example", "ids.example.evil", "10.0.0.10", "[::2]", "::1"]
        {
            assert!(!is_named(other.as_bytes(), &names), "{other}");
        }
        assert!(!is_named(b"ids.example", &[]));
    }

    #[test]
    fn an_origin_of_a_page_has_an_authority() {
        assert_eq!(of_origin(b"http://a:8880"), Some(&b"a:8880"[..]));
        assert_eq!(of_origin(b"https://a"), Some(&b"a"[..]));
        for other in ["null", "", "http://", "a:8880", "ftp://a", "http:/a", "chrome-extension://a"] {
            assert_eq!(of_origin(other.as_bytes()), None, "{other}");
        }
    }
}
