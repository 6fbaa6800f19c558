//! The API: requests to answers, and the only place that knows it. Both engines call it.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::access::{Access, Grant, bearer};
use super::admission::Admission;
use super::body::{Body, Media};
use super::counters::{Counters, Route, Tally, Wait};
use super::json;
use super::origin::{Gate, Refusal};
use super::request::{BadParameters, Method, Reject, Request, parameter};
use super::response::{Answer, ApiError, Delivery};
use crate::alloc::tag::TagHandle;
use crate::alloc::{AllocError, Fault, Granted, Handle, Health, Outcome, Pending, Want};
use crate::store::tag::TAG_BYTES_MAX;

const ALLOWED_METHODS: &str = "Allow: GET, HEAD, POST, OPTIONS";
const AUTHENTICATE: &str = "WWW-Authenticate: Bearer";
/// The longest body that is searched for a token.
const TOKEN_BODY_BYTES_MAX: usize = 4 * 1024;
const ACCEPTED_BODIES: &str = "Accept-Post: application/x-www-form-urlencoded, application/json";
const RETRY_AFTER: &str = "Retry-After: 1";

/// What all handlers of a server share.
#[derive(Debug)]
pub struct Service {
    /// The most IDs in one `/alloc`.
    pub batch_max: u64,
    /// The most IDs in one `/segment`.
    pub lease_max: u64,
    /// The longest that a request waits for IDs.
    pub alloc_timeout: Duration,
    /// Set when the server is told to stop: from then on `/health` gets 503, and claims are served on.
    pub draining: AtomicBool,
    /// What is counted.
    pub counters: Counters,
    /// Who may have IDs; `None`: everybody.
    pub access: Option<Access>,
    /// Whose pages may ask, and by which names.
    pub gate: Gate,
    /// How many IDs may be taken; `None`: as many as are asked for.
    pub admission: Option<Admission>,
}

impl Service {
    /// Whether the server was told to stop: every answer is then the last on its connection.
    pub fn is_draining(&self) -> bool {
        // Relaxed: nothing else is learned from it, and a request more or less does not matter.
        self.draining.load(Relaxed)
    }
}

/// Answers requests; one for each worker.
pub struct Handler {
    handle: Handle,
    service: Arc<Service>,
    tally: Arc<CachePadded<Tally>>,
    tally_key: usize,
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.service.counters.end_tally(self.tally_key);
    }
}

/// What a request comes to.
pub enum Reply {
    /// The answer.
    Now(Answer),
    /// To be polled with [`Handler::poll`] for at most `Service::alloc_timeout`, then [`Handler::give_up`].
    Later(Box<Waiting>),
}

/// A request that waits for IDs.
pub struct Waiting {
    pending: Pending,
    question: Question,
    _wait: Wait,
}

/// How the outcome is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Question {
    route: Route,
    tag: Box<str>,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Exactly one ID, as `id`.
    Id,
    /// `ids`, `start` and `end`, or `left`.
    AsGranted,
    /// Of a claim that a HEAD asked for and did not make.
    Unclaimed,
}

/// What a request that has come again comes to.
pub enum Shortcut {
    /// That is found out when it has come so many times more.
    Unknown(u32),
    /// An ID of this tag, with a plain answer.
    SingleOf(TagHandle),
    /// Anything else.
    Other,
}

/// A way to a tag is made and dropped in cache lines that all workers read: for a request that has just come twice, as
/// every fourth does where two take turns by chance, it would cost more than it saves.
const RECALLS_BEFORE_SHORTCUT: u32 = 4;

impl Default for Shortcut {
    fn default() -> Self {
        Self::Unknown(RECALLS_BEFORE_SHORTCUT)
    }
}

impl Handler {
    /// A handler that claims through `handle`.
    pub fn new(handle: Handle, service: Arc<Service>) -> Self {
        let (tally_key, tally) = service.counters.add_tally();
        Self { handle, service, tally, tally_key }
    }

