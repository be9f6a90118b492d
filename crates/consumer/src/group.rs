//! Joins requests that are ready at the same time into one call.
//!
//! Each record asks for itself, one step after the other, as if it were alone. A [`Group`] collects the requests
//! that the records of a batch make at the same time, and makes one call of them. No record waits for a group to
//! fill: the call starts as soon as every record that could ask has asked.

use std::future::Future;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};

/// The side that asks.
#[derive(Debug, Clone)]
pub(crate) struct Group<Q, A>(mpsc::UnboundedSender<Asked<Q, A>>);

/// The side that answers; see [`Questions::answer`].
#[derive(Debug)]
pub(crate) struct Questions<Q, A>(mpsc::UnboundedReceiver<Asked<Q, A>>);

type Asked<Q, A> = (Q, oneshot::Sender<A>);

/// A group and what it collects.
pub(crate) fn group<Q, A>() -> (Group<Q, A>, Questions<Q, A>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Group(sender), Questions(receiver))
}

impl<Q, A> Group<Q, A> {
    /// Asks, and waits for the answer: `None` if nobody answers any more.
    pub(crate) async fn ask(&self, question: Q) -> Option<A> {
        let (sender, answer) = oneshot::channel();
        self.0.send((question, sender)).ok()?;
        answer.await.ok()
    }
}

impl<Q, A> Questions<Q, A> {
    /// Answers with `call`, which has one answer for each question, in order, until nobody can ask any more. Poll
    /// it after the asking futures, in the same task, so that one call takes all their simultaneous requests.
    pub(crate) async fn answer<F, Fut>(mut self, call: F)
    where
        F: Fn(Vec<Q>) -> Fut,
        Fut: Future<Output = Vec<A>>,
    {
        let mut calls = FuturesUnordered::new();
        let mut asked = Vec::new();
        loop {
            tokio::select! {
                biased;
                count = self.0.recv_many(&mut asked, usize::MAX) => {
                    if count == 0 {
                        break;
                    }
                    let (questions, senders): (Vec<_>, Vec<_>) = asked.drain(..).unzip();
                    let answers = call(questions);
                    calls.push(async move {
                        for (sender, answer) in senders.into_iter().zip(answers.await) {
                            // The asker may have given up meanwhile.
                            let _ = sender.send(answer);
                        }
                    });
                }
                Some(()) = calls.next() => {}
            }
        }
        while calls.next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::future::{join, join_all};

    use super::*;

    #[tokio::test]
    async fn what_is_asked_at_the_same_time_is_one_call_and_each_gets_its_own_answer() {
        let (group, questions) = group::<u32, u32>();
        let calls = Mutex::new(Vec::new());
        let double = |asked: Vec<u32>| {
            calls.lock().unwrap().push(asked.clone());
            std::future::ready(asked.into_iter().map(|number| number * 2).collect::<Vec<_>>())
        };
        let records = async {
            let records = (0..4).map(async |number| {
                let group = group.clone();
                if number == 3 {
                    // A late request does not delay the others.
                    tokio::task::yield_now().await;
                }
                group.ask(number).await
            });
            let answers = join_all(records).await;
            drop(group);
            answers
        };
        let (answers, ()) = join(records, questions.answer(double)).await;
        assert_eq!(answers, [Some(0), Some(2), Some(4), Some(6)]);
        assert_eq!(calls.into_inner().unwrap(), [vec![0, 1, 2], vec![3]]);
    }

    #[tokio::test]
    async fn a_call_with_too_few_answers_leaves_the_rest_without_one() {
        let (group, questions) = group::<u32, u32>();
        let records = async {
            let answers = join_all([group.ask(1), group.ask(2)]).await;
            drop(group);
            answers
        };
        let one = |_| std::future::ready(vec![7]);
        assert_eq!(join(records, questions.answer(one)).await.0, [Some(7), None]);
    }
}
