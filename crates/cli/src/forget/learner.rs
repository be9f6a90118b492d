//! Which parts of a webhook's body are about one learner.
//!
//! LearnInk names a learner by `user_id`, `custom_id` and `phone_number`, in the event's data or in each item of a list. A
//! type that this program does not know may have a value under another name, or within a text. Nothing here is
//! recursive: a body may be nested as deep as it is long.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use learnink_webhook::json::{self, Token, TokenKind, Tokens};
use serde::Serialize;
use serde::de::IgnoredAny;

/// A shorter id is looked for only in the fields that name a learner: elsewhere it may be a score or a number of items.
const SHORTEST_ANYWHERE: usize = 8;

/// The value that replaces a removed one. A list keeps its length, so that the others keep their positions.
const REMOVED: &str = "null";

/// The member that replaces one whose name was the learner's, and the name that replaces such a name alone.
const REMOVED_MEMBER: &str = "\"redacted\":null";
const REMOVED_NAME: &str = "\"redacted\"";

/// The byte order mark. Source: RFC 8259, section 8.1.
const BOM: &str = "\u{FEFF}";

/// A field that names a learner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    UserId,
    CustomId,
    PhoneNumber,
}

impl Field {
    /// The field of this name, or of a list under this name.
    fn named(name: &str) -> Option<Self> {
        match name {
            "user_id" | "user_ids" => Some(Self::UserId),
            "custom_id" | "custom_ids" => Some(Self::CustomId),
            "phone_number" | "phone_numbers" => Some(Self::PhoneNumber),
            _ => None,
        }
    }
}

/// Ids of learners, by kind; of a phone number the digits. `Debug` shows how many there are, and none of them.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Ids {
    pub(crate) user_ids: BTreeSet<String>,
    pub(crate) custom_ids: BTreeSet<String>,
    pub(crate) phone_numbers: BTreeSet<String>,
}

/// What was typed cannot be the id of a learner. The text does not repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnusableLearner {
    #[error("an id cannot be empty")]
    Empty,
    #[error("write the phone number with its country code, such as +441632960961: `+`, and 7 to 15 digits")]
    PhoneNumber,
}

impl Ids {
    pub(crate) fn is_empty(&self) -> bool {
        self.user_ids.is_empty() && self.custom_ids.is_empty() && self.phone_numbers.is_empty()
    }

    pub(crate) fn add_user_id(&mut self, id: &str) -> Result<(), UnusableLearner> {
        self.user_ids.insert(id_of(id)?);
        Ok(())
    }

    pub(crate) fn add_custom_id(&mut self, id: &str) -> Result<(), UnusableLearner> {
        self.custom_ids.insert(id_of(id)?);
        Ok(())
    }

    /// Adds a phone number as people write it: spaces, hyphens and brackets do not matter.
    pub(crate) fn add_phone_number(&mut self, number: &str) -> Result<(), UnusableLearner> {
        let digits = number.trim().strip_prefix('+').ok_or(UnusableLearner::PhoneNumber)?;
        let digits: String = digits.chars().filter(|c| !" -()./\u{a0}".contains(*c)).collect();
        let is_one = (7..=15).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_one {
            return Err(UnusableLearner::PhoneNumber);
        }
        self.phone_numbers.insert(digits);
        Ok(())
    }

    fn of(&self, field: Field) -> &BTreeSet<String> {
        match field {
            Field::UserId => &self.user_ids,
            Field::CustomId => &self.custom_ids,
            Field::PhoneNumber => &self.phone_numbers,
        }
    }

    fn has(&self, field: Field, value: &str) -> bool {
        match field {
            Field::UserId | Field::CustomId => self.of(field).contains(value),
            Field::PhoneNumber => self.phone_numbers.contains(digits_of(value)),
        }
    }

    fn insert(&mut self, field: Field, value: &str) {
        match field {
            Field::UserId => self.user_ids.insert(value.to_owned()),
            Field::CustomId => self.custom_ids.insert(value.to_owned()),
            Field::PhoneNumber => self.phone_numbers.insert(digits_of(value).to_owned()),
        };
    }

    /// Those that are looked for everywhere in a body.
    fn anywhere(&self) -> impl Iterator<Item = &str> {
        let ids = self.user_ids.iter().chain(&self.custom_ids).filter(|id| id.len() >= SHORTEST_ANYWHERE);
        ids.chain(&self.phone_numbers).map(String::as_str)
    }

    /// Adds others, and says whether one of them is new.
    pub(crate) fn add_all(&mut self, others: Self) -> bool {
        let before = self.count();
        self.user_ids.extend(others.user_ids);
        self.custom_ids.extend(others.custom_ids);
        self.phone_numbers.extend(others.phone_numbers);
        self.count() > before
    }

