//! `learnink learners` and `learnink unknown`: what the handlers stored.

use std::io::{self, Write};

use anyhow::Context;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, Table};
use learnink_handlers::App;
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
    let Some((app, _dynamodb)) = open(args).await? else {
        return show(args, &[] as &[()], NO_STATE, &Table::new());
    };
    let courses = app.learners.all().await?;
    let mut table = table(["Learner", "Your id", "Course", "Started"]);
    for course in &courses {
        let custom_id = course.custom_id.as_deref().unwrap_or("-");
        table.add_row([&course.user_id, custom_id, &course.course_id, &course.started_at.to_string()]);
    }
    show(args, &courses, "no learner has started a course yet", &table)
}

/// Shows the events that no handler takes.
pub(crate) async fn unknown_events(args: &Args) -> anyhow::Result<()> {
    let Some((app, _dynamodb)) = open(args).await? else {
        return show(args, &[] as &[()], NO_STATE, &Table::new());
    };
    let events = app.unknown_events.all().await?;
    let mut table = table(["Type", "Version", "Happened", "Message id"]);
    for event in &events {
        table.add_row([
            &event.event_type,
            &event.api_version,
            &event.occurred_at.to_string(),
            &event.message_id,
        ]);
    }
    show(args, &events, "every event so far had a handler", &table)
}

const NO_STATE: &str = "nothing is stored here yet; start `cargo dev` and send a webhook";

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

fn table<const COLUMNS: usize>(header: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    table
}

fn show(args: &Args, rows: &[impl Serialize], empty: &str, table: &Table) -> anyhow::Result<()> {
    let text = if args.json {
        serde_json::to_string_pretty(rows)?
    } else if rows.is_empty() {
        empty.to_owned()
    } else {
        format!("{table}\n{} in all", rows.len())
    };
    match writeln!(io::stdout(), "{text}") {
        // `learnink learners | head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot print"),
    }
}
