//! The server: which page answers which request.

mod learnink;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Form, FromRequestParts, Path, Query, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, LOCATION, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use jiff::Timestamp;
use learnink_local::terminal::visible;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::Options;
use crate::desk::{self, Cause, Consent, LetterAct, Ran};
use crate::guard::{self, KEY_PARAMETER, Session, Verdict};
use crate::history::{Filter, Happening, History, HistoryError, MessageHistory, Row};
use crate::live;
use crate::pages::acts::{Acts, Done};
use crate::pages::keys::Keys;
use crate::pages::letters::{DeadLetters, grouped};
use crate::pages::list::{Asked, List, MOST_ROWS, Status};
use crate::pages::message::{MOST_BESIDE, Message, REVEALED_FOR_S, Said, Shown, headers};
use crate::pages::{self, Page, Problem, message_path};
use crate::payload;

/// A form has a few short fields.
const LARGEST_FORM_BYTES: usize = 64 * 1024;

/// How many dead letters are grouped.
const MOST_LETTERS: usize = 10_000;

/// How many commands run at a time. Any page of this machine can have the browser ask for a page that runs one.
const MOST_COMMANDS: usize = 2;

const STYLE: &str = include_str!("../assets/console.css");
const SCRIPT: &str = include_str!("../assets/console.js");
const ICON: &str = include_str!("../assets/icon.svg");

/// What all requests share.
struct Shared {
    options: Options,
    session: Session,
    port: u16,
    streams: Arc<Semaphore>,
    commands: Semaphore,
    stopped: watch::Receiver<bool>,
}

type Console = State<Arc<Shared>>;

/// All pages, behind the guard.
pub(crate) fn router(
    options: Options,
    session: Session,
    port: u16,
    stopped: watch::Receiver<bool>,
) -> Router {
    let streams = Arc::new(Semaphore::new(live::MOST_STREAMS));
    let commands = Semaphore::new(MOST_COMMANDS);
    let shared = Arc::new(Shared { options, session, port, streams, commands, stopped });
    Router::new()
        .route("/", get(list))
        .route("/status", get(status))
        .route("/live", get(live))
        .route("/messages/{message}", get(message))
        .route("/messages/{message}/reveal", post(reveal))
        .route("/messages/{message}/verify", post(verify))
        .route("/messages/{message}/show", post(show))
        .route("/messages/{message}/redrive", post(redrive))
        .route("/messages/{message}/drop", post(drop_letter))
        .route("/messages/{message}/replay", post(replay))
        .route("/dead-letters", get(dead_letters).post(look))
        .route("/dead-letters/redrive", post(redrive_cause))
        .route("/dead-letters/drop", post(drop_cause))
        .route("/acts", get(acts))
        .route("/acts/close", post(close))
        .route("/keys", get(keys))
        .route("/console.css", get(async || asset("text/css; charset=utf-8", STYLE)))
        .route("/console.js", get(async || asset("text/javascript; charset=utf-8", SCRIPT)))
        .route("/icon.svg", get(async || asset("image/svg+xml", ICON)))
        .merge(learnink::router())
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(LARGEST_FORM_BYTES))
        .layer(from_fn_with_state(shared.clone(), guarded))
        .with_state(shared)
}

/// Lets the operator in and nobody else, and gives every answer its headers.
async fn guarded(State(shared): Console, request: Request, next: Next) -> Response {
    let Shared { options, session, port, .. } = &*shared;
    let (key_in_url, location) = without_key(request.uri());
    let wants = Wants::of(request.headers());
    let verdict = guard::judge(request.method(), request.headers(), key_in_url, &options.key, session, *port);
    let mut response = match verdict {
        Verdict::Allow => next.run(request).await,
        Verdict::SetCookie => {
            let cookie = [(SET_COOKIE, session.cookie(*port)), (LOCATION, location)];
            (StatusCode::SEE_OTHER, cookie).into_response()
        }
        Verdict::Refuse(refusal) => {
            let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::FORBIDDEN);
            (status, format!("{refusal}\n")).into_response()
        }
    };
    if wants == Wants::Json {
        response = refusal_as_json(response).await;
    }
    for (name, value) in guard::response_headers() {
        response.headers_mut().insert(name, value);
    }
    response
}

/// A refusal of the guard or of axum, which is plain text or empty, as JSON. Other answers stay as they are.
async fn refusal_as_json(response: Response) -> Response {
    let status = response.status();
    let content_type = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let is_text = content_type.is_none_or(|content_type| content_type.starts_with(b"text/plain"));
    if !is_text || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let text = axum::body::to_bytes(body, LARGEST_FORM_BYTES).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let error = match text.trim_end() {
        "" => status.to_string(),
        text => text.to_owned(),
    };
    // Others stay, such as `allow`.
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.remove(CONTENT_TYPE);
    (parts.headers, json(status, &Problem { error })).into_response()
}

