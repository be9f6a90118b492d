//! What has to come of each webhook, and what did.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::plan::{ITEMS, Ids, Kind, Planned};

/// The answers to one webhook and its duplicates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Answers {
    /// How many were 200.
    pub(super) accepted: u32,
    /// How many were statuses that say that nothing was stored: 4xx.
    pub(super) refused: u32,
    /// How many say nothing about that: 5xx, or no answer.
    pub(super) unknown: u32,
}

impl Answers {
    /// Counts an answer: the status, or `None` if there was none.
    pub(super) const fn add(&mut self, status: Option<u16>) {
        match status {
            Some(200) => self.accepted += 1,
            Some(400..500) => self.refused += 1,
            _ => self.unknown += 1,
        }
    }
}

/// What was found at the other end.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    /// The message ids that the ledger knows, and whether all their handlers are done.
    pub(super) ledger: BTreeMap<String, bool>,
    /// How many rows each learner has in the learners' table.
    pub(super) rows: BTreeMap<String, u32>,
    /// The message ids on the dead-letter queue, with how often, and whether each has a reason.
    pub(super) letters: BTreeMap<String, (u32, bool)>,
    /// How often the endpoint got a notification for each learner; `None` if it did not listen.
    pub(super) notified: Option<BTreeMap<String, u32>>,
    /// How many records the archive has of each message id; `None` if it was not read.
    pub(super) archived: Option<BTreeMap<String, u32>>,
}

/// The judgement of a run. Each list has message ids, with what is wrong.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    /// How many webhooks were accepted and have arrived exactly once.
    pub(super) delivered: usize,
    /// How many were refused and have arrived nowhere.
    pub(super) refused: usize,
    /// How many became dead letters with a reason, as they had to.
    pub(super) dead_lettered: usize,
    /// How many were neither accepted nor refused: nothing is promised about them but that they arrive once at most.
    pub(super) unconfirmed: usize,
    /// Accepted, and not or not entirely there.
    pub(super) lost: Vec<String>,
    /// There more than once.
    pub(super) double: Vec<String>,
    /// Accepted although they had to be refused, or there although they were refused.
    pub(super) wrongly_accepted: Vec<String>,
    /// Refused although they are genuine.
    pub(super) wrongly_refused: Vec<String>,
}

impl Verdict {
    /// Whether every promise was kept.
    pub(super) fn is_good(&self) -> bool {
        [&self.lost, &self.double, &self.wrongly_accepted, &self.wrongly_refused]
            .into_iter()
            .all(Vec::is_empty)
    }
}

/// The webhooks of some kinds that were accepted: the ledger has to show them as done, or they have to become dead
/// letters.
pub(super) fn accepted(
    plan: &[Planned],
    answers: &[Answers],
    is_of_kind: impl Fn(Kind) -> bool,
) -> BTreeSet<usize> {
    let of_kind = plan.iter().filter(|one| is_of_kind(one.kind)).map(|one| one.number);
    of_kind.filter(|number| answers.get(*number).is_some_and(|answers| answers.accepted > 0)).collect()
}

/// The webhooks that must be nowhere: those that were refused, by every answer.
pub(super) fn refused(plan: &[Planned], answers: &[Answers]) -> BTreeSet<usize> {
    let is_refused = |answers: &Answers| answers.refused > 0 && answers.accepted + answers.unknown == 0;
    let all = plan.iter().map(|one| one.number);
    all.filter(|number| answers.get(*number).is_some_and(is_refused)).collect()
}