    /// As [`Handle::forget_gone`].
    pub fn forget_gone(&mut self) -> bool {
        self.handle.forget_gone()
    }

    /// What all handlers share.
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Where this handler counts; for the thread that runs it.
    pub fn tally(&self) -> &Arc<CachePadded<Tally>> {
        &self.tally
    }

    /// Answers `request`, or begins to wait for its IDs.
    #[inline]
    pub fn handle(&mut self, request: &Request<'_>) -> Reply {
        let route = Route::of(request.path);
        let reply = self.try_handle(route, request).unwrap_or_else(|error| Reply::Now(Answer::Error(error)));
        if let Reply::Now(answer) = &reply {
            self.tally.answered(route, answer);
        }
        reply
    }

    /// The ID, if the request, which was remembered and has come again, is for one of a tag, and that takes no more than
    /// an addition; the answer is then plain. Any other request is to be handled.
    #[inline]
    pub fn take_single<'r>(
        &mut self,
        request: impl FnOnce() -> Request<'r>,
        shortcut: &mut Shortcut,
    ) -> Option<i64> {
        if self.service.is_draining() {
            return None;
        }
        match shortcut {
            Shortcut::Unknown(0) => *shortcut = self.shortcut(&request()),
            Shortcut::Unknown(recalls) => *recalls -= 1,
            Shortcut::SingleOf(_) | Shortcut::Other => {}
        }
        let Shortcut::SingleOf(tag) = shortcut else { return None };
        let id = self.handle.next_id_of(tag);
        match id {
            Some(_) => self.tally.answered_single(),
            // The tag may be gone, and another one have its name.
            None => *shortcut = Shortcut::default(),
        }
        id
    }

    #[cold]
    fn shortcut(&self, request: &Request<'_>) -> Shortcut {
        match self.single_of(request) {
            None => Shortcut::Other,
            Some(tag) => self.handle.way_to(&tag).map_or_else(Shortcut::default, Shortcut::SingleOf),
        }
    }

    /// The tag, if the request is for one ID of it, may have it, and leaves the connection open: what
    /// [`Handler::handle`] would find, now and whenever the same bytes come again.
    fn single_of<'a>(&self, request: &Request<'a>) -> Option<Cow<'a, str>> {
        let gate = &self.service.gate;
        let is_plain = Delivery::of(request) == Delivery::PLAIN && gate.cors(request).is_none();
        let is_for_one = request.method == Method::Get && Route::of(request.path) == Route::Alloc;
        if !is_for_one || !is_plain || gate.refusal(&request.sender).is_some() {
            return None;
        }
        let grant = self.grant(request).ok()?;
        let tag = allowed(grant, required_tag(request).ok()?).ok()?;
        // What is limited must be looked at each time.
        if self.service.admission.as_ref().is_some_and(|admission| admission.limits(&tag, grant)) {
            return None;
        }
        count(request, self.service.batch_max).ok()?.is_none().then_some(tag)
    }

    fn try_handle(&mut self, route: Route, request: &Request<'_>) -> Result<Reply, ApiError> {
        let refusal = self.service.gate.refusal(&request.sender);
        if let Some(refusal @ Refusal::Name(_)) = refusal
            && route != Route::Health
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
        match route {
            Route::Other => Err(unknown_path()),
            _ if request.method == Method::Options => Ok(Reply::Now(Answer::Options(ALLOWED_METHODS))),
            Route::Health => with_parameters(request, |request| self.health(request, refusal)),
            Route::Alloc | Route::Segment => match refusal {
                Some(refusal) => Err(refused(refusal)),
                None if route == Route::Alloc => with_parameters(request, |request| self.alloc(request)),
                None => with_parameters(request, |request| self.segment(request)),
            },
        }
    }

    fn alloc(&mut self, request: &Request<'_>) -> Result<Reply, ApiError> {
        let grant = self.grant(request)?;
        let tag = allowed(grant, required_tag(request)?)?;
        let count = count(request, self.service.batch_max)?;
        if request.method == Method::Head {
            return Ok(self.claim(Route::Alloc, &tag, Want::Left, Form::Unclaimed));
        }
        self.admit(grant, &tag, count.unwrap_or(1))?;
        match count {
            Some(count) => Ok(self.claim(Route::Alloc, &tag, Want::Ids(count), Form::AsGranted)),
            None => Ok(match self.handle.next_id(&tag) {
                Some(id) => Reply::Now(Answer::Id(id)),
                None => self.claim(Route::Alloc, &tag, Want::Ids(1), Form::Id),
            }),
        }
    }

    fn segment(&mut self, request: &Request<'_>) -> Result<Reply, ApiError> {
        let grant = self.grant(request)?;
        let tag = allowed(grant, required_tag(request)?)?;
        let limit = self.service.lease_max;
        let count = count(request, limit)?
            .ok_or_else(|| bad_request(format!("count is missing: give the IDs to lease, 1 to {limit}")))?;
        if request.method == Method::Head {
            return Ok(self.claim(Route::Segment, &tag, Want::Left, Form::Unclaimed));
        }
        self.admit(grant, &tag, count)?;
        Ok(self.claim(Route::Segment, &tag, Want::Lease(count), Form::AsGranted))
    }

    /// Balancers ask for the node's health by any name, and that takes and tells nothing; a tag's is told as its IDs are given.
    fn health(&mut self, request: &Request<'_>, refusal: Option<Refusal<'_>>) -> Result<Reply, ApiError> {
        if self.service.is_draining() {
            return Err(unavailable(AllocError::Closed.to_string()));
        }
        match optional_tag(request)? {
            Some(tag) => {
                if let Some(refusal) = refusal {
                    return Err(refused(refusal));
                }
                let tag = allowed(self.grant(request)?, tag)?;
                Ok(self.claim(Route::Health, &tag, Want::Left, Form::AsGranted))
            }
            None => self.node_health(refusal.is_some()),
        }
    }

    fn node_health(&self, is_stranger: bool) -> Result<Reply, ApiError> {
        match self.handle.health() {
            Health::Serving => Ok(Reply::Now(Answer::Success)),
            Health::Starting => Err(unavailable("this server is starting: its tags are not loaded yet")),
            // Who needs no token for this may not be meant to know the names.
            Health::Starving(_) if is_stranger || self.service.access.is_some() => {
                Err(unavailable("an app_tag has no IDs left"))
            }
            Health::Starving(complaints) => Err(unavailable(complaints.join("; "))),
            Health::StoreReplaced => Err(unavailable(Fault::StoreReplaced.to_string())),
            Health::StoreAway => Err(unavailable("no IDs are in memory, and the store does not answer")),
        }
    }

    /// What the request's token is good for; `None` where none is asked for.
    #[inline]
    fn grant(&self, request: &Request<'_>) -> Result<Option<&Grant>, ApiError> {
        match &self.service.access {
            None => Ok(None),
            Some(access) => token_grant(access, request).map(Some),
        }
    }

    /// Has the limits of the tag and of the token take so many IDs, or says why not.
    #[inline]
    fn admit(&self, grant: Option<&Grant>, tag: &str, ids: u64) -> Result<(), ApiError> {
        let Some(admission) = &self.service.admission else { return Ok(()) };
        admission.take(tag, grant, ids, |tag| self.handle.is_listed(tag)).map_err(|refusal| {
            let error = admission.answer(&refusal, tag, grant, ids);
            if error.status == 429 {
                self.tally.limited(refusal.by);
            }
            error
        })
    }

    fn claim(&mut self, route: Route, tag: &str, want: Want, form: Form) -> Reply {
        match self.handle.claim(tag, want) {
            Outcome::Granted(granted) => Reply::Now(answer(granted, tag, form)),
            Outcome::Pending(pending) => {
                let question = Question { route, tag: tag.into(), form };
                let _wait = self.service.counters.waits.begin();
                Reply::Later(Box::new(Waiting { pending, question, _wait }))
            }
        }
    }

    /// Looks whether `waiting` can be answered now; if not, the waker of `cx` is woken when to look again.
    pub fn poll(&mut self, waiting: &mut Waiting, cx: &mut Context<'_>) -> Poll<Answer> {
        let Question { route, tag, form } = &waiting.question;
        self.handle.poll(&mut waiting.pending, cx).map(|result| {
            let answer = match result {
                Ok(granted) => answer(granted, tag, *form),
                Err(error) => Answer::Error(alloc_error(&error, tag)),
            };
            self.counted(*route, answer)
        })
    }

    /// The answer to a request that has waited for as long as it may.
    pub fn give_up(&self, waiting: &Waiting) -> Answer {
        let waited_ms = self.service.alloc_timeout.as_millis();
        let Question { route, tag, .. } = &waiting.question;
        let message = format!("no IDs for app_tag '{tag}' within {waited_ms} ms; try again");
        self.counted(*route, Answer::Error(unavailable(message)))
    }

    /// The answer to a request that cannot be served at all.
    pub fn rejected(&self, reject: Reject) -> Answer {
        let error = ApiError { status: reject.status, message: reject.message.to_owned(), header: None };
        self.counted(Route::Other, Answer::Error(error))
    }

    /// The answer to a client that takes too long to send its request.
    pub fn too_slow(&self) -> Answer {
        let message = "the request did not arrive in time".to_owned();
        self.counted(Route::Other, Answer::Error(ApiError { status: 408, message, header: None }))
    }

    /// The answer to a request that there is no memory to wait for, or to wait with.
    pub fn no_memory(&self) -> Answer {
        self.counted(Route::Other, out_of_memory())
    }

    /// The answer to a request whose body is still to come, if it must not be taken: its head has no token, or a wrong one.
    /// A form, or JSON, may bring the token, but then it is short.
    pub fn refuse_body(&self, head: &Request<'_>, body_bytes: usize) -> Option<Answer> {
        let access = self.service.access.as_ref()?;
        let route = Route::of(head.path);
        let error = token_grant(access, head).err()?;
        let needs_token = matches!(route, Route::Alloc | Route::Segment);
        let is_wrong = needs_token && !head.authorization.is_empty();
        let is_taken = !is_wrong && body_bytes <= TOKEN_BODY_BYTES_MAX;
        (!is_taken).then(|| self.counted(route, Answer::Error(error)))
    }

    fn counted(&self, route: Route, answer: Answer) -> Answer {
        self.tally.answered(route, &answer);
        answer
    }
}

