//! `learnink sim`: LearnInk's side of a running `learnink dev`, in the words of LearnInk's dashboard.

mod api;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser};
use clap::{ArgGroup, Args};
use jiff::Timestamp;
use learnink_console::encoded;
use learnink_simulator::{Environment, Status};
use learnink_webhook::MessageId;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::api::{Api, Request};
use self::show::{Changed, Endpoints, Message, Messages};
use crate::output::{self, note, print};
use crate::replay::{Time, parse_time};
use crate::{StateFolder, called, input, now};

/// The commands of `learnink sim`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show the endpoints of both environments, the speed and the fault
    Endpoints(ShowArgs),
    /// Add, change, enable, disable and remove endpoints
    #[command(subcommand)]
    Endpoint(EndpointCommand),
    /// Send Example: send an example of the Event Catalog to one endpoint
    SendExample(ExampleArgs),
    /// Show the Attempted Messages, the newest first
    Messages(MessagesArgs),
    /// Show one message: each attempt, and the payload without personal data
    Message(MessageArgs),
    /// Resend: attempt a message once more, whether or not it has succeeded
    Resend(ResendArgs),
    /// Recover Failed Messages: attempt once more what failed in a window, and never succeeded
    Recover(RecoverArgs),
    /// Replay: recover the failed messages since one of them, and that one
    Replay(AttemptArgs),
    /// Make the next scheduled attempt of a message now
    Now(AttemptArgs),
    /// Replace the secret of an endpoint; for a while, LearnInk signs with both
    Rotate(RotateArgs),
    /// Answer in place of the receiver: 503, 500, 429, nothing at all, or a closed connection
    Answer(AnswerArgs),
    /// Make the waits between attempts shorter
    Speed(SpeedArgs),
    /// Send events as they come in a situation that LearnInk's customers meet
    Scene(SceneArgs),
}

/// The commands of `learnink sim endpoint`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum EndpointCommand {
    /// Add an endpoint to an environment
    Add(AddArgs),
    /// Change the URL and the types of an endpoint
    Change(ChangeArgs),
    /// Enable an endpoint: it gets the messages that are sent from now on
    Enable(OneEndpointArgs),
    /// Disable an endpoint: attempts at it stop immediately
    Disable(OneEndpointArgs),
    /// Remove an endpoint: attempts at it stop immediately, and its messages stay in the list
    Remove(OneEndpointArgs),
}

/// Where LearnInk's side is, and how its answer is printed.
#[derive(Debug, Args)]
struct Common {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateFolder,
}

/// Which endpoint is meant.
#[derive(Debug, Args)]
struct Endpoint {
    /// Id of the endpoint, as `endpoints` shows it; not needed if there is only one
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    endpoint: Option<String>,
}

/// Options of `learnink sim endpoints`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    common: Common,
}

/// Options of `learnink sim endpoint add`.
#[derive(Debug, Args)]
#[command(after_help = "\
The environments share nothing. The pipeline of `learnink dev` is in staging. If it is added to production as well, \
with another secret, it answers 401.

Examples:
  cargo learnink sim endpoint add http://127.0.0.1:8080/webhooks
  cargo learnink sim endpoint add http://127.0.0.1:9000/webhooks/learnink \\
    --environment production --type notifications.sent")]
