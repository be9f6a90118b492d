//! `learnink forget` and `learnink export`: a learner asks for their data, or to be forgotten.

pub(crate) mod export;
pub(crate) mod found;
mod laptop;
pub(crate) mod learner;
mod stores;
mod versions;

use std::io::{self, BufRead, IsTerminal};
use std::process::ExitCode;

use anyhow::Context;
use clap::ArgGroup;
use clap::builder::NonEmptyStringValueParser;
use learnink_local::State;
use learnink_local::terminal::quoted;
use serde_json::json;

use self::found::Count;
use self::learner::{Ids, Learner};
use self::stores::{Search, Stores};
use crate::acts::{self, OpenAct, Plan};
use crate::aws::IN_AWS;
use crate::input::STANDARD;
use crate::output::{self, WRONG_USE, exit, note, print, say};
use crate::question::{Answer, Consent, Interrupt};
use crate::replay::Operator;
use crate::stack::Target;
use crate::table::Column::{Id, Number};
use crate::{now, table, variable};

/// Which learner.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("learner").required(true).multiple(true).args(["user_ids", "custom_ids", "phone_numbers"])))]
pub(crate) struct LearnerArgs {
    /// LearnInk's id of the learner, or - to type it where no shell keeps it; may be repeated
    #[arg(long = "user-id", id = "user_ids", value_name = "ID")]
    user_ids: Vec<String>,
    /// Your id of the learner, or -; may be repeated
    #[arg(long = "custom-id", id = "custom_ids", value_name = "ID")]
    custom_ids: Vec<String>,
    /// The learner's phone number with its country code, such as +441632960961, or -; may be repeated
    #[arg(long = "phone-number", id = "phone_numbers", value_name = "NUMBER")]
    phone_numbers: Vec<String>,
}

impl LearnerArgs {
    /// The learner. What cannot be an id is an error that does not repeat it.
    fn learner(&self) -> anyhow::Result<Learner> {
        let mut ids = Ids::default();
        for (option, values) in self.typed() {
            for value in values {
                let value = if value == STANDARD { line(option)? } else { value.clone() };
                let added = match option {
                    USER_ID => ids.add_user_id(&value),
                    CUSTOM_ID => ids.add_custom_id(&value),
                    _ => ids.add_phone_number(&value),
                };
                added.with_context(|| format!("{option} cannot be used"))?;
            }
        }
        Ok(Learner::new(ids))
    }

