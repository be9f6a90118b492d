//! The ledger and the queues of the world, which fail on purpose.

use std::sync::Arc;
use std::time::Duration;

use learnink_consumer::ledger::{
    Claim, ClaimRequest, Entry, EntryId, Lease, Recorded, SHORTEST_LEASE, Settlement, judge, judge_settlement,
};
use learnink_consumer::ledger::{Ledger, LedgerError, StoredWindow};
use learnink_consumer::queues::{CopyError, DeadLetter, Queues};
use learnink_consumer::record::Record;
use learnink_webhook::message::Part;
use tokio::time::{Instant, sleep};

use crate::environment::Life;
use crate::messages::Sent;
use crate::world::{DeadLettered, Queued, State, World};

/// The world's stores as one environment reaches them.
#[derive(Debug, Clone)]
pub(crate) struct Stores {
    pub(crate) world: Arc<World>,
    pub(crate) life: Arc<Life>,
}

/// The fate of a call.
#[derive(Clone, Copy)]
enum Fate {
    Answered,
    /// Refused before anything happened.
    Refused,
    /// Carried out, but the answer never comes.
    AnswerLost,
    /// Carried out, the answer lost, sent once more, and answered.
    Repeated,
    /// Given up by the caller, and carried out a while later.
    Late,
}

/// How long a call is in flight at most after its caller has given up.
const LATEST: Duration = Duration::from_secs(90);

/// How long a slow call takes at most: the engine's own limits cut it off before that.
const SLOWEST: Duration = Duration::from_secs(8);

impl Stores {
    /// A step of the engine: it takes a short or a long time, and may kill the environment.
    async fn step(&self) {
        self.life.step(&self.world).await;
        let longest = if self.world.fault(0.2) {
            self.world.state().seen.slow_calls += 1;
            SLOWEST
        } else {
            Duration::from_millis(40)
        };
        sleep(self.world.up_to(longest)).await;
    }

    /// Several requests in one call: each with its own fate, or all of them throttled.
    fn calls<Q, T: 'static>(
        &self,
        requests: Vec<Q>,
        call: impl Fn(Q) -> Result<T, LedgerError>,
    ) -> Vec<Result<T, LedgerError>> {
        if self.world.fault(0.5) {
            self.world.state().seen.throttled_batches += 1;
            return requests.iter().map(|_| Err(LedgerError::new("do that", "throttled"))).collect();
        }
        requests.into_iter().map(call).collect()
    }

    fn fate(&self) -> Fate {
        if !self.world.fault(1.0) {
            return Fate::Answered;
        }
        let mut state = self.world.state();
        let fate = [Fate::Refused, Fate::AnswerLost, Fate::Repeated, Fate::Late][state.random.usize(..4)];
        match fate {
            Fate::Answered => {}
            Fate::Refused => state.seen.ledger_errors += 1,
            Fate::AnswerLost | Fate::Repeated => state.seen.lost_answers += 1,
            Fate::Late => state.seen.late_calls += 1,
        }
        fate
    }

    /// One call with its fate.
    fn call<T: 'static>(
        &self,
        operation: impl Fn(&mut State) -> T + Send + 'static,
    ) -> Result<T, LedgerError> {
        let failed = || LedgerError::new("do that", "it went wrong on purpose");
        let fate = self.fate();
        let mut state = self.world.state();
        match fate {
            Fate::Answered => Ok(operation(&mut state)),
            Fate::Refused => Err(failed()),
            Fate::AnswerLost => {
                operation(&mut state);
                Err(failed())
            }
            Fate::Repeated => {
                operation(&mut state);
                Ok(operation(&mut state))
            }
            Fate::Late => {
                let world = self.world.clone();
                let latency = LATEST.mul_f64(state.random.f64());
                tokio::spawn(async move {
                    sleep(latency).await;
                    operation(&mut world.state());
                });
                Err(failed())
            }
        }
    }
}

impl Ledger for Stores {
    async fn claim(&self, requests: Vec<ClaimRequest>) -> Vec<Result<Claim, LedgerError>> {
        self.step().await;
        let claims = self.calls(requests, |request| self.call(move |state| claim(state, &request)));
        self.step().await;
        claims
    }

