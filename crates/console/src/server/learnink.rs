//! The requests about LearnInk's side.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Form, Path, Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};
use learnink_simulator::endpoint::UnusableUrl;
use learnink_simulator::scenes::{self, NOTIFICATIONS};
use learnink_simulator::secret::{OVERLAP, UnusableSecret};
use learnink_simulator::{
    EndpointId, EndpointUrl, Environment, Event, Extent, FaultRule, Handle, Learner, Message, RequestError,
    Secret, Simulator, Speed, freshened,
};
use learnink_webhook::MessageId;
use serde::Deserialize;

use super::{Console, Failure, Shared, Wants, blocking, hidden_again};
use crate::desk::{self, Ran};
use crate::history::History;
use crate::pages::counted;
use crate::pages::learnink::attempted::{AskedAttempts, Attempted, environment};
use crate::pages::learnink::attempts::Attempts;
use crate::pages::learnink::changed::Changed;
use crate::pages::learnink::endpoints::{Endpoints, Revealed, Scene, fault};
use crate::pages::learnink::message::AttemptedMessage;
use crate::pages::learnink::testing::{Example, Testing};
use crate::pages::learnink::{Choice, ENDPOINTS, attempted_path};
use crate::pages::list::{given, time};
use crate::payload;

/// The largest form with a payload. In a form, a byte may take three.
const LARGEST_PAYLOAD_FORM_BYTES: usize = 4 * 1024 * 1024;

/// The largest payload of an example. It is read as a whole, and kept.
const LARGEST_PAYLOAD_BYTES: usize = 1024 * 1024;

/// How many events of a scene are sent in one change of LearnInk's side.
const MOST_SENT_AT_ONCE: usize = 50;

/// The default `Retry-After` of a 429, in seconds.
const RETRY_AFTER_S: u32 = 60;

/// Why a replay window is opened before a resend, without another reason.
const RESENT: &str = "resent, to run the handlers again";

/// The pages of LearnInk's side and what their forms do.
pub(super) fn router() -> Router<Arc<Shared>> {
    let with_payload =
        get(testing).post(send_example).layer(DefaultBodyLimit::max(LARGEST_PAYLOAD_FORM_BYTES));
    Router::new()
        .route("/learnink", get(endpoints))
        .route("/learnink/endpoints", post(add))
        .route("/learnink/endpoints/{endpoint}/enable", post(enable))
        .route("/learnink/endpoints/{endpoint}/disable", post(disable))
        .route("/learnink/endpoints/{endpoint}/remove", post(remove))
        .route("/learnink/endpoints/{endpoint}/change", post(change_endpoint))
        .route("/learnink/endpoints/{endpoint}/rotate", post(rotate))
        .route("/learnink/endpoints/{endpoint}/recover", post(recover))
        .route("/learnink/endpoints/{endpoint}/reveal", post(reveal_secret))
        .route("/learnink/speed", post(set_speed))
        .route("/learnink/fault", post(set_fault))
        .route("/learnink/scene", post(play))
        .route("/learnink/testing", with_payload)
        .route("/learnink/messages", get(messages))
        .route("/learnink/messages/{message}", get(message))
        .route("/learnink/messages/{message}/reveal", post(reveal_payload))
        .route("/learnink/messages/{message}/resend", post(resend))
        .route("/learnink/messages/{message}/now", post(attempt_now))
        .route("/learnink/messages/{message}/replay", post(replay))
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        let status = match error {
            RequestError::NoEndpoint(_) | RequestError::NoMessage(_) | RequestError::NotSentTo { .. } => {
                StatusCode::NOT_FOUND
            }
            RequestError::Disabled(_) | RequestError::NotWaiting(_) => StatusCode::CONFLICT,
            RequestError::TooLongAgo => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}

impl From<UnusableUrl> for Failure {
    fn from(error: UnusableUrl) -> Self {
        wrong(error.to_string())
    }
}

impl From<UnusableSecret> for Failure {
    fn from(error: UnusableSecret) -> Self {
        wrong(error.to_string())
    }
}

/// A field that cannot be used.
fn wrong(error: impl Into<String>) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, error)
}

