//! `learnink catalog add`: everything that a new event type needs, or nothing.

use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail, ensure};
use learnink_local::terminal::quoted;
use serde_json::Value;

use super::ask::{self, Answer};
use super::check::{self, Example};
use super::folder::{LIB, Repository, example_file, schema_file};
use super::room::{Room, Source};
use super::schema::Schema;
use super::shape::{self, Shape};
use super::{handlers, name, wiring};
use crate::output::{note, print};
use crate::{called, input};

/// Options of `learnink catalog add`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  cargo learnink catalog add example.badge.earned
  cargo learnink catalog add example.badge.earned \\
      --schema badge.schema.json --example badge.json
  cargo learnink catalog add example.badge.earned \\
      --no-schema --example badge.json --name badges

It writes events/TYPE.schema.json, events/TYPE.json and crates/handlers/src/NAME.rs, with the payload as Rust types, a \
handler that only logs, and a test. It adds two lines to crates/handlers/src/lib.rs. The files are yours from then on: \
nothing writes them again. If anything is wrong, nothing is written.

In the payload, every text but an id is Personal, so that it cannot be printed by accident. What may be missing or null \
is an Option.

The exit code is 0 when everything is written, and 1 otherwise.")]
pub(crate) struct Args {
    /// The event type, as LearnInk's Event Catalog has it
    #[arg(value_name = "TYPE")]
    event_type: String,
    /// File with the type's JSON Schema, - for standard input; without it you are asked
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// Take the payload from the example: the type has no schema
    #[arg(long, conflicts_with = "schema")]
    no_schema: bool,
    /// File with an example, the whole body of an event, - for standard input; without it you are asked
    #[arg(long, value_name = "FILE")]
    example: Option<PathBuf>,
    /// Name of the handler and its module; without it, the last two words of the type, as in `badge_earned`
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Show the two lines of lib.rs instead of adding them
    #[arg(long)]
    print: bool,
}

/// What was given, and how an error calls it.
struct Given {
    from: String,
    text: String,
}

impl Given {
    /// As it is kept: what was given, and one line break behind it.
    fn as_file(&self) -> String {
        format!("{}\n", self.text.trim())
    }
}

/// A file that is to be made.
struct NewFile {
    path: String,
    text: String,
}