/// The answer to a request that there is no memory to wait for, or to wait with.
pub fn out_of_memory() -> Answer {
    let message = "this server has no memory left for requests that are not whole; try again";
    Answer::Error(unavailable(message))
}

/// The answer to a connection too many.
pub fn too_many_connections() -> Answer {
    Answer::Error(unavailable("this server has as many connections as it may; try again"))
}

fn answer(granted: Granted, tag: &str, form: Form) -> Answer {
    match granted {
        Granted::Left(0) => Answer::Error(unavailable(format!("app_tag '{tag}' has no IDs left"))),
        Granted::Left(_) if form == Form::Unclaimed => Answer::Unclaimed,
        Granted::Left(left) => Answer::Left(left),
        Granted::Lease(range) => Answer::Lease(range),
        Granted::Ids(ids) => match ids.first() {
            Some(first) if form == Form::Id => Answer::Id(first.start),
            _ => Answer::Ids(ids),
        },
    }
}

/// The one place that maps the allocator's errors to statuses.
fn alloc_error(error: &AllocError, tag: &str) -> ApiError {
    match error {
        AllocError::UnknownTag => ApiError {
            status: 404,
            message: format!("app_tag '{tag}' is unknown: the table has no row for it"),
            header: None,
        },
        AllocError::Closed => unavailable(error.to_string()),
        AllocError::StoreAway | AllocError::Fault(_) | AllocError::LeaseTooLarge => {
            unavailable(format!("app_tag '{tag}' gets no IDs: {error}"))
        }
    }
}