impl Shared {
    fn simulator(&self) -> Result<&Handle, Failure> {
        let nothing = "LearnInk's side is not simulated by this program";
        self.options.simulator.as_ref().ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, nothing))
    }

    /// Reads LearnInk's side. Nothing of the pipeline goes on meanwhile: only copy what a page needs.
    async fn read_simulator<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Simulator, Timestamp) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let handle = self.simulator()?.clone();
        blocking(move || handle.read(read)).await
    }

    /// Changes LearnInk's side, as [`read_simulator`](Self::read_simulator) reads it.
    async fn change_simulator<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Simulator, Timestamp, &mut fastrand::Rng) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let handle = self.simulator()?.clone();
        blocking(move || handle.change(change)).await
    }

    /// What LearnInk's side knows of a message; `None` if it does not know it.
    pub(super) async fn attempts(
        &self,
        message: &str,
        is_revealed: bool,
    ) -> Result<Option<Attempts>, Failure> {
        let Ok(id) = MessageId::parse(message) else { return Ok(None) };
        if self.options.simulator.is_none() {
            return Ok(None);
        }
        let attempts = move |simulator: &Simulator, _| {
            let message = simulator.message(&id).ok();
            Ok(message.map(|message| Attempts::of(simulator, message, is_revealed)))
        };
        self.read_simulator(attempts).await
    }

    /// The types of the catalog.
    fn event_types(&self) -> Vec<String> {
        self.options.samples.iter().map(|sample| sample.event_type.clone()).collect()
    }

    fn sample(&self, event_type: &str) -> Result<&Event, Failure> {
        let sample = self.options.samples.iter().find(|sample| sample.event_type == event_type);
        sample.ok_or_else(|| {
            let types = self.event_types().join(", ");
            Failure::new(
                StatusCode::NOT_FOUND,
                format!("the catalog has no type `{event_type}`; its types are: {types}"),
            )
        })
    }

    /// Types that are separated by spaces or commas, each of which is in the catalog.
    fn types(&self, text: &str) -> Result<BTreeSet<String>, Failure> {
        let types = text.split([' ', ',']).filter(|event_type| !event_type.is_empty());
        types.map(|event_type| Ok(self.sample(event_type)?.event_type.clone())).collect()
    }
}

/// A secret that was given, or a new one.
fn secret(text: &str) -> Result<Secret, Failure> {
    if let Some(text) = given(text) {
        return Ok(Secret::parse(&text)?);
    }
    let mut key = [0; 24];
    getrandom::fill(&mut key).map_err(|error| {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot make a secret: {error}"))
    })?;
    Ok(Secret::from_random(key))
}

/// The environment of a form; staging if it is blank.
fn environment_or_staging(text: &str) -> Result<Environment, Failure> {
    given(text).map_or(Ok(Environment::Staging), |name| environment(&name).map_err(wrong))
}

/// The endpoint of this id, or the only one.
fn endpoint_or_only(simulator: &Simulator, text: &str) -> Result<EndpointId, Failure> {
    if let Some(id) = given(text) {
        return Ok(simulator.endpoint(&EndpointId::named(id))?.id.clone());
    }
    let ids = simulator.endpoints().iter().map(|endpoint| endpoint.id.clone());
    only(ids.collect())
}

/// The endpoint of this id, or the only one that a message is for.
fn endpoint_of(message: &Message, text: &str) -> Result<EndpointId, Failure> {
    if let Some(id) = given(text) {
        return Ok(EndpointId::named(id));
    }
    only(message.destinations.iter().map(|destination| destination.endpoint.clone()).collect())
}