/// Asks for what is missing, checks everything, and writes it.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let repository = Repository::here()?;
    let event_type = &*args.event_type;
    name::check_event_type(event_type)?;
    check_is_new(&repository, event_type)?;
    let lib = repository.read(LIB)?;
    let room = args.name.clone().unwrap_or_else(|| name::room_of(event_type));
    check_is_free(&repository, &lib, &room)?;
    check_input(args, io::stdin().is_terminal())?;

    let schema = if args.no_schema { None } else { schema(args)? };
    let example = example(args)?;
    let (files, lib) = written(event_type, &room, schema.as_ref(), &example, &lib)?;
    let lib = lib.filter(|_| !args.print);
    write(&repository, &files, lib.as_deref())?;

    for file in &files {
        print(format!("wrote {}", file.path))?;
    }
    if lib.is_some() {
        print(format!("added `{}` and `{}` to {LIB}", wiring::module(&room), wiring::merge(&room)))?;
    } else {
        let why = if args.print { "add" } else { "it does not look as expected, so add" };
        print(format!("{LIB}: {why} these two lines, the second below `// Yours.`:"))?;
        print(format!("  {}", wiring::module(&room)))?;
        print(format!("  {}", wiring::merge(&room)))?;
    }
    note(format!(
        "write the handler in crates/handlers/src/{room}.rs, test it with `cargo test -p learnink-handlers {room}`, and \
         try it with `{}` and `{} send {}`",
        called::dev(),
        called::learnink(),
        example_file(event_type)
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// There must be no file and no handler of the type.
fn check_is_new(repository: &Repository, event_type: &str) -> anyhow::Result<()> {
    const WHAT_TO_DO: &str = "a type is added once; change its files as you like";
    for file in [schema_file(event_type), example_file(event_type)] {
        let exists = fs::symlink_metadata(repository.path(&file)).is_ok();
        ensure!(!exists, "cannot add `{event_type}`: {file} is there already; {WHAT_TO_DO}");
    }
    let router = handlers::all().context("cannot make the handlers that there are")?;
    if let Some(event) = handlers::bare(event_type) {
        let route = router.route(&event);
        if let Some(handler) = handlers::of(&route).into_iter().find(|handler| handler.is_for_named_types()) {
            bail!(
                "cannot add `{event_type}`: the handler `{}` takes it already; {WHAT_TO_DO}",
                handler.name()
            );
        }
    }
    // One that cannot be switched on here, or that was not built yet.
    let folder = repository.path(LIB);
    let folder = folder.parent().unwrap_or(&folder);
    let constant = format!("\"{event_type}\";");
    for entry in fs::read_dir(folder).context("cannot read the handlers' folder")? {
        let path = entry.context("cannot read the handlers' folder")?.path();
        let is_rust = path.extension().is_some_and(|extension| extension == "rs");
        let text = if is_rust { fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        let has_it =
            |line: &str| line.trim_start().starts_with("const TYPE:") && line.trim_end().ends_with(&constant);
        ensure!(
            !text.lines().any(has_it),
            "cannot add `{event_type}`: {} takes it already; {WHAT_TO_DO}",
            quoted(path)
        );
    }
    Ok(())
}

/// The room's name must be one, and no other's.
fn check_is_free(repository: &Repository, lib: &str, room: &str) -> anyhow::Result<()> {
    name::check_room(room)?;
    let what_to_do = "choose another with --name";
    for file in [format!("crates/handlers/src/{room}.rs"), format!("crates/handlers/src/{room}")] {
        let exists = fs::symlink_metadata(repository.path(&file)).is_ok();
        ensure!(!exists, "the name `{room}` is taken: {file} is there already; {what_to_do}");
    }
    ensure!(!wiring::names_in_use(lib).contains(room), "the name `{room}` is taken in {LIB}; {what_to_do}");
    let router = handlers::all().context("cannot make the handlers that there are")?;
    ensure!(
        !router.known_names().contains(&room),
        "the name `{room}` is taken by another handler; {what_to_do}"
    );
    Ok(())
}

/// What is not given is asked for, where there is somebody to ask.
fn check_input(args: &Args, is_terminal: bool) -> anyhow::Result<()> {
    let is_standard = |file: &Option<PathBuf>| file.as_deref() == Some(Path::new(input::STANDARD));
    ensure!(
        !(is_standard(&args.schema) && is_standard(&args.example)),
        "standard input is one file: give --schema or --example the name of another"
    );
    let mut missing = Vec::new();
    if args.schema.is_none() && !args.no_schema {
        missing.push("--schema FILE (or --no-schema)");
    }
    if args.example.is_none() {
        missing.push("--example FILE");
    }
    ensure!(
        is_terminal || missing.is_empty(),
        "missing: {}; standard input is not a terminal, so that nobody can be asked",
        missing.join(" and ")
    );
    Ok(())
}

fn schema(args: &Args) -> anyhow::Result<Option<(Given, Schema)>> {
    let given = match &args.schema {
        Some(file) => Some(given(file)?),
        None => asked("the JSON Schema", "press Return if the type has none")?,
    };
    let Some(given) = given else { return Ok(None) };
    let schema = Schema::parse(&given.text).with_context(|| format!("cannot use {}", given.from))?;
    Ok(Some((given, schema)))
}

fn example(args: &Args) -> anyhow::Result<Given> {
    match &args.example {
        Some(file) => given(file),
        None => asked("an example, the whole body of an event", "its payload is tested with it")?.context(
            "the type needs an example: copy one from the Event Catalog, and pass its file with --example",
        ),
    }
}

/// The text of a file.
fn given(file: &Path) -> anyhow::Result<Given> {
    let is_standard = file == Path::new(input::STANDARD);
    let from = if is_standard { "standard input".to_owned() } else { quoted(file) };
    let bytes = input::read(file)?;
    let text = check::utf8(&bytes).with_context(|| format!("cannot use {from}"))?;
    Ok(Given { text: text.to_owned(), from })
}

/// Asks for JSON, or for a file with it.
fn asked(what: &str, hint: &str) -> anyhow::Result<Option<Given>> {
    note(format!("Paste {what}, then an empty line or Ctrl-D; or type a file's name ({hint}):"))?;
    let answer = ask::answer(&mut io::stdin().lock()).context("cannot read standard input")?;
    Ok(match answer {
        Answer::Nothing => None,
        Answer::File(file) => Some(given(&file)?),
        Answer::Text { text, may_be_cut } => {
            let cut = "what you pasted (a terminal cuts lines of 4,096 bytes: name a file instead)";
            let from = if may_be_cut { cut } else { "what you pasted" };
            let text = check::utf8(text.as_bytes())?.to_owned();
            Some(Given { from: from.to_owned(), text })
        }
    })
}

/// The files of the type, and what `lib.rs` becomes where it looks as expected.
fn written(
    event_type: &str,
    name: &str,
    schema: Option<&(Given, Schema)>,
    given: &Given,
    lib: &str,
) -> anyhow::Result<(Vec<NewFile>, Option<String>)> {
    let what = || format!("cannot use {} as an example", given.from);
    let example = Example::parse(event_type, &given.text).with_context(what)?;
    let violations = example.violations(schema.map(|(_, schema)| schema));
    if !violations.is_empty() {
        bail!("{}: it does not fit the schema: {}", what(), violations.join("; "));
    }
    let api_version = example.api_version();
    if api_version.is_empty() {
        bail!("{}: /api_version: it has none, and a handler takes a type in one version", what());
    }
    let data = example.data().filter(|data| data.is_object());
    let data = data.with_context(|| format!("{}: /data: it is not an object, as a payload is", what()))?;
    let (shape, source) = payload(schema.map(|(_, schema)| schema), data);
    let room = Room { event_type, api_version, name, data: &shape, source };
    let mut files = Vec::new();
    if let Some((given, _)) = schema {
        files.push(NewFile { path: schema_file(event_type), text: given.as_file() });
    }
    files.push(NewFile { path: example_file(event_type), text: given.as_file() });
    files.push(NewFile { path: format!("crates/handlers/src/{name}.rs"), text: room.file() });
    Ok((files, wiring::wired(lib, name)))
}

/// The shape of the payload: the schema's, or the example's if no schema says anything about `data`.
fn payload(schema: Option<&Schema>, data: &Value) -> (Shape, Source) {
    match schema.and_then(|schema| shape::data_of_schema(schema.json())) {
        Some(shape) => (shape::widened(shape, data), Source::Schema),
        None => (shape::of_example(data), Source::Example),
    }
}

/// Writes all files, or none.
fn write(repository: &Repository, files: &[NewFile], lib: Option<&str>) -> anyhow::Result<()> {
    let mut made = Vec::new();
    let mut all = || {
        for NewFile { path, text } in files {
            let what = || format!("cannot write {path}");
            let is_rust = Path::new(path).extension().is_some_and(|extension| extension == "rs");
            let text = if is_rust { formatted(repository, text) } else { text.clone() };
            let path = repository.path(path);
            let mut file = OpenOptions::new().write(true).create_new(true).open(&path).with_context(what)?;
            made.push(path);
            file.write_all(text.as_bytes()).with_context(what)?;
        }
        // Last: what it names is there by then.
        lib.map_or(Ok(()), |lib| replace(&repository.path(LIB), lib))
            .with_context(|| format!("cannot write {LIB}"))
    };
    let result = all();
    if result.is_err() {
        for path in made {
            // The error that is reported is the first one.
            let _ = fs::remove_file(path);
        }
    }
    result
}

/// Replaces a file's text, or leaves it as it is.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let before = fs::read(path)?;
    let written = fs::write(path, text);
    if written.is_err() {
        let _ = fs::write(path, before);
    }
    written
}

/// The text as `rustfmt` formats it, or as it is if `rustfmt` is not installed.
fn formatted(repository: &Repository, text: &str) -> String {
    let format = || {
        let mut rustfmt = Command::new("rustfmt");
        rustfmt.args(["--edition", "2024", "--config-path"]).arg(repository.path(""));
        rustfmt.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = rustfmt.spawn().ok()?;
        // Dropped at the end of the statement, so that it sees the end. It reads all before it writes.
        let sent = process.stdin.take().map(|mut stdin| stdin.write_all(text.as_bytes()));
        let output = process.wait_with_output().ok()?;
        let formatted = String::from_utf8(output.stdout).ok().filter(|text| !text.is_empty());
        formatted.filter(|_| output.status.success() && matches!(sent, Some(Ok(()))))
    };
    format().unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests;
