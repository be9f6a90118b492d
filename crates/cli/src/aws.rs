//! AWS, for commands about a deployed stack.

pub(crate) mod cloudwatch;
mod credentials;
pub(crate) mod lambda;
pub(crate) mod logs;
pub(crate) mod request;
pub(crate) mod s3;
pub(crate) mod sns;

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};
use learnink_aws::CallError;

use crate::now;

pub(crate) use credentials::{as_variables, config, system_time};

/// How to choose the AWS account and region; printed below the help of the commands for AWS.
pub(crate) const IN_AWS: &str = "\
In AWS, region and credentials come from the environment, else from a profile (--profile, AWS_PROFILE), which \
`aws configure export-credentials` reads: AWS CLI 2 knows SSO and roles. --stack finds the queues and tables with \
cloudformation:DescribeStacks.";

/// The region of a configuration, for texts.
pub(crate) fn region(aws: &SdkConfig) -> &str {
    aws.region().map_or("no region", AsRef::as_ref)
}

/// The `Date` of AWS's answers has whole seconds, and answers take time: a difference up to this means nothing.
const UNKNOWN_DIFFERENCE: SignedDuration = SignedDuration::from_secs(2);

/// AWS's clock, as its answers show it.
#[derive(Debug, Clone, Default)]
pub(crate) struct AwsClock {
    /// How far it is ahead of this machine's.
    ahead: Arc<Mutex<Option<SignedDuration>>>,
}

impl AwsClock {
    /// A configuration whose clients set this clock with each answer.
    pub(crate) fn watch(&self, aws: &SdkConfig) -> SdkConfig {
        match aws.http_client() {
            Some(client) => {
                let client = Watched { client: client.clone(), clock: self.clone() };
                aws.to_builder().http_client(SharedHttpClient::new(client)).build()
            }
            None => aws.clone(),
        }
    }

    /// How far AWS's clock is ahead of this machine's; zero if the difference is too small to measure, or AWS has
    /// not answered yet.
    pub(crate) fn ahead(&self) -> SignedDuration {
        let ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or_default();
        // The end of that second: a window that is opened now also covers what happened in it.
        if ahead.abs() <= UNKNOWN_DIFFERENCE {
            SignedDuration::ZERO
        } else {
            ahead + SignedDuration::from_secs(1)
        }
    }

    /// How far it is ahead of this machine's, as the last answer showed it, which is up to a second less than it is;
    /// `None` if AWS has not answered yet.
    pub(crate) fn difference(&self) -> Option<SignedDuration> {
        *self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets it from an answer with this `Date`, received at `here` by this machine's clock.
    fn set(&self, date: Option<&str>, here: Timestamp) {
        if let Some(date) = date.and_then(parse_date) {
            *self.ahead.lock().unwrap_or_else(PoisonError::into_inner) = Some(date.duration_since(here));
        }
    }
}

/// The time of a header `Date`.
fn parse_date(date: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(date).ok()
}

/// An HTTP client that reads the time of each answer.
#[derive(Debug)]
struct Watched<C> {
    client: C,
    clock: AwsClock,
}

impl HttpClient for Watched<SharedHttpClient> {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let client = self.client.http_connector(settings, components);
        SharedHttpConnector::new(Watched { client, clock: self.clock.clone() })
    }
}

impl HttpConnector for Watched<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (answer, clock) = (self.client.call(request), self.clock.clone());
        HttpConnectorFuture::new(async move {
            let answer = answer.await?;
            clock.set(answer.headers().get("date"), now());
            Ok(answer)
        })
    }
}

/// How many messages are on a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct QueueCounts {
    pub(crate) visible: usize,
    /// Received, and hidden until they are deleted or their visibility timeout ends.
    pub(crate) in_flight: usize,
    /// Hidden since they were sent.
    pub(crate) delayed: usize,
}

impl QueueCounts {
    pub(crate) const fn all(self) -> usize {
        self.visible + self.in_flight + self.delayed
    }
}

/// How many messages are on a queue. In AWS the numbers are up to a minute old.
/// Source: Amazon SQS API reference, `GetQueueAttributes`.
pub(crate) async fn queue_counts(client: &Client, queue_url: &str) -> Result<QueueCounts, CallError> {
    let names = [
        QueueAttributeName::ApproximateNumberOfMessages,
        QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        QueueAttributeName::ApproximateNumberOfMessagesDelayed,
    ];
    let request =
        client.get_queue_attributes().queue_url(queue_url).set_attribute_names(Some(names.to_vec()));
    let answer = request.send().await.map_err(|error| CallError::from(&error))?;
    let counts = answer.attributes.unwrap_or_default();
    let [visible, in_flight, delayed] =
        names.map(|name| counts.get(&name).and_then(|count| count.parse().ok()).unwrap_or_default());
    Ok(QueueCounts { visible, in_flight, delayed })
}

/// How many messages are on a queue, visible or not.
pub(crate) async fn count_messages(client: &Client, queue_url: &str) -> anyhow::Result<usize> {
    let counts = queue_counts(client, queue_url).await;
    Ok(counts.with_context(|| format!("cannot count the messages on {queue_url}"))?.all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_by_the_date_of_the_last_answer() {
        let here: Timestamp = "2026-01-02T10:00:00.700Z".parse().unwrap();
        let ahead = |dates: &[Option<&str>]| {
            let clock = AwsClock::default();
            for date in dates {
                clock.set(*date, here);
            }
            clock.ahead().as_millis()
        };
        assert_eq!(ahead(&[]), 0);
        assert_eq!(ahead(&[Some("Fri, 02 Jan 2026 10:00:00 GMT")]), 0);
        assert_eq!(ahead(&[Some("Fri, 02 Jan 2026 10:05:00 GMT")]), 300_300);
        assert_eq!(ahead(&[Some("Fri, 02 Jan 2026 09:55:00 GMT"), Some("soon"), None]), -299_700);
    }
}