/// The key in the query of a URL, and the same URL without it, on this server.
fn without_key(uri: &Uri) -> (Option<&str>, String) {
    let mut key = None;
    let mut rest = Vec::new();
    for part in uri.query().unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some((KEY_PARAMETER, value)) => key = Some(value),
            _ => rest.push(part),
        }
    }
    // `//example.com` would be another server.
    let path = format!("/{}", uri.path().trim_start_matches(['/', '\\']));
    let location = if rest.is_empty() { path } else { format!("{path}?{}", rest.join("&")) };
    (key, location)
}

/// The form in which an answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wants {
    Html,
    Json,
}

impl<S: Sync> FromRequestParts<S> for Wants {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(&parts.headers))
    }
}

/// Something that went wrong, for a person.
struct Failure {
    status: StatusCode,
    error: String,
}

impl Failure {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into() }
    }

    fn not_received(message: &str) -> Self {
        let path = pages::learnink::attempted_path(message);
        let error = format!("nothing of `{message}` has arrived here yet; {path} shows LearnInk's attempts");
        Self::new(StatusCode::NOT_FOUND, error)
    }

    fn not_found(message: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("nothing is known of `{message}` here; it may be too old"))
    }
}

impl From<HistoryError> for Failure {
    fn from(error: HistoryError) -> Self {
        let source =
            std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}{source}"))
    }
}

impl Wants {
    fn of(headers: &HeaderMap) -> Self {
        let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        // A browser asks for HTML first, and takes anything.
        let is_json = accept.contains("application/json") && !accept.contains("text/html");
        if is_json { Self::Json } else { Self::Html }
    }

    async fn answer<P: Page + Send + 'static>(self, page: Result<P, Failure>) -> Response {
        match page {
            Ok(page) => self.page(StatusCode::OK, page).await,
            Err(Failure { status, error }) => self.problem(status, error),
        }
    }

    /// A page, which is made on a thread that may compute: it may have thousands of lines.
    async fn page(self, status: StatusCode, page: impl Page + Send + 'static) -> Response {
        let made = blocking(move || Ok(self.made(status, &page))).await;
        made.unwrap_or_else(|Failure { status, error }| self.problem(status, error))
    }

    fn problem(self, status: StatusCode, error: String) -> Response {
        self.made(status, &Problem { error })
    }

    fn made(self, status: StatusCode, page: &impl Page) -> Response {
        match self {
            Self::Html => {
                let html = pages::html(page).into_string();
                (status, [(CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response()
            }
            Self::Json => json(status, page),
        }
    }
}

/// Does `work` on a thread that may compute, and wait for the disk or for LearnInk's side. The threads of the runtime
/// answer the requests of the pipeline.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| {
        Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "what this page needs ended early"))
    })
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(json) => (status, [(CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn asset(content_type: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, content_type)], text).into_response()
}

impl Shared {
    fn now(&self) -> Timestamp {
        (self.options.now)()
    }

    /// Reads the history.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&History) -> Result<T, HistoryError> + Send + 'static,
    ) -> Result<T, Failure> {
        let history = self.options.history.clone();
        blocking(move || Ok(read(&history)?)).await
    }

    /// Runs a command once fewer than [`MOST_COMMANDS`] run. Returns it as it is shown, and all that it printed.
    async fn run(&self, arguments: Vec<String>, input: Vec<u8>) -> Result<(Ran, Vec<u8>), Failure> {
        let line = desk::line(&arguments);
        // An error would mean that the semaphore is closed, which nobody does.
        let _permit = self.commands.acquire().await.ok();
        let cannot = |error| Failure::new(StatusCode::BAD_GATEWAY, format!("cannot run `{line}`: {error}"));
        let output = self.options.desk.run(arguments.clone(), input).await.map_err(cannot)?;
        Ok((Ran::new(&arguments, &output), output.stdout))
    }

    /// What a command prints as JSON, and its notes.
    async fn asked<T: DeserializeOwned>(
        &self,
        arguments: Vec<String>,
        input: Vec<u8>,
    ) -> Result<(T, String), Failure> {
        let (ran, stdout) = self.run(arguments, input).await?;
        let unreadable = |_| {
            let Ran { command, exit_code, stderr, .. } = &ran;
            Failure::new(StatusCode::BAD_GATEWAY, format!("`{command}` ended with {exit_code}: {stderr}"))
        };
        let value = serde_json::from_slice(&stdout).map_err(unreadable)?;
        Ok((value, ran.stderr))
    }

    fn consent<'a>(&'a self, reason: &'a str) -> Consent<'a> {
        Consent { by: self.options.operator.as_deref(), reason }
    }
}

