//! Requests to answers: HTTP as a protocol of [`crate::api`]. Both engines call it.

use std::borrow::Cow;
use std::sync::Arc;
use std::task::{Context, Poll};

use crossbeam_utils::CachePadded;

use super::body::{Body, Media};
use super::counters::{Counters, Purpose, WorkerCounters};
use super::fast_path::Shortcut;
use super::json;
use super::origin::{Gate, Refusal};
use super::request::{BadParameters, Method, Reject, Request, parameter};
use super::response::{Answer, ApiError, Delivery};
use super::retry_after::retry_after;
use crate::alloc::Handle;
use crate::api::access::bearer;
use crate::api::{self, Api, Asked, Caller, Command, Error, ErrorKind, values};

const ALLOWED_METHODS: &str = "Allow: GET, HEAD, POST, OPTIONS";
const AUTHENTICATE: &str = "WWW-Authenticate: Bearer";
/// The longest body that is searched for a token.
const TOKEN_BODY_BYTES_MAX: usize = 4 * 1024;
const ACCEPTED_BODIES: &str = "Accept-Post: application/x-www-form-urlencoded, application/json";

/// What all handlers of a server share.
#[derive(Debug, Default)]
pub struct Service {
    /// What may be asked, whatever the protocol.
    pub api: Arc<api::Service>,
    /// What is counted.
    pub counters: Counters,
    /// Whose pages may ask, and by which names.
    pub gate: Gate,
}

impl Service {
    /// As [`api::Service::is_draining`].
    pub fn is_draining(&self) -> bool {
        self.api.is_draining()
    }

    /// How an answer to `request` that is given now is delivered.
    #[inline]
    pub fn delivery(&self, request: &Request<'_>) -> Delivery {
        let keep_alive = request.keep_alive && !self.is_draining();
        Delivery { keep_alive, cors: self.gate.cors(request), ..Delivery::of(request) }
    }
}

/// Answers requests; one for each worker.
pub struct Handler {
    api: Api,
    service: Arc<Service>,
    counters: Arc<CachePadded<WorkerCounters>>,
    counters_key: usize,
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.service.counters.remove_worker(self.counters_key);
    }
}

/// What a request comes to.
pub enum Reply {
    /// The answer.
    Now(Answer),
    /// To be polled with [`Handler::poll`] for at most `alloc_timeout`, then [`Handler::give_up`].
    Later(Box<Waiting>),
}

/// A request that waits for IDs.
pub struct Waiting {
    waiting: api::Waiting,
    purpose: Purpose,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Alloc,
    Segment,
    Health,
}

impl Route {
    /// Paths are compared as they were sent: `//alloc`, `/./alloc` and `/%61lloc` are other paths.
    #[inline]
    fn of(path: &str) -> Option<Self> {
        match path {
            "/alloc" => Some(Self::Alloc),
            "/segment" => Some(Self::Segment),
            "/health" => Some(Self::Health),
            _ => None,
        }
    }
}

/// What a request to this path counts as.
#[inline]
fn purpose(route: Option<Route>) -> Purpose {
    match route {
        Some(Route::Alloc) => Purpose::Alloc,
        Some(Route::Segment) => Purpose::Segment,
        Some(Route::Health) => Purpose::Health,
        None => Purpose::Other,
    }
}

impl Handler {
    /// A handler that claims through `handle`.
    pub fn new(handle: Handle, service: Arc<Service>) -> Self {
        let (counters_key, counters) = service.counters.add_worker();
        Self { api: Api::new(handle, service.api.clone()), service, counters, counters_key }
    }

    /// As [`Handle::forget_gone`].
    pub fn forget_gone(&mut self) -> bool {
        self.api.forget_gone()
    }

    /// What all handlers share.
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Where this handler counts; for the thread that runs it.
    pub fn counters(&self) -> &Arc<CachePadded<WorkerCounters>> {
        &self.counters
    }

    /// Answers `request`, or begins to wait for its IDs.
    #[inline]
    pub fn handle(&mut self, request: &Request<'_>) -> Reply {
        let route = Route::of(request.path);
        let reply = self.try_handle(route, request).unwrap_or_else(|error| Reply::Now(Answer::Error(error)));
        if let Reply::Now(answer) = &reply {
            self.counters.answered(purpose(route), answer);
        }
        reply
    }