/// The header is asked for the token before the parameters are.
fn token_grant<'a>(access: &'a Access, request: &Request<'_>) -> Result<&'a Grant, ApiError> {
    let token = match request.authorization {
        // A longer body is not taken before the token is known: see `Handler::refuse_body`.
        [] if request.body.bytes.len() > TOKEN_BODY_BYTES_MAX => {
            value(&Request { body: Body::EMPTY, ..*request }, "token")?
        }
        [] => value(request, "token")?,
        authorization => bearer(authorization).map(Cow::Borrowed),
    };
    token.and_then(|token| access.grant(&token)).ok_or_else(|| ApiError {
        status: 401,
        message: "a token is needed: give it as Authorization: Bearer, or as the parameter token".to_owned(),
        header: Some(AUTHENTICATE),
    })
}

/// The tag, if the request's token is for it. Whether there is such a tag is not looked at before.
#[inline]
fn allowed<'a>(grant: Option<&Grant>, tag: Cow<'a, str>) -> Result<Cow<'a, str>, ApiError> {
    match grant.is_none_or(|grant| grant.allows(&tag)) {
        true => Ok(tag),
        false => Err(ApiError {
            status: 403,
            message: format!("the token is not for app_tag '{tag}'"),
            header: None,
        }),
    }
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
            let form = json::to_form(json, json.len() <= TOKEN_BODY_BYTES_MAX).map_err(bad_request)?;
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

