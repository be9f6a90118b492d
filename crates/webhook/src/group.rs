//! Joins requests that are ready at the same time into one call.
//!
//! The records of a batch run concurrently, each as if it were alone. A [`Group`] collects the requests that they make
//! at the same time, and makes one call of them: the ledger's claims and settlements, and the writes of a handler whose
//! downstream takes several at once. No request waits for a group to fill: the call starts as soon as everyone who could
//! ask has asked.

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::oneshot;

/// Makes one call of the requests that are made at the same time. Share it in an [`Arc`] with everyone who asks.
///
/// Each caller also drives the call. A request that is cancelled leaves the call to the others of its group. The call
/// ends when nobody waits for it any more.
///
/// ```
/// use futures_util::future::join;
/// use learnink_webhook::group::Group;
///
/// # async fn example() {
/// let doubled = Group::new(async |numbers: Vec<u32>| numbers.iter().map(|number| number * 2).collect());
/// // One call, with both.
/// assert_eq!(join(doubled.ask(1), doubled.ask(2)).await, (Some(2), Some(4)));
/// # }
/// ```
pub struct Group<Q, A> {
    call: Arc<Call<Q, A>>,
    /// The latest group; it may be complete.
    latest: Mutex<Option<Latest<Q, A>>>,
}

type Call<Q, A> = dyn Fn(Vec<Q>) -> BoxFuture<'static, Vec<A>> + Send + Sync;

/// An answer for each request of a group, in order, until it is taken.
type Answers<A> = Arc<Mutex<Vec<Option<A>>>>;

/// The requests of a group, until its call starts.
type Requests<Q> = Arc<Mutex<Option<Vec<Q>>>>;

/// While it exists, a group collects requests.
type Collecting = oneshot::Sender<()>;

struct Latest<Q, A> {
    requests: Requests<Q>,
    /// Weak: without anyone who waits for them, the group is gone.
    answers: Option<WeakShared<BoxFuture<'static, Answers<A>>>>,
}

impl<Q: Send + 'static, A: Send + 'static> Group<Q, A> {
    /// A group whose requests `call` answers: with one answer for each, in order.
    pub fn new<F, Fut>(call: F) -> Self
    where
        F: Fn(Vec<Q>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Vec<A>> + Send + 'static,
    {
        Self { call: Arc::new(move |requests| call(requests).boxed()), latest: Mutex::default() }
    }

    /// Asks, and waits for the answer: `None` if the call has no answer for it.
    pub async fn ask(&self, request: Q) -> Option<A> {
        let (answers, place, collecting) = self.join(request);
        if let Some(collecting) = collecting {
            everyone_else().await;
            drop(collecting);
        }
        let answers = answers.await;
        lock(&answers).get_mut(place)?.take()
    }

    /// Adds a request to the group that collects, or to a new one. Returns the group's answers, the request's place
    /// among them, and for the first one what keeps the group collecting.
    fn join(&self, request: Q) -> (Shared<BoxFuture<'static, Answers<A>>>, usize, Option<Collecting>) {
        let mut latest = lock(&self.latest);
        if let Some(group) = latest.as_ref()
            && let Some(answers) = group.answers.as_ref().and_then(WeakShared::upgrade)
            && let Some(requests) = lock(&group.requests).as_mut()
        {
            requests.push(request);
            return (answers, requests.len() - 1, None);
        }
        let requests = Arc::new(Mutex::new(Some(vec![request])));
        let (collected, call) = (requests.clone(), self.call.clone());
        let (collecting, collected_all) = oneshot::channel();
        let answers = async move {
            // An error: the other side is gone, which is the signal.
            let _ = collected_all.await;
            let requests = lock(&collected).take().unwrap_or_default();
            let answers = call(requests).await.into_iter().map(Some).collect();
            Arc::new(Mutex::new(answers))
        };
        let answers = answers.boxed().shared();
        *latest = Some(Latest { requests, answers: answers.downgrade() });
        (answers, 0, Some(collecting))
    }
}

impl<Q, A> fmt::Debug for Group<Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Group(..)")
    }
}

