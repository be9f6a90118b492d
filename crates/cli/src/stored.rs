//! `learnink learners` and `learnink unknown`: what the handlers stored.

use std::io::{self, Write};

use anyhow::Context;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, Table};
use learnink_handlers::progress::StartedCourse;
use learnink_handlers::unknown::UnknownEvent;
use learnink_handlers::{App, TableError};
use learnink_local::pipeline::handlers_config;
use learnink_local::{LocalDynamoDb, sdk_config, state};
use serde::Serialize;

use crate::StateFolder;

/// Options of the commands that show a table.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateFolder,
}

/// Shows the learners' table.
pub(crate) async fn learners(args: &Args) -> anyhow::Result<()> {
    let header = ["Learner", "Your id", "Course", "Started"];
    let read = async |app: App| app.learners.all().await;
    let row = |course: &StartedCourse| {
        let custom_id = course.custom_id.clone().unwrap_or_else(|| "-".to_owned());
        [course.user_id.clone(), custom_id, course.course_id.clone(), course.started_at.to_string()]
    };
    show(args, header, "no learner has started a course yet", read, row).await
}

/// Shows the events that no handler takes.
pub(crate) async fn unknown_events(args: &Args) -> anyhow::Result<()> {
    let header = ["Type", "Version", "Happened", "Message id"];
    let read = async |app: App| app.unknown_events.all().await;
    let row = |event: &UnknownEvent| {
        let happened = event.occurred_at.to_string();
        [event.event_type.clone(), event.api_version.clone(), happened, event.message_id.clone()]
    };
    show(args, header, "every event so far had a handler", read, row).await
}

/// Reads the rows and prints them as a table or as JSON; `empty` is what to say without any.
async fn show<T: Serialize, const COLUMNS: usize>(
    args: &Args,
    header: [&str; COLUMNS],
    empty: &str,
    read: impl AsyncFnOnce(App) -> Result<Vec<T>, TableError>,
    row: impl Fn(&T) -> [String; COLUMNS],
) -> anyhow::Result<()> {
    let (rows, empty) = match open(args).await? {
        Some((app, _dynamodb)) => (read(app).await?, empty),
        None => (Vec::new(), "nothing is stored here yet; start `cargo dev` and send a webhook"),
    };
    let text = if args.json {
        serde_json::to_string_pretty(&rows)?
    } else if rows.is_empty() {
        empty.to_owned()
    } else {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY);
        table.set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
        table.add_rows(rows.iter().map(row));
        format!("{table}\n{} in all", rows.len())
    };
    match writeln!(io::stdout(), "{text}") {
        // `learnink learners | head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot print"),
    }
}

/// The handlers' tables, whether or not a pipeline is running on them; `None` before the first start.
async fn open(args: &Args) -> anyhow::Result<Option<(App, LocalDynamoDb)>> {
    let database = state::database_file(&args.state.folder);
    if !database.try_exists().with_context(|| format!("cannot look at {}", database.display()))? {
        return Ok(None);
    }
    let dynamodb = LocalDynamoDb::start(Some(&database)).await?;
    let app = App::new(&sdk_config(dynamodb.endpoint()), &handlers_config());
    Ok(Some((app, dynamodb)))
}