    async fn note(&self, id: &EntryId, owner: &str, done: Vec<String>) -> Result<Recorded, LedgerError> {
        self.step().await;
        let (id, owner) = (id.clone(), owner.to_owned());
        let recorded = self.call(move |state| {
            let Some(entry) = state.ledger.get_mut(&id).filter(|entry| is_owner(entry, &owner)) else {
                state.seen.leases_lost += 1;
                return Recorded::LeaseLost;
            };
            state.seen.items_noted += done.len() as u64;
            entry.done.extend(done.iter().cloned());
            Recorded::Yes
        });
        self.step().await;
        recorded
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Result<Recorded, LedgerError>> {
        self.step().await;
        let settle = |settlement| self.call(move |state| settle(state, &settlement));
        let recorded = self.calls(settlements, settle);
        self.step().await;
        recorded
    }

    async fn replay_windows(&self) -> Result<Vec<StoredWindow>, LedgerError> {
        self.step().await;
        self.call(|state| state.windows.iter().cloned().map(Ok).collect())
    }
}

impl Stores {
    /// One copy to another queue. If it fails, the queue may have to move its record itself.
    fn copy(&self, sqs_id: &str, operation: impl Fn(&mut State) + Send + 'static) -> Result<(), CopyError> {
        let copied = self.call(operation);
        if copied.is_err() {
            self.world.state().excused.insert(sqs_id.to_owned());
        }
        copied.map_err(|error| CopyError::Send(Box::new(error)))
    }
}

fn is_owner(entry: &Entry, owner: &str) -> bool {
    entry.lease.as_ref().is_some_and(|lease| lease.owner == owner)
}

fn claim(state: &mut State, request: &ClaimRequest) -> Claim {
    let claim = judge(state.ledger.get(&request.id), request);
    match &claim {
        Claim::Acquired(_) => {
            // A lease must not outlive the invocation that took it.
            let invocation = request.owner.split('/').next().unwrap_or_default();
            let latest_ms =
                state.deadlines_ms[invocation].max((request.now + SHORTEST_LEASE).as_millisecond());
            let until_ms = request.lease_until_ms();
            state.promise(until_ms <= latest_ms, || format!("{request:?} outlives its invocation"));
            let entry = state.ledger.entry(request.id.clone()).or_insert_with(|| request.new_entry());
            entry.failure_reason = None;
            entry.lease = Some(Lease { owner: request.owner.clone(), until_ms: request.lease_until_ms() });
        }
        Claim::InProgress { until_ms } => {
            let is_ahead = *until_ms > request.now.as_millisecond();
            state.promise(is_ahead, || "a lease that has ended still locks".to_owned());
            state.seen.claims_in_progress += 1;
        }
        Claim::PayloadMismatch => state.seen.payload_mismatches += 1,
        Claim::Completed(_) => {}
    }
    claim
}

fn settle(state: &mut State, settlement: &Settlement) -> Recorded {
    let entry = state.ledger.get_mut(&settlement.id).expect("only what was claimed is settled");
    if !is_owner(entry, &settlement.owner) {
        let recorded = judge_settlement(entry, settlement);
        if recorded == Recorded::LeaseLost {
            state.seen.leases_lost += 1;
        }
        return recorded;
    }
    // A handler's items are forgotten once it is done, and its refusals with each send.
    let is_covered = |key: &String| {
        let handler = key.split('/').next().unwrap_or_default();
        let is_of_one_send = key.contains('!') || key.contains('+');
        is_of_one_send
            || settlement.done.contains(key)
            || (handler != key && settlement.done.contains(handler))
    };
    let forgotten: Vec<_> = entry.done.iter().filter(|key| !is_covered(key)).cloned().collect();
    entry.done.clone_from(&settlement.done);
    entry.failure_reason.clone_from(&settlement.failure_reason);
    entry.lease = None;
    entry.settled_at_ms = settlement.now.as_millisecond();
    state.promise(forgotten.is_empty(), || format!("{forgotten:?} was done, and is forgotten"));
    Recorded::Yes
}

impl Queues for Stores {
    async fn dead_letter(&self, record: Record<'_>, why: DeadLetter<'_>) -> Result<(), CopyError> {
        self.step().await;
        let sqs_id = record.sqs_message_id().to_owned();
        let reason = why.reason.to_owned();
        let copied = self.copy(&sqs_id.clone(), move |state| {
            state.seen.dead_lettered_by_the_consumer += 1;
            let sent = state.sent[&sqs_id].clone();
            state.reasons.entry(sqs_id.clone()).or_default().push(reason.clone());
            state.dead_letters.push(DeadLettered { sent, reason: Some(reason.clone()) });
        });
        self.step().await;
        copied
    }

    async fn send_again(
        &self,
        record: Record<'_>,
        part: Option<&Part>,
        delay: Duration,
    ) -> Result<(), CopyError> {
        self.step().await;
        let (sqs_id, part) = (record.sqs_message_id().to_owned(), part.cloned());
        let copied = self.copy(&sqs_id.clone(), move |state| {
            state.seen.parts += u64::from(part.is_some());
            let sent = state.sent[&sqs_id].clone();
            // A part has its window in its task.
            let window = sent.window.filter(|_| part.is_none());
            let part = part.clone().or(sent.part);
            state.send_later(Sent { part, window, ..sent }, delay);
        });
        self.step().await;
        copied
    }

    async fn back_off(&self, record: Record<'_>, delay: Duration) -> bool {
        self.step().await;
        // If it fails, the visibility timeout applies.
        let receipt = record.receipt_handle().unwrap_or_default().to_owned();
        let set = self.call(move |state| {
            let is_it =
                |queued: &&mut Queued| format!("{}/{}", queued.sqs_id, queued.receive_count) == receipt;
            if let Some(queued) = state.queue.iter_mut().find(is_it) {
                queued.visible_at = Instant::now() + delay;
            }
        });
        set.is_ok()
    }
}
