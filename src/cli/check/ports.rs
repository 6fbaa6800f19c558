//! Who reaches the ports.

use std::net::IpAddr;

use idalloc::config::Config;
use idalloc::store::report::{Code, Finding};

pub(super) fn look(config: &Config) -> [Finding; 2] {
    [clients_port(config), operators_port(config)]
}

fn clients_port(config: &Config) -> Finding {
    let place = place("the clients' port", config.http.host, config.http.port);
    let has_tokens = config.api.tokens.is_some();
    match (is_local(config.http.host), has_tokens) {
        (_, true) => Finding::ok(Code::ClientsPort, format!("{place} asks for AccessTokens")),
        (true, false) => Finding::ok(Code::ClientsPort, format!("{place} is open to this machine alone")),
        (false, false) => Finding::warning(
            Code::ClientsPort,
            format!("{place} is open to others, and asks for no token: everybody who reaches it may have IDs"),
        )
        .with_remedy("set AccessTokens, or HttpHost to 127.0.0.1, or let only clients reach it (a firewall, a NetworkPolicy)"),
    }
}

/// A port that is open to others has a token: the configuration is refused otherwise.
fn operators_port(config: &Config) -> Finding {
    let operator = &config.operator;
    if !operator.is_on() {
        return Finding::ok(Code::OperatorsPort, "there is no operator's port");
    }
    let place = place("the operator's port", operator.host, operator.port);
    let text = match (is_local(operator.host), !operator.tokens.is_empty()) {
        (_, true) => format!("{place} asks for a token"),
        (true, false) => format!("{place} is open to every account of this machine, and to no other machine"),
        (false, false) => {
            let text = format!("{place} is open to others, and asks for no token");
            return Finding::warning(Code::OperatorsPort, text)
                .with_remedy("set AdminTokens, or AdminHost to 127.0.0.1");
        }
    };
    Finding::ok(Code::OperatorsPort, text)
}

fn place(name: &str, host: IpAddr, port: u16) -> String {
    format!("{name} {}", std::net::SocketAddr::new(host, port))
}

fn is_local(host: IpAddr) -> bool {
    host.to_canonical().is_loopback()
}
