//! Every store that may have a learner, of a stack or of a laptop.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use jiff::Timestamp;
use learnink_connectors::archive::Redaction;
use learnink_connectors::progress::Learners;
use learnink_connectors::unknown::UnknownEvents;
use learnink_consumer::ledger::{EntryId, payload_sha256};
use learnink_local::pipeline::{LEARNERS_TABLE, UNKNOWN_EVENTS_TABLE};
use learnink_local::{LocalDynamoDb, sdk_config};
use learnink_webhook::MessageId;

use super::found::{Count, Found, Webhook};
use super::laptop;
use super::learner::{Ids, Learner, Part};
use super::versions::{Object, Versions};
use crate::dlq::{self, OpenQueues};
use crate::ledger::OpenLedger;
use crate::output::note;
use crate::question::Interrupt;
use crate::stack::Target;
use crate::{archive, called, stored, variable};

/// The row of a learner and a course, as the table has it.
pub(super) type CourseRow = BTreeMap<String, String>;

/// The stores.
pub(crate) struct Stores {
    /// The place for people.
    pub(super) name: String,
    archive: Option<Versions>,
    /// Whether a stream may still have records that are in no file yet.
    pub(super) has_stream: bool,
    unknown: UnknownEvents,
    learners: Learners,
    queues: Queues,
}

/// The queues.
enum Queues {
    /// Of a stack.
    OfStack(Box<OpenQueues>),
    /// The journal of `learnink dev`, and what else only it has.
    OfDev(Laptop),
}

/// The state of `learnink dev`.
struct Laptop {
    folder: PathBuf,
    ledger: OpenLedger,
    /// The engine of the tables.
    _tables: LocalDynamoDb,
}

/// What all stores have of a learner.
#[derive(Debug, Default)]
pub(crate) struct Search {
    archive: Found<Object>,
    unknown: Found<MessageId>,
    learners: Vec<CourseRow>,
    /// Dead letters, by the names that SQS gave them.
    letters: Found<String>,
    journal: Found<()>,
    history: Found<()>,
    /// Dead letters that another receiver hides.
    unseen_letters: usize,
    /// Objects of the archive that are not records.
    pub(super) others: usize,
    /// Messages that wait on the queue, which are not looked at.
    pub(super) waiting: usize,
    /// What was not looked at, and why.
    pub(super) unread: Vec<String>,
    /// How many objects have a further id of the learner and the user id of another one.
    pub(super) shared: usize,
}

impl Stores {
    /// Finds the stores of a stack, or those of `learnink dev`; `url` is the archive's location if it was named.
    pub(crate) async fn open(target: &Target, url: Option<&str>) -> anyhow::Result<Self> {
        let stack = target.in_aws.stack().await?;
        let of_environment = if stack.is_none() { variable(archive::VARIABLE) } else { None };
        let url = url.or_else(|| stack.as_ref()?.optional("ArchiveUrl")).or(of_environment.as_deref());
        let archive = match url {
            // A stack was found with a configuration already, which may have asked the AWS CLI.
            Some(url) => {
                let aws =
                    || stack.as_ref().map_or_else(|| target.in_aws.config(), |stack| Ok(stack.aws.clone()));
                Some(Versions::open(url, aws).await?)
            }
            None => None,
        };
        if let Some(stack) = &stack {
            return Ok(Self {
                name: stack.to_string(),
                archive,
                has_stream: stack.optional("ArchiveStreamName").is_some(),
                unknown: UnknownEvents::new(&stack.aws, stack.output("UnknownEventsTableName")?),
                learners: Learners::new(&stack.aws, stack.output("LearnersTableName")?),
                queues: Queues::OfStack(Box::new(dlq::open_in(Some(stack), &target.state.folder).await?)),
            });
        }
        let folder = target.state.folder.clone();
        let not_started = || {
            format!(
                "no `learnink dev` has run in {}; name a deployed stack with --stack",
                learnink_local::terminal::quoted(&folder)
            )
        };
        let tables = stored::open(&folder).await?.with_context(not_started)?;
        let ledger = OpenLedger::of_dev(&folder).await?.with_context(not_started)?;
        let aws = sdk_config(tables.endpoint());
        Ok(Self {
            name: laptop::name(&folder),
            archive,
            has_stream: false,
            unknown: UnknownEvents::new(&aws, UNKNOWN_EVENTS_TABLE.name),
            learners: Learners::new(&aws, LEARNERS_TABLE.name),
            queues: Queues::OfDev(Laptop { folder, ledger, _tables: tables }),
        })
    }