    fn count(&self) -> usize {
        self.user_ids.len() + self.custom_ids.len() + self.phone_numbers.len()
    }

    fn remove_all(&mut self, others: &Self) {
        self.user_ids.retain(|id| !others.user_ids.contains(id));
        self.custom_ids.retain(|id| !others.custom_ids.contains(id));
        self.phone_numbers.retain(|number| !others.phone_numbers.contains(number));
    }
}

fn id_of(id: &str) -> Result<String, UnusableLearner> {
    let id = id.trim();
    if id.is_empty() { Err(UnusableLearner::Empty) } else { Ok(id.to_owned()) }
}

/// A phone number without its `+`: LearnInk may send it as text or as a number.
fn digits_of(number: &str) -> &str {
    number.strip_prefix('+').unwrap_or(number)
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Ids({} user ids, {} custom ids, {} phone numbers)",
            self.user_ids.len(),
            self.custom_ids.len(),
            self.phone_numbers.len()
        )
    }
}

/// One learner: the ids that were typed, and those that stand beside them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Learner {
    /// As typed.
    pub(crate) asked: Ids,
    /// Of the same learner, from what was found.
    pub(crate) further: Ids,
}

impl Learner {
    pub(crate) fn new(asked: Ids) -> Self {
        Self { asked, further: Ids::default() }
    }

    /// Adds ids that stand beside known ones, and says whether one of them is new. If a user id was typed, another one
    /// is another learner's.
    pub(crate) fn learn(&mut self, mut beside: Ids) -> bool {
        beside.remove_all(&self.asked);
        if !self.asked.user_ids.is_empty() {
            beside.user_ids.clear();
        }
        self.further.add_all(beside)
    }

    /// All known user ids.
    pub(crate) fn user_ids(&self) -> impl Iterator<Item = &str> {
        self.asked.user_ids.iter().chain(&self.further.user_ids).map(String::as_str)
    }

    fn has(&self, field: Field, value: &str) -> bool {
        self.asked.has(field, value) || self.further.has(field, value)
    }

    /// Whether an object with these user ids is the learner's because of a field of it. A further phone number or custom
    /// id does not say so where a user id says otherwise: people share phones.
    fn is_named_by(&self, field: Field, value: &str, user_ids: &[Cow<'_, str>]) -> bool {
        let is_of_another = !user_ids.is_empty() && !user_ids.iter().any(|id| self.has(Field::UserId, id));
        self.asked.has(field, value) || (self.further.has(field, value) && !is_of_another)
    }

    /// Whether a text has one of the ids, as a whole word.
    pub(crate) fn is_mentioned_in(&self, text: &str) -> bool {
        self.asked.anywhere().chain(self.further.anywhere()).any(|id| has_word(text, id))
    }

    /// Whether a text in what is another's names the learner. A further phone number or custom id does not say so: it may
    /// be that learner's as well.
    fn is_mentioned_by_another_in(&self, text: &str) -> bool {
        let user_ids = self.further.user_ids.iter().filter(|id| id.len() >= SHORTEST_ANYWHERE);
        self.asked.anywhere().chain(user_ids.map(String::as_str)).any(|id| has_word(text, id))
    }

    /// What a body says about the learner.
    pub(crate) fn find(&self, body: &[u8]) -> Finding {
        // Some programs write a byte order mark in front of JSON.
        if let Some(body) = body.strip_prefix(BOM.as_bytes()) {
            let mut finding = self.find(body);
            if let Part::Items(items) = &mut finding.part {
                items.redacted.splice(..0, BOM.bytes());
            }
            return finding;
        }
        let document = std::str::from_utf8(body).ok().and_then(|text| Some((Document::read(text)?, text)));
        match document {
            Some((document, text)) => document.find(text, self),
            // Not an event: it has no items that could be told apart.
            None if self.is_mentioned_in(&String::from_utf8_lossy(body)) => {
                Finding { part: Part::Whole, ..Finding::default() }
            }
            None => Finding::default(),
        }
    }
}

/// Whether a text has the word, with no letter or digit beside it.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text.get(..at).and_then(|before| before.chars().next_back());
        let after = text.get(at + word.len()..).and_then(|after| after.chars().next());
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

/// What a body says about a learner. `Debug` shows none of it.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) part: Part,
    /// The ids in the objects that are the learner's.
    pub(crate) beside: Ids,
    /// How many objects have a further id of the learner and the user id of another one.
    pub(crate) shared: usize,
}

