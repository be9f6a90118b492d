//! `learnink learners` and `learnink unknown`: the tables of the handlers.

use std::path::Path;

use anyhow::Context;
use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use jiff::Timestamp;
use learnink_connectors::TableError;
use learnink_connectors::progress::Learners;
use learnink_connectors::unknown::{UnknownEvent, UnknownEvents};
use learnink_local::pipeline::{LEARNERS_TABLE, QUEUE, UNKNOWN_EVENTS_TABLE};
use learnink_local::terminal::quoted;
use learnink_local::{LocalDynamoDb, LocalSqs, sdk_config, state};

use crate::aws::{self, IN_AWS};
use crate::output::note;
use crate::stack::{Stack, Target};
use crate::table::Column::{Id, Number, Text};
use crate::{called, table};

/// Options of the commands that show a table.
#[derive(Debug, clap::Args)]
#[command(after_help = IN_AWS)]
pub(crate) struct Args {
    /// Name of the table in AWS, for one that is not part of a stack
    #[arg(long, value_name = "TABLE", hide = true)]
    table: Option<String>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// Shows the learners' table.
pub(crate) async fn learners(args: &Args) -> anyhow::Result<()> {
    let read = async |aws: SdkConfig, table: &str| Learners::new(&aws, table).all().await;
    let courses = args.read(LEARNERS_TABLE.name, "LearnersTableName", read).await?;
    let empty = args.empty(courses.is_some(), "no course start has been recorded");
    let courses = courses.unwrap_or_default();
    if args.json {
        return table::print_json(&courses);
    }
    let columns = [Id("Learner"), Id("Your id"), Id("Course"), Text("First start"), Text("Last activity")];
    let rows = courses.iter().map(|course| {
        [
            course.user_id.clone(),
            course.custom_id.clone().unwrap_or_else(|| "-".to_owned()),
            course.course_id.clone(),
            course.first_started_at.map_or_else(|| "-".to_owned(), |at| at.to_string()),
            course.last_activity_at.to_string(),
        ]
    });
    table::print(columns, rows, courses.len(), &empty)
}

/// Shows the events that no handler took: a summary by type and version, or each event as JSON.
pub(crate) async fn unknown_events(args: &Args) -> anyhow::Result<()> {
    let read = async |aws: SdkConfig, table: &str| UnknownEvents::new(&aws, table).all().await;
    let events = args.read(UNKNOWN_EVENTS_TABLE.name, "UnknownEventsTableName", read).await?;
    let empty = args.empty(events.is_some(), "no event without a handler has been stored");
    let events = events.unwrap_or_default();
    if args.json {
        return table::print_json(&events);
    }
    let columns = [
        Id("Type"),
        Id("Version"),
        Number("Events"),
        Text("First happened"),
        Text("Last happened"),
        Id("Latest message id"),
    ];
    let rows = summary(&events).map(|of_type| {
        [
            or_none(of_type.event_type, "(not an event)"),
            or_none(of_type.api_version, "-"),
            of_type.count.to_string(),
            of_type.first.map_or_else(|| "-".to_owned(), table::seconds),
            of_type.last.map_or_else(|| "-".to_owned(), table::seconds),
            of_type.latest_message_id.to_owned(),
        ]
    });
    table::print(columns, rows, events.len(), &empty)
}

/// A text, or `none` if it is empty.
fn or_none(text: &str, none: &str) -> String {
    if text.is_empty() { none } else { text }.to_owned()
}

/// The events of one type and version.
#[derive(Debug, PartialEq, Eq)]
struct OfType<'a> {
    event_type: &'a str,
    api_version: &'a str,
    count: usize,
    /// When the first and the last of them happened, as far as they say so.
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    latest_message_id: &'a str,
}

/// The summary by type and version, of events in the order of [`UnknownEvents::all`].
fn summary(events: &[UnknownEvent]) -> impl Iterator<Item = OfType<'_>> {
    let is_same = |a: &UnknownEvent, b: &UnknownEvent| {
        (&a.event_type, &a.api_version) == (&b.event_type, &b.api_version)
    };
    events.chunk_by(is_same).filter_map(|events| {
        let (first, last) = (events.first()?, events.last()?);
        Some(OfType {
            event_type: &first.event_type,
            api_version: &first.api_version,
            count: events.len(),
            first: events.iter().find_map(|event| event.occurred_at),
            last: last.occurred_at,
            latest_message_id: &last.message_id,
        })
    })
}