    /// One ID by the fast path: see [`Shortcut`].
    #[inline]
    pub fn take_single<'r>(
        &mut self,
        request: impl FnOnce() -> Request<'r>,
        shortcut: &mut Shortcut,
    ) -> Option<i64> {
        if self.service.is_draining() {
            return None;
        }
        let id = shortcut.take(&self.api, || self.single_of(&request()));
        if id.is_some() {
            self.counters.answered_single();
        }
        id
    }

    /// The tag, if the request is for one ID of it, may have it, and leaves the connection open: what
    /// [`Handler::handle`] would find, now and whenever the same bytes come again.
    fn single_of<'a>(&self, request: &Request<'a>) -> Option<Cow<'a, str>> {
        let gate = &self.service.gate;
        let is_plain = Delivery::of(request) == Delivery::PLAIN && gate.cors(request).is_none();
        let is_for_one = request.method == Method::Get && Route::of(request.path) == Some(Route::Alloc);
        if !is_for_one || !is_plain || gate.refusal(&request.sender).is_some() {
            return None;
        }
        let api = &self.service.api;
        let caller = caller(api, request).ok()?;
        let tag = required_tag(request).ok()?;
        caller.insist_on(&tag).ok()?;
        // What is limited must be looked at each time.
        if api.is_limited(caller, &tag) {
            return None;
        }
        count(request, api.limits.batch_max).ok()?.is_none().then_some(tag)
    }

    fn try_handle(&mut self, route: Option<Route>, request: &Request<'_>) -> Result<Reply, ApiError> {
        let refusal = self.service.gate.refusal(&request.sender);
        if let Some(refusal @ Refusal::Name(_)) = refusal
            && route != Some(Route::Health)
        {
            return Err(refused(refusal));
        }
        if request.method == Method::Options && request.path == "*" {
            return Ok(Reply::Now(Answer::Options(ALLOWED_METHODS)));
        }
        // Before the path, because that of a CONNECT is none.
        if request.method == Method::Other {
            return Err(method_not_allowed());
        }
        let Some(route) = route else { return Err(unknown_path()) };
        if request.method == Method::Options {
            return Ok(Reply::Now(Answer::Options(ALLOWED_METHODS)));
        }
        match (route, refusal) {
            (Route::Health, refusal) => with_parameters(request, |request| self.health(request, refusal)),
            (_, Some(refusal)) => Err(refused(refusal)),
            (Route::Alloc, None) => with_parameters(request, |request| self.alloc(request)),
            (Route::Segment, None) => with_parameters(request, |request| self.segment(request)),
        }
    }

    fn alloc(&mut self, request: &Request<'_>) -> Result<Reply, ApiError> {
        let service = &self.service.api;
        let caller = caller(service, request)?;
        let tag = required_tag(request)?;
        caller.insist_on(&tag)?;
        let command = match count(request, service.limits.batch_max)? {
            // A HEAD takes none.
            _ if request.method == Method::Head => Command::Left { tag: &tag },
            Some(count) => Command::Batch { tag: &tag, count },
            None => Command::NextId { tag: &tag },
        };
        let asked = self.api.ask(caller, command);
        self.reply(Purpose::Alloc, asked)
    }

    fn segment(&mut self, request: &Request<'_>) -> Result<Reply, ApiError> {
        let service = &self.service.api;
        let caller = caller(service, request)?;
        let tag = required_tag(request)?;
        caller.insist_on(&tag)?;
        let count_max = service.limits.lease_max;
        let count = count(request, count_max)?.ok_or_else(|| {
            Error::invalid(format!("count is missing: give the IDs to lease, 1 to {count_max}"))
        })?;
        let command = match request.method {
            Method::Head => Command::Left { tag: &tag },
            _ => Command::Lease { tag: &tag, count },
        };
        let asked = self.api.ask(caller, command);
        self.reply(Purpose::Segment, asked)
    }

    /// Balancers ask for the node's health by any name, and that takes and tells nothing; a tag's is told as its IDs are given.
    fn health(&mut self, request: &Request<'_>, refusal: Option<Refusal<'_>>) -> Result<Reply, ApiError> {
        if self.service.is_draining() {
            self.api.health(false)?;
        }
        let Some(tag) = optional_tag(request)? else {
            self.api.health(refusal.is_none())?;
            return Ok(Reply::Now(Answer::Success));
        };
        if let Some(refusal) = refusal {
            return Err(refused(refusal));
        }
        let caller = caller(&self.service.api, request)?;
        let asked = self.api.ask(caller, Command::Left { tag: &tag });
        self.reply(Purpose::Health, asked)
    }

    #[inline]
    fn reply(&self, purpose: Purpose, asked: Asked) -> Result<Reply, ApiError> {
        match asked {
            Asked::Now(Ok(reply)) => Ok(Reply::Now(answer(purpose, reply))),
            Asked::Now(Err(error)) => {
                if let ErrorKind::Limited { by, .. } = error.kind {
                    self.counters.limited(by);
                }
                Err(error.into())
            }
            Asked::Later(waiting) => Ok(Reply::Later(Box::new(Waiting { waiting, purpose }))),
        }
    }

    /// Looks whether `waiting` can be answered now; if not, the waker of `cx` is woken when to look again.
    pub fn poll(&mut self, waiting: &mut Waiting, cx: &mut Context<'_>) -> Poll<Answer> {
        let purpose = waiting.purpose;
        self.api.poll(&mut waiting.waiting, cx).map(|result| {
            let answer = match result {
                Ok(reply) => answer(purpose, reply),
                Err(error) => Answer::Error(error.into()),
            };
            self.counted(purpose, answer)
        })
    }

    /// The answer to a request that has waited for as long as it may.
    pub fn give_up(&self, waiting: &Waiting) -> Answer {
        self.counted(waiting.purpose, Answer::Error(self.api.give_up(&waiting.waiting).into()))
    }

    /// The answer to a request that cannot be served at all.
    pub fn rejected(&self, reject: Reject) -> Answer {
        let error = ApiError { status: reject.status, message: reject.message.to_owned(), header: None };
        self.counted(Purpose::Other, Answer::Error(error))
    }

    /// The answer to a client that takes too long to send its request.
    pub fn too_slow(&self) -> Answer {
        let message = "the request did not arrive in time".to_owned();
        self.counted(Purpose::Other, Answer::Error(ApiError { status: 408, message, header: None }))
    }

    /// The answer to a request that there is no memory to wait for, or to wait with.
    pub fn no_memory(&self) -> Answer {
        self.counted(Purpose::Other, out_of_memory())
    }

    /// The answer to a request whose body is still to come, if it must not be taken: its head has no token, or a wrong one.
    /// A form, or JSON, may bring the token, but then it is short.
    pub fn refuse_body(&self, head: &Request<'_>, body_bytes: usize) -> Option<Answer> {
        let error = caller(&self.service.api, head).err()?;
        let route = Route::of(head.path);
        let needs_token = matches!(route, Some(Route::Alloc | Route::Segment));
        let is_wrong = needs_token && !head.authorization.is_empty();
        let is_taken = !is_wrong && body_bytes <= TOKEN_BODY_BYTES_MAX;
        (!is_taken).then(|| self.counted(purpose(route), Answer::Error(error)))
    }

    fn counted(&self, purpose: Purpose, answer: Answer) -> Answer {
        self.counters.answered(purpose, &answer);
        answer
    }
}

