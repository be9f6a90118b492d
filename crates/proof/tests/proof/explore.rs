//! Visits every state that a model can reach, and finds a shortest way to a broken promise and a state without a way to
//! an end.
//!
//! `stateright` finds the first of these as well, and counts the same states: a test compares them. It cannot find the
//! second. Its `eventually` looks at the last states of finite paths only, and this model has no finite paths: a message
//! may be delivered, fail and be delivered again without end. What is promised is that it can always still end, as soon as
//! nothing fails any more. So the steps between states are kept, and followed backwards from the ends.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::time::{Duration, Instant};

/// A world with steps.
pub(crate) trait World {
    type State: Clone + Eq + Hash;
    type Action: Clone + fmt::Debug;

    fn first(&self) -> Self::State;
    /// The steps from a state, each with the state after it. The same ones in the same order each time.
    fn steps(&self, state: &Self::State) -> Vec<(Self::Action, Self::State)>;
    /// The promise that is broken in this state, if one is.
    fn broken(&self, state: &Self::State) -> Option<&'static str>;
    /// Whether a step from a state is one of a world in which nothing fails.
    fn is_fair(&self, state: &Self::State, action: &Self::Action) -> bool;
    /// Whether nothing is left to do.
    fn is_end(&self, state: &Self::State) -> bool;
    /// One step and the state after it, for a person.
    fn describe(&self, before: &Self::State, action: &Self::Action, after: &Self::State) -> String;
}

/// What was found.
pub(crate) struct Explored {
    pub(crate) states: usize,
    pub(crate) steps: usize,
    /// The length of the longest of the shortest ways to a state.
    pub(crate) depth: usize,
    pub(crate) ends: usize,
    pub(crate) took: Duration,
    pub(crate) broken: Option<Way>,
    /// A shortest way to a state from which no end can be reached, even if nothing fails any more.
    pub(crate) stuck: Option<Way>,
}

/// A shortest way from the first state.
pub(crate) struct Way {
    pub(crate) why: &'static str,
    pub(crate) steps: Vec<String>,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} after {} steps:", self.why, self.steps.len())?;
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "{:>3}. {step}", number + 1)?;
        }
        Ok(())
    }
}

/// A state by 128 bits of hash. That two of a hundred million states have the same is as likely as 1 in 10^22.
type Fingerprint = u128;

/// Takes a fingerprint as its own hash.
#[derive(Default)]
struct Itself(u64);

impl Hasher for Itself {
    fn write(&mut self, _: &[u8]) {
        unreachable!("fingerprints are numbers")
    }

    #[expect(clippy::cast_possible_truncation, reason = "half of the bits are enough to find a place")]
    fn write_u128(&mut self, fingerprint: u128) {
        self.0 = fingerprint as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Collects the bytes of a state, to hash them at once.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    // What a discriminant and a length are written as. They are small.
    fn write_isize(&mut self, number: isize) {
        self.0.extend_from_slice(&i16::try_from(number).expect("a small number").to_le_bytes());
    }

    fn write_usize(&mut self, number: usize) {
        self.0.extend_from_slice(&u16::try_from(number).expect("a small number").to_le_bytes());
    }

    fn finish(&self) -> u64 {
        unreachable!("the bytes are hashed by `fingerprint`")
    }
}

fn fingerprint(state: &impl Hash, bytes: &mut Bytes) -> Fingerprint {
    bytes.0.clear();
    state.hash(bytes);
    let half = |seed: u8| {
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write_u8(seed);
        hasher.write(&bytes.0);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

/// Visits every state, breadth first, and stops at the first broken promise.
pub(crate) fn explore<W: World>(world: &W) -> Explored {
    let started = Instant::now();
    let mut known: HashMap<Fingerprint, u32, BuildHasherDefault<Itself>> = HashMap::default();
    // For each state, the one from which it was reached first, and how many steps from the first one it is.
    let mut parents: Vec<u32> = Vec::new();
    let mut depths: Vec<u16> = Vec::new();
    let mut ends: Vec<u32> = Vec::new();
    // The fair steps, from state to state.
    let mut fair: Vec<(u32, u32)> = Vec::new();
    let mut bytes = Bytes::default();
    let mut steps = 0;

    let first = world.first();
    known.insert(fingerprint(&first, &mut bytes), 0);
    parents.push(0);
    depths.push(0);
    let mut waiting = VecDeque::from([first]);
    let mut number: u32 = 0;
    let mut found = None;
    while let Some(state) = waiting.pop_front() {
        if let Some(why) = world.broken(&state) {
            found = Some((why, number));
            break;
        }
        if world.is_end(&state) {
            ends.push(number);
        }
        for (action, next) in world.steps(&state) {
            steps += 1;
            let new = u32::try_from(parents.len()).expect("fewer than four billion states");
            let after = *known.entry(fingerprint(&next, &mut bytes)).or_insert(new);
            if after == new {
                parents.push(number);
                depths.push(depths[number as usize] + 1);
                waiting.push_back(next);
            }
            if world.is_fair(&state, &action) && after != number {
                fair.push((number, after));
            }
        }
        number += 1;
    }

    let way =
        |(why, target): (&'static str, u32)| Way { why, steps: steps_to(world, &known, &parents, target) };
    let stuck = if found.is_none() { without_way_to(&ends, fair, parents.len()) } else { None };
    Explored {
        states: parents.len(),
        steps,
        depth: usize::from(depths.iter().copied().max().unwrap_or_default()),
        ends: ends.len(),
        took: started.elapsed(),
        broken: found.map(way),
        stuck: stuck.map(|target| way(("no end can be reached", target))),
    }
}

/// The first state from which none of `ends` can be reached.
fn without_way_to(ends: &[u32], mut steps: Vec<(u32, u32)>, states: usize) -> Option<u32> {
    steps.sort_unstable_by_key(|(_, after)| *after);
    let mut reaches = vec![false; states];
    let mut waiting: Vec<u32> = ends.to_vec();
    for end in ends {
        reaches[*end as usize] = true;
    }
    while let Some(state) = waiting.pop() {
        let from = steps.partition_point(|(_, after)| *after < state);
        for (before, _) in steps[from..].iter().take_while(|(_, after)| *after == state) {
            if !std::mem::replace(&mut reaches[*before as usize], true) {
                waiting.push(*before);
            }
        }
    }
    reaches.iter().position(|reaches| !reaches).map(|state| u32::try_from(state).expect("it was one"))
}

/// The steps of a shortest way to a state: taken once more, along the states on the way.
fn steps_to<W: World>(
    world: &W,
    known: &HashMap<Fingerprint, u32, BuildHasherDefault<Itself>>,
    parents: &[u32],
    target: u32,
) -> Vec<String> {
    let mut numbers = vec![target];
    while let Some(&last) = numbers.last()
        && last != 0
    {
        numbers.push(parents[last as usize]);
    }
    let mut bytes = Bytes::default();
    let mut state = world.first();
    let mut told = Vec::new();
    for number in numbers.into_iter().rev().skip(1) {
        let mut is_it = |next: &W::State| known.get(&fingerprint(next, &mut bytes)) == Some(&number);
        let step = world.steps(&state).into_iter().find(|(_, next)| is_it(next));
        let (action, next) = step.expect("each state was reached from its parent");
        told.push(world.describe(&state, &action, &next));
        state = next;
    }
    told
}