fn bad_request(message: impl Into<String>) -> ApiError {
    ApiError { status: 400, message: message.into(), header: None }
}

fn unavailable(message: impl Into<String>) -> ApiError {
    ApiError { status: 503, message: message.into(), header: Some(RETRY_AFTER) }
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
fn value<'a>(request: &Request<'a>, name: &str) -> Result<Option<Cow<'a, [u8]>>, ApiError> {
    let find = |pairs| {
        parameter(pairs, name).map_err(|error| match error {
            BadParameters::Encoding => bad_request(format!("{name} is badly encoded: {error}")),
            BadParameters::TooMany => bad_request(error.to_string()),
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

fn required_tag<'a>(request: &Request<'a>) -> Result<Cow<'a, str>, ApiError> {
    optional_tag(request)?
        .ok_or_else(|| bad_request("app_tag is missing: give it as a parameter, 1 to 128 bytes of UTF-8"))
}

fn optional_tag<'a>(request: &Request<'a>) -> Result<Option<Cow<'a, str>>, ApiError> {
    let Some(tag) = value(request, "app_tag")? else { return Ok(None) };
    match tag.len() {
        0 => Err(bad_request("app_tag is empty: it must be 1 to 128 bytes of UTF-8")),
        1..=TAG_BYTES_MAX => utf8(tag).map(Some),
        len => Err(bad_request(format!("app_tag is {len} bytes long: it must be 1 to 128 bytes of UTF-8"))),
    }
}

fn utf8(bytes: Cow<'_, [u8]>) -> Result<Cow<'_, str>, ApiError> {
    let error = |_| bad_request("app_tag is not UTF-8");
    match bytes {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(error),
        Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).map_err(|e| error(e.utf8_error())),
    }
}

fn count(request: &Request<'_>, limit: u64) -> Result<Option<u64>, ApiError> {
    let Some(text) = value(request, "count")? else { return Ok(None) };
    let number =
        std::str::from_utf8(&text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match number.and_then(|digits| digits.parse::<u64>().ok()) {
        Some(count) if (1..=limit).contains(&count) => Ok(Some(count)),
        _ => {
            let shown: String = String::from_utf8_lossy(&text).chars().take(32).collect();
            Err(bad_request(format!("count is '{shown}': it must be a number from 1 to {limit}")))
        }
    }
}
