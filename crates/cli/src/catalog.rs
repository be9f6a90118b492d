//! `learnink catalog`: the event types that there are examples, schemas and handlers of, and new ones.

mod add;
mod ask;
mod check;
mod folder;
mod handlers;
mod name;
mod pointer;
mod room;
mod schema;
mod shape;
mod wiring;

use std::process::ExitCode;

use anyhow::Context;
use learnink_webhook::Envelope;
use serde::Serialize;

use crate::output::{note, print};
use crate::table;
use crate::table::Column::{Id, Text};
use folder::{Catalog, EVENTS};
pub(crate) use folder::{Files, Repository};

/// Options of `learnink catalog`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(flatten)]
    list: ListArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

/// The commands of `learnink catalog`.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the event types: which have a schema, an example and a handler
    ///
    /// A type without a handler of its own goes to the handler `unknown`. Handlers that take every event are left out.
    List(ListArgs),
    /// Add an event type: its schema, its example, and a handler with a payload and a test
    Add(add::Args),
    /// Check names, schemas and examples, and whether the handlers read the examples
    ///
    /// An example must be the whole body of an event of the type that its file is named after, fit the type's schema,
    /// and be read by the handlers of the type. A line says which file, where in it (as a JSON pointer) and which rule;
    /// no value is printed, because an example may hold personal data. No schema is ever fetched. In Lambda none of
    /// this is used: a schema never refuses an event.
    ///
    /// The exit code is 0 when everything is right, and 1 otherwise.
    Check,
}

/// Options of `learnink catalog list`.
#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Runs a command of `learnink catalog`; without one it lists.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        None => list(&args.list),
        Some(Command::List(args)) => list(args),
        Some(Command::Add(args)) => add::run(args),
        Some(Command::Check) => check(),
    }
}

/// What there is of a type.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(rename = "type")]
    event_type: String,
    schema: bool,
    example: bool,
    handlers: Vec<&'static str>,
}

fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let router = handlers::all().context("cannot make the handlers")?;
    let catalog = Repository::here()?.catalog()?;
    let rows: Vec<_> = rows(&catalog, &router);
    if args.json {
        table::print_json(&rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let cells = rows
        .iter()
        .map(|row| [row.event_type.clone(), yes(row.schema), yes(row.example), row.handlers.join(", ")]);
    let columns = [Id("Type"), Text("Schema"), Text("Example"), Text("Handler")];
    table::print(columns, cells, rows.len(), "no event type is in `events/`")?;
    let off = handlers::off(&router);
    if !off.is_empty() {
        note(format!(
            "not listed: {}; they take every event, or cannot be switched on here",
            off.join(", ")
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn rows(catalog: &Catalog, router: &learnink_webhook::Router) -> Vec<Row> {
    let row = |(event_type, files): (&String, &folder::Files)| {
        let example = files.example.as_deref().and_then(|bytes| Envelope::parse(bytes).ok());
        let example = example.filter(|example| example.event_type == *event_type);
        let event = example.or_else(|| handlers::bare(event_type));
        let route = event.as_ref().map(|event| router.route(event));
        let names = |route| handlers::of(&route).iter().map(|handler| handler.name()).collect();
        Row {
            event_type: event_type.clone(),
            schema: files.schema.is_some(),
            example: files.example.is_some(),
            handlers: route.map(names).unwrap_or_default(),
        }
    };
    catalog.types.iter().map(row).collect()
}

fn check() -> anyhow::Result<ExitCode> {
    let router = handlers::all().context("cannot make the handlers")?;
    let catalog = Repository::here()?.catalog()?;
    let problems = check::problems(&catalog, &router);
    for problem in &problems {
        print(problem.to_string())?;
    }
    if problems.is_empty() {
        let count =
            |has: fn(&folder::Files) -> bool| catalog.types.values().filter(|files| has(files)).count();
        let (schemas, examples) =
            (count(|files| files.schema.is_some()), count(|files| files.example.is_some()));
        print(format!(
            "`{EVENTS}/` is fine: {} types, {schemas} with a schema, {examples} with an example",
            catalog.types.len()
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}