/// Judges what came of each webhook.
pub(super) fn judge(plan: &[Planned], ids: &Ids, answers: &[Answers], found: &Found) -> Verdict {
    let mut verdict = Verdict::default();
    for one in plan.iter().filter(|one| one.kind != Kind::Duplicate) {
        let answers = answers.get(one.number).cloned().unwrap_or_default();
        let id = ids.message(one.number).to_string();
        let places = places(one, ids, &id, found);
        let double: Vec<_> = places.iter().filter(|place| place.count > 1).map(|place| place.name).collect();
        let absent: Vec<_> = places.iter().filter(|place| place.count == 0).map(|place| place.name).collect();
        let present: Vec<_> = places.iter().filter(|place| place.count > 0).map(|place| place.name).collect();
        let said = |names: &[&str]| format!("{id}: {}", names.join(", "));
        if !double.is_empty() {
            verdict.double.push(said(&double));
        }
        if one.kind == Kind::Tampered && answers.accepted > 0 {
            verdict.wrongly_accepted.push(format!("{id}: answered 200"));
        } else if answers.accepted > 0 {
            if !absent.is_empty() {
                verdict.lost.push(said(&absent));
            } else if double.is_empty() && one.kind == Kind::Poison {
                verdict.dead_lettered += 1;
            } else if double.is_empty() {
                verdict.delivered += 1;
            }
        } else if answers.unknown > 0 {
            verdict.unconfirmed += 1;
        } else if answers.refused > 0 {
            if !present.is_empty() {
                verdict.wrongly_accepted.push(said(&present));
            } else if one.kind == Kind::Tampered {
                verdict.refused += 1;
            } else {
                verdict.wrongly_refused.push(id);
            }
        }
    }
    verdict
}

/// A place where a webhook has to be, and how often it is there.
struct Place {
    name: &'static str,
    count: u32,
}

