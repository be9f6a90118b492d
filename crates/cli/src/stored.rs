//! `learnink learners` and `learnink unknown`: what the handlers stored.

use std::path::Path;

use anyhow::Context;
use learnink_handlers::progress::LearnersCourse;
use learnink_handlers::unknown::UnknownEvent;
use learnink_handlers::{App, TableError};
use learnink_local::pipeline::handlers_config;
use learnink_local::{LocalDynamoDb, sdk_config, state};
use serde::Serialize;

use crate::{StateFolder, table};

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
    let header = ["Learner", "Your id", "Course", "First start", "Last activity"];
    let read = async |app: App| app.learners.all().await;
    let row = |course: &LearnersCourse| {
        let custom_id = course.custom_id.clone().unwrap_or_else(|| "-".to_owned());
        let first_start = course.first_started_at.map_or_else(|| "-".to_owned(), |at| at.to_string());
        let last_activity = course.last_activity_at.to_string();
        [course.user_id.clone(), custom_id, course.course_id.clone(), first_start, last_activity]
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

/// What to say before the first start.
pub(crate) const NOTHING_STORED: &str = "nothing is stored here yet; start `cargo dev` and send a webhook";

/// Reads the rows and prints them; `empty` is what to say without any.
async fn show<T: Serialize, const COLUMNS: usize>(
    args: &Args,
    header: [&str; COLUMNS],
    empty: &str,
    read: impl AsyncFnOnce(App) -> Result<Vec<T>, TableError>,
    row: impl Fn(&T) -> [String; COLUMNS],
) -> anyhow::Result<()> {
    let (rows, empty) = match open(&args.state.folder).await? {
        Some(dynamodb) => {
            let config = handlers_config(|_| None)?;
            let app = App::new(&sdk_config(dynamodb.endpoint()), &config);
            (read(app).await?, empty)
        }
        None => (Vec::new(), NOTHING_STORED),
    };
    table::print(args.json, &rows, header, row, empty)
}

/// The tables of `learnink dev`, whether or not it is running on them; `None` before its first start.
pub(crate) async fn open(folder: &Path) -> anyhow::Result<Option<LocalDynamoDb>> {
    let database = state::database_file(folder);
    if !database.try_exists().with_context(|| format!("cannot look at {}", database.display()))? {
        return Ok(None);
    }
    Ok(Some(LocalDynamoDb::start(Some(&database)).await?))
}