/// The answer to a request that there is no memory to wait for, or to wait with.
pub fn out_of_memory() -> Answer {
    unavailable("this server has no memory left for requests that are not whole; try again")
}

/// The answer to a connection too many.
pub fn too_many_connections() -> Answer {
    unavailable("this server has as many connections as it may; try again")
}

fn unavailable(message: &str) -> Answer {
    Answer::Error(Error::unavailable(message).into())
}

fn answer(purpose: Purpose, reply: api::Reply) -> Answer {
    match reply {
        api::Reply::Id(id) => Answer::Id(id),
        api::Reply::Ids(ids) => Answer::Ids(ids),
        api::Reply::Lease(range) => Answer::Lease(range),
        api::Reply::Left(left) if purpose == Purpose::Health => Answer::Left(left),
        // Of IDs that a HEAD asked for and did not take.
        api::Reply::Left(_) => Answer::Unclaimed,
    }
}

/// The one place that maps errors to statuses.
impl From<Error> for ApiError {
    fn from(Error { kind, message }: Error) -> Self {
        let (status, header) = match kind {
            ErrorKind::Invalid => (400, None),
            ErrorKind::NoToken => (401, Some(AUTHENTICATE)),
            ErrorKind::Forbidden => (403, None),
            ErrorKind::UnknownTag => (404, None),
            ErrorKind::Limited { retry_after_s, .. } => (429, Some(retry_after(retry_after_s))),
            ErrorKind::Unavailable => (503, Some(retry_after(1))),
        };
        Self { status, message, header }
    }
}

