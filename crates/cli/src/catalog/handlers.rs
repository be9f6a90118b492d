//! The handlers of this program, with as many rooms switched on as there can be: for what they take, never to run them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use learnink_aws::Env;
use learnink_local::pipeline::on_this_machine;
use learnink_local::sdk_config;
use learnink_webhook::Router;
use learnink_webhook::config::{ConfigError, MissingVariable};
use learnink_webhook::event::{API_VERSION, Envelope};
use learnink_webhook::router::{Handler, Route};
use serde_json::json;

use crate::variable;

/// The variables that rooms are switched on with. What they hold is invented, and never used.
const INVENTED: [(&str, &str); 2] = [("LEARNINK_PUSH", "endpoint"), ("AWS_REGION", "us-east-1")];

/// The same for variables of any name that ends like this.
const INVENTED_BY_END: [(&str, &str); 5] = [
    ("_URL", "https://switched-on.invalid/"),
    ("_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    ("_TOKEN", "invented"),
    ("_KEY", "invented"),
    ("_PASSWORD", "invented"),
];

/// Rooms that take every event stay as they are: they are no part of a type.
const NOT_INVENTED: [&str; 2] = ["LEARNINK_FORWARD_URL", "LEARNINK_FORWARD_SECRET"];

/// The handlers, those that are switched on by an address and a secret included.
///
/// # Errors
///
/// When a room needs a variable that is not set, as the start of `learnink dev` fails then.
pub(crate) fn all() -> Result<Router, ConfigError> {
    switched_on(learnink_handlers::router, variable)
}

/// Makes the handlers of all rooms that can be switched on by invented variables. The others are switched off.
fn switched_on(
    rooms: impl Fn(&Env) -> Result<Router, ConfigError>,
    variable: fn(&str) -> Option<String>,
) -> Result<Router, ConfigError> {
    let mut without = BTreeSet::new();
    loop {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (noted, left_out) = (asked.clone(), without.clone());
        let lookup = move |name: &str| {
            let invented = invented(name).filter(|_| !left_out.contains(name));
            if invented.is_some() {
                noted.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
            }
            invented.map(str::to_owned).or_else(|| if is_the_products(name) { None } else { variable(name) })
        };
        let env = on_this_machine(Env::new(lookup)).with_tables(sdk_config("http://localhost"));
        let error = match rooms(&env) {
            Ok(router) => return Ok(router),
            Err(error) => error,
        };
        // The room that fails is the one that asked last. It has another variable that cannot be invented.
        let failed = match &error {
            ConfigError::Missing(MissingVariable { variable, .. })
            | ConfigError::Unusable { variable, .. } => variable,
        };
        let asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        let last = asked.iter().rfind(|name| **name == **failed).or(asked.last());
        match last.cloned() {
            Some(name) => without.insert(name),
            None => return Err(error),
        };
    }
}

fn invented(name: &str) -> Option<&'static str> {
    let known = INVENTED.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    let by_end = || {
        let is_free = !NOT_INVENTED.contains(&name);
        INVENTED_BY_END.iter().find(|(end, _)| is_free && name.ends_with(end)).map(|(_, value)| *value)
    };
    known.or_else(by_end)
}

/// Whether it is a variable of the product's own rooms, or of AWS: what it holds here does not change the catalog.
fn is_the_products(name: &str) -> bool {
    name.starts_with("LEARNINK_") || name.starts_with("AWS_")
}

/// An event of a type, without a payload.
pub(crate) fn bare(event_type: &str) -> Option<Envelope> {
    let event = json!({ "type": event_type, "api_version": API_VERSION, "data": {} });
    Envelope::parse(event.to_string().as_bytes()).ok()
}

/// The handlers that an event goes to: those of its type, or else the fallback's. Those for every event are left out.
pub(crate) fn of<'a>(route: &Route<'a>) -> Vec<&'a Handler> {
    let named: Vec<_> =
        route.handlers.iter().copied().filter(|handler| handler.is_for_named_types()).collect();
    if named.is_empty() {
        return route.handlers.iter().copied().filter(|handler| handler.is_fallback()).collect();
    }
    named
}

/// The names of the handlers of this program that are switched off all the same.
pub(crate) fn off(router: &Router) -> Vec<&'static str> {
    let on = router.handler_names();
    router.known_names().into_iter().filter(|name| !on.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use learnink_webhook::event::CourseStarted;
    use learnink_webhook::{Event, HandlerResult};

    use super::*;

    fn names(router: &Router, event_type: &str) -> Vec<&'static str> {
        of(&router.route(&bare(event_type).unwrap())).iter().map(|handler| handler.name()).collect()
    }

    #[test]
    fn the_public_types_have_their_handlers_whatever_is_set_here() {
        learnink_aws::install_tls_provider();
        let router = all().unwrap();
        assert_eq!(names(&router, "notifications.sent"), ["push"]);
        assert!(names(&router, "user.course.started").contains(&"progress"));
        assert_eq!(names(&router, "example.unknown"), ["unknown"]);
        for name in ["archive", "bus", "forward"] {
            assert!(off(&router).contains(&name), "{name}");
        }
    }

    async fn nothing(_: Event<CourseStarted>, (): ()) -> HandlerResult {
        Ok(())
    }

    /// A room that is switched on by an address, and then needs another variable.
    fn room(env: &Env, name: &'static str, [url, needed]: [&'static str; 2]) -> Result<Router, ConfigError> {
        let Some(_) = env.optional::<String>(url)? else { return Ok(Router::off(name)) };
        let _: String = env.required(needed, "something")?;
        Ok(Router::new().on(name, nothing).with_state(()))
    }

    #[test]
    fn a_room_that_cannot_be_switched_on_does_not_switch_off_another() {
        let rooms = |env: &Env| {
            let first = room(env, "first", ["A_URL", "A_TOKEN"])?;
            let second = room(env, "second", ["B_URL", "B_POINTS"])?;
            Ok(first.merge(second).merge(room(env, "third", ["C_URL", "C_KEY"])?))
        };
        let router = switched_on(rooms, |_| None).unwrap();
        assert_eq!((router.handler_names(), off(&router)), (vec!["first", "third"], vec!["second"]));
        let router = switched_on(rooms, |name| (name == "B_POINTS").then(|| "1".to_owned())).unwrap();
        assert_eq!(off(&router), Vec::<&str>::new());

        let needs = |env: &Env| env.required::<String>("B_POINTS", "points").map(|_| Router::new());
        let error = switched_on(needs, |_| None).unwrap_err().to_string();
        assert!(error.starts_with("B_POINTS is not set"), "{error}");
    }
}