    /// What was typed, by its option.
    fn typed(&self) -> [(&'static str, &[String]); 3] {
        [(USER_ID, &self.user_ids), (CUSTOM_ID, &self.custom_ids), (PHONE_NUMBER, &self.phone_numbers)]
    }

    /// The options without their values, for an act.
    fn filter(&self) -> String {
        let named = self.typed().into_iter().flat_map(|(option, values)| values.iter().map(move |_| option));
        named.collect::<Vec<_>>().join(" ")
    }
}

const USER_ID: &str = "--user-id";
const CUSTOM_ID: &str = "--custom-id";
const PHONE_NUMBER: &str = "--phone-number";

/// A line of standard input.
fn line(option: &str) -> anyhow::Result<String> {
    if io::stdin().is_terminal() {
        note(format!("type the value of {option}, and Enter:"))?;
    }
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("cannot read standard input")?;
    Ok(line)
}

/// How a learner is found; below the help of both commands.
pub(crate) const HOW: &str = "\
An event is the learner's if one of these fields has the value, at any depth of any type; of a list, the item is. An \
id of 8 characters or more, and a phone number, are also found under other names and within texts. What stands beside \
a value in the same object belongs to the same learner: with a phone number or a custom id, all user ids beside it are \
looked for too, and with a user id the phone number and the custom id beside it. People share phones: an item that has \
the number and another user id is counted, and is another learner's, unless you name the number itself. If several user \
ids stand beside a number, they may be several learners: give --user-id too, and no other user id is followed.";

/// Options of `learnink forget`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
Everything that is stored of one learner is erased for good: from the archive, in both layouts and with all old \
versions, from the tables of learners and of unknown events, and from the dead-letter queue. First it shows how much it \
found, and asks. A record, row or letter that is about others too is redacted: the learner's item becomes null, and the \
others stay byte for byte. Nothing proves such a record any more: `archive verify` counts it by itself, and \
`replay run` leaves it out. A redacted dead letter can be redriven; its null item is refused, and the others run.

{HOW}

Without --stack it is the state of `learnink dev`, which must not be running: its files are written anew, so that they \
have no byte of the learner.

It cannot erase what S3 Object Lock keeps, backups of the tables, files that somebody has made, what handlers have sent \
elsewhere, and LearnInk's own copy; what is left is said. Messages on the queue are not looked at: run it again once the \
queue is empty. The ledger, logs and metrics have no field of an event.

The act says who, when, why and how much, and no id. Do not write one into --reason.

Ctrl-C stops between two objects; the same command goes on. The exit code is 0 if nothing of the learner is left, 1 if \
something is left or was not looked at, and 2 if there is nobody to ask. --yes is not enough where several user ids were \
found.

Examples:
  cargo learnink forget --user-id - --reason \"request 17\" --dry-run
  cargo learnink forget --phone-number +441632960961 \\
    --reason \"request 17\"

{IN_AWS} It needs s3:ListBucketVersions, GetObjectVersion, PutObject, GetObject and DeleteObjectVersion on the archive, \
and GetObjectRetention to say until when a version is locked; dynamodb:Query, Scan, GetItem, DeleteItem and UpdateItem on the tables; \
and sqs:ReceiveMessage, ChangeMessageVisibility, DeleteMessage, SendMessage and GetQueueAttributes on the queues."))]
pub(crate) struct Args {
    #[command(flatten)]
    learner: LearnerArgs,
    /// The archive's location, `s3://bucket/prefix` or a folder; without it, that of --stack, or else `LEARNINK_ARCHIVE`
    #[arg(long = "archive", value_name = "URL")]
    archive: Option<String>,
    /// Why, for people who see the act, without a name or an id
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    reason: String,
    /// Print the act as JSON, or what was found if nothing is done
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    operator: Operator,
    #[command(flatten)]
    target: Target,
}

/// Forgets a learner.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut learner = args.learner.learner()?;
    anyhow::ensure!(
        !learner.is_mentioned_in(&args.reason),
        "--reason is kept, and must not have an id of the learner"
    );
    if !args.consent.dry_run
        && let Err(no_terminal) = args.consent.check()
    {
        note(no_terminal.to_string())?;
        return Ok(ExitCode::from(WRONG_USE));
    }
    let stores = Stores::open(&args.target, args.archive.as_deref()).await?;
    // Held to the end: no pipeline starts on files that are written anew.
    let _locked = match (stores.is_stack(), args.consent.dry_run) {
        (false, false) => Some(State::open(&args.target.state.folder).with_context(stores::stop_dev)?),
        (true, _) | (_, true) => None,
    };
    let search = stores.search(&mut learner).await?;
    let total = search.total();
    say(args.json, || print_found(&stores, &search, &learner))?;
    for unread in &search.unread {
        note(format!("not looked at: {unread}"))?;
    }
    if args.json && (total.all() == 0 || args.consent.dry_run) {
        print_json(&search, &learner)?;
    }
    let is_seen = search.unread.is_empty() && search.waiting == 0;
    if args.consent.dry_run {
        say(args.json, || print("dry run: nothing was erased"))?;
        return Ok(exit(is_seen && total.all() == 0));
    }
    if total.all() == 0 {
        stores.overwrite()?;
        return say_rest(args, &stores, &search, &[]).map(|is_all| exit(is_all && is_seen));
    }
    if learner.further.user_ids.len() > 1 && args.consent.is_given() {
        note("nothing was erased: run it without --yes to be asked, or name the learner with --user-id")?;
        return Ok(ExitCode::from(WRONG_USE));
    }
    let by = args.operator.name(variable)?;
    if args.consent.ask(&question(total)).await? == Answer::No {
        note("nothing was erased")?;
        return Ok(ExitCode::FAILURE);
    }
    let plan = Plan {
        action: "forget",
        by,
        place: stores.name.clone(),
        filter: args.learner.filter(),
        reason: Some(args.reason.clone()),
        selected: total.all(),
    };
    let act = OpenAct::start(stores.ledger(), plan).await?;
    let interrupt = Interrupt::watch();
    let erased = stores.erase(&search, &learner, now(), &interrupt).await;
    let (left, outcome) = match erased {
        Ok(left) if left.is_empty() => (left, format!("done; {}", outcome(&search))),
        Ok(left) => {
            let outcome =
                format!("done, except {}; the same command goes on; {}", left.len(), outcome(&search));
            (left, outcome)
        }
        Err(error) => {
            // The number that is done is not known: another run finds the rest.
            act.end(0, "failed; the same command goes on").await?;
            return Err(error.context("not everything is erased; the same command goes on"));
        }
    };
    let act = act.end(total.all().saturating_sub(left.len()), &outcome).await?;
    if args.json {
        acts::print_json(&act)?;
    } else {
        print(&outcome)?;
    }
    let is_all = say_rest(args, &stores, &search, &left)?;
    Ok(exit(is_all && is_seen))
}