/// Who asks. The header is asked for the token before the parameters are.
#[inline]
fn caller<'s>(service: &'s api::Service, request: &Request<'_>) -> Result<Caller<'s>, ApiError> {
    if service.access.is_none() {
        return Ok(service.caller(None)?);
    }
    let token = match request.authorization {
        // A longer body is not taken before the token is known: see `Handler::refuse_body`.
        [] if request.body.bytes.len() > TOKEN_BODY_BYTES_MAX => {
            value(&Request { body: Body::EMPTY, ..*request }, "token")?
        }
        [] => value(request, "token")?,
        authorization => bearer(authorization).map(Cow::Borrowed),
    };
    Ok(service.caller(token.as_deref())?)
}

/// Has `answer` called with a request whose body, if it is taken at all, is a form.
#[inline]
fn with_parameters(
    request: &Request<'_>,
    answer: impl FnOnce(&Request<'_>) -> Result<Reply, ApiError>,
) -> Result<Reply, ApiError> {
    match request.body.media {
        // What has no type was never taken for parameters, and clients send such bodies.
        Media::None | Media::Form | Media::Unsaid => answer(request),
        Media::Json => {
            let json = request.body.bytes;
            let form = json::to_form(json, json.len() <= TOKEN_BODY_BYTES_MAX).map_err(Error::invalid)?;
            answer(&Request { body: Body::new(Media::Form, &form), ..*request })
        }
        Media::Multipart => Err(unsupported("multipart")),
        Media::Other => Err(unsupported("of another type")),
    }
}

fn unsupported(what: &str) -> ApiError {
    ApiError {
        status: 415,
        message: format!(
            "the body is {what}: send application/x-www-form-urlencoded or application/json, or parameters in the query"
        ),
        header: Some(ACCEPTED_BODIES),
    }
}

/// The one place that says why somebody is not let in.
fn refused(refusal: Refusal<'_>) -> ApiError {
    let shown = |text| String::from_utf8_lossy(text).chars().take(100).collect::<String>();
    let (status, message) = match refusal {
        Refusal::Name(name) => {
            (421, format!("this server is not known by the name '{}': HttpNames does not list it", shown(name)))
        }
        Refusal::Origin(origin) => (
            403,
            format!("pages of '{}' may not use this server: CorsOrigins does not list it", shown(origin)),
        ),
        Refusal::Site => (
            403,
            "pages of other sites may not use this server, and the browser names no origin that CorsOrigins may list"
                .to_owned(),
        ),
    };
    ApiError { status, message, header: None }
}

fn unknown_path() -> ApiError {
    let message = "no such path: there are /alloc, /segment and /health".to_owned();
    ApiError { status: 404, message, header: None }
}

fn method_not_allowed() -> ApiError {
    let message = "the method is not allowed: use GET, HEAD or POST".to_owned();
    ApiError { status: 405, message, header: Some(ALLOWED_METHODS) }
}

/// A parameter's first value, in the body before in the query.
fn value<'a>(request: &Request<'a>, name: &str) -> Result<Option<Cow<'a, [u8]>>, Error> {
    let find = |pairs| {
        parameter(pairs, name).map_err(|error| match error {
            BadParameters::Encoding => Error::invalid(format!("{name} is badly encoded: {error}")),
            BadParameters::TooMany => Error::invalid(error.to_string()),
        })
    };
    let form = request.body.form();
    if !form.is_empty()
        && let Some(value) = find(form)?
    {
        return Ok(Some(value));
    }
    find(request.query.as_bytes())
}

fn required_tag<'a>(request: &Request<'a>) -> Result<Cow<'a, str>, Error> {
    optional_tag(request)?
        .ok_or_else(|| Error::invalid("app_tag is missing: give it as a parameter, 1 to 128 bytes of UTF-8"))
}

fn optional_tag<'a>(request: &Request<'a>) -> Result<Option<Cow<'a, str>>, Error> {
    value(request, "app_tag")?.map(values::tag).transpose()
}

fn count(request: &Request<'_>, count_max: u64) -> Result<Option<u64>, Error> {
    value(request, "count")?.map(|text| values::count(&text, count_max)).transpose()
}