/// How much of a body is about a learner.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) enum Part {
    #[default]
    Nothing,
    /// All of it, or at least nobody else.
    Whole,
    /// It is about others too.
    Items(Items),
}

/// The learner's items in a body that is about others too.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Items {
    /// The body without them; every other byte is as it was.
    pub(crate) redacted: Vec<u8>,
    /// The items, as they are in the body.
    pub(crate) own: Vec<String>,
    /// How many places were changed. More than items, if another learner's item names this one.
    pub(crate) places: usize,
}

impl fmt::Debug for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match &self.part {
            Part::Nothing => "nothing",
            Part::Whole => "whole",
            Part::Items(_) => "items",
        };
        f.debug_struct("Finding").field("part", &part).field("beside", &self.beside).finish_non_exhaustive()
    }
}

/// A value in a document.
struct Node {
    parent: usize,
    kind: NodeKind,
    /// The token of its name, if it is the member of an object.
    name: Option<Range<usize>>,
    at: Range<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NodeKind {
    Object,
    Array,
    Text,
    Number,
    /// `true`, `false` or `null`.
    Word,
}

impl NodeKind {
    const fn is_container(self) -> bool {
        matches!(self, Self::Object | Self::Array)
    }
}

/// The person that a value itself names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Nobody,
    TheLearner,
    Another,
}

/// The values of a body, in their order: a container comes before what is in it, and the body itself is the first.
struct Document(Vec<Node>);

/// What is known of each value.
struct Judged {
    owners: Vec<Owner>,
    /// Whose the innermost object around it is, of those that name somebody.
    around: Vec<Owner>,
    /// Whether its text names the learner, although it is not a field for that.
    by_text: Vec<bool>,
    /// Whether its own name does.
    by_name: Vec<bool>,
    /// Whether the learner, or somebody else, is named in it or below, or the learner within what is another's.
    mine: Vec<bool>,
    others: Vec<bool>,
    mentions: Vec<bool>,
}

impl Document {
    /// `None` if the text is not a JSON object or array.
    fn read(text: &str) -> Option<Self> {
        serde_json::from_str::<IgnoredAny>(text).ok()?;
        let mut nodes: Vec<Node> = Vec::new();
        let mut open: Vec<usize> = Vec::new();
        let mut name = None;
        let mut tokens = Tokens::of(text).peekable();
        while let Some(Token { kind, start, end }) = tokens.next() {
            let is_name = matches!(tokens.peek(), Some(Token { kind: TokenKind::Colon, .. }));
            let kind = match kind {
                TokenKind::Text if is_name => {
                    name = Some(start..end);
                    continue;
                }
                TokenKind::ObjectEnd | TokenKind::ArrayEnd => {
                    let node = open.pop().and_then(|node| nodes.get_mut(node))?;
                    node.at.end = end;
                    continue;
                }
                TokenKind::Colon | TokenKind::Comma => continue,
                TokenKind::ObjectStart => NodeKind::Object,
                TokenKind::ArrayStart => NodeKind::Array,
                TokenKind::Text => NodeKind::Text,
                TokenKind::Number => NodeKind::Number,
                TokenKind::Word => NodeKind::Word,
            };
            let parent = open.last().copied().unwrap_or_default();
            if kind.is_container() {
                open.push(nodes.len());
            }
            nodes.push(Node { parent, kind, name: name.take(), at: start..end });
        }
        nodes.first().is_some_and(|root| root.kind.is_container()).then_some(Self(nodes))
    }

    /// The values but the body itself, each with its number.
    fn below(&self) -> impl DoubleEndedIterator<Item = (usize, &Node)> {
        self.0.iter().enumerate().skip(1)
    }

    fn is_object(&self, node: usize) -> bool {
        self.0.get(node).is_some_and(|node| node.kind == NodeKind::Object)
    }

    /// The field of a value that names a learner: by its own name, or by that of its list.
    fn field(&self, node: &Node, text: &str) -> Option<Field> {
        let named = |node: &Node| Field::named(&text_at(text, node.name.as_ref()?)?);
        named(node).or_else(|| {
            let list = self.0.get(node.parent).filter(|list| list.kind == NodeKind::Array)?;
            named(list)
        })
    }

