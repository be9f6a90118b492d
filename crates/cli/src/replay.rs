//! `learnink replay`: windows in which finished work runs again.

mod kept;
pub(crate) mod run;

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Context;
use clap::ArgGroup;
use clap::builder::NonEmptyStringValueParser;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};
use learnink_aws::Env;
use learnink_consumer::replay::{Closing, Coverage, ReplayWindow};
use learnink_local::pipeline::on_this_machine;
use learnink_local::{sdk_config, terminal};
use learnink_webhook::MessageId;
use serde::Serialize;

use crate::aws::IN_AWS;
use crate::ledger::OpenLedger;
use crate::output::{note, print};
use crate::stack::Target;
use crate::table::Column::{Id, Text};
use crate::table::seconds;
use crate::{called, now, table, variable};

/// The longest window, so that a forgotten one ends.
const LONGEST: SignedDuration = SignedDuration::from_hours(7 * 24);

/// By how much AWS's clock may differ from this machine's without a warning.
const WORTH_SAYING: SignedDuration = SignedDuration::from_secs(30);

/// How many message ids of a window are shown; `--json` has them all.
const SHOWN_MESSAGES: usize = 3;

/// The commands of `learnink replay`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Handle again what the archive or the table of unknown events has kept, without LearnInk
    Run(Box<run::Args>),
    /// Open a replay window: until it closes, each message that it covers is handled again, once
    Open(Box<OpenArgs>),
    /// Show the replay windows that are open
    List(ListArgs),
    /// Close a replay window early; handlers that failed under it are not tried again
    Close(CloseArgs),
}

/// Options of `learnink replay open`.
#[derive(Debug, clap::Args)]
#[command(
    group(ArgGroup::new("covers").required(true).args(["messages", "since"])),
    after_help = format!("\
The window itself sends nothing. While it is open, what LearnInk sends again with the same message id, by \
Resend in its dashboard, is not taken for a duplicate: each handler runs again once per message \
and window, under a new idempotency key. Of what was answered 200, Resend sends one message at a time; \
`replay run` sends many, from what is kept. What arrived in time and failed comes back under it, even later. \
A handler that gives up on old events, as `push` does after a day, still does, unless --handler names it.

TIME is 2026-01-02T08:00:00Z or with another offset, 2026-01-02T08:00 or 2026-01-02 in UTC, or '2h ago'. \
For a ledger in AWS, now is what AWS's clock says.

Examples:
  cargo learnink replay open --message msg_2Xb --reason \"its grant was lost\"
  cargo learnink replay open --since '3h ago' --type user.course.started \\
    --reason \"backup restored\"

{IN_AWS}")
)]
pub(crate) struct OpenArgs {
    /// Cover these messages
    #[arg(long = "message", value_name = "ID", num_args = 1.., value_parser = MessageId::parse)]
    messages: Vec<MessageId>,
    /// Cover messages that the consumer saw for the first time at or after TIME. That is when a message first
    /// arrived here, not when its event happened or when it was sent again
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Time>,
    /// Cover only messages that the consumer saw for the first time before TIME; without it, before now. A message
    /// that first arrives later is handled anyway, and its duplicates stay duplicates
    #[arg(long, value_name = "TIME", requires = "since", conflicts_with = "messages", value_parser = parse_time)]
    until: Option<Time>,
    /// Cover only events of this type
    #[arg(long = "type", value_name = "EVENT_TYPE", requires = "since", conflicts_with = "messages")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    event_type: Option<String>,
    /// Run only these handlers again; without it, all
    #[arg(long = "handler", value_name = "NAME", num_args = 1..)]
    handlers: Vec<String>,
    /// Close by itself after this time, such as 90m, 2h or 3d; at most 7d
    #[arg(long = "for", value_name = "DURATION", default_value = "2h", value_parser = duration)]
    lasts: SignedDuration,
    /// Why, for people who see the window
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    reason: String,
    #[command(flatten)]
    operator: Operator,
    #[command(flatten)]
    place: Place,
}