fn only(ids: Vec<EndpointId>) -> Result<EndpointId, Failure> {
    match <[EndpointId; 1]>::try_from(ids) {
        Ok([id]) => Ok(id),
        Err(ids) if ids.is_empty() => {
            Err(Failure::new(StatusCode::CONFLICT, "there is no endpoint; add one first"))
        }
        Err(ids) => {
            let ids: Vec<_> = ids.iter().map(EndpointId::as_str).collect();
            Err(wrong(format!("there are several endpoints; name one of {}", ids.join(", "))))
        }
    }
}

fn message_id(text: &str) -> Result<MessageId, Failure> {
    MessageId::parse(text).map_err(|error| wrong(error.to_string()))
}

/// A number in a form.
fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<Option<T>, Failure> {
    let number =
        |text: String| text.parse().map_err(|_| wrong(format!("`{name}` is not a number: `{text}`")));
    given(text).map(number).transpose()
}

/// A duration such as `2m`; a day has 24 hours.
fn duration(text: &str) -> Option<SignedDuration> {
    let span = text.parse::<Span>().ok()?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    (!duration.is_negative()).then_some(duration)
}

/// `1 message`, `2 messages`.
fn messages_of(count: usize) -> String {
    counted(count as u64, "message")
}

async fn endpoints(State(shared): Console, wants: Wants) -> Response {
    let types = shared.event_types();
    wants
        .answer(shared.read_simulator(move |simulator, now| Ok(Endpoints::of(simulator, types, now))).await)
        .await
}

/// The form of an endpoint.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EndpointForm {
    environment: String,
    url: String,
    types: String,
    secret: Hidden,
}

/// A secret in a form. `Debug` hides it.
#[derive(Default, Deserialize)]
#[serde(transparent)]
struct Hidden(String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

async fn add(State(shared): Console, wants: Wants, Form(form): Form<EndpointForm>) -> Response {
    let added = async {
        let environment = environment_or_staging(&form.environment)?;
        let (url, types) = (EndpointUrl::parse(form.url.trim())?, shared.types(&form.types)?);
        let secret = secret(&form.secret.0)?;
        shared
            .change_simulator(move |simulator, now, random| {
                let id = simulator.add_endpoint(environment, url, secret, now, random);
                simulator.subscribe(&id, types)?;
                let done = format!("{} has a new endpoint, `{id}`.", environment.name());
                Ok(Changed { has_new_secret: true, ..Changed::endpoint(id, done) })
            })
            .await
    };
    wants.answer(added.await).await
}

async fn change_endpoint(
    State(shared): Console,
    wants: Wants,
    Path(endpoint): Path<String>,
    Form(form): Form<EndpointForm>,
) -> Response {
    let changed = async {
        let (url, types) = (EndpointUrl::parse(form.url.trim())?, shared.types(&form.types)?);
        shared
            .change_simulator(move |simulator, _, _| {
                let id = EndpointId::named(endpoint);
                simulator.set_url(&id, url)?;
                simulator.subscribe(&id, types)?;
                Ok(Changed::endpoint(id, "The endpoint is changed, from the next attempt and message on."))
            })
            .await
    };
    wants.answer(changed.await).await
}

/// Does something with an endpoint, and says what.
async fn act_on(
    shared: &Shared,
    wants: Wants,
    endpoint: String,
    act: fn(&mut Simulator, &EndpointId) -> Result<(), RequestError>,
    done: &'static str,
) -> Response {
    let id = EndpointId::named(endpoint);
    wants
        .answer(
            shared
                .change_simulator(move |simulator, _, _| {
                    act(simulator, &id)?;
                    Ok(Changed::endpoint(id, done))
                })
                .await,
        )
        .await
}

async fn enable(State(shared): Console, wants: Wants, Path(endpoint): Path<String>) -> Response {
    let done = "The endpoint is enabled. It gets the messages that are sent from now on.";
    act_on(&shared, wants, endpoint, Simulator::enable, done).await
}

async fn disable(State(shared): Console, wants: Wants, Path(endpoint): Path<String>) -> Response {
    act_on(&shared, wants, endpoint, Simulator::disable, "The endpoint is disabled.").await
}

async fn remove(State(shared): Console, wants: Wants, Path(endpoint): Path<String>) -> Response {
    act_on(&shared, wants, endpoint, Simulator::remove_endpoint, "The endpoint is removed.").await
}

/// The form of a rotation.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RotationForm {
    overlap: String,
    secret: Hidden,
}

