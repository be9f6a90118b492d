//! `learnink acts`: what operators did with dead letters, kept webhooks and secrets.

use std::process::ExitCode;

use anyhow::Context;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use learnink_consumer::acts::{Act, StoredAct};
use serde_json::Value;

use crate::aws::IN_AWS;
use crate::ledger::OpenLedger;
use crate::output::note;
use crate::replay::{Place, Time, fresh_id, parse_time};
use crate::table::Column::{Id, Number, Text};
use crate::table::seconds;
use crate::{now, output, table};

/// Options of `learnink acts`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
Each redrive, drop and restore of dead letters, and each replay run, leaves an act: who, when, where, which \
messages, how many, why, and how it ended. So does each change of a secret, with the secret's fingerprint. An act \
without an end is still running, or was killed. Acts are kept for 400 days.

{IN_AWS}"))]
pub(crate) struct Args {
    /// Show acts that started at or after TIME
    #[arg(long, value_name = "TIME", default_value = "30d ago", value_parser = parse_time)]
    since: Time,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// Acts are kept for so long, and nothing older is asked for.
const REMEMBERED_FOR: SignedDuration = SignedDuration::from_hours(400 * 24);

/// Lists the acts.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let now = now();
    let since = args.since.at(now).context("--since cannot be used")?;
    let since = since.max(now.checked_sub(REMEMBERED_FOR)?);
    let (acts, empty) = match args.place.open().await? {
        Some(ledger) => {
            let day = |time: Timestamp| TimeZone::UTC.to_datetime(time).date();
            // The clock of another operator may be ahead.
            let acts = ledger.acts(day(since), day(now).tomorrow()?).await?;
            (acts, format!("no act since {} in {}", seconds(since), ledger.name))
        }
        None => (Vec::new(), args.place.not_started()),
    };
    let acts = readable(acts)?.into_iter().filter(|act| act.started_at >= since).collect::<Vec<_>>();
    if args.json {
        table::print_json(&acts)?;
        return Ok(ExitCode::SUCCESS);
    }
    let columns = [
        Id("Act"),
        Text("Started"),
        Text("By"),
        Id("Action"),
        Text("Filter"),
        Number("Selected"),
        Number("Done"),
        Text("Outcome"),
        Text("Reason"),
        Text("Where"),
    ];
    let rows = acts.iter().map(|act| {
        [
            act.id.clone(),
            seconds(act.started_at),
            act.by.clone(),
            act.action.clone(),
            act.filter.clone(),
            act.selected.to_string(),
            act.done.to_string(),
            outcome(act),
            act.reason.clone().unwrap_or_else(|| "-".to_owned()),
            act.place.clone(),
        ]
    });
    table::print(columns, rows, acts.len(), &empty)?;
    Ok(ExitCode::SUCCESS)
}

/// The acts that can be read, after a warning about each of the others.
fn readable(acts: Vec<StoredAct>) -> anyhow::Result<Vec<Act>> {
    let mut readable = Vec::new();
    for act in acts {
        match act {
            Ok(act) => readable.push(act),
            Err(unreadable) => note(format!("warning: {unreadable}"))?,
        }
    }
    Ok(readable)
}

fn outcome(act: &Act) -> String {
    match act.ended_at {
        Some(_) => act.outcome.clone(),
        None if act.outcome.is_empty() => "no end: it is running, or was killed".to_owned(),
        None => format!("{}; no end: it is running, or was killed", act.outcome),
    }
}

/// An act that is under way, and the ledger that keeps it.
pub(crate) struct OpenAct<'a> {
    ledger: &'a OpenLedger,
    act: Act,
}

/// What an act is about.
pub(crate) struct Plan {
    /// `redrive`, `drop`, `restore`, or a change of a secret.
    pub(crate) action: &'static str,
    pub(crate) by: String,
    pub(crate) place: String,
    pub(crate) filter: String,
    pub(crate) reason: Option<String>,
    pub(crate) selected: usize,
}

impl<'a> OpenAct<'a> {
    /// Records that an act starts, before anything is done.
    pub(crate) async fn start(ledger: &'a OpenLedger, plan: Plan) -> anyhow::Result<Self> {
        let Plan { action, by, place, filter, reason, selected } = plan;
        let act = Act {
            id: fresh_id(),
            action: action.to_owned(),
            by,
            place,
            filter,
            reason,
            started_at: now(),
            ended_at: None,
            selected: selected as u64,
            done: 0,
            outcome: String::new(),
        };
        ledger.record_act(&act).await.context("nothing was done, because the act cannot be recorded")?;
        Ok(Self { ledger, act })
    }

    /// Records how far it is.
    pub(crate) async fn note(&mut self, done: usize, outcome: &str) -> anyhow::Result<()> {
        self.act.done = done as u64;
        outcome.clone_into(&mut self.act.outcome);
        self.ledger.record_act(&self.act).await
    }

    /// Records its end. If that fails, a warning is enough: what was done is done.
    pub(crate) async fn end(mut self, done: usize, outcome: &str) -> anyhow::Result<Act> {
        self.act.ended_at = Some(now());
        if let Err(error) = self.note(done, outcome).await {
            note(format!("warning: the end of the act {} is not recorded: {error:#}", self.act.id))?;
        }
        Ok(self.act)
    }
}

/// Prints an act as JSON.
pub(crate) fn print_json(act: &Act) -> anyhow::Result<()> {
    let json: Value = serde_json::to_value(act)?;
    output::print_json(&serde_json::to_string_pretty(&json)?)
}