    fn find(&self, text: &str, learner: &Learner) -> Finding {
        let mut finding = Finding::default();
        let judged = self.judge(text, learner, &mut finding);
        let (is_mine, is_others) = (flag(&judged.mine, 0), flag(&judged.others, 0));
        if is_mine && !is_others {
            finding.part = Part::Whole;
        } else if is_mine || flag(&judged.mentions, 0) {
            let removed = self.removed(&judged);
            let mut redacted = Vec::with_capacity(text.len());
            let mut done = 0;
            for (at, with) in &removed.places {
                redacted.extend_from_slice(text.get(done..at.start).unwrap_or_default().as_bytes());
                redacted.extend_from_slice(with.as_bytes());
                done = at.end;
            }
            redacted.extend_from_slice(text.get(done..).unwrap_or_default().as_bytes());
            let own = removed.own.into_iter().filter_map(|at| text.get(at)).map(str::to_owned).collect();
            finding.part = Part::Items(Items { redacted, own, places: removed.places.len() });
        }
        finding
    }

    /// Says whose each value is.
    fn judge(&self, text: &str, learner: &Learner, finding: &mut Finding) -> Judged {
        let mut owners = self.owners_by_field(text, learner, finding);
        let around = self.around(&owners);
        let [mut by_text, mut by_name] = [vec![false; self.0.len()], vec![false; self.0.len()]];
        for (index, node) in self.below() {
            let is_of_another = around.get(index) == Some(&Owner::Another);
            let is_mentioned_in = |text: &str| {
                if is_of_another {
                    learner.is_mentioned_by_another_in(text)
                } else {
                    learner.is_mentioned_in(text)
                }
            };
            let name = node.name.as_ref().and_then(|name| text_at(text, name));
            set(&mut by_name, index, name.is_some_and(|name| is_mentioned_in(&name)));
            let field = self.field(node, text);
            let is_by_text = value(text, node).is_some_and(|value| {
                let is_id = field.is_some_and(|field| learner.has(field, &value));
                !is_id && is_mentioned_in(&value)
            });
            set(&mut by_text, index, is_by_text);
            // The text is about the learner, and so is what stands beside it.
            if is_by_text
                && !is_of_another
                && self.is_object(node.parent)
                && let Some(owner) = owners.get_mut(node.parent)
            {
                *owner = Owner::TheLearner;
            }
        }
        self.sum_up(owners, by_text, by_name)
    }