/// Options of `learnink replay list`.
#[derive(Debug, clap::Args)]
#[command(after_help = IN_AWS)]
pub(crate) struct ListArgs {
    /// Show ended windows too
    #[arg(long)]
    all: bool,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// Options of `learnink replay close`.
#[derive(Debug, clap::Args)]
#[command(after_help = IN_AWS)]
pub(crate) struct CloseArgs {
    /// The window's id, as `learnink replay list` shows it
    id: String,
    #[command(flatten)]
    operator: Operator,
    #[command(flatten)]
    place: Place,
}

/// The operator.
#[derive(Debug, clap::Args)]
pub(crate) struct Operator {
    /// Your name, which is kept; without it, $USER or $LOGNAME
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    by: Option<String>,
}

/// Where the windows are.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// Name of the ledger's table in AWS, for one that is not part of a stack
    #[arg(long, value_name = "TABLE", hide = true)]
    ledger: Option<String>,
    #[command(flatten)]
    target: Target,
}

/// Carries out one of the commands.
pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => return run::run(&args).await,
        Command::Open(args) => open(&args).await?,
        Command::List(args) => list(&args).await?,
        Command::Close(args) => close(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn open(args: &OpenArgs) -> anyhow::Result<()> {
    let by = args.operator.name(variable)?;
    let handlers = known_handlers(&args.handlers)?;
    let ledger = args.place.open().await?.with_context(|| args.place.not_started())?;
    // Its answer shows the time by which the consumer works.
    ledger.replay_windows().await?;
    let window = window(args, handlers, fresh_id(), by, ledger.now()?)?;
    ledger.open_replay_window(&window).await?;
    print(format!(
        "opened replay window {} in {}, until {}: {}, {}",
        window.id,
        ledger.name,
        seconds(window.expires_at),
        covers(&window.covers),
        handlers_of(&window)
    ))
    .with_context(|| format!("replay window {} is open, but this could not be printed", window.id))?;
    let (resend, close) = (args.place.how_to_resend(), args.place.command(&format!("close {}", window.id)));
    print(format!("Next: {resend}."))?;
    print(format!("To end it early: {close}"))?;
    if let Some(warning) = clock_warning(ledger.clock_ahead()) {
        note(warning)?;
    }
    for id in &args.messages {
        if ledger.entry(id.into()).await?.is_none() {
            let place = &ledger.name;
            note(format!("warning: {place} has no message {id}, so that the window does nothing for it"))?;
        }
    }
    Ok(())
}

/// The warning about a clock that is `ahead` of this machine's.
fn clock_warning(ahead: SignedDuration) -> Option<String> {
    if ahead.abs() <= WORTH_SAYING {
        return None;
    }
    let side = if ahead.is_positive() { "behind" } else { "ahead of" };
    let seconds = ahead.abs().as_secs();
    Some(format!("warning: the clock of this machine is {seconds} s {side} AWS's; the window goes by AWS's"))
}

async fn list(args: &ListArgs) -> anyhow::Result<()> {
    let (mut windows, empty, now) = match args.place.open().await? {
        Some(ledger) => {
            let none = if args.all { "has been opened yet" } else { "is open" };
            let windows = ledger.replay_windows().await?;
            (windows, format!("no replay window {none} in {}", ledger.name), ledger.now()?)
        }
        None => (Vec::new(), args.place.not_started(), now()),
    };
    for unreadable in windows.extract_if(.., |window| window.is_err()).filter_map(Result::err) {
        note(format!("warning: {unreadable}"))?;
    }
    let windows = windows.into_iter().flatten().filter(|window| args.all || window.is_open(now));
    let listed: Vec<_> = windows.map(|window| Listed::new(window, now)).collect();
    if args.json {
        return table::print_json(&listed);
    }
    let columns = [
        Id("Id"),
        Text("Covers"),
        Text("Handlers"),
        Text("Opened"),
        Text("By"),
        Text("Ends"),
        Text("Reason"),
        Text("State"),
    ];
    let rows = listed.iter().map(|Listed { state, window }| {
        let state = match &window.closed {
            Some(closing) => closed(closing),
            None => (*state).to_owned(),
        };
        [
            window.id.clone(),
            covers(&window.covers),
            handlers_of(window),
            seconds(window.opened_at),
            window.opened_by.clone(),
            seconds(window.expires_at),
            window.reason.clone(),
            state,
        ]
    });
    table::print(columns, rows, listed.len(), &empty)
}

async fn close(args: CloseArgs) -> anyhow::Result<()> {
    let CloseArgs { id, operator, place } = args;
    let by = operator.name(variable)?;
    let ledger = place.open().await?.with_context(|| place.not_started())?;
    // Its answer shows the time by which the consumer works.
    ledger.replay_windows().await?;
    let closing = Closing { by, at: ledger.now()? };
    let name = &ledger.name;
    let Some(window) = ledger.close_replay_window(&id, closing.clone()).await? else {
        let list = place.command("list");
        anyhow::bail!(
            "no replay window in {name} has the id `{id}`; `{list}` lists them; add --all for those that ended"
        );
    };
    match &window.closed {
        Some(earlier) if *earlier != closing => {
            print(format!("replay window {id} in {name} had ended already: {}", closed(earlier)))
        }
        _ => print(format!("closed replay window {id} in {name}"))
            .with_context(|| format!("replay window {id} is closed, but this could not be printed")),
    }
}

/// A window as it is listed.
#[derive(Debug, Serialize)]
struct Listed {
    /// `open`, `closed` or `expired`.
    state: &'static str,
    #[serde(flatten)]
    window: ReplayWindow,
}

impl Listed {
    fn new(window: ReplayWindow, now: Timestamp) -> Self {
        let state = match &window.closed {
            Some(_) => "closed",
            None if window.is_open(now) => "open",
            None => "expired",
        };
        Self { state, window }
    }
}

impl Operator {
    /// The operator's name.
    pub(crate) fn name(&self, variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<String> {
        let name = self.by.clone().or_else(|| variable("USER")).or_else(|| variable("LOGNAME"));
        name.context("neither $USER nor $LOGNAME says who you are; pass --by NAME")
    }
}

impl Place {
    /// `None` before the first start of `learnink dev`.
    pub(crate) async fn open(&self) -> anyhow::Result<Option<OpenLedger>> {
        if let Some(table) = &self.ledger {
            return Ok(Some(OpenLedger::in_aws(&self.target.in_aws.config()?, table)));
        }
        match self.target.in_aws.stack().await? {
            Some(stack) => Ok(Some(OpenLedger::in_aws(&stack.aws, stack.output("LedgerTableName")?))),
            None => OpenLedger::of_dev(&self.target.state.folder).await,
        }
    }

    /// The text before the first start.
    pub(crate) fn not_started(&self) -> String {
        format!(
            "no `learnink dev` has run in {}; start `{}`, or name a deployed stack with --stack",
            terminal::quoted(&self.target.state.folder),
            called::dev()
        )
    }

    /// The line to type for `command` with the same ledger.
    fn command(&self, command: &str) -> String {
        let learnink = called::learnink();
        match &self.ledger {
            Some(table) => format!("{learnink} replay {command} {}", terminal::option("--ledger", table)),
            None => format!("{learnink} replay {command}{}", self.target.options()),
        }
    }

    fn how_to_resend(&self) -> String {
        const RESEND: &str = "have LearnInk send the messages again, with Resend in its dashboard";
        if self.ledger.is_some() || self.target.is_stack() {
            return RESEND.to_owned();
        }
        format!(
            "{RESEND}, if that is who sent them; what you sent yourself, send as before with \
             `{} send --id ID{}`",
            called::learnink(),
            self.target.options()
        )
    }
}

/// The window that `args` ask for.
fn window(
    args: &OpenArgs,
    handlers: BTreeSet<String>,
    id: String,
    by: String,
    now: Timestamp,
) -> anyhow::Result<ReplayWindow> {
    let covers = match args.since {
        None => Coverage::Messages(args.messages.iter().map(ToString::to_string).collect()),
        Some(since) => {
            let from = since.at(now).context("--since cannot be used")?;
            let until =
                args.until.map_or(Ok(now), |until| until.at(now)).context("--until cannot be used")?;
            anyhow::ensure!(from < until, "--until has to be later than --since");
            Coverage::FirstSeen { event_type: args.event_type.clone(), from, until: Some(until) }
        }
    };
    Ok(ReplayWindow {
        id,
        covers,
        handlers,
        reason: args.reason.clone(),
        opened_by: by,
        opened_at: now,
        expires_at: now.checked_add(args.lasts).context("--for cannot be used")?,
        closed: None,
    })
}

/// The handlers of these names, all of which must exist.
fn known_handlers(names: &[String]) -> anyhow::Result<BTreeSet<String>> {
    if names.is_empty() {
        return Ok(BTreeSet::new());
    }
    // Only for the names; nothing is called. A handler that is switched off here is known too: it may be on in the
    // stack that the window is for.
    let env = on_this_machine(Env::of([])).with_tables(sdk_config("http://localhost"));
    let known = learnink_handlers::router(&env)?.known_names();
    if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
        anyhow::bail!("no handler is named `{name}`; there are: {}", known.join(", "));
    }
    Ok(names.iter().cloned().collect())
}

/// Eight random characters of `a-z` and `0-9`.
pub(crate) fn fresh_id() -> String {
    std::iter::repeat_with(|| fastrand::digit(36)).take(8).collect()
}

fn covers(coverage: &Coverage) -> String {
    match coverage {
        Coverage::Messages(ids) => {
            let mut text: Vec<_> = ids.iter().take(SHOWN_MESSAGES).cloned().collect();
            if ids.len() > SHOWN_MESSAGES {
                text.push(format!("and {} more", ids.len() - SHOWN_MESSAGES));
            }
            text.join(", ")
        }
        Coverage::FirstSeen { event_type, from, until } => {
            let event_type = event_type.as_deref().unwrap_or("every type");
            match until {
                Some(until) => {
                    format!("{event_type}, first seen from {} to {}", seconds(*from), seconds(*until))
                }
                None => format!("{event_type}, first seen since {}", seconds(*from)),
            }
        }
        Coverage::Run(run) => format!("what `replay run {}` sends", run.filter),
    }
}

fn handlers_of(window: &ReplayWindow) -> String {
    if window.handlers.is_empty() {
        return "all handlers".to_owned();
    }
    window.handlers.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn closed(closing: &Closing) -> String {
    format!("closed by {} {}", closing.by, seconds(closing.at))
}

/// A time from the command line. The current time is known once the ledger has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    At(Timestamp),
    Ago(SignedDuration),
}

impl Time {
    /// The time, which must not be in the future.
    pub(crate) fn at(self, now: Timestamp) -> anyhow::Result<Timestamp> {
        match self {
            Self::At(time) if time > now => {
                anyhow::bail!("that is in the future; it is {} now", seconds(now))
            }
            Self::At(time) => Ok(time),
            Self::Ago(ago) => now.checked_sub(ago).context("that is too long ago"),
        }
    }
}

/// A time with an offset, or without one in UTC, or a time ago.
pub(crate) fn parse_time(text: &str) -> Result<Time, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(Time::At(time));
    }
    if let Ok(time) = text.parse::<DateTime>() {
        return TimeZone::UTC.to_timestamp(time).map(Time::At).map_err(|error| error.to_string());
    }
    let ago = text.strip_suffix("ago").map(str::trim_end).and_then(parse_duration);
    ago.map(Time::Ago).ok_or_else(|| {
        "expected a time such as 2026-01-02T08:00:00Z, a date such as 2026-01-02, or '2h ago'".to_owned()
    })
}