async fn rotate(
    State(shared): Console,
    wants: Wants,
    Path(endpoint): Path<String>,
    Form(form): Form<RotationForm>,
) -> Response {
    let rotated = async {
        let overlap = given(&form.overlap).map_or(Some(OVERLAP), |text| duration(&text));
        let overlap = overlap.ok_or_else(|| wrong("`overlap` is not a duration such as 2m or 24h"))?;
        let secret = secret(&form.secret.0)?;
        shared
            .change_simulator(move |simulator, now, _| {
                let id = EndpointId::named(endpoint);
                simulator.rotate(&id, secret, overlap, now)?;
                let until = now.checked_add(overlap).unwrap_or(Timestamp::MAX);
                let until = until.strftime("%Y-%m-%d %H:%M:%SZ");
                let done =
                    format!("The secret is rotated. Attempts are signed with both secrets until {until}.");
                Ok(Changed { has_new_secret: true, ..Changed::endpoint(id, done) })
            })
            .await
    };
    wants.answer(rotated.await).await
}

/// The form of *Recover Failed Messages*.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WindowForm {
    since: String,
    until: String,
}

async fn recover(
    State(shared): Console,
    wants: Wants,
    Path(endpoint): Path<String>,
    Form(form): Form<WindowForm>,
) -> Response {
    let recovered = async {
        let since = given(&form.since).ok_or_else(|| wrong("say since when: `since` is a time"))?;
        let since = time(&since).map_err(wrong)?;
        let until = given(&form.until).map(|until| time(&until).map_err(wrong)).transpose()?;
        shared
            .change_simulator(move |simulator, now, _| {
                let id = EndpointId::named(endpoint);
                let count = simulator.recover(&id, since, until, now)?;
                let done = format!("Recover Failed Messages attempts {} once more.", messages_of(count));
                Ok(Changed { count: Some(count), ..Changed::endpoint(id, done) })
            })
            .await
    };
    wants.answer(recovered.await).await
}

async fn reveal_secret(State(shared): Console, wants: Wants, Path(endpoint): Path<String>) -> Response {
    let types = shared.event_types();
    let page = shared
        .read_simulator(move |simulator, now| {
            let endpoint = simulator.endpoint(&EndpointId::named(endpoint))?;
            let secrets = endpoint.secrets.signing(now).map(|secret| secret.reveal().to_owned()).collect();
            let revealed = Revealed { endpoint: endpoint.id.clone(), secrets };
            Ok(Endpoints { revealed: Some(revealed), ..Endpoints::of(simulator, types, now) })
        })
        .await;
    hidden_again(wants.answer(page).await, ENDPOINTS)
}

/// The form of the speed.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SpeedForm {
    speed: String,
}

async fn set_speed(State(shared): Console, wants: Wants, Form(form): Form<SpeedForm>) -> Response {
    let set =
        async {
            let factor = number::<u32>("speed", &form.speed)?.ok_or_else(|| wrong("say which speed"))?;
            let speed = Speed::try_from(factor).map_err(|error| wrong(error.to_string()))?;
            shared.change_simulator(move |simulator, now, _| {
            simulator.set_speed(speed, now);
            let done = match speed.factor() {
                1 => "Waits between attempts pass as in LearnInk.".to_owned(),
                factor => {
                    format!("Waits between attempts pass {factor} times faster. SQS's own times stay real.")
                }
            };
            Ok(Changed { done, ..Changed::default() })
        }).await
        };
    wants.answer(set.await).await
}

/// The form of a fault.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FaultForm {
    answer: String,
    next: String,
    share: String,
    retry_after: String,
}