pub(crate) struct AddArgs {
    /// Where it is
    #[arg(value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    url: String,
    /// Environment of the endpoint
    #[arg(long, default_value = "staging", value_parser = environments())]
    environment: String,
    /// Types that it subscribes to; without it, all
    #[arg(long = "type", value_name = "EVENT_TYPE", num_args = 1..)]
    event_types: Vec<String>,
    /// File with its secret, - for standard input; without it, one is made
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// Options of `learnink sim endpoint change`.
#[derive(Debug, Args)]
#[command(after_help = "\
The URL is for the next attempt on, the types are for new messages.

Example:
  cargo learnink sim endpoint change ep_2Xb http://127.0.0.1:8080/webhooks")]
pub(crate) struct ChangeArgs {
    /// Id of the endpoint, as `endpoints` shows it
    #[arg(value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    id: String,
    /// Where it is from now on
    #[arg(value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    url: String,
    /// Types that it subscribes to from now on; without it, all
    #[arg(long = "type", value_name = "EVENT_TYPE", num_args = 1..)]
    event_types: Vec<String>,
    #[command(flatten)]
    common: Common,
}

/// Options of the commands for one endpoint.
#[derive(Debug, Args)]
pub(crate) struct OneEndpointArgs {
    /// Id of the endpoint, as `endpoints` shows it
    #[arg(value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    id: String,
    #[command(flatten)]
    common: Common,
}

/// Options of `learnink sim send-example`.
#[derive(Debug, Args)]
#[command(after_help = "\
The Event Catalog has the types of the folder `events`. The example is sent as it is there. Some handlers skip old \
events; --fresh uses the current time.

Examples:
  cargo learnink sim send-example user.course.started
  cargo learnink sim send-example notifications.sent --payload my.json --fresh")]
pub(crate) struct ExampleArgs {
    /// Type of the catalog
    #[arg(value_name = "EVENT_TYPE", value_parser = NonEmptyStringValueParser::new())]
    event_type: String,
    /// File with another payload, - for standard input
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
    /// Send it with another learner and the time of now
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    endpoint: Endpoint,
    #[command(flatten)]
    common: Common,
}

/// Options of `learnink sim messages`.
#[derive(Debug, Args)]
#[command(after_help = "\
TIME is 2026-01-02T08:00:00Z or with another offset, 2026-01-02T08:00 or 2026-01-02 in UTC, or '2h ago'.

Examples:
  cargo learnink sim messages --status failed --since '5h ago'
  cargo learnink sim messages --type user.course.started --environment staging")]
pub(crate) struct MessagesArgs {
    /// Show messages of this environment
    #[arg(long, value_parser = environments())]
    environment: Option<String>,
    /// Show messages of this type
    #[arg(long = "type", value_name = "EVENT_TYPE")]
    event_type: Option<String>,
    /// Show messages with this status
    #[arg(long, value_parser = PossibleValuesParser::new(Status::ALL.map(Status::name)))]
    status: Option<String>,
    /// Show messages that were sent at or after TIME
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Time>,
    /// Show messages that were sent before TIME
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Time>,
    /// Show messages that are older than an earlier list, which prints this number
    #[arg(long, value_name = "N")]
    before: Option<u64>,
    #[command(flatten)]
    endpoint: Endpoint,
    #[command(flatten)]
    common: Common,
}

/// Options of `learnink sim message`.
#[derive(Debug, Args)]
pub(crate) struct MessageArgs {
    /// The message id
    #[arg(value_name = "ID", value_parser = MessageId::parse)]
    id: MessageId,
    /// Show the payload as it is sent, with personal data, and all headers of the answers
    #[arg(long)]
    reveal: bool,
    #[command(flatten)]
    common: Common,
}

/// Options of `learnink sim resend`.
#[derive(Debug, Args)]
#[command(after_help = "\
The pipeline counts a resend of a message that is done as a duplicate. --again first opens a replay window for the \
message, so that its handlers run again.

Examples:
  cargo learnink sim resend msg_2Xb
  cargo learnink sim resend msg_2Xb --again --reason \"its grant was lost\"")]
pub(crate) struct ResendArgs {
    /// The message id
    #[arg(value_name = "ID", value_parser = MessageId::parse)]
    id: MessageId,
    /// Run the handlers again
    #[arg(long)]
    again: bool,
    /// Why, for people who see the replay window
    #[arg(long, value_name = "TEXT", requires = "again", value_parser = NonEmptyStringValueParser::new())]
    reason: Option<String>,
    #[command(flatten)]
    endpoint: Endpoint,
    #[command(flatten)]
    common: Common,
}

/// Options of `learnink sim recover`.
#[derive(Debug, Args)]
#[command(after_help = "\
Attempts each message again that has failed and never succeeded. The window can start 14 days ago at most; messages \
are kept for seven.

TIME is 2026-01-02T08:00:00Z or with another offset, 2026-01-02T08:00 or 2026-01-02 in UTC, or '2h ago'.

Example:
  cargo learnink sim recover --since '2h ago'")]
pub(crate) struct RecoverArgs {
    /// Recover messages that were sent at or after TIME
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Time,
    /// Recover messages that were sent up to TIME; without it, up to now
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Time>,
    #[command(flatten)]
    endpoint: Endpoint,
    #[command(flatten)]
    common: Common,
}