async fn not_found(wants: Wants) -> Response {
    wants.answer::<Problem>(Err(Failure::new(StatusCode::NOT_FOUND, "there is no such page"))).await
}

async fn list(State(shared): Console, wants: Wants, Query(asked): Query<Asked>) -> Response {
    wants.answer(list_page(&shared, asked).await).await
}

async fn list_page(shared: &Shared, asked: Asked) -> Result<List, Failure> {
    let filter = asked.filter().map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error));
    let ((filter, before), now) = (filter?, shared.now());
    let read = move |history: &History| {
        // First, so that what comes while the rest is read counts as new.
        let newest = history.newest();
        let page = history.messages(&filter, before, MOST_ROWS, now)?;
        Ok(List {
            asked,
            counts: history.counts(now)?,
            messages: page.messages,
            before: page.before,
            newest,
            dropped: history.dropped(),
            event_types: history.event_types()?,
        })
    };
    shared.read(read).await
}

/// What is new since a list was made.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Since {
    after: i64,
}

async fn status(
    State(shared): Console,
    wants: Wants,
    Query(asked): Query<Asked>,
    Query(since): Query<Since>,
) -> Response {
    let (filter, _) = match asked.filter() {
        Ok(filter) => filter,
        Err(error) => {
            return wants.answer::<Problem>(Err(Failure::new(StatusCode::BAD_REQUEST, error))).await;
        }
    };
    let now = shared.now();
    let read = move |history: &History| {
        let newest = history.newest();
        let counts = history.counts(now)?;
        let new = history.count_since(&filter, since.after, now)?;
        Ok(Status { counts, received: counts.all(), new, newest })
    };
    match shared.read(read).await {
        Ok(status) => json(StatusCode::OK, &status),
        Err(failure) => wants.answer::<Problem>(Err(failure)).await,
    }
}

async fn live(State(shared): Console) -> Response {
    let simulator = shared.options.simulator.as_ref().map(learnink_simulator::Handle::follow);
    live::stream(&shared.streams, shared.options.history.changes(), simulator, shared.stopped.clone())
}

/// What a message's page is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AskedMessage {
    /// The number of the request to show; without it, the newest.
    request: Option<i64>,
    /// `settled` waits until nothing more happens to the message by itself.
    until: String,
    /// How long to wait.
    wait: String,
}

async fn message(
    State(shared): Console,
    wants: Wants,
    Path(message): Path<String>,
    Query(asked): Query<AskedMessage>,
) -> Response {
    wants.answer(message_page(&shared, message, asked).await).await
}

async fn message_page(shared: &Shared, message: String, asked: AskedMessage) -> Result<Message, Failure> {
    let wait = match asked.until.as_str() {
        "" => Some(Duration::ZERO),
        "settled" => live::wait(&asked.wait),
        _ => None,
    };
    let wrong = "`until` is `settled`, and `wait` a time such as `10s` or `500ms`";
    let deadline = Instant::now() + wait.ok_or_else(|| Failure::new(StatusCode::BAD_REQUEST, wrong))?;
    let (mut changes, mut stopped) = (shared.options.history.changes(), shared.stopped.clone());
    loop {
        changes.borrow_and_update();
        let page = open_message(shared, &message, asked.request, false).await;
        let is_settled = page.as_ref().is_ok_and(|page| page.is_settled);
        if is_settled || !live::changed(&mut changes, &mut stopped, deadline).await {
            return page;
        }
    }
}

/// The page of a message, with the request of the number `seq` or the newest.
async fn open_message(
    shared: &Shared,
    message: &str,
    seq: Option<i64>,
    is_revealed: bool,
) -> Result<Message, Failure> {
    let (now, id) = (shared.now(), message.to_owned());
    let learnink = shared.attempts(message, is_revealed).await?;
    let is_sent = learnink.is_some();
    let read = move |history: &History| {
        let Some(found) = history.message(&id, now)? else { return Ok(None) };
        let shown = shown(history, &found, seq, is_revealed)?;
        let newest = history.messages(&Filter::default(), None, MOST_BESIDE, now)?.messages;
        let is_settled = found.summary.state.is_settled();
        Ok(Some(Message { is_settled, history: found, learnink, shown, said: None, newest }))
    };
    shared
        .read(read)
        .await?
        .ok_or_else(|| if is_sent { Failure::not_received(message) } else { Failure::not_found(message) })
}

