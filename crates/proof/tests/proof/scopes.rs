//! What is looked at, and what has to be found there.

use stateright::{Checker, Model as _, Property};

use crate::explore::{Explored, World, explore};
use crate::rules::Rules;
use crate::state::State;
use crate::steps::{Action, List, Model, Requests, Scope, UNLIMITED, WindowScope};

/// One message with one handler; two consumers.
const CLAIMS: Scope = Scope {
    rules: Rules::AsDeployed,
    handlers: &["mark"],
    list: List::None,
    owners: 2,
    sends: 1,
    max_receive_count: 2,
    lease: 3,
    margin: 1,
    clocks: &[0, 1],
    requests: Requests::Fail { late: 1 },
    failures: false,
    refusals: false,
    expiries: 0,
    window: WindowScope::None,
    redrives: 0,
    ends_done: false,
    records: 1,
};

const ONE_CLOCK: Scope = Scope { clocks: &[0], ..CLAIMS };

const SENT_TWICE: Scope =
    Scope { sends: 2, requests: Requests::Fail { late: 0 }, failures: true, records: 2, ..ONE_CLOCK };

const THREE_CONSUMERS: Scope =
    Scope { owners: 3, requests: Requests::Fail { late: 0 }, failures: true, records: 2, ..ONE_CLOCK };

const LIST: Scope =
    Scope { handlers: &["push"], list: List::Items, requests: Requests::Fail { late: 0 }, ..ONE_CLOCK };

const TWO_HANDLERS: Scope = Scope {
    handlers: &["mark", "push"],
    list: List::Items,
    owners: 1,
    requests: Requests::AreAnswered,
    failures: true,
    refusals: true,
    redrives: 1,
    ..ONE_CLOCK
};

const PARTS: Scope = Scope {
    handlers: &["push"],
    list: List::Parts,
    owners: 1,
    max_receive_count: 1,
    requests: Requests::AreAnswered,
    ..ONE_CLOCK
};

const REDRIVEN: Scope = Scope {
    owners: 1,
    requests: Requests::Fail { late: 0 },
    failures: true,
    expiries: 1,
    redrives: UNLIMITED,
    ends_done: true,
    records: 2,
    ..CLAIMS
};

const WINDOW: Scope = Scope {
    owners: 1,
    sends: 2,
    requests: Requests::AreAnswered,
    failures: true,
    window: WindowScope::Resend { closes: false },
    ..ONE_CLOCK
};

const RUN: Scope = Scope { window: WindowScope::Run { again: true }, ..WINDOW };

fn is_large() -> bool {
    #[expect(clippy::disallowed_methods, reason = "a test's own switch")]
    std::env::var("PROOF").is_ok_and(|scopes| scopes == "large")
}

fn told(name: &str, found: &Explored) {
    println!(
        "{name}: {} states, {} steps, the furthest after {}, {} ends, in {:.1} s",
        found.states,
        found.steps,
        found.depth,
        found.ends,
        found.took.as_secs_f64()
    );
}

/// Looks at every state of a scope.
fn holds(name: &str, scope: Scope) {
    let found = explore(&Model::from(scope));
    told(name, &found);
    if let Some(way) = found.broken.as_ref().or(found.stuck.as_ref()) {
        panic!("{name}: {way}");
    }
    assert!(found.ends > 0, "{name}: nothing ever ends");
}

macro_rules! scopes {
    ($($test:ident: $scope:expr;)+) => {
        $(#[test]
        fn $test() {
            holds(stringify!($test), $scope);
        })+
    };
}

scopes! {
    every_promise_holds_while_requests_fail_and_clocks_differ: CLAIMS;
    every_promise_holds_for_a_message_sent_twice: SENT_TWICE;
    every_promise_holds_with_three_consumers: THREE_CONSUMERS;
    every_promise_holds_for_a_list: LIST;
    every_promise_holds_for_a_list_in_parts: PARTS;
    every_promise_holds_for_two_handlers_with_refusals_and_a_redrive: TWO_HANDLERS;
    everything_is_done_in_the_end_after_as_many_redrives_as_it_takes: REDRIVEN;
    every_promise_holds_under_a_replay_window: WINDOW;
    every_promise_holds_for_a_message_that_an_operator_sends_again: RUN;
}

#[test]
fn every_promise_holds_in_the_larger_scopes() {
    if !is_large() {
        println!("PROOF=large looks at the larger scopes");
        return;
    }
    let more = [
        ("claims", Scope { failures: true, records: 2, ..CLAIMS }),
        ("two late requests", Scope { requests: Requests::Fail { late: 2 }, failures: true, ..ONE_CLOCK }),
        (
            "two late requests, two handlers",
            Scope {
                handlers: &["mark", "push"],
                requests: Requests::Fail { late: 2 },
                failures: true,
                ..ONE_CLOCK
            },
        ),
        ("sent twice", Scope { clocks: &[0, 1], ..SENT_TWICE }),
        (
            "three consumers",
            Scope { clocks: &[0, 1], requests: Requests::Fail { late: 1 }, ..THREE_CONSUMERS },
        ),
        ("a list", Scope { requests: Requests::Fail { late: 1 }, failures: true, ..LIST }),
        ("a window", Scope { clocks: &[0, -1], requests: Requests::Fail { late: 0 }, ..WINDOW }),
        ("a window that closes", Scope { window: WindowScope::Resend { closes: true }, ..WINDOW }),
        ("a run", Scope { clocks: &[0, -1], requests: Requests::Fail { late: 0 }, ..RUN }),
        ("parts", Scope { redrives: 1, ..PARTS }),
    ];
    // Two at a time: the largest takes some gigabytes.
    std::thread::scope(|threads| {
        for some in more.chunks(more.len().div_ceil(2)) {
            threads.spawn(move || some.iter().for_each(|(name, scope)| holds(name, scope.clone())));
        }
    });
}