/// Options of the commands for one message at an endpoint.
#[derive(Debug, Args)]
pub(crate) struct AttemptArgs {
    /// The message id
    #[arg(value_name = "ID", value_parser = MessageId::parse)]
    id: MessageId,
    #[command(flatten)]
    endpoint: Endpoint,
    #[command(flatten)]
    common: Common,
}

/// Options of `learnink sim rotate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Until the overlap ends, by the real clock, attempts are signed with both secrets. The receiver has to take the new \
one before that. Without --reveal, the new secret is shown only in the browser.

Examples:
  cargo learnink sim rotate --overlap 2m
  cargo learnink sim rotate --overlap 2m --reveal | cargo learnink secret rotate")]
pub(crate) struct RotateArgs {
    /// How long the previous secret signs as well, such as 2m; in LearnInk it is 24h
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = NonEmptyStringValueParser::new())]
    overlap: String,
    /// File with the new secret, - for standard input; without it, one is made
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Print the new secret, and everything else on standard error
    #[arg(long)]
    reveal: bool,
    #[command(flatten)]
    endpoint: Endpoint,
    #[command(flatten)]
    common: Common,
}

/// Options of `learnink sim answer`.
#[derive(Debug, Args)]
#[command(
    group(ArgGroup::new("extent").args(["next", "share"])),
    after_help = "\
`none` answers nothing for 16 s, which is longer than LearnInk waits; `close` closes the connection. `ok` ends the \
fault. The receiver does not see a request that is answered by a fault, and all pages mark it as injected.

Examples:
  cargo learnink sim answer 503 --next 3
  cargo learnink sim answer 429 --share 0.5 --retry-after 90
  cargo learnink sim answer ok"
)]
pub(crate) struct AnswerArgs {
    /// The answer
    #[arg(value_name = "ANSWER", value_parser = PossibleValuesParser::new(["503", "500", "429", "none", "close", "ok"]))]
    answer: String,
    /// Answer the next N requests; 1 if neither this nor --share is given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    next: Option<u32>,
    /// Answer this share of the requests, from 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = share)]
    share: Option<f64>,
    /// The value of Retry-After beside a 429, in seconds
    #[arg(long, value_name = "SECONDS")]
    retry_after: Option<u32>,
    #[command(flatten)]
    common: Common,
}

/// Options of `learnink sim speed`.
#[derive(Debug, Args)]
#[command(after_help = "\
It divides the waits between attempts, the five days of failures that disable an endpoint, and the time until the \
fault of a scene ends. SQS's own times stay real, and so do attempts, their time limit and the overlap of a rotation.

Example:
  cargo learnink sim speed 600")]
pub(crate) struct SpeedArgs {
    /// How many times as fast as in LearnInk
    #[arg(value_name = "SPEED", value_parser = PossibleValuesParser::new(["1", "60", "600", "3600"]))]
    speed: String,
    #[command(flatten)]
    common: Common,
}

/// Options of `learnink sim scene`.
#[derive(Debug, Args)]
#[command(after_help = "\
phone:     a phone comes online: 20 events of three days, out of order
reminder:  one notifications.sent for 500 learners
flood:     2,000 events at once
night:     the receiver is down for eight hours of the schedule, and 5 events come

Example:
  cargo learnink sim scene night")]
pub(crate) struct SceneArgs {
    /// Its name
    #[arg(value_name = "SCENE", value_parser = PossibleValuesParser::new(["phone", "reminder", "flood", "night"]))]
    scene: String,
    /// Where the events are sent from
    #[arg(long, default_value = "staging", value_parser = environments())]
    environment: String,
    #[command(flatten)]
    common: Common,
}

fn environments() -> PossibleValuesParser {
    PossibleValuesParser::new(Environment::ALL.map(Environment::name))
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}