    pub(super) const fn has_archive(&self) -> bool {
        self.archive.is_some()
    }

    pub(super) const fn is_stack(&self) -> bool {
        matches!(self.queues, Queues::OfStack(_))
    }

    /// The ledger, which keeps the acts.
    pub(super) fn ledger(&self) -> &OpenLedger {
        match &self.queues {
            Queues::OfStack(queues) => &queues.ledger,
            Queues::OfDev(laptop) => &laptop.ledger,
        }
    }

    /// Looks for a learner everywhere, again and again until no further id is found beside the known ones.
    pub(crate) async fn search(&self, learner: &mut Learner) -> anyhow::Result<Search> {
        let (objects, others) = match &self.archive {
            Some(archive) => archive.list().await?,
            None => (Vec::new(), 0),
        };
        let mut search = Search { others, ..Search::default() };
        loop {
            // The tables first: what they know spares a pass over the rest.
            while learner.learn(self.search_tables(learner, &mut search).await?) {}
            let mut beside = self.search_queues(learner, &mut search).await?;
            if let Some(archive) = &self.archive {
                search.archive = archive.search(&objects, learner).await?;
                beside.add_all(search.archive.beside.clone());
            }
            if !learner.learn(beside) {
                break;
            }
            note("there are further ids of the learner; looking for them too")?;
        }
        if let Queues::OfStack(queues) = &self.queues {
            search.waiting = queues.waiting().await?;
        }
        search.sum_up();
        Ok(search)
    }

    /// Looks for the learner in the tables, and returns the ids beside the known ones.
    async fn search_tables(&self, learner: &Learner, search: &mut Search) -> anyhow::Result<Ids> {
        let user_ids: Vec<_> = learner.user_ids().collect();
        search.learners = self.learners.rows_of(&user_ids, &learner.asked.custom_ids).await?;
        let mut unknown = Found::default();
        let found = self.unknown.each_record(|row| match row {
            Ok(record) => {
                let webhook = Webhook {
                    place: "unknown events",
                    message_id: Some(record.id.as_str()),
                    received_at: Some(record.received_at),
                };
                unknown.add(record.id.clone(), webhook, &record.body, learner.find(&record.body));
            }
            Err(id) => unknown.unread.push(format!("unknown event {id}: the row is not one of this version")),
        });
        found.await?;
        let mut beside = unknown.beside.clone();
        for row in &search.learners {
            beside.user_ids.extend(row.get("user_id").cloned());
            beside.custom_ids.extend(row.get("custom_id").cloned());
        }
        search.unknown = unknown;
        Ok(beside)
    }

    /// Looks for the learner on the queues, and in what else only a laptop has.
    async fn search_queues(&self, learner: &Learner, search: &mut Search) -> anyhow::Result<Ids> {
        match &self.queues {
            Queues::OfStack(queues) => {
                (search.letters, search.unseen_letters) = dlq::erase::search(queues, learner).await?;
            }
            Queues::OfDev(Laptop { folder, .. }) => {
                search.journal = laptop::search_journal(folder, learner)?;
                search.history = laptop::search_history(folder, learner)?;
            }
        }
        let mut beside = search.letters.beside.clone();
        beside.add_all(search.journal.beside.clone());
        beside.add_all(search.history.beside.clone());
        Ok(beside)
    }