/// A request of the message, with its content as far as it may be seen.
fn shown(
    history: &History,
    message: &MessageHistory,
    seq: Option<i64>,
    is_revealed: bool,
) -> Result<Option<Shown>, HistoryError> {
    let is_wanted = |row: &&Row| seq.is_none_or(|seq| row.seq == seq);
    let wanted = message.entries.iter().rev().filter(is_wanted).find_map(|row| match &row.entry {
        Happening::Request(request) => Some((row.seq, request.clone())),
        Happening::Record(_) | Happening::Queue(_) => None,
    });
    let Some((seq, request)) = wanted else { return Ok(None) };
    let Some(content) = history.content(seq)? else { return Ok(None) };
    let payload = payload::masked_unless(&content.body, is_revealed);
    Ok(Some(Shown { seq, request, headers: headers(&content.headers, is_revealed), payload, is_revealed }))
}

/// The form of an act on a message.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ActForm {
    request: Option<i64>,
    reason: String,
}

async fn reveal(
    State(shared): Console,
    wants: Wants,
    Path(message): Path<String>,
    Form(form): Form<ActForm>,
) -> Response {
    let page = open_message(&shared, &message, form.request, true).await;
    hidden_again(wants.answer(page).await, &message_path(&message))
}

/// The answer to a reveal. The browser hides it again, even without the script, by opening `path`.
fn hidden_again(mut response: Response, path: &str) -> Response {
    let refresh = format!("{REVEALED_FOR_S}; url={path}");
    if let Ok(refresh) = HeaderValue::from_str(&refresh) {
        response.headers_mut().insert(HeaderName::from_static("refresh"), refresh);
    }
    response
}

async fn verify(
    State(shared): Console,
    wants: Wants,
    Path(message): Path<String>,
    Form(form): Form<ActForm>,
) -> Response {
    let page = async {
        let mut page = open_message(&shared, &message, form.request, false).await?;
        let nothing = || Failure::new(StatusCode::NOT_FOUND, "this request is not kept any more");
        let Shown { seq, request, .. } = page.shown.as_ref().ok_or_else(nothing)?;
        let seq = *seq;
        let content = shared.read(move |history| history.content(seq)).await?.ok_or_else(nothing)?;
        let (arguments, input) = desk::verify(request, &content);
        page.said = Some(Said::Diagnosis(shared.asked(arguments, input).await?.0));
        Ok(page)
    };
    wants.answer(page.await).await
}

async fn show(State(shared): Console, wants: Wants, Path(message): Path<String>) -> Response {
    let page = async {
        let id = subject(&message)?;
        let mut page = open_message(&shared, &message, None, false).await?;
        page.said = Some(Said::Known(shared.asked(desk::show(id), Vec::new()).await?.0));
        Ok(page)
    };
    wants.answer(page.await).await
}

async fn redrive(
    State(shared): Console,
    wants: Wants,
    Path(message): Path<String>,
    Form(form): Form<ActForm>,
) -> Response {
    act_on_letter(&shared, wants, LetterAct::Redrive, &message, &form).await
}

async fn drop_letter(
    State(shared): Console,
    wants: Wants,
    Path(message): Path<String>,
    Form(form): Form<ActForm>,
) -> Response {
    act_on_letter(&shared, wants, LetterAct::Drop, &message, &form).await
}

/// Acts on the dead letters of one message.
async fn act_on_letter(
    shared: &Shared,
    wants: Wants,
    act: LetterAct,
    message: &str,
    form: &ActForm,
) -> Response {
    let arguments = subject(message).map(|id| desk::letters(act, id, shared.consent(&form.reason)));
    wants.answer(done(shared, arguments, message_path(message)).await).await
}

async fn replay(
    State(shared): Console,
    wants: Wants,
    Path(message): Path<String>,
    Form(form): Form<ActForm>,
) -> Response {
    let arguments = match subject(&message) {
        Ok(_) if form.reason.trim().is_empty() => {
            Err(Failure::new(StatusCode::BAD_REQUEST, "say why, for people who see the replay window"))
        }
        id => id.map(|id| desk::replay(id, shared.consent(&form.reason))),
    };
    wants.answer(done(&shared, arguments, message_path(&message)).await).await
}