fn places(one: &Planned, ids: &Ids, id: &str, found: &Found) -> Vec<Place> {
    let count = |counts: &BTreeMap<String, u32>, key: &str| counts.get(key).copied().unwrap_or_default();
    let mut places = Vec::new();
    let mut add = |name, count| places.push(Place { name, count });
    if one.kind == Kind::Poison {
        // Without a reason, nobody knows what to put right.
        let (letters, has_reason) = found.letters.get(id).copied().unwrap_or_default();
        add("the dead-letter queue, with its reason", if has_reason { letters } else { 0 });
    } else {
        // A webhook that a handler can read must not end as a dead letter.
        add("the ledger, as done", u32::from(found.ledger.get(id).copied().unwrap_or_default()));
    }
    match one.kind {
        Kind::Event | Kind::Late | Kind::Tampered => {
            add("the learners' table", count(&found.rows, &ids.learner(one.number)));
        }
        Kind::List => {
            if let Some(notified) = &found.notified {
                let items = (0..ITEMS).map(|item| count(notified, &ids.item(one.number, item)));
                // The rarest if one is missing, else the most frequent.
                let items: Vec<_> = items.collect();
                let (least, most) = (items.iter().min(), items.iter().max());
                let worst = if least == Some(&0) { least } else { most };
                add("the endpoint, each notification", worst.copied().unwrap_or_default());
            }
        }
        Kind::Duplicate | Kind::Poison => {}
    }
    // What cannot be read at all reaches no handler, so that poison may be there or not.
    if let Some(archived) = found.archived.as_ref().filter(|_| one.kind != Kind::Poison) {
        add("the archive", count(archived, id));
    }
    places
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::plan::is_done_once;
    use super::*;

    fn planned(kind: Kind, number: usize) -> Planned {
        Planned { at: Duration::ZERO, kind, number }
    }

    /// One of each kind, answered as it has to be.
    fn run() -> (Vec<Planned>, Ids, Vec<Answers>, Found) {
        let kinds = [Kind::Event, Kind::Late, Kind::List, Kind::Tampered, Kind::Poison];
        let plan: Vec<_> =
            kinds.into_iter().enumerate().map(|(number, kind)| planned(kind, number)).collect();
        let answers = [200, 200, 200, 401, 200].map(|status| {
            let mut answers = Answers::default();
            answers.add(Some(status));
            answers
        });
        let ids = Ids::of("r");
        let message = |number: usize| ids.message(number).to_string();
        let found = Found {
            ledger: [0, 1, 2].map(|number| (message(number), true)).into(),
            rows: [0, 1].map(|number| (ids.learner(number), 1)).into(),
            letters: [(message(4), (1, true))].into(),
            notified: Some((0..ITEMS).map(|item| (ids.item(2, item), 1)).collect()),
            archived: Some([0, 1, 2].map(|number| (message(number), 1)).into()),
        };
        (plan, ids, answers.to_vec(), found)
    }

    #[test]
    fn a_run_in_which_everything_is_where_it_has_to_be_is_good() {
        let (plan, ids, answers, found) = run();
        let verdict = judge(&plan, &ids, &answers, &found);
        assert!(verdict.is_good(), "{verdict:?}");
        assert_eq!((verdict.delivered, verdict.refused, verdict.dead_lettered), (3, 1, 1));
        assert_eq!(accepted(&plan, &answers, is_done_once), BTreeSet::from([0, 1, 2]));
        let poison = accepted(&plan, &answers, |kind| kind == Kind::Poison);
        assert_eq!((poison, refused(&plan, &answers)), ([4].into(), [3].into()));
    }

    #[test]
    fn whatever_is_missing_anywhere_is_lost() {
        let (plan, ids, answers, all) = run();
        let lost = |take: &dyn Fn(&mut Found)| {
            let mut found = all.clone();
            take(&mut found);
            judge(&plan, &ids, &answers, &found).lost
        };
        let first = ids.message(0).to_string();
        let poison = ids.message(4).to_string();
        assert_eq!(lost(&|found| _ = found.ledger.remove(&first)), ["msg_load_r_0: the ledger, as done"]);
        assert_eq!(
            lost(&|found| _ = found.ledger.insert(first.clone(), false)),
            ["msg_load_r_0: the ledger, as done"]
        );
        assert_eq!(lost(&|found| found.rows.clear()).len(), 2);
        assert_eq!(
            lost(&|found| _ = found.letters.insert(poison.clone(), (1, false))),
            ["msg_load_r_4: the dead-letter queue, with its reason"]
        );
        assert_eq!(
            lost(&|found| _ = found.notified.as_mut().unwrap().remove(&ids.item(2, 1))),
            ["msg_load_r_2: the endpoint, each notification"]
        );
        assert_eq!(lost(&|found| found.archived.as_mut().unwrap().clear()).len(), 3);
    }

    #[test]
    fn whatever_is_there_twice_is_double() {
        let (plan, ids, answers, mut found) = run();
        found.rows.insert(ids.learner(0), 2);
        found.letters.insert(ids.message(4).to_string(), (2, true));
        found.notified.as_mut().unwrap().insert(ids.item(2, 0), 2);
        found.archived.as_mut().unwrap().insert(ids.message(1).to_string(), 2);
        let verdict = judge(&plan, &ids, &answers, &found);
        assert_eq!(verdict.double.len(), 4, "{verdict:?}");
        assert!(verdict.lost.is_empty() && !verdict.is_good());
    }

    #[test]
    fn what_was_changed_is_nowhere_and_not_answered_200() {
        let (plan, ids, mut answers, mut found) = run();
        found.rows.insert(ids.learner(3), 1);
        assert_eq!(
            judge(&plan, &ids, &answers, &found).wrongly_accepted,
            ["msg_load_r_3: the learners' table"]
        );
        answers[3] = Answers { accepted: 1, ..Answers::default() };
        assert_eq!(judge(&plan, &ids, &answers, &found).wrongly_accepted, ["msg_load_r_3: answered 200"]);
    }

    #[test]
    fn a_genuine_webhook_that_is_refused_is_wrong_and_one_without_an_answer_is_not() {
        let (plan, ids, mut answers, mut found) = run();
        let id = ids.message(0).to_string();
        found.ledger.remove(&id);
        found.rows.remove(&ids.learner(0));
        found.archived.as_mut().unwrap().remove(&id);
        answers[0] = Answers { refused: 1, ..Answers::default() };
        assert_eq!(judge(&plan, &ids, &answers, &found).wrongly_refused, [id]);
        answers[0] = Answers { unknown: 1, ..Answers::default() };
        let verdict = judge(&plan, &ids, &answers, &found);
        assert!(verdict.is_good() && verdict.unconfirmed == 1, "{verdict:?}");
    }
}