/// Carries out one of the commands.
pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Endpoints(ShowArgs { common }) => {
            let api = common.open()?;
            let answer = api.get("/learnink", &[]).await?;
            common.show(&answer, |endpoints: Endpoints| endpoints.print())?;
        }
        Command::Endpoint(command) => endpoint(command).await?,
        Command::SendExample(args) => args.common.act(send_example(&args)?).await?,
        Command::Messages(args) => messages(&args).await?,
        Command::Message(args) => message(&args).await?,
        Command::Resend(args) => args.common.act(resend(&args)).await?,
        Command::Recover(args) => recover(&args).await?,
        Command::Replay(args) => args.common.act(attempt(&args, "replay")).await?,
        Command::Now(args) => args.common.act(attempt(&args, "now")).await?,
        Command::Rotate(args) => rotate(&args).await?,
        Command::Answer(args) => args.common.act(answer(&args)).await?,
        Command::Speed(args) => args.common.act(speed(&args)).await?,
        Command::Scene(args) => args.common.act(scene(&args)).await?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Common {
    fn open(&self) -> anyhow::Result<Api> {
        Api::open(&self.state.folder)
    }

    /// Prints an answer as JSON, or as a person wants it.
    fn show<T: DeserializeOwned>(
        &self,
        answer: &Value,
        show: impl FnOnce(T) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        if self.json {
            return output::print_json(&serde_json::to_string_pretty(answer)?);
        }
        show(
            T::deserialize(answer)
                .context("the console's answer is of another version; restart `learnink dev`")?,
        )
    }

    /// Asks for a change, and prints what was done.
    async fn act(&self, request: Request) -> anyhow::Result<()> {
        let answer = self.open()?.send(&request).await?;
        self.show(&answer, |changed: Changed| print(changed.done))
    }
}

async fn endpoint(command: EndpointCommand) -> anyhow::Result<()> {
    match command {
        EndpointCommand::Add(args) => {
            let request = add(&args)?;
            let api = args.common.open()?;
            let answer = api.send(&request).await?;
            args.common.show(&answer, |changed: Changed| {
                print(changed.done)?;
                if args.secret_file.is_none() { note(where_the_secret_is(&api)) } else { Ok(()) }
            })
        }
        EndpointCommand::Change(args) => args.common.act(change(&args)).await,
        EndpointCommand::Enable(args) => args.common.act(of_endpoint(&args.id, "enable")).await,
        EndpointCommand::Disable(args) => args.common.act(of_endpoint(&args.id, "disable")).await,
        EndpointCommand::Remove(args) => args.common.act(of_endpoint(&args.id, "remove")).await,
    }
}

fn of_endpoint(id: &str, act: &str) -> Request {
    Request::post(&["/learnink/endpoints/", &encoded(id), "/", act].concat())
}

fn of_message(id: &MessageId, act: &str) -> Request {
    Request::post(&["/learnink/messages/", &encoded(id.as_str()), "/", act].concat())
}

fn add(args: &AddArgs) -> anyhow::Result<Request> {
    let request = Request::post("/learnink/endpoints")
        .with("url", &args.url)
        .with("environment", &args.environment)
        .with("types", &args.event_types.join(" "));
    with_secret(request, args.secret_file.as_ref())
}

fn change(args: &ChangeArgs) -> Request {
    of_endpoint(&args.id, "change").with("url", &args.url).with("types", &args.event_types.join(" "))
}

fn with_secret(request: Request, file: Option<&PathBuf>) -> anyhow::Result<Request> {
    let Some(file) = file else { return Ok(request) };
    let secret = String::from_utf8(input::read(file)?).ok();
    let secret =
        secret.filter(|secret| !secret.trim().is_empty()).context("there is no secret in the file")?;
    Ok(request.with("secret", secret.trim()))
}

fn send_example(args: &ExampleArgs) -> anyhow::Result<Request> {
    let mut request = Request::post("/learnink/testing")
        .with("type", &args.event_type)
        .with_some("endpoint", args.endpoint.endpoint.as_deref())
        .with_flag("fresh", args.fresh);
    if let Some(file) = &args.payload {
        let payload = String::from_utf8(input::read(file)?).ok();
        let payload = payload.filter(|payload| !payload.trim().is_empty());
        request = request.with("payload", &payload.context("the payload is empty, or not UTF-8")?);
    }
    Ok(request)
}

async fn messages(args: &MessagesArgs) -> anyhow::Result<()> {
    let api = args.common.open()?;
    let answer = api.get("/learnink/messages", &filter(args, now())?).await?;
    args.common.show(&answer, |messages: Messages| {
        messages.print()?;
        match messages.before {
            Some(before) => note(format!("there are older ones: add --before {before}")),
            None => Ok(()),
        }
    })
}