    /// The owner of each value: objects name theirs in their fields, and each id in a list of ids is its own.
    fn owners_by_field(&self, text: &str, learner: &Learner, finding: &mut Finding) -> Vec<Owner> {
        let mut named: Vec<Vec<(Field, Cow<'_, str>)>> = vec![Vec::new(); self.0.len()];
        let mut owners = vec![Owner::Nobody; self.0.len()];
        for (index, node) in self.below() {
            let Some(value) = value(text, node).filter(|value| !value.is_empty()) else { continue };
            let Some(field) = self.field(node, text) else { continue };
            if self.is_object(node.parent) {
                if let Some(named) = named.get_mut(node.parent) {
                    named.push((field, value));
                }
            } else if let Some(owner) = owners.get_mut(index) {
                let is_own = learner.is_named_by(field, &value, &[]);
                *owner = if is_own { Owner::TheLearner } else { Owner::Another };
            }
        }
        for (owner, named) in owners.iter_mut().zip(named).filter(|(_, named)| !named.is_empty()) {
            let of_user = named.iter().filter(|(field, _)| *field == Field::UserId);
            let user_ids: Vec<_> = of_user.map(|(_, value)| value.clone()).collect();
            if named.iter().any(|(field, value)| learner.is_named_by(*field, value, &user_ids)) {
                *owner = Owner::TheLearner;
                for (field, value) in &named {
                    finding.beside.insert(*field, value);
                }
            } else {
                *owner = Owner::Another;
                let is_shared = named.iter().any(|(field, value)| learner.further.has(*field, value));
                finding.shared += usize::from(is_shared);
            }
        }
        owners
    }

    /// For each value, the owner of the innermost container around it that has one.
    fn around(&self, owners: &[Owner]) -> Vec<Owner> {
        let mut around = vec![Owner::Nobody; self.0.len()];
        let at = |owners: &[Owner], index: usize| owners.get(index).copied().unwrap_or(Owner::Nobody);
        for (index, node) in self.below() {
            let nearest = match at(owners, node.parent) {
                Owner::Nobody => at(&around, node.parent),
                owner @ (Owner::TheLearner | Owner::Another) => owner,
            };
            if let Some(around) = around.get_mut(index) {
                *around = nearest;
            }
        }
        around
    }

    /// Adds up who is named in each container.
    fn sum_up(&self, owners: Vec<Owner>, by_text: Vec<bool>, by_name: Vec<bool>) -> Judged {
        let count = self.0.len();
        let around = self.around(&owners);
        // An object of which a member's name names the learner is a map by learner: its other members are others'.
        let mut is_map = vec![false; count];
        for (index, node) in self.below() {
            set(&mut is_map, node.parent, flag(&by_name, index));
        }
        let [mut mine, mut others, mut mentions] =
            [vec![false; count], vec![false; count], vec![false; count]];
        // The containers in which a value names nobody although it could.
        let mut has_unnamed = vec![false; count];
        for (index, node) in self.0.iter().enumerate().rev() {
            let owner = owners.get(index).copied().unwrap_or(Owner::Nobody);
            let is_around = around.get(index).copied().unwrap_or(Owner::Nobody);
            let is_named = flag(&by_text, index) || flag(&by_name, index);
            set(&mut mine, index, owner == Owner::TheLearner || (is_named && is_around != Owner::Another));
            set(&mut others, index, owner == Owner::Another);
            set(&mut mentions, index, is_named && is_around == Owner::Another);
            let is_mixed = flag(&mine, index) && flag(&has_unnamed, index);
            set(&mut others, index, is_mixed);
            if index == 0 {
                break;
            }
            let (is_mine, is_others) = (flag(&mine, index), flag(&others, index));
            let is_mention = flag(&mentions, index);
            set(&mut mine, node.parent, is_mine);
            set(&mut others, node.parent, is_others);
            set(&mut mentions, node.parent, is_mention);
            let could_be_anybodys = (!self.is_object(node.parent) && node.kind != NodeKind::Word)
                || (flag(&is_map, node.parent) && node.kind.is_container());
            let is_nobodys = !is_mine && !is_others && is_around == Owner::Nobody;
            set(&mut has_unnamed, node.parent, could_be_anybodys && is_nobodys);
        }
        Judged { owners, around, by_text, by_name, mine, others, mentions }
    }

    /// The places to change, in their order.
    fn removed(&self, judged: &Judged) -> Removed {
        let mut removed = Removed::default();
        // The containers that are kept, and looked into.
        let mut is_open = vec![false; self.0.len()];
        set(&mut is_open, 0, true);
        for (index, node) in self.below().filter(|(_, node)| node.at.end > node.at.start) {
            if !flag(&is_open, node.parent) {
                continue;
            }
            let (is_mine, is_others) = (flag(&judged.mine, index), flag(&judged.others, index));
            let is_of_another = judged.around.get(index) == Some(&Owner::Another);
            // What an object of the learner has itself is the learner's. The envelope around the data is not.
            let is_in_own = judged.owners.get(node.parent) == Some(&Owner::TheLearner)
                && self.is_object(node.parent)
                && node.parent != 0;
            let by_name = node.name.clone().filter(|_| flag(&judged.by_name, index));
            match by_name {
                Some(name) if !is_others => {
                    removed.places.push((name.start..node.at.end, REMOVED_MEMBER));
                    removed.own.extend((!is_of_another).then(|| node.at.clone()));
                    continue;
                }
                Some(name) => removed.places.push((name, REMOVED_NAME)),
                None => {}
            }
            if (is_mine || is_in_own) && !is_others {
                removed.places.push((node.at.clone(), REMOVED));
                removed.own.push(node.at.clone());
            } else if flag(&judged.by_text, index) {
                removed.places.push((node.at.clone(), REMOVED));
            } else if is_mine || flag(&judged.mentions, index) {
                set(&mut is_open, index, node.kind.is_container());
            }
        }
        removed
    }
}

/// The places to change with their new text, and the places of the learner's own data.
#[derive(Default)]
struct Removed {
    places: Vec<(Range<usize>, &'static str)>,
    own: Vec<Range<usize>>,
}

fn flag(flags: &[bool], index: usize) -> bool {
    flags.get(index).copied().unwrap_or_default()
}

/// Sets a flag that may be set already.
fn set(flags: &mut [bool], index: usize, value: bool) {
    if let Some(flag) = flags.get_mut(index) {
        *flag |= value;
    }
}

/// The text of a string with its quotes.
fn text_at<'a>(text: &'a str, at: &Range<usize>) -> Option<Cow<'a, str>> {
    json::text(text.get(at.clone())?)
}