/// The id that a command knows a message by.
fn subject(message: &str) -> Result<&str, Failure> {
    let refused = |why: &str| Err(Failure::new(StatusCode::BAD_REQUEST, why));
    let id = message.strip_prefix("sqs.").unwrap_or(message);
    if message.starts_with("request.") {
        return refused("this request did not become a message, so you cannot redrive, drop or replay it");
    }
    if id.is_empty() || id.starts_with('-') || id.contains(|c: char| !c.is_ascii_graphic()) {
        return refused("a command would not read this as an id");
    }
    Ok(id)
}

/// Runs the command of an act, and shows it.
async fn done(
    shared: &Shared,
    arguments: Result<Vec<String>, Failure>,
    back: String,
) -> Result<Done, Failure> {
    let (ran, _) = shared.run(arguments?, Vec::new()).await?;
    Ok(Done { ran, back })
}

async fn dead_letters(State(shared): Console, wants: Wants) -> Response {
    wants.answer(letters_page(&shared, None).await).await
}

/// The dead letters of the history, and the causes of those on the queue, if it was asked, with its notes.
async fn letters_page(shared: &Shared, causes: Option<(Vec<Cause>, String)>) -> Result<DeadLetters, Failure> {
    let now = shared.now();
    let dead = Filter { state: Some(crate::history::State::Dead), ..Filter::default() };
    let page = shared.read(move |history| history.messages(&dead, None, MOST_LETTERS, now)).await?;
    let (causes, notes) = causes.unzip();
    let note = notes.filter(|notes| !notes.is_empty());
    Ok(DeadLetters { groups: grouped(page.messages), causes, note })
}

async fn look(State(shared): Console, wants: Wants) -> Response {
    let page = async {
        let causes = shared.asked(desk::causes(), Vec::new()).await?;
        letters_page(&shared, Some(causes)).await
    };
    wants.answer(page.await).await
}

/// The form of an act on all letters of a cause.
#[derive(Debug, Deserialize)]
struct CauseForm {
    cause: String,
    /// How many letters the form was about.
    count: u64,
    #[serde(default)]
    reason: String,
}

async fn redrive_cause(State(shared): Console, wants: Wants, Form(form): Form<CauseForm>) -> Response {
    act_on_cause(&shared, wants, LetterAct::Redrive, &form).await
}

async fn drop_cause(State(shared): Console, wants: Wants, Form(form): Form<CauseForm>) -> Response {
    act_on_cause(&shared, wants, LetterAct::Drop, &form).await
}

/// Acts on all letters of a cause, or answers 409 if they are not as many as the form said.
async fn act_on_cause(shared: &Shared, wants: Wants, act: LetterAct, form: &CauseForm) -> Response {
    let CauseForm { cause, count, reason } = form;
    let now = async {
        let cause = subject(cause)?;
        let (causes, notes) = shared.asked::<Vec<Cause>>(desk::causes(), Vec::new()).await?;
        let now = causes.iter().find(|known| known.name == cause).map_or(0, |known| known.count);
        Ok((now, causes, notes))
    };
    match now.await {
        Ok((now, causes, notes)) if now != *count => {
            let then = pages::counted(*count, "dead letter");
            let why = format!(
                "Nothing was done: the form was for {then} of cause {cause}, and now there are {now}."
            );
            match letters_page(shared, Some((causes, format!("{why} {}", visible(&notes))))).await {
                Ok(page) => wants.page(StatusCode::CONFLICT, page).await,
                Err(failure) => wants.answer::<Problem>(Err(failure)).await,
            }
        }
        Ok(_) => {
            let arguments = desk::letters(act, cause, shared.consent(reason));
            wants.answer(done(shared, Ok(arguments), "/dead-letters".to_owned()).await).await
        }
        Err(failure) => wants.answer::<Problem>(Err(failure)).await,
    }
}

async fn acts(State(shared): Console, wants: Wants) -> Response {
    let page = async {
        let (windows, _) = shared.asked(desk::windows(), Vec::new()).await?;
        let (acts, _) = shared.asked(desk::acts(), Vec::new()).await?;
        Ok(Acts { windows, acts })
    };
    wants.answer(page.await).await
}

/// The form that closes a replay window.
#[derive(Debug, Deserialize)]
struct WindowForm {
    window: String,
}

async fn close(State(shared): Console, wants: Wants, Form(form): Form<WindowForm>) -> Response {
    let by = shared.options.operator.as_deref();
    let arguments = subject(&form.window).map(|window| desk::close(window, by));
    wants.answer(done(&shared, arguments, "/acts".to_owned()).await).await
}

async fn keys(wants: Wants) -> Response {
    wants.answer(Ok(Keys::ALL)).await
}

#[cfg(test)]
mod tests;
