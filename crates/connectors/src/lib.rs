//! The handlers that are included: each is a module, its room.
//!
//! A room reads its own variables, makes its own clients and names its own handlers, behind one function,
//! `router(&Env) -> Result<Router, ConfigError>`. If it is switched off, the router has no handlers.
//! `crates/handlers` has the list of rooms that run.
//!
//! | module | takes | does | switched on by |
//! |---|---|---|---|
//! | [`progress`] | `user.course.started` | keeps learners' progress in their courses in a table | always |
//! | [`push`] | `notifications.sent` | passes each notification to your own push sender | `LEARNINK_PUSH` |
//! | [`archive`] | every webhook | keeps the signed bytes as a compliance record | `LEARNINK_ARCHIVE` |
//! | [`bus`] | every type | puts it on an event bus for automations | `LEARNINK_EVENT_BUS` |
//! | [`forward`] | every type, or those named | posts it to your own HTTPS endpoint | `LEARNINK_FORWARD_URL` |
//! | [`unknown`] | every type without a handler | keeps the event until you write one | always |

pub mod archive;
pub mod bus;
mod calls;
mod endpoint;
pub mod forward;
mod http;
pub mod progress;
pub mod push;
mod table;
pub mod unknown;

pub use table::{RowKey, TableError, Written, set_if_less, set_if_newer};

#[cfg(test)]
mod tests {
    use aws_config::SdkConfig;
    use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};
    use axum::Router as HttpRouter;
    use learnink_aws::{Env, sdk_config};
    use tokio::net::TcpListener;

    /// The configuration for an AWS that `server` simulates.
    pub(crate) async fn aws_with(server: HttpRouter) -> SdkConfig {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, server).await });
        aws_at(&endpoint)
    }

    fn aws_at(endpoint: &str) -> SdkConfig {
        let endpoint = endpoint.to_owned();
        let config = sdk_config(move |name| match name {
            "AWS_REGION" => Some("eu-west-1".to_owned()),
            "AWS_ENDPOINT_URL" => Some(endpoint.clone()),
            _ => None,
        });
        let credentials = Credentials::new("key", "secret", None, None, "tests");
        let config = config.unwrap().into_builder();
        config.credentials_provider(SharedCredentialsProvider::new(credentials)).build()
    }

    #[test]
    fn a_room_that_is_switched_off_has_no_handler_and_its_name_is_known() {
        let env = Env::of([]);
        for (router, name) in [
            (super::push::router(&env), "push"),
            (super::archive::router(&env), "archive"),
            (super::bus::router(&env), "bus"),
            (super::forward::router(&env), "forward"),
        ] {
            let router = router.unwrap();
            assert_eq!((router.handler_names(), router.known_names()), (vec![], vec![name]));
        }
    }

    #[test]
    fn a_room_that_is_half_set_up_fails_with_the_variable_and_the_fix() {
        for (variables, error) in [
            (
                [("LEARNINK_EVENT_BUS", "automations")],
                "LEARNINK_EVENT_BUS cannot be used: it needs AWS, and AWS_REGION is not set; set it to the AWS \
                 region, which Lambda sets",
            ),
            (
                [("LEARNINK_PUSH", "endpoint")],
                "LEARNINK_PUSH_URL is not set; set it to the HTTPS address that notifications are posted to",
            ),
        ] {
            let env = Env::of(variables);
            let routers = [super::push::router(&env), super::bus::router(&env)];
            let errors: Vec<_> = routers.into_iter().filter_map(Result::err).collect();
            assert_eq!(errors.len(), 1);
            assert_eq!(errors[0].to_string(), error);
        }
    }
}