impl FaultForm {
    fn rule(&self) -> Result<Option<FaultRule>, Failure> {
        let retry_after_s = number("retry_after", &self.retry_after)?.unwrap_or(RETRY_AFTER_S);
        let Some(fault) = fault(self.answer.trim(), retry_after_s).map_err(wrong)? else { return Ok(None) };
        let extent = match (number("next", &self.next)?, number("share", &self.share)?) {
            (Some(0), _) => return Err(wrong("`next` is 1 or more")),
            (Some(next), None) => Extent::Next(next),
            (None, Some(share)) if (0.0..=1.0).contains(&share) => Extent::Share(share),
            (None, Some(_)) => return Err(wrong("`share` is a number from 0 to 1")),
            (None, None) | (Some(_), Some(_)) => {
                return Err(wrong("say to which requests: the `next` ones, or a `share` of them"));
            }
        };
        Ok(Some(FaultRule { fault, extent, until: None }))
    }
}

async fn set_fault(State(shared): Console, wants: Wants, Form(form): Form<FaultForm>) -> Response {
    let set = async {
        let rule = form.rule()?;
        shared
            .change_simulator(move |simulator, _, _| {
                simulator.set_fault(rule);
                let done = rule.map_or_else(
                    || "There is no fault: the receiver answers.".to_owned(),
                    |rule| match rule.extent {
                        Extent::Next(1) => format!("Injected for the next request: {}.", rule.fault),
                        Extent::Next(next) => {
                            format!("Injected for the next {next} requests: {}.", rule.fault)
                        }
                        Extent::Share(share) => {
                            format!("Injected for a share of {share} of the requests: {}.", rule.fault)
                        }
                    },
                );
                Ok(Changed { done, ..Changed::default() })
            })
            .await
    };
    wants.answer(set.await).await
}

/// The form of a scene.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SceneForm {
    scene: String,
    environment: String,
}

async fn play(State(shared): Console, wants: Wants, Form(form): Form<SceneForm>) -> Response {
    let played = blocking(move || {
        let scene = Scene::named(form.scene.trim()).map_err(wrong)?;
        played(&shared, scene, environment_or_staging(&form.environment)?)
    });
    wants.answer(played.await).await
}

/// Makes the events of a scene, and sends them in groups, so that the pipeline goes on in between.
fn played(shared: &Shared, scene: Scene, environment: Environment) -> Result<Changed, Failure> {
    let (handle, samples) = (shared.simulator()?, &shared.options.samples);
    let (speed, now, mut random) =
        handle.change(|simulator, now, random| (simulator.settings().speed, now, random.fork()));
    let (rule, events) = match scene {
        Scene::Phone => (None, scenes::phone_comes_online(samples, now, &mut random)),
        Scene::Flood => (None, scenes::flood(samples, now, &mut random)),
        Scene::Reminder => {
            let sample = shared.sample(NOTIFICATIONS)?;
            (None, scenes::reminder(sample, now, &mut random).into_iter().collect())
        }
        Scene::Night => {
            let (rule, events) = scenes::down_for_the_night(samples, speed, now, &mut random);
            (Some(rule), events)
        }
    };
    if rule.is_some() {
        handle.change(|simulator, _, _| simulator.set_fault(rule));
    }
    let count = events.len();
    let mut events = events.into_iter();
    while events.len() > 0 {
        handle.change(|simulator, now, random| {
            for event in events.by_ref().take(MOST_SENT_AT_ONCE) {
                simulator.send(environment, event, now, random);
            }
        });
        // Who waits for the simulator is next.
        std::thread::yield_now();
    }
    let done = format!("The scene sends {} from {}.", messages_of(count), environment.name());
    Ok(Changed { done, count: Some(count), ..Changed::default() })
}

/// What *Testing* is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AskedTesting {
    r#type: String,
    endpoint: String,
}

