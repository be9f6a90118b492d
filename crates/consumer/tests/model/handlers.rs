//! Handlers that have effects, and every way of not finishing.

use std::sync::Arc;
use std::time::Duration;

use learnink_consumer::ledger::EntryId;
use learnink_webhook::event::{CourseStarted, NotificationsSent, Payload};
use learnink_webhook::{
    Event, HandlerError, HandlerResult, IdempotencyKey, Message, MessageId, Permits, Router,
};
use tokio::time::{Instant, sleep};

use crate::environment::Life;
use crate::messages::Content;
use crate::world::World;

/// The state of the handlers of one environment.
#[derive(Debug, Clone)]
pub(crate) struct App {
    pub(crate) world: Arc<World>,
    pub(crate) life: Arc<Life>,
    pub(crate) permits: Permits,
}

pub(crate) fn router(app: App) -> Router {
    Router::new()
        .on("progress", course)
        .on("streaks", course)
        .on("push", list)
        .on_any_webhook("audit", any)
        .with_state(app)
}

async fn course(event: Event<CourseStarted>, app: App) -> HandlerResult {
    app.work(&event.message, &event.key).await
}

async fn any(event: Event, app: App) -> HandlerResult {
    app.work(&event.message, &event.key).await
}

async fn list(event: Event<NotificationsSent>, app: App) -> HandlerResult {
    let (message, app) = (&event.message, &app);
    let is_event = event.envelope.event_type == NotificationsSent::TYPE;
    assert!(is_event, "a handler gets the events of its type");
    let content = if event.data.notifications.is_empty() { Content::List } else { Content::LongList };
    let items = vec![(); content.items()];
    event.for_each_item(&items, &app.permits, |(), key| async move { app.work(message, &key).await }).await
}

impl App {
    /// Has one effect, if all goes well.
    async fn work(&self, message: &Message, key: &IdempotencyKey) -> HandlerResult {
        let (id, entry) = (&message.id, EntryId::of(message));
        let suffix = key.as_str().strip_prefix(id.as_str()).and_then(|key| key.strip_prefix('/'));
        let suffix = suffix.expect("a key begins with its message").to_owned();
        {
            let mut state = self.world.state();
            // The items of a handler that is done are forgotten with it.
            let task = suffix.split('/').next().unwrap_or_default();
            let done = state.done(&entry);
            let is_done = done.contains(&suffix) || done.contains(task);
            state.promise(!is_done, || format!("{key} is recorded as done, and runs again"));
            // A refused item is tried again with each send of the message, not with each delivery.
            let is_first = state.first_deliveries.contains(&(Arc::as_ptr(&self.life).addr(), entry.clone()));
            let is_refused = done.contains(&format!("{suffix}!")) && !is_first;
            state.promise(!is_refused, || format!("{key} is recorded as refused, and runs again"));
            if state.effects.contains_key(key.as_str()) {
                state.seen.calls_after_a_cut_between_effect_and_record += 1;
            }
            state.seen.replayed += u64::from(suffix.contains('@'));
        }
        let _at_work = AtWork::begin(self, &entry);
        self.life.step(&self.world).await;
        sleep(self.world.up_to(Duration::from_millis(300))).await;
        if is_poison(id, &suffix) {
            let mut state = self.world.state();
            state.seen.permanent_failures += 1;
            state.refused_at.insert(key.to_string(), Instant::now());
            return Err(HandlerError::permanent("no such plan"));
        }
        let is_down = self.world.state().outage.is_some_and(|handler| suffix.starts_with(handler));
        if is_down {
            self.world.state().seen.outages += 1;
            return Err(HandlerError::retryable("the downstream is down"));
        }
        self.trouble().await?;
        // The effect: carried out once under its key, and recognised after that.
        *self.world.state().effects.entry(key.to_string()).or_default() += 1;
        self.life.step(&self.world).await;
        self.trouble().await
    }

    async fn trouble(&self) -> HandlerResult {
        if !self.world.fault(1.0) {
            return Ok(());
        }
        let kind = {
            let mut state = self.world.state();
            let kind = state.random.usize(..5);
            match kind {
                0 => state.seen.panics += 1,
                1 => state.seen.hanging_handlers += 1,
                _ => state.seen.retries += 1,
            }
            kind
        };
        match kind {
            // Without the panic hook, which would print a trace for each.
            0 => std::panic::resume_unwind(Box::new("a handler that panics")),
            1 => std::future::pending().await,
            2 => Err(HandlerError::retryable("busy").retry_after(Duration::from_mins(20))),
            _ => Err(HandlerError::retryable("busy")),
        }
    }
}

/// An environment's work on a message, until it is dropped.
struct AtWork<'a> {
    world: &'a World,
    who: (EntryId, usize),
}

impl<'a> AtWork<'a> {
    fn begin(app: &'a App, id: &EntryId) -> Self {
        let who = (id.clone(), Arc::as_ptr(&app.life).addr());
        let mut state = app.world.state();
        let is_alone = state.at_work.iter().all(|other| other.0 != who.0 || *other == who);
        state.promise(is_alone, || format!("two environments are at work on {}", id.as_str()));
        state.at_work.push(who.clone());
        drop(state);
        Self { world: &app.world, who }
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        let mut state = self.world.state();
        if let Some(index) = state.at_work.iter().position(|who| *who == self.who) {
            state.at_work.swap_remove(index);
        }
    }
}

/// Whether this handler will never succeed for this message.
fn is_poison(id: &MessageId, suffix: &str) -> bool {
    id.as_str().ends_with("-poison") && (suffix.starts_with("streaks") || suffix.ends_with("/2"))
}
