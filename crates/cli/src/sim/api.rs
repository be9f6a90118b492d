//! The JSON API of the console of a running `learnink dev`.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use learnink_console::encoded;
use learnink_console::guard::KEY_FILE;
use learnink_local::state::{self, Service};
use learnink_local::terminal::quoted;
use serde::Deserialize;
use serde_json::Value;

use super::start_it;
use crate::client::client;

/// How long an answer may take. A resend may run another command first.
const TIME_LIMIT: Duration = Duration::from_mins(1);

/// A request that changes something. `Debug` hides the values of its fields: one may be a secret or a payload.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Request {
    path: String,
    form: Vec<(&'static str, String)>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fields: Vec<_> = self.form.iter().map(|(name, _)| name).collect();
        f.debug_struct("Request").field("path", &self.path).field("fields", &fields).finish_non_exhaustive()
    }
}

impl Request {
    pub(super) fn post(path: &str) -> Self {
        Self { path: path.to_owned(), form: Vec::new() }
    }

    /// With a field.
    pub(super) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.form.push((name, value.to_owned()));
        self
    }

    /// With a field, if there is a value.
    pub(super) fn with_some(self, name: &'static str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// With a field that is ticked, or without it.
    pub(super) fn with_flag(self, name: &'static str, is_on: bool) -> Self {
        self.with_some(name, is_on.then_some("1"))
    }

    #[cfg(test)]
    pub(super) fn line(&self) -> String {
        format!("{} {}", self.path, encoded_form(&self.form))
    }
}

/// The console of a running `learnink dev`.
#[derive(Debug)]
pub(super) struct Api {
    url: reqwest::Url,
    http: reqwest::Client,
    key: Key,
}

/// Lets this command in. `Debug` hides it.
struct Key(String);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[key]")
    }
}

/// An endpoint, as far as it has to be chosen.
#[derive(Deserialize)]
struct Known {
    endpoint: String,
}

impl Api {
    /// The console of the `learnink dev` that runs in `folder`.
    pub(super) fn open(folder: &Path) -> anyhow::Result<Self> {
        let address = state::address(folder, Service::Console)?;
        let address = address.with_context(|| {
            format!("no `learnink dev` with a console runs in {}; {}", quoted(folder), start_it())
        })?;
        let url: reqwest::Url = address.parse().context("the console's address is not a URL")?;
        let file = folder.join(KEY_FILE);
        let key = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", quoted(&file)))?;
        let http = client(&url, TIME_LIMIT)?;
        Ok(Self { url, http, key: Key(key.trim().to_owned()) })
    }

    /// The URL of a page, for the browser.
    pub(super) fn page(&self, path: &str) -> reqwest::Url {
        let mut url = self.url.clone();
        url.set_path(path);
        url.set_query(None);
        url
    }

    /// Reads a page.
    pub(super) async fn get(&self, path: &str, query: &[(&'static str, String)]) -> anyhow::Result<Value> {
        let mut url = self.page(path);
        if !query.is_empty() {
            url.set_query(Some(&encoded_form(query)));
        }
        self.answer(self.http.get(url)).await
    }

    /// Sends a form.
    pub(super) async fn send(&self, request: &Request) -> anyhow::Result<Value> {
        let post = self.http.post(self.page(&request.path));
        let post = post.header("content-type", "application/x-www-form-urlencoded");
        self.answer(post.body(encoded_form(&request.form))).await
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        let request = request
            .header("accept", "application/json")
            .header("authorization", format!("Bearer {}", self.key.0));
        let answer = request.send().await.map_err(reqwest::Error::without_url);
        let answer = answer.with_context(|| format!("the console at {} does not answer", self.page("/")))?;
        let status = answer.status();
        let text = answer.text().await.context("the console's answer cannot be read")?;
        judged(status.as_u16(), &text)
    }

    /// The endpoint of this id, or the only one.
    pub(super) async fn endpoint(&self, id: Option<&str>) -> anyhow::Result<String> {
        if let Some(id) = id {
            return Ok(id.to_owned());
        }
        let answer = self.get("/learnink", &[]).await?;
        let known = answer.get("endpoints").map(Vec::<Known>::deserialize).transpose()?;
        only(known.unwrap_or_default().into_iter().map(|known| known.endpoint).collect())
    }
}

/// The JSON of an answer, or the error in it.
fn judged(status: u16, text: &str) -> anyhow::Result<Value> {
    let json = serde_json::from_str::<Value>(text).ok();
    if (200..300).contains(&status) {
        return json.context("the console's answer is not JSON");
    }
    let error = json.as_ref().and_then(|json| json.get("error")?.as_str());
    // The guard answers with a line of text.
    let error = error.or_else(|| text.lines().next()).unwrap_or_default();
    anyhow::bail!("{error}")
}

fn only(endpoints: Vec<String>) -> anyhow::Result<String> {
    match <[String; 1]>::try_from(endpoints) {
        Ok([endpoint]) => Ok(endpoint),
        Err(none) if none.is_empty() => {
            anyhow::bail!("there is no endpoint; add one with `sim endpoint add`")
        }
        Err(several) => {
            anyhow::bail!("there are several endpoints; name one with --endpoint: {}", several.join(", "))
        }
    }
}

fn encoded_form(form: &[(&'static str, String)]) -> String {
    let fields: Vec<_> = form.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    fields.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_json_or_the_error_in_it() {
        assert_eq!(judged(200, r#"{"done":"x"}"#).unwrap(), serde_json::json!({ "done": "x" }));
        for (status, text, expected) in [
            (409, r#"{"error":"endpoint `ep_1` is disabled"}"#, "endpoint `ep_1` is disabled"),
            (401, "the key is missing\n", "the key is missing"),
            (200, "<html>", "the console's answer is not JSON"),
        ] {
            assert_eq!(judged(status, text).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn one_endpoint_needs_no_name_and_several_do() {
        let names = |names: &[&str]| only(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(names(&["ep_1"]).unwrap(), "ep_1");
        assert!(names(&[]).unwrap_err().to_string().contains("sim endpoint add"));
        let several = names(&["ep_1", "ep_2"]).unwrap_err().to_string();
        assert_eq!(several, "there are several endpoints; name one with --endpoint: ep_1, ep_2");
    }

    #[test]
    fn a_folder_without_a_pipeline_says_what_to_start() {
        let folder = tempfile::tempdir().unwrap();
        let error = Api::open(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with("no `learnink dev` with a console runs in "), "{error}");
        assert!(error.contains("; start `"), "{error}");
    }

    #[test]
    fn neither_secret_nor_payload_is_shown_by_debug() {
        let request = Request::post("/learnink/testing").with("secret", "whsec_x").with("payload", "Zoë");
        let shown = format!("{request:?}");
        assert_eq!(shown, r#"Request { path: "/learnink/testing", fields: ["secret", "payload"], .. }"#);
    }

    #[test]
    fn a_value_stays_one_field() {
        let form = [("reason", "a&b=c d+é".to_owned()), ("x", String::new())];
        assert_eq!(encoded_form(&form), "reason=a%26b%3Dc%20d%2B%C3%A9&x=");
    }
}