fn duration(text: &str) -> Result<SignedDuration, String> {
    match parse_duration(text) {
        Some(duration) if duration <= LONGEST => Ok(duration),
        Some(_) => Err("a replay window closes after 7 days at most".to_owned()),
        None => Err("expected a duration such as 90m, 2h or 3d".to_owned()),
    }
}

/// A positive duration; a day has 24 hours.
fn parse_duration(text: &str) -> Option<SignedDuration> {
    let span = text.parse::<Span>().ok()?;
    span.to_duration(SpanRelativeTo::days_are_24_hours()).ok().filter(SignedDuration::is_positive)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::DEFAULT_STATE;

    #[derive(Debug, Parser)]
    struct Open {
        #[command(flatten)]
        args: OpenArgs,
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    const NOW: &str = "2026-01-02T10:00:00Z";

    /// The window that `arguments` open at [`NOW`], or what is wrong with them.
    fn opened(arguments: &[&str]) -> Result<ReplayWindow, String> {
        let arguments = ["open", "--reason", "because"].iter().chain(arguments);
        let open = Open::try_parse_from(arguments).map_err(|error| error.to_string())?;
        let handlers = known_handlers(&open.args.handlers).map_err(|error| error.to_string())?;
        let window = window(&open.args, handlers, "w1".to_owned(), "kim".to_owned(), at(NOW));
        window.map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_window_covers_the_messages_that_are_named() {
        let window = opened(&["--message", "msg_2", "msg_1", "--message", "msg_1"]).unwrap();
        assert_eq!(window.covers, Coverage::Messages(["msg_1", "msg_2"].map(str::to_owned).into()));
        assert!(window.handlers.is_empty());
        assert_eq!((window.opened_at, window.expires_at), (at(NOW), at("2026-01-02T12:00:00Z")));
    }

    #[test]
    fn a_window_covers_what_was_first_seen_in_a_range() {
        let arguments = ["--since", "2026-01-01", "--until", "2026-01-02T09:00", "--type", "example.type"];
        let handlers_and_time = ["--handler", "progress", "push", "archive", "bus", "--for", "90m"];
        let window = opened(&[&arguments[..], &handlers_and_time].concat()).unwrap();
        assert_eq!(
            covers(&window.covers),
            "example.type, first seen from 2026-01-01 00:00:00Z to 2026-01-02 09:00:00Z"
        );
        assert_eq!(handlers_of(&window), "archive, bus, progress, push");
        let until_now = opened(&["--since", "2026-01-01"]).unwrap();
        assert_eq!(
            covers(&until_now.covers),
            "every type, first seen from 2026-01-01 00:00:00Z to 2026-01-02 10:00:00Z"
        );
        assert_eq!(window.expires_at, at("2026-01-02T11:30:00Z"));
    }

    #[test]
    fn what_a_window_cannot_be_is_said() {
        let cases: [(&[&str], &str); 8] = [
            (&[], "--message <ID>...|--since <TIME>"),
            (&["--message", "a.b"], "the message id is empty, over 256 bytes"),
            (&["--message", "msg_1", "--since", "2026-01-01"], "cannot be used with"),
            (&["--message", "msg_1", "--type", "t"], "cannot be used with"),
            (
                &["--since", "2026-01-02T10:00:01Z"],
                "--since cannot be used: that is in the future; it is 2026-01-02 10:00:00Z now",
            ),
            (&["--since", "2026-01-01", "--until", "2026-01-01"], "--until has to be later than --since"),
            (&["--message", "msg_1", "--for", "8d"], "7 days at most"),
            (&["--message", "msg_1", "--handler", "pus"], "no handler is named `pus`; there are: progress, "),
        ];
        for (arguments, expected) in cases {
            let error = opened(arguments).unwrap_err();
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn times_are_with_an_offset_or_in_utc_or_ago() {
        for (text, expected) in [
            ("2026-01-02T08:00:00Z", "2026-01-02T08:00:00Z"),
            ("2026-01-02T08:00+02:00", "2026-01-02T06:00:00Z"),
            ("2026-01-02T08:00", "2026-01-02T08:00:00Z"),
            ("2026-01-02", "2026-01-02T00:00:00Z"),
            ("2h ago", "2026-01-02T08:00:00Z"),
            ("1d 30m ago", "2026-01-01T09:30:00Z"),
        ] {
            assert_eq!(parse_time(text).unwrap().at(at(NOW)).unwrap(), at(expected), "{text}");
        }
        for text in ["", "yesterday", "2h", "ago", "-2h ago", "08:00", "2026-13-01"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_positive() {
        let hours = |text| parse_duration(text).map(|duration| duration.as_hours());
        assert_eq!(
            (hours("120m"), hours("2h"), hours("3d"), hours("1w")),
            (Some(2), Some(2), Some(72), Some(168))
        );
        for text in ["", "0s", "-2h", "2h ago", "1 month", "2"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn the_id_is_one_that_keys_can_have() {
        let id = fresh_id();
        assert!(id.len() == 8 && id.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9')), "{id}");
    }

    #[test]
    fn many_messages_are_counted_rather_than_listed() {
        let ids = (1..=5).map(|number| format!("msg_{number}")).collect();
        assert_eq!(covers(&Coverage::Messages(ids)), "msg_1, msg_2, msg_3, and 2 more");
    }

    fn place(ledger: Option<&str>, target: Target) -> Place {
        Place { ledger: ledger.map(str::to_owned), target }
    }

    #[test]
    fn what_to_type_next_is_for_the_same_place_and_can_be_pasted() {
        let command = |place: Place| {
            let command = place.command("close w1");
            command.strip_prefix(called::learnink()).unwrap().to_owned()
        };
        assert_eq!(command(place(None, Target::dev(DEFAULT_STATE))), " replay close w1");
        assert_eq!(command(place(None, Target::dev("st sp/$x"))), " replay close w1 --state 'st sp/$x'");
        let in_aws = Target::deployed("staging", Some("on call"));
        assert_eq!(command(place(None, in_aws)), " replay close w1 --stack staging --profile 'on call'");
        let table = place(Some("a b"), Target::dev(DEFAULT_STATE));
        assert_eq!(command(table), " replay close w1 --ledger 'a b'");
        let resend = place(None, Target::dev("st sp")).how_to_resend();
        assert!(resend.contains("with Resend in its dashboard"), "{resend}");
        assert!(resend.ends_with("send --id ID --state 'st sp'`"), "{resend}");
        assert!(!place(None, Target::deployed("staging", None)).how_to_resend().contains("--id"));
    }

    #[test]
    fn a_clock_that_is_far_from_that_of_aws_is_said() {
        let warning = |seconds| clock_warning(SignedDuration::from_secs(seconds));
        assert_eq!((warning(30), warning(-30)), (None, None));
        assert!(warning(300).unwrap().contains("is 300 s behind AWS's"));
        assert!(warning(-300).unwrap().contains("is 300 s ahead of AWS's"));
    }

    #[test]
    fn the_operator_is_who_says_so_or_who_is_logged_in() {
        let name = |by: Option<&str>, variables: &[(&str, &str)]| {
            let variable =
                |name: &str| Some(variables.iter().find(|(other, _)| *other == name)?.1.to_owned());
            Operator { by: by.map(str::to_owned) }.name(variable).map_err(|error| error.to_string())
        };
        let both = [("USER", "kim"), ("LOGNAME", "lee")];
        assert_eq!(name(Some("sam"), &both).as_deref(), Ok("sam"));
        assert_eq!(name(None, &both).as_deref(), Ok("kim"));
        assert_eq!(name(None, &both[1..]).as_deref(), Ok("lee"));
        assert!(name(None, &[]).unwrap_err().contains("--by NAME"));
    }

    #[test]
    fn the_state_tells_open_closed_and_expired_apart() {
        let window = opened(&["--message", "msg_1"]).unwrap();
        let closed = Some(Closing { by: "lee".to_owned(), at: at("2026-01-02T11:00:00Z") });
        let closed = ReplayWindow { closed, ..window.clone() };
        let state = |window: &ReplayWindow, now| Listed::new(window.clone(), at(now)).state;
        assert_eq!(state(&window, "2026-01-02T11:59:59Z"), "open");
        assert_eq!(state(&window, "2026-01-02T12:00:00Z"), "expired");
        assert_eq!(state(&closed, "2026-01-02T13:00:00Z"), "closed");
    }
}
