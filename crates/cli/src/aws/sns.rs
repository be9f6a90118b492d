//! Who gets the messages of a topic. Source: Amazon SNS API reference.

use aws_config::SdkConfig;
use serde::Deserialize;

use super::AwsClock;
use super::request::{Client, RequestError, SNS};

/// SNS, in one region.
#[derive(Debug)]
pub(crate) struct Sns(Client);

/// How many subscriptions a topic has, without their addresses, which are personal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Subscriptions {
    pub(crate) confirmed: usize,
    /// Their owners have not followed the link that AWS sent.
    pub(crate) pending: usize,
}

#[derive(Debug, Deserialize)]
struct Listed {
    #[serde(rename = "ListSubscriptionsByTopicResult")]
    result: ListedResult,
}

#[derive(Debug, Deserialize)]
struct ListedResult {
    #[serde(rename = "Subscriptions", default)]
    subscriptions: Members,
    #[serde(rename = "NextToken")]
    next: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Members {
    #[serde(default)]
    member: Vec<SubscriptionXml>,
}

#[derive(Debug, Deserialize)]
struct SubscriptionXml {
    #[serde(rename = "SubscriptionArn", default)]
    arn: String,
}

impl Subscriptions {
    /// Counts one by its ARN, which says whether it is confirmed.
    fn add(&mut self, arn: &str) {
        match arn {
            "PendingConfirmation" | "pending confirmation" => self.pending += 1,
            // Its owner has unsubscribed, and AWS still lists it for some days.
            "Deleted" => {}
            _ => self.confirmed += 1,
        }
    }
}

impl Sns {
    pub(crate) fn new(aws: &SdkConfig, clock: &AwsClock) -> anyhow::Result<Self> {
        Client::new(SNS, aws, clock).map(Self)
    }

    /// The subscriptions of a topic.
    pub(crate) async fn subscriptions(&self, topic_arn: &str) -> Result<Subscriptions, RequestError> {
        let (mut subscriptions, mut next) = (Subscriptions::default(), None::<String>);
        loop {
            let token = next.as_deref().map(|token| ("NextToken", token));
            let parameters: Vec<_> = [("TopicArn", topic_arn)].into_iter().chain(token).collect();
            let page: Listed = self.0.query("ListSubscriptionsByTopic", "2010-03-31", &parameters).await?;
            for subscription in page.result.subscriptions.member {
                subscriptions.add(&subscription.arn);
            }
            next = page.result.next.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(subscriptions);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_confirmed_is_told_from_what_is() {
        let answer = "<ListSubscriptionsByTopicResponse><ListSubscriptionsByTopicResult><Subscriptions>
            <member><TopicArn>t</TopicArn><Protocol>email</Protocol><SubscriptionArn>PendingConfirmation</SubscriptionArn>
            <Owner>1</Owner><Endpoint>kim@example.com</Endpoint></member>
            <member><SubscriptionArn>arn:aws:sns:eu-west-1:1:t:9</SubscriptionArn></member>
            <member><SubscriptionArn>Deleted</SubscriptionArn></member>
            </Subscriptions></ListSubscriptionsByTopicResult></ListSubscriptionsByTopicResponse>";
        let listed: Listed = quick_xml::de::from_str(answer).unwrap();
        let mut counted = Subscriptions::default();
        for subscription in &listed.result.subscriptions.member {
            counted.add(&subscription.arn);
        }
        assert_eq!(counted, Subscriptions { confirmed: 1, pending: 1 });
        let none = "<R><ListSubscriptionsByTopicResult><Subscriptions/></ListSubscriptionsByTopicResult></R>";
        let none: Listed = quick_xml::de::from_str(none).unwrap();
        assert!(none.result.subscriptions.member.is_empty() && none.result.next.is_none());
    }
}