async fn testing(State(shared): Console, wants: Wants, Query(asked): Query<AskedTesting>) -> Response {
    let page = async {
        let example = |event_type: String| {
            let Event { event_type, payload } = shared.sample(&event_type)?.clone();
            Ok::<_, Failure>(Example { event_type, payload })
        };
        let example = given(&asked.r#type).map(example).transpose()?;
        let event_types = shared.event_types();
        shared
            .read_simulator(move |simulator, _| {
                let endpoints = Choice::all(simulator, learnink_simulator::Endpoint::is_enabled);
                Ok(Testing { event_types, endpoints, example, endpoint: asked.endpoint.clone() })
            })
            .await
    };
    wants.answer(page.await).await
}

/// The form of *Send Example*.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ExampleForm {
    r#type: String,
    endpoint: String,
    /// The example of the catalog if it is blank.
    payload: String,
    /// Whether learner and time are new; not if it is blank.
    fresh: String,
}

async fn send_example(State(shared): Console, wants: Wants, Form(form): Form<ExampleForm>) -> Response {
    wants.answer(blocking(move || sent(&shared, &form)).await).await
}

fn sent(shared: &Shared, form: &ExampleForm) -> Result<Changed, Failure> {
    let Event { event_type, payload } = shared.sample(form.r#type.trim())?.clone();
    // A browser sends the line breaks of a field like this.
    let typed = given(&form.payload).map(|payload| payload.replace("\r\n", "\n"));
    let mut payload = typed.unwrap_or(payload);
    if payload.len() > LARGEST_PAYLOAD_BYTES {
        let error = format!("the payload has {} bytes: use {LARGEST_PAYLOAD_BYTES} at most", payload.len());
        return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, error));
    }
    let handle = shared.simulator()?;
    if given(&form.fresh).is_some() {
        let (now, mut random) = handle.change(|_, now, random| (now, random.fork()));
        payload = freshened(&payload, now, &mut || Learner::fresh(&mut random));
    }
    handle.change(|simulator, now, random| {
        let endpoint = endpoint_or_only(simulator, &form.endpoint)?;
        let event = Event { event_type: event_type.clone(), payload };
        let message = simulator.send_example(&endpoint, event, now, random)?.to_string();
        let done = format!("`{event_type}` is sent as message `{message}`.");
        Ok(Changed { message: Some(message), ..Changed::endpoint(endpoint, done) })
    })
}

async fn messages(State(shared): Console, wants: Wants, Query(asked): Query<AskedAttempts>) -> Response {
    let types = shared.event_types();
    wants
        .answer(
            shared
                .read_simulator(move |simulator, now| {
                    let filter = asked.filter(now).map_err(wrong)?;
                    Ok(Attempted::of(simulator, asked, &filter, types))
                })
                .await,
        )
        .await
}

async fn message(State(shared): Console, wants: Wants, Path(message): Path<String>) -> Response {
    wants.answer(message_page(&shared, message, false).await).await
}

async fn reveal_payload(State(shared): Console, wants: Wants, Path(message): Path<String>) -> Response {
    let path = attempted_path(&message);
    hidden_again(wants.answer(message_page(&shared, message, true).await).await, &path)
}

async fn message_page(
    shared: &Shared,
    message: String,
    is_revealed: bool,
) -> Result<AttemptedMessage, Failure> {
    let id = message_id(&message)?;
    let (attempts, payload) = shared
        .read_simulator(move |simulator, _| {
            let message = simulator.message(&id)?;
            Ok((Attempts::of(simulator, message, is_revealed), message.payload.clone()))
        })
        .await?;
    let now = shared.now();
    let page = move |history: &History| {
        let payload = payload::masked_unless(payload.as_bytes(), is_revealed);
        let is_received = history.message(&message, now)?.is_some();
        Ok(AttemptedMessage { message, attempts, payload, is_revealed, is_received })
    };
    shared.read(page).await
}