const DELETED_TOO_EARLY: &str = "a message is deleted that is neither done nor dead-lettered";

/// Takes a past mend back, and returns the steps to what it mended.
fn found_again(scope: &Scope) -> (&'static str, Vec<String>) {
    let rules = scope.rules;
    let found = explore(&Model::from(scope.clone()));
    told(&format!("{rules:?}"), &found);
    let way = found.broken.unwrap_or_else(|| panic!("{rules:?} breaks nothing"));
    println!("{way}");
    (way.why, way.steps)
}

#[test]
fn a_claim_that_its_caller_had_given_up_took_marks_back() {
    let scope = Scope {
        rules: Rules::GrantLateClaims,
        handlers: &["mark", "push"],
        requests: Requests::Fail { late: 2 },
        failures: true,
        ..ONE_CLOCK
    };
    let (why, steps) = found_again(&scope);
    assert_eq!((why, steps.len()), ("a mark is lost", 13));
    assert!(steps[11].contains("carries out a request whose caller had given up: Claim"), "{}", steps[11]);
    assert!(steps[12].contains("settles, and is answered"), "{}", steps[12]);
}

#[test]
fn a_message_that_came_first_under_a_window_was_run_twice() {
    let (why, steps) = found_again(&Scope { rules: Rules::ReplayFirstArrivals, ..WINDOW });
    assert_eq!((why, steps.len()), ("a message that came first under a window is replayed", 12));
    assert!(steps.last().is_some_and(|step| step.contains("mark@w")), "{steps:?}");
}

#[test]
fn a_replay_that_came_back_after_its_window_had_expired_was_deleted() {
    let (why, steps) = found_again(&Scope { rules: Rules::EndReplaysWithTheWindow, ..WINDOW });
    assert_eq!((why, steps.len()), (DELETED_TOO_EARLY, 13));
    assert!(steps.last().is_some_and(|step| step.contains("ends its record: Delete")), "{steps:?}");
}

#[test]
fn a_finished_message_was_taken_for_a_new_one_where_clocks_differ() {
    let scope = Scope { rules: Rules::CallAFinishedMessageNew, clocks: &[0, -1], ..WINDOW };
    let (why, steps) = found_again(&scope);
    assert_eq!((why, steps.len()), (DELETED_TOO_EARLY, 10));
    assert!(steps.last().is_some_and(|step| step.contains("ends its record: Delete")), "{steps:?}");
}

/// How far clocks may differ is a limit of the protocol, and not of the model: the time between the end of the handlers
/// and the end of the lease.
#[test]
fn clocks_that_differ_by_more_than_the_margin_let_two_consumers_work_on_a_message() {
    let (why, steps) = found_again(&Scope { clocks: &[0, 2], ..CLAIMS });
    assert_eq!((why, steps.len()), ("two consumers are at work on a message", 5));
    assert!(steps.last().is_some_and(|step| step.contains("claims, and is answered")), "{steps:?}");
}

#[test]
fn a_lease_that_never_ended_would_leave_a_message_without_an_end() {
    let found = explore(&Model::from(Scope { rules: Rules::NeverEndALease, ..THREE_CONSUMERS }));
    assert!(found.broken.is_none());
    let way = found.stuck.expect("a state without a way to an end");
    println!("{way}");
    assert_eq!(way.steps.len(), 3);
    assert!(way.steps[2].contains("crashes"), "{}", way.steps[2]);
}

impl stateright::Model for Model {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.first()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(self.actions_from(state));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        Some(self.after(state, &action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("every promise holds", |model, state| model.broken(state).is_none())]
    }
}

#[test]
fn another_checker_counts_the_same_states_and_finds_the_same_fault() {
    let found = explore(&Model::from(THREE_CONSUMERS));
    let checker = Model::from(THREE_CONSUMERS).checker().spawn_bfs().join();
    assert_eq!(checker.unique_state_count(), found.states);
    checker.assert_properties();

    let restored = Scope { rules: Rules::ReplayFirstArrivals, ..WINDOW };
    let found = explore(&Model::from(restored.clone())).broken.expect("a broken promise");
    let checker = Model::from(restored).checker().spawn_bfs().join();
    let path = checker.discovery("every promise holds").expect("a broken promise");
    assert_eq!(path.into_actions().len(), found.steps.len());
}