/// The value of a string or a number as text.
fn value<'a>(text: &'a str, node: &Node) -> Option<Cow<'a, str>> {
    match node.kind {
        NodeKind::Text => text_at(text, &node.at),
        NodeKind::Number => text.get(node.at.clone()).map(Cow::Borrowed),
        NodeKind::Object | NodeKind::Array | NodeKind::Word => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const USER: &str = "le2bB6Fi4CMgrIOIqMCJryZb9PR2";
    const CUSTOM: &str = "3c2143e4-3e8e-478a-bf0b-9dc6e284fa33";
    const PHONE: &str = "+254705408079";

    fn learner(kind: &str, id: &str) -> Learner {
        let mut asked = Ids::default();
        match kind {
            "user_id" => asked.add_user_id(id),
            "custom_id" => asked.add_custom_id(id),
            _ => asked.add_phone_number(id),
        }
        .unwrap();
        Learner::new(asked)
    }

    fn by_user_id() -> Learner {
        learner("user_id", USER)
    }

    fn event(data: &Value) -> String {
        json!({ "type": "example.type", "data": data, "timestamp": "2026-01-01T00:00:00Z" }).to_string()
    }

    /// The data after the redaction; text where there is none.
    fn left_of(learner: &Learner, data: &Value) -> Value {
        match learner.find(event(data).as_bytes()).part {
            Part::Nothing => "nothing".into(),
            Part::Whole => "whole".into(),
            Part::Items(items) => {
                assert!(learner.find(&items.redacted).part == Part::Nothing, "a second look finds something");
                serde_json::from_slice::<Value>(&items.redacted).unwrap()["data"].clone()
            }
        }
    }

    #[test]
    fn an_event_about_the_learner_alone_is_the_learners_as_a_whole() {
        let whole = Value::from("whole");
        for data in [
            json!({ "user_id": USER, "custom_id": CUSTOM, "phone_number": PHONE, "course_id": "c" }),
            json!({ "notifications": [{ "title": "Hi Mary!", "user_id": USER }] }),
            // What was redacted before names nobody.
            json!({ "notifications": [null, { "title": "Hi Mary!", "user_id": USER }] }),
            json!({ "learner": { "profile": { "user_id": USER } }, "title": "Hi Mary!" }),
            json!({ "user_id": USER, "answers": [{ "n": 1 }, { "n": 2 }], "path": ["learners", USER] }),
            json!({ "account": USER, "score": 3 }),
            json!({ "note": format!("{USER} has finished") }),
            json!([USER]),
        ] {
            assert_eq!(left_of(&by_user_id(), &data), whole, "{data}");
        }
        for phone in [json!(PHONE), json!("254705408079"), json!(254_705_408_079_u64)] {
            let data = json!({ "phone_number": phone });
            assert_eq!(left_of(&learner("phone_number", "+254 (705) 408-079"), &data), whole, "{data}");
        }
        assert_eq!(left_of(&learner("user_id", "17"), &json!({ "user_id": 17 })), whole);
    }

    #[test]
    fn what_is_about_others_is_not_found() {
        let nothing = Value::from("nothing");
        for data in [
            json!({ "user_id": "other", "title": "Hi Bob" }),
            json!({ "user_id": format!("{USER}x"), "note": format!("x{USER}") }),
            json!({ "notifications": [{ "user_id": "a" }, null, { "user_id": "b" }] }),
            json!({}),
            json!(null),
        ] {
            assert_eq!(left_of(&by_user_id(), &data), nothing, "{data}");
        }
        // A short id elsewhere may be anything.
        let short = learner("user_id", "17");
        assert_eq!(left_of(&short, &json!({ "user_id": "18", "score": 17, "level": "17" })), nothing);
        // Another number that contains this one.
        let phone = learner("phone_number", PHONE);
        assert_eq!(left_of(&phone, &json!({ "user_id": "a", "phone_number": "+2547054080791" })), nothing);
    }

    #[test]
    fn of_a_list_only_the_learners_items_are_removed_and_the_others_keep_their_places() {
        let bob = json!({ "user_id": "bob", "title": "Hi Bob" });
        let data = json!({ "n": 1, "notifications": [bob, { "user_id": USER, "title": "Hi Mary!" }, bob] });
        let left = json!({ "n": 1, "notifications": [bob, null, bob] });
        assert_eq!(left_of(&by_user_id(), &data), left);
        // An item without ids may be anybody's.
        let data = json!({ "notifications": [{ "user_id": USER }, { "title": "Hi Ann" }] });
        assert_eq!(left_of(&by_user_id(), &data), json!({ "notifications": [null, { "title": "Hi Ann" }] }));
        let nested =
            json!({ "groups": [{ "name": "g", "members": [{ "user_id": USER }, { "user_id": "bob" }] }] });
        let left = json!({ "groups": [{ "name": "g", "members": [null, { "user_id": "bob" }] }] });
        assert_eq!(left_of(&by_user_id(), &nested), left);
        assert_eq!(
            left_of(&by_user_id(), &json!({ "user_ids": ["bob", USER] })),
            json!({ "user_ids": ["bob", null] })
        );
        let map = json!({ "learners": { USER: { "score": 1 }, "bob": { "score": 2 } } });
        assert_eq!(
            left_of(&by_user_id(), &map),
            json!({ "learners": { "redacted": null, "bob": { "score": 2 } } })
        );
    }

    #[test]
    fn what_the_learner_has_beside_others_is_removed_value_by_value() {
        let data =
            json!({ "user_id": USER, "name": "Mary", "tags": ["t"], "team": [{ "user_id": "bob", "n": 1 }] });
        let left =
            json!({ "user_id": null, "name": null, "tags": null, "team": [{ "user_id": "bob", "n": 1 }] });
        assert_eq!(left_of(&by_user_id(), &data), left);
    }

    #[test]
    fn an_item_of_another_that_names_the_learner_loses_only_the_name() {
        let data =
            json!({ "user_id": "bob", "invited_by": USER, "text": format!("from {USER}!"), USER: 1, "n": 2 });
        let left = json!({ "user_id": "bob", "invited_by": null, "text": null, "redacted": null, "n": 2 });
        assert_eq!(left_of(&by_user_id(), &data), left);
        let around = json!({ "user_id": "bob", USER: [{ "user_id": "ann" }] });
        assert_eq!(
            left_of(&by_user_id(), &around),
            json!({ "user_id": "bob", "redacted": [{ "user_id": "ann" }] })
        );
    }

    #[test]
    fn escapes_hide_nothing() {
        let escaped = USER.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect::<Vec<_>>().concat();
        let body = format!("{{\"data\":{{\"user\\u005fid\":\"{escaped}\"}}}}");
        assert!(by_user_id().find(body.as_bytes()).part == Part::Whole);
    }

    #[test]
    fn the_bytes_around_what_is_removed_stay_as_they_are() {
        let body = format!(
            "{{ \"data\" : [ {{\"user_id\":\"bob\", \"n\":1.50e0}},\n{{ \"user_id\" : \"{USER}\" }} ]}}\r\n"
        );
        let Part::Items(items) = by_user_id().find(body.as_bytes()).part else { panic!("no items") };
        let left = "{ \"data\" : [ {\"user_id\":\"bob\", \"n\":1.50e0},\nnull ]}\r\n";
        assert_eq!(String::from_utf8(items.redacted).unwrap(), left);
        assert_eq!((items.own, items.places), (vec![format!("{{ \"user_id\" : \"{USER}\" }}")], 1));
        let Part::Items(items) = by_user_id().find(format!("{BOM}{body}").as_bytes()).part else {
            panic!("no items")
        };
        assert_eq!(String::from_utf8(items.redacted).unwrap(), format!("{BOM}{left}"));
    }

    #[test]
    fn what_is_not_an_event_is_the_learners_if_it_has_the_id() {
        for body in [format!("not json, {PHONE}"), format!("\"{PHONE}\"")] {
            assert!(learner("phone_number", PHONE).find(body.as_bytes()).part == Part::Whole, "{body}");
        }
        let mut bytes = b"\xFF ".to_vec();
        bytes.extend(PHONE.as_bytes());
        assert!(learner("phone_number", PHONE).find(&bytes).part == Part::Whole);
        assert!(learner("phone_number", PHONE).find(b"not json").part == Part::Nothing);
    }

    #[test]
    fn the_ids_beside_the_learners_are_the_same_learners_and_a_shared_phone_is_not_followed() {
        let body = event(&json!({ "user_id": USER, "custom_id": CUSTOM, "phone_number": PHONE }));
        let mut mary = by_user_id();
        assert!(
            mary.learn(mary.find(body.as_bytes()).beside) && !mary.learn(mary.find(body.as_bytes()).beside)
        );
        assert_eq!(left_of(&mary, &json!({ "phone_number": PHONE })), "whole");
        let bob = mary.find(event(&json!({ "user_id": "bob", "phone_number": PHONE })).as_bytes());
        assert_eq!((bob.part == Part::Nothing, bob.shared), (true, 1));
        // What Bob writes about the phone that they share is Bob's; what he writes about Mary's id is not.
        let bobs = json!({ "user_id": "bob", "phone_number": PHONE, "text": format!("call {PHONE}") });
        assert_eq!(left_of(&mary, &bobs), "nothing");
        let bobs = json!({ "user_id": "bob", "text": format!("with {USER}") });
        assert_eq!(left_of(&mary, &bobs), json!({ "user_id": "bob", "text": null }));
        assert!(!mary.learn(Ids { user_ids: ["bob".to_owned()].into(), ..Ids::default() }));

        let mut by_phone = learner("phone_number", PHONE);
        assert!(by_phone.learn(by_phone.find(body.as_bytes()).beside));
        assert_eq!(by_phone.user_ids().collect::<Vec<_>>(), [USER]);
        assert_eq!(left_of(&by_phone, &json!({ "user_id": USER })), "whole");
    }

    #[test]
    fn what_cannot_be_an_id_is_refused_and_not_repeated() {
        let mut ids = Ids::default();
        assert_eq!(ids.add_user_id("  "), Err(UnusableLearner::Empty));
        for number in ["0705408079", "+12345", "+25470540807x", "+1234567890123456", ""] {
            let error = ids.add_phone_number(number).unwrap_err();
            assert!(!error.to_string().contains("0705") && ids.is_empty(), "{number}");
        }
        ids.add_user_id(USER).unwrap();
        assert_eq!(format!("{ids:?}"), "Ids(1 user ids, 0 custom ids, 0 phone numbers)");
    }

    #[test]
    fn no_depth_overflows_the_stack_or_takes_long() {
        let deep = format!("{}{{\"user_id\":\"{USER}\"}}{}", "[".repeat(300_000), "]".repeat(300_000));
        assert!(by_user_id().find(deep.as_bytes()).part == Part::Whole);
        let wide = format!("[{}]", vec![format!("\"{USER}\""); 50_000].join(","));
        assert!(by_user_id().find(wide.as_bytes()).part == Part::Whole);
    }

    /// An item of a list: of the learner, of another, or of nobody.
    fn item() -> impl Strategy<Value = Value> {
        let who = prop_oneof![
            Just(json!({ "user_id": USER })),
            Just(json!({ "custom_id": CUSTOM, "user_id": USER })),
            "[a-z]{1,6}".prop_map(|id| json!({ "user_id": id })),
            Just(json!({})),
        ];
        (who, "[ -~]{0,12}", any::<bool>()).prop_map(|(mut item, title, mentions)| {
            item["title"] = if mentions { format!("{title} {USER}").into() } else { title.into() };
            item
        })
    }

    /// Any JSON in which ids may be anywhere.
    fn any_json() -> impl Strategy<Value = Value> {
        let name = prop_oneof![
            Just("user_id".to_owned()),
            Just("custom_id".to_owned()),
            Just("user_ids".to_owned()),
            Just(USER.to_owned()),
            "[a-c]"
        ];
        let scalar = prop_oneof![
            Just(json!(USER)),
            Just(json!(format!("to {USER}."))),
            Just(json!("bob")),
            any::<i32>().prop_map(Value::from),
            Just(Value::Null)
        ];
        scalar.prop_recursive(5, 40, 5, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map(name.clone(), inner, 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn redacting_a_list_keeps_the_others_byte_by_byte_and_leaves_nothing_of_the_learner(
            items in proptest::collection::vec(item(), 1..8),
        ) {
            let body = event(&json!({ "notifications": items }));
            let is_of_another = |item: &Value| item["user_id"].as_str().is_some_and(|id| id != USER);
            match by_user_id().find(body.as_bytes()).part {
                Part::Nothing => prop_assert!(!body.contains(USER)),
                Part::Whole => prop_assert!(!items.iter().any(is_of_another)),
                Part::Items(Items { redacted, .. }) => {
                    let left = String::from_utf8(redacted).unwrap();
                    prop_assert!(!left.contains(USER) && !left.contains(CUSTOM), "{left}");
                    let left_items: Value = serde_json::from_str(&left).unwrap();
                    let left_items = left_items["data"]["notifications"].as_array().unwrap();
                    prop_assert_eq!(left_items.len(), items.len());
                    for (item, left_item) in items.iter().zip(left_items) {
                        let names_the_learner = item.to_string().contains(USER);
                        prop_assert!(names_the_learner || item == left_item);
                        prop_assert!(names_the_learner || left.contains(&item.to_string()));
                        prop_assert!(!is_of_another(item) || left_item["user_id"] == item["user_id"]);
                    }
                }
            }
        }

        #[test]
        fn whatever_the_shape_nothing_of_the_learner_is_left_and_the_rest_is_json(data in any_json()) {
            let body = event(&data);
            match by_user_id().find(body.as_bytes()).part {
                Part::Nothing => prop_assert!(!body.contains(USER), "{body}"),
                Part::Whole => {}
                Part::Items(Items { redacted, .. }) => {
                    let left = String::from_utf8(redacted).unwrap();
                    prop_assert!(serde_json::from_str::<Value>(&left).is_ok(), "{left}");
                    prop_assert!(!left.contains(USER), "{left}");
                }
            }
        }

        #[test]
        fn nothing_that_is_read_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in any::<String>()) {
            let _ = by_user_id().find(&bytes);
            let _ = by_user_id().find(text.as_bytes());
        }
    }
}