/// The form of an act on a message at an endpoint.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AttemptForm {
    /// The only one of the message if it is blank.
    endpoint: String,
    /// Whether the handlers run again; not if it is blank.
    again: String,
    /// Why, for people who see the replay window.
    reason: String,
}

async fn resend(
    State(shared): Console,
    wants: Wants,
    Path(message): Path<String>,
    Form(form): Form<AttemptForm>,
) -> Response {
    wants.answer(resent(&shared, message, &form).await).await
}

async fn resent(shared: &Shared, message: String, form: &AttemptForm) -> Result<Changed, Failure> {
    let id = message_id(&message)?;
    let (of, at) = (id.clone(), form.endpoint.clone());
    // Before the window is opened, so that none is opened for nothing.
    let (endpoint, has_succeeded) = shared
        .read_simulator(move |simulator, _| {
            let message = simulator.message(&of)?;
            let endpoint = endpoint_of(message, &at)?;
            if !simulator.endpoint(&endpoint)?.is_enabled() {
                return Err(RequestError::Disabled(endpoint).into());
            }
            let destination = message.destination(&endpoint);
            let schedule = destination.map(|destination| destination.schedule);
            Ok((endpoint, schedule == Some(learnink_simulator::Schedule::Succeeded)))
        })
        .await?;
    let ran =
        if given(&form.again).is_some() { Some(open_window(shared, &message, form).await?) } else { None };
    let done = match (&ran, has_succeeded) {
        (Some(_), _) => "The message is resent, and its handlers run again.",
        (None, true) => "The message is resent. It had succeeded, so that it counts as a duplicate.",
        (None, false) => "The message is resent.",
    };
    shared
        .change_simulator(move |simulator, now, _| {
            simulator.resend(&id, &endpoint, now)?;
            Ok(Changed { message: Some(message), ran, ..Changed::endpoint(endpoint, done) })
        })
        .await
}

/// Opens a replay window for one message.
async fn open_window(shared: &Shared, message: &str, form: &AttemptForm) -> Result<Ran, Failure> {
    let reason = given(&form.reason).unwrap_or_else(|| RESENT.to_owned());
    let arguments = desk::replay(super::subject(message)?, shared.consent(&reason));
    let (ran, _) = shared.run(arguments, Vec::new()).await?;
    if ran.exit_code == 0 {
        return Ok(ran);
    }
    let Ran { command, exit_code, stderr, .. } = ran;
    let why = format!("nothing was resent, because `{command}` ended with {exit_code}: {stderr}");
    Err(Failure::new(StatusCode::BAD_GATEWAY, why))
}

async fn attempt_now(
    State(shared): Console,
    wants: Wants,
    Path(message): Path<String>,
    Form(form): Form<AttemptForm>,
) -> Response {
    let attempted = async {
        let id = message_id(&message)?;
        shared
            .change_simulator(move |simulator, now, _| {
                let endpoint = endpoint_of(simulator.message(&id)?, &form.endpoint)?;
                simulator.attempt_now(&id, &endpoint, now)?;
                let done = "The wait is over: the next attempt is made now.";
                Ok(Changed { message: Some(message), ..Changed::endpoint(endpoint, done) })
            })
            .await
    };
    wants.answer(attempted.await).await
}

async fn replay(
    State(shared): Console,
    wants: Wants,
    Path(message): Path<String>,
    Form(form): Form<AttemptForm>,
) -> Response {
    let replayed = async {
        let id = message_id(&message)?;
        shared
            .change_simulator(move |simulator, now, _| {
                let endpoint = endpoint_of(simulator.message(&id)?, &form.endpoint)?;
                let count = simulator.replay_failed_since(&id, &endpoint, now)?;
                let done = format!("Replay attempts {} once more.", messages_of(count));
                Ok(Changed {
                    message: Some(message),
                    count: Some(count),
                    ..Changed::endpoint(endpoint, done)
                })
            })
            .await
    };
    wants.answer(replayed.await).await
}

#[cfg(test)]
mod tests;