/// Waits until the other futures of the task have been polled, if they are ready.
async fn everyone_else() {
    let mut is_second = false;
    poll_fn(|context| {
        if is_second {
            return Poll::Ready(());
        }
        is_second = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::panic::AssertUnwindSafe;

    use futures_util::future::{join, join_all, select};
    use futures_util::stream::{FuturesUnordered, StreamExt};
    use tokio::task::yield_now;

    use super::*;

    /// The requests of each call.
    type Calls = Arc<Mutex<Vec<Vec<u32>>>>;

    /// A group that doubles numbers, and its calls.
    fn doubling() -> (Group<u32, u32>, Calls) {
        let calls = Calls::default();
        let noted = calls.clone();
        let group = Group::new(move |asked: Vec<u32>| {
            noted.lock().unwrap().push(asked.clone());
            ready(asked.into_iter().map(|number| number * 2).collect::<Vec<_>>())
        });
        (group, calls)
    }

    #[tokio::test]
    async fn what_is_asked_at_the_same_time_is_one_call_and_each_gets_its_own_answer() {
        let (group, calls) = doubling();
        let records = (0..4).map(async |number| {
            if number == 3 {
                // A late request does not delay the others.
                yield_now().await;
                yield_now().await;
            }
            group.ask(number).await
        });
        assert_eq!(join_all(records).await, [Some(0), Some(2), Some(4), Some(6)]);
        assert_eq!(*calls.lock().unwrap(), [vec![0, 1, 2], vec![3]]);
    }

    #[tokio::test]
    async fn one_step_after_the_other_a_large_batch_makes_one_call_for_each_step() {
        let (group, calls) = doubling();
        let records = (0..100).map(async |number| {
            let first = group.ask(number).await.unwrap();
            group.ask(first).await.unwrap()
        });
        let mut doubled: Vec<_> = records.collect::<FuturesUnordered<_>>().collect().await;
        doubled.sort_unstable();
        assert_eq!(doubled, (0..100).map(|number| number * 4).collect::<Vec<_>>());
        let sizes: Vec<_> = calls.lock().unwrap().iter().map(Vec::len).collect();
        assert_eq!(sizes, [100, 100]);
    }

    #[tokio::test]
    async fn a_call_with_too_few_answers_leaves_the_rest_without_one() {
        let one = Group::new(|_: Vec<u32>| ready(vec![7]));
        assert_eq!(join_all([one.ask(1), one.ask(2)]).await, [Some(7), None]);
    }

    #[test]
    fn what_was_asked_is_not_printed() {
        assert_eq!(format!("{:?}", doubling().0), "Group(..)");
    }

    #[tokio::test]
    async fn a_request_that_is_cancelled_does_not_keep_the_others_from_their_answers() {
        let (group, calls) = doubling();
        // The first one, which has driven the call so far, gives up.
        let first = async { drop(select(Box::pin(yield_now()), Box::pin(group.ask(1))).await) };
        let ((), second) = join(first, group.ask(2)).await;
        assert_eq!(second, Some(4));
        assert_eq!(*calls.lock().unwrap(), [[1, 2]]);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_not_called() {
        let (group, calls) = doubling();
        drop(select(Box::pin(group.ask(1)), ready(())).await);
        assert_eq!(group.ask(2).await, Some(4));
        assert_eq!(*calls.lock().unwrap(), [[2]]);
    }

    #[tokio::test]
    async fn a_panic_of_the_call_reaches_those_who_asked_and_nobody_later() {
        let group = Group::new(async |asked: Vec<u32>| {
            assert!(!asked.contains(&13), "13 was asked");
            asked
        });
        let asked = join_all([1, 13].map(|number| AssertUnwindSafe(group.ask(number)).catch_unwind())).await;
        assert!(asked.iter().all(Result::is_err), "{asked:?}");
        assert_eq!(group.ask(2).await, Some(2));
    }

    #[tokio::test]
    async fn a_call_that_does_not_end_does_not_delay_the_next() {
        let group = Group::new(async |asked: Vec<u32>| {
            if asked.contains(&1) {
                pending::<()>().await;
            }
            asked
        });
        let mut stuck = Box::pin(group.ask(1));
        for _ in 0..2 {
            assert_eq!((&mut stuck).now_or_never(), None);
        }
        assert_eq!(group.ask(2).await, Some(2));
    }
}
