//! The list of messages, below a strip of numbers that are filters.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use learnink_local::terminal::visible;
use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use super::{At, Page, badge, encoded, message_path, sign};
use crate::history::{Counts, Filter, State, Summary};

/// How many messages a page has.
pub(crate) const MOST_ROWS: usize = 100;

/// What a URL asks for. All of it is text, as a person may have typed it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    /// The name of a state.
    pub(crate) state: String,
    /// An event type.
    pub(crate) r#type: String,
    /// Text in the message id.
    pub(crate) text: String,
    /// A time.
    pub(crate) since: String,
    /// A time.
    pub(crate) until: String,
    /// A cursor.
    pub(crate) before: String,
}

impl Asked {
    /// The filter and the cursor.
    ///
    /// Fails with what cannot be read, in words.
    pub(crate) fn filter(&self) -> Result<(Filter, Option<i64>), String> {
        let state = given(&self.state).map(|name| {
            let names = State::ALL.map(State::name).join(", ");
            State::named(&name).ok_or_else(|| format!("unknown state `{name}`: use one of {names}"))
        });
        let time = |text: &str| given(text).map(|text| time(&text)).transpose();
        let before = given(&self.before)
            .map(|before| before.parse().map_err(|_| "`before` is not a cursor of this list".to_owned()));
        let filter = Filter {
            state: state.transpose()?,
            event_type: given(&self.r#type),
            text: given(&self.text),
            since: time(&self.since)?,
            until: time(&self.until)?,
        };
        Ok((filter, before.transpose()?))
    }

    /// The query of the same filter with another value of one field; a cursor is of one list only, and ends.
    fn with(&self, name: &str, value: &str) -> String {
        let fields = [
            ("state", &self.state),
            ("type", &self.r#type),
            ("text", &self.text),
            ("since", &self.since),
            ("until", &self.until),
        ];
        let mut parts: Vec<_> = fields
            .into_iter()
            .filter(|(field, value)| *field != name && !value.is_empty())
            .map(|(field, value)| format!("{field}={}", encoded(value)))
            .collect();
        if !value.is_empty() {
            parts.push(format!("{name}={}", encoded(value)));
        }
        if parts.is_empty() { "/".to_owned() } else { format!("/?{}", parts.join("&")) }
    }
}

/// What was typed; `None` if it is blank.
pub(crate) fn given(text: &str) -> Option<String> {
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// A time such as `2026-01-02T08:00:00Z`, or in UTC `2026-01-02T08:00` and `2026-01-02`.
pub(crate) fn time(text: &str) -> Result<Timestamp, String> {
    let in_utc = || TimeZone::UTC.to_timestamp(text.parse().ok()?).ok();
    let time = text.parse().ok().or_else(in_utc);
    time.ok_or_else(|| {
        format!("`{text}` is not a time: write 2026-01-02T08:00:00Z, or 2026-01-02T08:00 in UTC")
    })
}

/// The list.
#[derive(Debug, Serialize)]
pub(crate) struct List {
    /// What was asked for.
    pub(crate) asked: Asked,
    /// How many messages there are by state, whatever was asked for.
    pub(crate) counts: Counts,
    /// The messages, the newest first.
    pub(crate) messages: Vec<Summary>,
    /// The cursor of the next page.
    pub(crate) before: Option<i64>,
    /// The number of the newest entry that this page knows.
    pub(crate) newest: i64,
    /// How many entries the history could not take.
    pub(crate) dropped: u64,
    /// The event types to choose from.
    pub(crate) event_types: Vec<String>,
}

/// What changes while a list is read.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Status {
    /// How many messages there are by state.
    pub(crate) counts: Counts,
    /// All messages.
    pub(crate) received: u64,
    /// How many messages arrived that fit the filter and are not shown.
    pub(crate) new: u64,
    /// The number of the newest entry.
    pub(crate) newest: i64,
}

impl Page for List {
    fn title(&self) -> String {
        match State::named(&self.asked.state) {
            Some(state) => format!("Messages: {}", sign(state).1),
            None => "Messages".to_owned(),
        }
    }

    fn main(&self) -> Markup {
        let here = self.asked.with("", "");
        let query = here.trim_start_matches('/');
        html! {
            h1 { "Messages" }
            (strip(&self.counts, &self.asked))
            @if self.dropped > 0 {
                p.warning role="status" {
                    "Entries that the history could not take, and that are missing here: " (self.dropped)
                    ". Look for a full disk."
                }
            }
            (self.search())
            // The script shows it, and says how many.
            p { a #new.new hidden href=(here) data-key="l" data-query=(query) data-newest=(self.newest) { "new" } }
            @if self.messages.is_empty() {
                p.empty {
                    @if self.counts.all() == 0 {
                        "Nothing has arrived yet. Send something: " code { "cargo learnink send" }
                    } @else {
                        "No message fits this filter. " a href="/" { "Show all" }
                    }
                }
            } @else {
                (self.table())
            }
            @if let Some(before) = self.before {
                p { a href=(self.asked.with("before", &before.to_string())) rel="next" { "Older messages" } }
            }
        }
    }
}

impl List {
    fn search(&self) -> Markup {
        let Asked { state, r#type, text, since, until, before: _ } = &self.asked;
        html! {
            form.filter action="/" method="get" role="search" {
                label { "Message id " input #search type="search" name="text" value=(text) data-key="/"; }
                label {
                    "State "
                    select name="state" {
                        option value="" { "all" }
                        @for one in State::ALL {
                            option value=(one.name()) selected[one.name() == state] { (sign(one).1) }
                        }
                    }
                }
                label {
                    "Type "
                    select name="type" {
                        option value="" { "all" }
                        @for one in &self.event_types { option value=(one) selected[one == r#type] { (visible(one)) } }
                        @if !r#type.is_empty() && !self.event_types.contains(r#type) {
                            option value=(r#type) selected { (visible(r#type)) }
                        }
                    }
                }
                label { "Since " input type="text" name="since" value=(since) placeholder="2026-01-02T08:00" size="17"; }
                label { "Until " input type="text" name="until" value=(until) placeholder="in UTC" size="17"; }
                button { "Show" }
            }
        }
    }

    fn table(&self) -> Markup {
        html! {
            div.scroll tabindex="0" role="region" aria-label="Messages" {
                table.rows {
                    thead {
                        tr {
                            th scope="col" { "State" }
                            th scope="col" { "Message" }
                            th scope="col" { "Type" }
                            th scope="col" { "Arrived (UTC)" }
                            th.number scope="col" { "Attempts" }
                            th.number scope="col" { "Deliveries" }
                            th scope="col" { "Why" }
                        }
                    }
                    tbody {
                        @for message in &self.messages {
                            tr {
                                td {
                                    (badge(message.state))
                                    @if let Some(until) = message.until { " " small { "at " (At(until)) } }
                                }
                                td { a data-row href=(message_path(&message.message)) { (visible(&message.message)) } }
                                td { @if let Some(event_type) = &message.event_type { (visible(event_type)) } @else { "-" } }
                                td { (At(message.at)) }
                                td.number { (message.attempts) }
                                td.number { (message.deliveries) }
                                td { @if let Some(why) = &message.why { (visible(why)) } @else { "-" } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The numbers, each a link that is a filter.
fn strip(counts: &Counts, asked: &Asked) -> Markup {
    html! {
        nav.strip aria-label="Messages by state" {
            a href=(asked.with("state", "")) aria-current=[asked.state.is_empty().then_some("true")] {
                strong data-count="received" { (counts.all()) } " received"
            }
            @for state in State::ALL {
                a.state.(state.name()) href=(asked.with("state", state.name()))
                    aria-current=[(asked.state == state.name()).then_some("true")] {
                    strong data-count=(state.name()) { (counts.of(state)) }
                    " " span aria-hidden="true" { (sign(state).0) } " " (sign(state).1)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_in_the_url_and_a_cursor_ends_with_it() {
        let asked = Asked { text: "a b&c".to_owned(), before: "9".to_owned(), ..Asked::default() };
        assert_eq!(asked.with("state", "dead"), "/?text=a%20b%26c&state=dead");
        assert_eq!(asked.with("text", ""), "/");
        assert_eq!(asked.filter().unwrap().1, Some(9));
    }

    #[test]
    fn what_cannot_be_read_in_a_filter_is_said() {
        let state = Asked { state: "odd".to_owned(), ..Asked::default() };
        assert!(state.filter().unwrap_err().starts_with("unknown state `odd`: use one of refused, "));
        let since = Asked { since: "yesterday".to_owned(), ..Asked::default() };
        assert!(since.filter().unwrap_err().contains("is not a time"));
        let before = Asked { before: "x".to_owned(), ..Asked::default() };
        assert!(before.filter().is_err());
    }

    #[test]
    fn a_time_may_be_short() {
        let expected: Timestamp = "2026-01-02T08:00:00Z".parse().unwrap();
        for text in ["2026-01-02T08:00:00Z", "2026-01-02T08:00", "2026-01-02T10:00:00+02:00"] {
            assert_eq!(time(text).unwrap(), expected, "{text}");
        }
        assert_eq!(time("2026-01-02").unwrap(), "2026-01-02T00:00:00Z".parse::<Timestamp>().unwrap());
    }
}
