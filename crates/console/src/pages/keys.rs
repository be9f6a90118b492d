//! The keys.

use maud::{Markup, html};
use serde::Serialize;

use super::Page;

/// A key and what it does.
#[derive(Debug, Serialize)]
pub(crate) struct KeyHelp {
    pub(crate) key: &'static str,
    pub(crate) does: &'static str,
}

/// All keys.
#[derive(Debug, Serialize)]
pub(crate) struct Keys {
    pub(crate) keys: [KeyHelp; 10],
}

impl Keys {
    pub(crate) const ALL: Self = Self {
        keys: [
            KeyHelp { key: "j", does: "next row" },
            KeyHelp { key: "k", does: "previous row" },
            KeyHelp { key: "Enter", does: "open the row" },
            KeyHelp { key: "Esc", does: "back" },
            KeyHelp { key: "/", does: "search for a message id" },
            KeyHelp { key: "r", does: "redrive" },
            KeyHelp { key: "d", does: "drop" },
            KeyHelp { key: "p", does: "open a replay window" },
            KeyHelp { key: "l", does: "load the new messages" },
            KeyHelp { key: "?", does: "this page" },
        ],
    };
}

impl Page for Keys {
    fn title(&self) -> String {
        "Keys".to_owned()
    }

    fn main(&self) -> Markup {
        html! {
            p { a href="/" data-key="Escape" { "All messages" } }
            h1 { "Keys" }
            p { "Each of them is also a link or a button. An act always asks before it does something." }
            table {
                thead { tr { th scope="col" { "Key" } th scope="col" { "Does" } } }
                tbody {
                    @for KeyHelp { key, does } in &self.keys {
                        tr { th scope="row" { kbd { (key) } } td { (does) } }
                    }
                }
            }
        }
    }
}