    /// Erases what was found. Returns what is left, with the reason.
    pub(super) async fn erase(
        &self,
        search: &Search,
        learner: &Learner,
        now: Timestamp,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Vec<String>> {
        let mut left = Vec::new();
        match &self.queues {
            Queues::OfStack(queues) if search.letters.count().all() > 0 => {
                left.extend(dlq::erase::erase(queues, &search.letters, learner, interrupt).await?);
            }
            Queues::OfStack(_) => {}
            Queues::OfDev(laptop) => laptop.erase(learner).await?,
        }
        for row in &search.learners {
            let [user_id, course_id] =
                ["user_id", "course_id"].map(|name| row.get(name).map(String::as_str).unwrap_or_default());
            self.learners.delete(user_id, course_id).await?;
        }
        for id in &search.unknown.whole {
            self.unknown.delete(id).await?;
        }
        for id in &search.unknown.items {
            let Some(record) = self.unknown.record(id).await? else { continue };
            if let Part::Items(items) = learner.find(&record.body).part {
                let record = record.redacted(items.redacted, now, items.places);
                let redaction = record.redaction.unwrap_or(Redaction { at: now, places: 0 });
                self.unknown.redact(id, record.body, redaction).await?;
            }
        }
        // The largest store last: an interrupted run has done the others.
        if let Some(archive) = &self.archive {
            left.extend(archive.erase(&search.archive, learner, now, interrupt).await?);
        }
        self.overwrite()?;
        Ok(left)
    }

    /// On a laptop, writes the files of the tables and of the history anew: what is deleted stays in them otherwise.
    pub(super) fn overwrite(&self) -> anyhow::Result<()> {
        match &self.queues {
            Queues::OfStack(_) => Ok(()),
            Queues::OfDev(Laptop { folder, .. }) => laptop::vacuum(folder),
        }
    }

    /// Files on a laptop that nothing can be erased from, for people.
    pub(super) fn moved_aside(&self) -> anyhow::Result<Vec<PathBuf>> {
        match &self.queues {
            Queues::OfStack(_) => Ok(Vec::new()),
            Queues::OfDev(Laptop { folder, .. }) => laptop::moved_aside(folder),
        }
    }
}

impl Laptop {
    async fn erase(&self, learner: &Learner) -> anyhow::Result<()> {
        for redacted in laptop::erase_from_journal(&self.folder, learner)? {
            let (id, before) = (EntryId::of(&redacted.before), payload_sha256(&redacted.before.body));
            self.ledger.replace_payload(&id, &before, &payload_sha256(&redacted.body)).await?;
        }
        laptop::erase_from_history(&self.folder, learner)
    }
}

impl Search {
    /// How much each store has, by its name.
    pub(super) fn counts(&self) -> Vec<(&'static str, Count)> {
        let learners = Count { whole: self.learners.len(), redacted: 0 };
        let counts = [
            ("archive", self.archive.count()),
            ("unknown events", self.unknown.count()),
            ("learners", learners),
            ("dead letters", self.letters.count()),
            ("queues of `learnink dev`", self.journal.count()),
            ("history of `learnink dev`", self.history.count()),
        ];
        counts.into_iter().filter(|(_, count)| count.all() > 0).collect()
    }

    pub(super) fn total(&self) -> Count {
        let add = |sum: Count, (_, count): (_, Count)| Count {
            whole: sum.whole + count.whole,
            redacted: sum.redacted + count.redacted,
        };
        self.counts().into_iter().fold(Count::default(), add)
    }

    fn sum_up(&mut self) {
        let found = [&mut self.archive.unread, &mut self.unknown.unread, &mut self.letters.unread];
        self.unread = found.into_iter().flat_map(std::mem::take).collect();
        self.unread.extend((self.unseen_letters > 0).then(|| {
            format!(
                "{} dead letters are hidden, perhaps because somebody else is looking",
                self.unseen_letters
            )
        }));
        self.shared = self.archive.shared
            + self.unknown.shared
            + self.letters.shared
            + self.journal.shared
            + self.history.shared;
    }

    /// The learner's own data, by store.
    pub(super) fn own(&self) -> serde_json::Result<Vec<(&'static str, Box<serde_json::value::RawValue>)>> {
        use serde_json::value::to_raw_value;
        let stores = [
            ("learners", to_raw_value(&self.learners)?),
            ("archive", to_raw_value(&self.archive.own)?),
            ("unknown_events", to_raw_value(&self.unknown.own)?),
            ("dead_letters", to_raw_value(&self.letters.own)?),
            ("queues", to_raw_value(&self.journal.own)?),
            ("history", to_raw_value(&self.history.own)?),
        ];
        Ok(stores.into_iter().filter(|(_, own)| own.get() != "[]").collect())
    }
}

/// What to do if another `learnink dev` uses the state.
pub(super) fn stop_dev() -> String {
    format!("its files are written anew, so that `{}` has to be stopped first", called::dev())
}