/// What is asked before anything is erased.
fn question(total: Count) -> String {
    let redact = match total.redacted {
        0 => String::new(),
        count => format!(" and redact {count}, which nothing proves any more"),
    };
    format!("Erase {} for good{redact}?", total.whole)
}

/// A count with its noun.
fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// What is said of messages on the queue.
fn waiting(count: usize) -> String {
    let verbs = if count == 1 { "waits on the queue and was" } else { "wait on the queue and were" };
    format!("{} {verbs} not looked at", counted(count, "message"))
}

/// How much of each store is erased and redacted, by which `archive verify` is compared later.
fn outcome(search: &Search) -> String {
    let counts = search.counts().into_iter().map(|(store, Count { whole, redacted })| match redacted {
        0 => format!("{store}: {whole} erased"),
        _ => format!("{store}: {whole} erased, {redacted} redacted"),
    });
    counts.collect::<Vec<_>>().join("; ")
}

/// Prints what was found.
fn print_found(stores: &Stores, search: &Search, learner: &Learner) -> anyhow::Result<()> {
    let counts = search.counts();
    if counts.is_empty() {
        return print(format!("nothing of this learner is stored in {}", stores.name));
    }
    let columns = [Id("Store"), Number("To erase"), Number("To redact")];
    let rows = counts
        .iter()
        .map(|(name, count)| [(*name).to_owned(), count.whole.to_string(), count.redacted.to_string()]);
    table::print_rows(columns, rows)?;
    print(format!("in {}", stores.name))?;
    let further = &learner.further;
    if !further.is_empty() {
        let kinds = [
            (further.user_ids.len(), "user id"),
            (further.custom_ids.len(), "custom id"),
            (further.phone_numbers.len(), "phone number"),
        ];
        let kinds =
            kinds.into_iter().filter(|(count, _)| *count > 0).map(|(count, kind)| counted(count, kind));
        print(format!("of these too, which stand beside: {}", kinds.collect::<Vec<_>>().join(", ")))?;
    }
    if further.user_ids.len() > 1 {
        print(
            "these user ids may belong to several learners, and all of them would be erased; name one with --user-id",
        )?;
    }
    if search.shared > 0 {
        let verb = if search.shared == 1 { "has" } else { "have" };
        print(format!(
            "left, as another learner's: {}, which {verb} such a phone number or custom id, and another user id",
            counted(search.shared, "item")
        ))?;
    }
    if search.total().redacted > 0 {
        print("what is redacted is about others too: nothing proves it any more")?;
    }
    Ok(())
}

/// Prints what was found as JSON, without an id.
fn print_json(search: &Search, learner: &Learner) -> anyhow::Result<()> {
    let stores: serde_json::Map<_, _> =
        search.counts().into_iter().map(|(name, count)| (name.to_owned(), json!(count))).collect();
    let further = &learner.further;
    let found = json!({
        "stores": stores,
        "further_ids": {
            "user_ids": further.user_ids.len(),
            "custom_ids": further.custom_ids.len(),
            "phone_numbers": further.phone_numbers.len(),
        },
        "of_others": search.shared,
        "not_looked_at": search.unread,
        "waiting": search.waiting,
    });
    output::print_json(&serde_json::to_string_pretty(&found)?)
}

/// Says what is left, and what no command reaches. Whether nothing is left that is known.
fn say_rest(args: &Args, stores: &Stores, search: &Search, left: &[String]) -> anyhow::Result<bool> {
    for left in left {
        note(format!("left: {left}"))?;
    }
    let aside = stores.moved_aside()?;
    for file in &aside {
        note(format!("left: {}, which cannot be read; delete it", quoted(file)))?;
    }
    if search.waiting > 0 {
        note(waiting(search.waiting))?;
        note("run this again once the queue is empty")?;
    }
    if stores.has_stream {
        note(
            "the archive's stream writes a record up to 30 minutes after its webhook; run this again after that",
        )?;
    }
    if search.others > 0 {
        let verb = if search.others == 1 { "is not a record" } else { "are not records" };
        let others = counted(search.others, "object");
        note(format!("not looked at: {others} in the archive, which {verb}"))?;
    }
    if !stores.has_archive() {
        note(
            "no archive is named here; one that was switched off still has its bucket: name it with --archive",
        )?;
    }
    say(args.json, || {
        print("Not here, and not erased:")?;
        print("  LearnInk's own copy, which it can send again for 90 days: ask LearnInk")?;
        print("  what push, bus and forward have sent to other systems")?;
        print("  files that `dlq drop`, `archive export` and `export` have written")?;
        if stores.is_stack() {
            print("  backups: point-in-time recovery of the tables ends after 35 days")?;
        }
        Ok(())
    })?;
    Ok(left.is_empty() && aside.is_empty())
}
