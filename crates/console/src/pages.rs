//! The pages: each a type that is JSON for a program and HTML for a person.
//!
//! A page is a plain value, so that a test needs neither a server nor a browser. `maud` escapes every text in it.

pub(crate) mod acts;
pub(crate) mod keys;
pub(crate) mod learnink;
pub(crate) mod letters;
pub(crate) mod list;
pub(crate) mod message;

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use learnink_local::terminal::visible;
use maud::{DOCTYPE, Markup, Render, html};
use serde::Serialize;

use crate::history::State;

/// A page.
pub(crate) trait Page: Serialize {
    /// The title, which the browser's tab shows.
    fn title(&self) -> String;

    /// The part between the navigation and the end.
    fn main(&self) -> Markup;
}

/// The pages of the navigation.
const PAGES: [(&str, &str); 5] = [
    ("/", "Messages"),
    (learnink::ENDPOINTS, "LearnInk"),
    ("/dead-letters", "Dead letters"),
    ("/acts", "Acts"),
    ("/keys", "Keys"),
];

/// A page as HTML.
pub(crate) fn html(page: &impl Page) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="dark light";
                title { (page.title()) " · LearnInk console" }
                link rel="icon" href="/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/console.css";
                script src="/console.js" defer {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header {
                    span.name { "LearnInk console" }
                    nav aria-label="Pages" {
                        @for (path, name) in PAGES { a href=(path) { (name) } }
                    }
                }
                main #main tabindex="-1" { (page.main()) }
                p #announcement.announcement role="status" {}
            }
        }
    }
}

/// The page of something that went wrong.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    /// What, and what to do, in words.
    pub(crate) error: String,
}

impl Page for Problem {
    fn title(&self) -> String {
        "That did not work".to_owned()
    }

    fn main(&self) -> Markup {
        html! {
            h1 { (self.title()) }
            p { (visible(&self.error)) }
            p { a href="/" data-key="Escape" { "All messages" } }
        }
    }
}

/// The sign and the word of a state.
pub(crate) const fn sign(state: State) -> (&'static str, &'static str) {
    match state {
        State::Refused => ("✕", "refused"),
        State::NotStored => ("↺", "not stored"),
        State::Waiting => ("…", "waiting"),
        State::InFlight => ("▶", "in flight"),
        State::ComingBack => ("↻", "coming back"),
        State::Dead => ("■", "dead"),
        State::Dropped => ("−", "dropped"),
        State::Done => ("✓", "done"),
    }
}

/// A state as sign and word; its color only repeats them.
pub(crate) fn badge(state: State) -> Markup {
    let (sign, word) = sign(state);
    html! { span.state.(state.name()) { span aria-hidden="true" { (sign) } " " (word) } }
}

/// A time with its day, in UTC.
pub(crate) struct At(pub(crate) Timestamp);

impl Render for At {
    fn render(&self) -> Markup {
        let time = TimeZone::UTC.to_datetime(self.0);
        html! { time datetime=(self.0) { (time.date()) " " (time.strftime("%H:%M:%S")) } }
    }
}

/// A duration in the unit in which it is short.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration.as_millis() < 10 => format!("{:.1} ms", duration.as_secs_f64() * 1000.0),
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// `1 message`, `2 messages`.
pub(crate) fn counted(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

/// The path of a message's page.
pub(crate) fn message_path(message: &str) -> String {
    format!("/messages/{}", encoded(message))
}

/// Text as a part of a path, a query or a form.
pub fn encoded(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a `String` does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_short() {
        for (milliseconds, expected) in [
            (0, "0.0 ms"),
            (9, "9.0 ms"),
            (250, "250 ms"),
            (1500, "1.5 s"),
            (61_000, "1 min 1 s"),
            (7_260_000, "2 h 1 min"),
        ] {
            assert_eq!(duration(Duration::from_millis(milliseconds)), expected);
        }
    }

    #[test]
    fn a_message_id_cannot_leave_its_path() {
        assert_eq!(message_path("msg_2Xb"), "/messages/msg_2Xb");
        assert_eq!(message_path("a/../?b#c%\"<é"), "/messages/a%2F..%2F%3Fb%23c%25%22%3C%C3%A9");
    }

    #[test]
    fn each_state_has_a_sign_and_a_word_of_its_own() {
        let signs: std::collections::BTreeSet<_> = State::ALL.map(|state| sign(state).0).into();
        let words: std::collections::BTreeSet<_> = State::ALL.map(|state| sign(state).1).into();
        assert_eq!((signs.len(), words.len()), (State::ALL.len(), State::ALL.len()));
    }
}