impl Args {
    /// The rows of the table in AWS, which is an output of the stack, or of the table `in_dev` in the state of
    /// `learnink dev`; `None` before its first start.
    async fn read<T>(
        &self,
        in_dev: &str,
        output: &str,
        read: impl AsyncFnOnce(SdkConfig, &str) -> Result<Vec<T>, TableError>,
    ) -> anyhow::Result<Option<Vec<T>>> {
        if let Some((aws, table)) = self.in_aws(output).await? {
            let region = aws::region(&aws).to_owned();
            let rows = read(aws, &table).await.map_err(|error| {
                let error = anyhow::Error::from(error);
                anyhow::anyhow!("{error} in {region}: {}", error.root_cause())
            });
            return rows.map(Some);
        }
        let folder = &self.target.state.folder;
        let Some(dynamodb) = open(folder).await? else { return Ok(None) };
        // Counted first, so that a message that is handled meanwhile is counted and shown, not neither.
        let waiting = waiting(folder).await?;
        let rows = read(sdk_config(dynamodb.endpoint()), in_dev).await?;
        if waiting > 0 {
            let messages = if waiting == 1 { "1 message is" } else { &format!("{waiting} messages are") };
            note(format!("{messages} still on the queue; their results may be missing here"))?;
        }
        Ok(Some(rows))
    }

    /// The table in AWS, if that is where to look.
    async fn in_aws(&self, output: &str) -> anyhow::Result<Option<(SdkConfig, String)>> {
        if let Some(table) = &self.table {
            return Ok(Some((self.target.in_aws.config()?, table.clone())));
        }
        let Some(stack) = self.target.in_aws.stack().await? else { return Ok(None) };
        let table = stack.output(output)?.to_owned();
        Ok(Some((stack.aws, table)))
    }

    /// The text if there are no rows.
    fn empty(&self, has_started: bool, empty: &str) -> String {
        if has_started {
            return empty.to_owned();
        }
        format!(
            "no `learnink dev` has run in {}; start `{}` and send a webhook, or name a deployed stack with --stack",
            quoted(&self.target.state.folder),
            called::dev()
        )
    }
}

/// How many messages the queue of the `learnink dev` that runs in `folder` still has; zero if none runs.
async fn waiting(folder: &Path) -> anyhow::Result<usize> {
    let Some(endpoint) = state::address(folder, state::Service::Sqs)? else { return Ok(0) };
    let client = Client::new(&sdk_config(&endpoint));
    // It may have stopped since, but its tables can still be shown.
    Ok(aws::count_messages(&client, &LocalSqs::queue_url(QUEUE)).await.unwrap_or_default())
}

/// The unknown events of a stack, or else of the `learnink dev` in `folder`, with the engine of its tables; `None` before
/// its first start.
pub(crate) async fn unknown_events_in(
    stack: Option<&Stack>,
    folder: &Path,
) -> anyhow::Result<Option<(UnknownEvents, Option<LocalDynamoDb>)>> {
    if let Some(stack) = stack {
        let table = stack.output("UnknownEventsTableName")?;
        return Ok(Some((UnknownEvents::new(&stack.aws, table), None)));
    }
    Ok(open(folder).await?.map(|tables| {
        let aws = sdk_config(tables.endpoint());
        (UnknownEvents::new(&aws, UNKNOWN_EVENTS_TABLE.name), Some(tables))
    }))
}

/// The tables of `learnink dev`, whether or not it is running on them; `None` before its first start.
pub(crate) async fn open(folder: &Path) -> anyhow::Result<Option<LocalDynamoDb>> {
    let database = state::database_file(folder);
    if !database.try_exists().with_context(|| format!("cannot look at {}", quoted(&database)))? {
        return Ok(None);
    }
    Ok(Some(LocalDynamoDb::start(Some(&database)).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_summed_up_by_type_and_version() {
        let event = |event_type: &str, api_version: &str, occurred_at: &str, id: &str| UnknownEvent {
            event_type: event_type.to_owned(),
            api_version: api_version.to_owned(),
            occurred_at: occurred_at.parse().ok(),
            received_at: Timestamp::UNIX_EPOCH,
            message_id: id.to_owned(),
        };
        let events = [
            event("a", "2022-11-15", "not said", "msg_0"),
            event("a", "2022-11-15", "2026-01-01T00:00:00Z", "msg_1"),
            event("a", "2022-11-15", "2026-01-03T00:00:00Z", "msg_2"),
            event("a", "2027-01-01", "2026-01-02T00:00:00Z", "msg_3"),
            event("b", "2022-11-15", "2026-01-02T00:00:00Z", "msg_4"),
        ];
        let of_types: Vec<_> = summary(&events).collect();
        let counts =
            of_types.iter().map(|of| (of.event_type, of.api_version, of.count, of.latest_message_id));
        assert_eq!(
            counts.collect::<Vec<_>>(),
            [
                ("a", "2022-11-15", 3, "msg_2"),
                ("a", "2027-01-01", 1, "msg_3"),
                ("b", "2022-11-15", 1, "msg_4")
            ]
        );
        assert_eq!((of_types[0].first, of_types[0].last), (events[1].occurred_at, events[2].occurred_at));
        assert_eq!(summary(&[]).count(), 0);
    }
}
