//! The operator's port of a running server, as its client.

use std::io;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::sse;

/// How long an answer may take, and how long a stream of samples, one a second, may be silent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest answer; a thousand tags take less than half of it.
const ANSWER_BYTES_MAX: usize = 2 << 20;

/// Why there is no answer, or none that is of use.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL names no operator's port.
    #[error("--url is {0:?}: allowed is http://host:port, without TLS (ssh -L reaches another machine)")]
    Url(String),
    /// What the variable holds cannot be a token. It is not shown.
    #[error("{0} is no token: allowed is visible ASCII")]
    Token(String),
    /// Nobody there.
    #[error("cannot reach {authority}: {cause}")]
    Unreached { authority: String, cause: io::Error },
    /// The connection broke, or what came is no HTTP.
    #[error("lost the connection: {0}")]
    Lost(#[from] hyper::Error),
    /// Nothing came.
    #[error("no answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Silent,
    /// The server wants a token, or another one.
    #[error("the server refuses access: set {0} to its AdminToken")]
    Denied(String),
    /// The server refuses for another reason.
    #[error("the server answered {status}: {message}")]
    Refused { status: StatusCode, message: String },
    /// The answer is not what the operator's port of this version says.
    #[error("not the answer of an operator's port: {0}")]
    Unexpected(String),
}

/// Where the operator's port is, and how to get in.
pub(super) struct Client {
    host: String,
    port: u16,
    authority: String,
    authorization: Option<HeaderValue>,
    /// The environment variable that the token came from, or should come from.
    token_env: String,
}

impl Client {
    /// A client of the port at `url`, with the token in the environment variable `token_env`, if it is set.
    ///
    /// # Errors
    /// `Url` and `Token`.
    pub fn new(
        url: &str,
        token_env: &str,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ClientError> {
        let (host, port) = endpoint(url).ok_or_else(|| ClientError::Url(url.to_owned()))?;
        let bearer = |token: String| {
            let is_visible = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
            let header = is_visible.then(|| HeaderValue::try_from(format!("Bearer {token}")).ok()).flatten();
            header.ok_or_else(|| ClientError::Token(token_env.to_owned()))
        };
        let authorization = env(token_env).map(bearer).transpose()?;
        let authority = format!("{host}:{port}");
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(Self { host, port, authority, authorization, token_env: token_env.to_owned() })
    }

    /// Where it is, as `host:port`.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// What a GET answers.
    ///
    /// # Errors
    /// Any but `Url` and `Token`.
    pub async fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        let body = self.open(target).await?;
        let bytes = collect(body).await?;
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Unexpected(format!("{target}: {error}")))
    }

    /// The stream of samples.
    ///
    /// # Errors
    /// Any but `Url` and `Token`.
    pub async fn events(&self) -> Result<Events, ClientError> {
        Ok(Events { body: self.open("/api/events").await?, parser: sse::Parser::default() })
    }

    /// The body of an answer that is 200.
    async fn open(&self, target: &str) -> Result<Incoming, ClientError> {
        timeout(ANSWER_TIMEOUT, self.ask(target)).await.unwrap_or(Err(ClientError::Silent))
    }

    async fn ask(&self, target: &str) -> Result<Incoming, ClientError> {
        let connected = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream =
            connected.map_err(|cause| ClientError::Unreached { authority: self.authority.clone(), cause })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the body; an error of it is the body's too.
        tokio::spawn(connection);
        let mut request = Request::get(target).header(HOST, &self.authority);
        if let Some(token) = &self.authorization {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Empty::<Bytes>::new()).expect("the target and the headers are valid");
        let response = sender.send_request(request).await?;
        match response.status() {
            StatusCode::OK => Ok(response.into_body()),
            StatusCode::UNAUTHORIZED => Err(ClientError::Denied(self.token_env.clone())),
            status => {
                let body = collect(response.into_body()).await?;
                Err(ClientError::Refused { status, message: message(&body) })
            }
        }
    }
}

async fn collect(body: Incoming) -> Result<Bytes, ClientError> {
    let whole = timeout(ANSWER_TIMEOUT, Limited::new(body, ANSWER_BYTES_MAX).collect());
    let whole = whole.await.map_err(|_| ClientError::Silent)?;
    Ok(whole.map_err(|error| ClientError::Unexpected(error.to_string()))?.to_bytes())
}

/// What an error's body says is wrong.
fn message(body: &[u8]) -> String {
    let said = serde_json::from_slice(body).ok().and_then(|body: Value| {
        let message = body.get("error")?.get("message")?.as_str()?;
        Some(message.to_owned())
    });
    said.unwrap_or_else(|| "no reason given".to_owned())
}

/// Host, in brackets if it is an IPv6 address, and port.
fn endpoint(url: &str) -> Option<(String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
    let has_faulty_port = authority.port().is_none() && authority.as_str() != authority.host();
    if uri.scheme_str() != Some("http") || !is_bare || has_faulty_port || authority.host().is_empty() {
        return None;
    }
    Some((authority.host().to_owned(), authority.port_u16().unwrap_or(80)))
}

/// The stream of samples.
pub(super) struct Events {
    body: Incoming,
    parser: sse::Parser,
}

impl Events {
    /// The next event.
    ///
    /// # Errors
    /// The stream ended, or is silent.
    pub async fn next(&mut self) -> Result<sse::Event, ClientError> {
        loop {
            if let Some(event) = self.parser.next() {
                return Ok(event);
            }
            let frame = timeout(ANSWER_TIMEOUT, self.body.frame()).await.map_err(|_| ClientError::Silent)?;
            let Some(frame) = frame else {
                return Err(ClientError::Unexpected("the stream of samples ended".to_owned()));
            };
            if let Ok(bytes) = frame?.into_data() {
                self.parser.push(&bytes).map_err(|error| ClientError::Unexpected(error.to_owned()))?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(url: &str, token: Option<&str>) -> Result<Client, ClientError> {
        Client::new(url, "TOKEN", |name| token.filter(|_| name == "TOKEN").map(str::to_owned))
    }

    #[test]
    fn a_url_names_a_host_and_a_port() {
        for (url, host, authority) in [
            ("http://127.0.0.1:8881", "127.0.0.1", "127.0.0.1:8881"),
            ("http://localhost:1/", "localhost", "localhost:1"),
            ("http://[::1]:8881", "::1", "[::1]:8881"),
            ("HTTP://ids.example", "ids.example", "ids.example:80"),
        ] {
            let client = client(url, None).expect(url);
            assert_eq!((client.host.as_str(), client.authority()), (host, authority), "{url}");
        }
        for url in [
            "",
            "127.0.0.1:8881",
            "https://127.0.0.1:8881",
            "http://127.0.0.1:99999",
            "http://127.0.0.1:x",
            "http://127.0.0.1:",
            "http://user:secret@host:1",
            "http://host:1/api",
            "http://host:1/?a",
            "http://:1",
            "/api",
        ] {
            let text = client(url, None).map(drop).expect_err(url).to_string();
            assert!(text.contains("allowed is http://host:port"), "{text}");
        }
    }

    #[test]
    fn a_token_that_cannot_be_sent_is_named_and_not_shown() {
        assert!(client("http://h:1", Some("a-token_of/16+chars")).is_ok());
        for token in ["", "hunter2 hunter2", "hunter2\n", "hunter2é"] {
            let text = client("http://h:1", Some(token)).map(drop).expect_err(token).to_string();
            assert_eq!(text, "TOKEN is no token: allowed is visible ASCII");
        }
    }
}
