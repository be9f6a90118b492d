//! A pass over the dead-letter queue that takes certain letters from it.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_sqs::types::Message;

use super::queue::{MOST_AT_A_TIME, News, Queue, receipt, sqs_id};
use crate::question::Interrupt;

/// Why a pass ended.
#[derive(Debug)]
pub(super) enum PassEnd {
    /// All of the letters were taken.
    All,
    /// The rest are not there any more, or somebody else hides them.
    Gone,
    /// Ctrl-C.
    Interrupted,
    /// A call failed.
    Failed(anyhow::Error),
}

/// What became of some letters.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// The SQS message ids of those that left the queue.
    pub(super) done: Vec<String>,
    /// Why the others did not, if not because of Ctrl-C.
    pub(super) error: Option<anyhow::Error>,
}

/// Receives messages until each of the `wanted` ones was handed to `take`, ten at most at a time. What was taken is
/// removed from `wanted`. The other messages are hidden meanwhile, so that the rest is found, and shown again at the end.
pub(super) async fn pass(
    queue: &Queue,
    wanted: &mut BTreeSet<String>,
    interrupt: &Interrupt,
    mut take: impl AsyncFnMut(Vec<Message>) -> Taken,
) -> anyhow::Result<PassEnd> {
    let mut hidden = HashMap::new();
    let mut news = News::new();
    let end = loop {
        if wanted.is_empty() {
            break PassEnd::All;
        }
        if interrupt.came() {
            break PassEnd::Interrupted;
        }
        let received = match queue.receive(MOST_AT_A_TIME).await {
            Ok(received) => received,
            Err(error) => break PassEnd::Failed(error),
        };
        if received.is_empty() {
            let is_all = queue.count().await.is_ok_and(|count| count <= hidden.len());
            if is_all || news.are_over() {
                break PassEnd::Gone;
            }
            continue;
        }
        let receipts: Vec<_> = received.iter().map(|message| (sqs_id(message), receipt(message))).collect();
        let (ours, _): (Vec<_>, Vec<_>) =
            received.into_iter().partition(|message| wanted.contains(&sqs_id(message)));
        let mut is_new = !ours.is_empty();
        let taken = if ours.is_empty() { Taken::default() } else { take(ours).await };
        for id in &taken.done {
            wanted.remove(id);
        }
        for (id, receipt) in receipts {
            if !taken.done.contains(&id) {
                is_new |= hidden.insert(id, receipt).is_none();
            }
        }
        if is_new {
            news.came();
        }
        if let Some(error) = taken.error {
            break PassEnd::Failed(error);
        }
    };
    queue.show_again(&hidden.into_values().collect::<Vec<_>>()).await?;
    Ok(end)
}