/// The query of a list of messages.
fn filter(args: &MessagesArgs, now: Timestamp) -> anyhow::Result<Vec<(&'static str, String)>> {
    let at = |time: Option<Time>| time.map(|time| anyhow::Ok(time.at(now)?.to_string())).transpose();
    let fields = [
        ("environment", args.environment.clone()),
        ("endpoint", args.endpoint.endpoint.clone()),
        ("type", args.event_type.clone()),
        ("status", args.status.clone()),
        ("since", at(args.since).context("--since cannot be used")?),
        ("until", at(args.until).context("--until cannot be used")?),
        ("before", args.before.map(|before| before.to_string())),
    ];
    Ok(fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
}

async fn message(args: &MessageArgs) -> anyhow::Result<()> {
    let api = args.common.open()?;
    let answer = if args.reveal {
        api.send(&of_message(&args.id, "reveal")).await?
    } else {
        api.get(&format!("/learnink/messages/{}", encoded(args.id.as_str())), &[]).await?
    };
    args.common.show(&answer, |message: Message| message.print())
}

fn resend(args: &ResendArgs) -> Request {
    of_message(&args.id, "resend")
        .with_some("endpoint", args.endpoint.endpoint.as_deref())
        .with_flag("again", args.again)
        .with_some("reason", args.reason.as_deref())
}

fn attempt(args: &AttemptArgs, act: &str) -> Request {
    of_message(&args.id, act).with_some("endpoint", args.endpoint.endpoint.as_deref())
}

async fn recover(args: &RecoverArgs) -> anyhow::Result<()> {
    let now = now();
    let since = args.since.at(now).context("--since cannot be used")?;
    let until = args.until.map(|until| until.at(now)).transpose().context("--until cannot be used")?;
    let api = args.common.open()?;
    let endpoint = api.endpoint(args.endpoint.endpoint.as_deref()).await?;
    let request = of_endpoint(&endpoint, "recover")
        .with("since", &since.to_string())
        .with_some("until", until.map(|until| until.to_string()).as_deref());
    let answer = api.send(&request).await?;
    args.common.show(&answer, |changed: Changed| print(changed.done))
}

async fn rotate(args: &RotateArgs) -> anyhow::Result<()> {
    let api = args.common.open()?;
    let endpoint = api.endpoint(args.endpoint.endpoint.as_deref()).await?;
    let request = of_endpoint(&endpoint, "rotate").with("overlap", &args.overlap);
    let mut answer = api.send(&with_secret(request, args.secret_file.as_ref())?).await?;
    if !args.reveal {
        return args.common.show(&answer, |changed: Changed| {
            print(changed.done)?;
            note(where_the_secret_is(&api))
        });
    }
    let revealed = api.send(&of_endpoint(&endpoint, "reveal")).await?;
    // The newest one is the first.
    let secret = revealed.pointer("/revealed/secrets/0").cloned();
    let secret = secret.context("the console does not show the new secret")?;
    if let (true, Some(answer)) = (args.common.json, answer.as_object_mut()) {
        answer.insert("secret".to_owned(), secret.clone());
    }
    args.common.show(&answer, |changed: Changed| {
        note(changed.done)?;
        print(secret.as_str().unwrap_or_default())
    })
}

fn where_the_secret_is(api: &Api) -> String {
    format!("its secret is on the page {}, after a reveal", api.page("/learnink"))
}

fn answer(args: &AnswerArgs) -> Request {
    let next = args.next.or_else(|| args.share.is_none().then_some(1));
    Request::post("/learnink/fault")
        .with("answer", &args.answer)
        .with_some("next", next.map(|next| next.to_string()).as_deref())
        .with_some("share", args.share.map(|share| share.to_string()).as_deref())
        .with_some("retry_after", args.retry_after.map(|seconds| seconds.to_string()).as_deref())
}

fn speed(args: &SpeedArgs) -> Request {
    Request::post("/learnink/speed").with("speed", &args.speed)
}

fn scene(args: &SceneArgs) -> Request {
    Request::post("/learnink/scene").with("scene", &args.scene).with("environment", &args.environment)
}

/// What to type when no `learnink dev` runs.
fn start_it() -> String {
    format!("start `{}`", called::dev())
}

#[cfg(test)]
mod tests;
