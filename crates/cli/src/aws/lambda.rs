//! Functions, as Lambda describes them. Source: AWS Lambda API reference.

use std::collections::BTreeMap;

use aws_config::SdkConfig;
use serde::Deserialize;

use super::AwsClock;
use super::request::{Client, LAMBDA, RequestError};

/// The alias that the API and the event source mapping call.
pub(crate) const LIVE: &str = "live";

/// Lambda, in one region.
#[derive(Debug)]
pub(crate) struct Lambda(Client);

/// The configuration of a version of a function. It is read without its variables, which may hold secrets.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Configuration {
    /// The size of its code, in bytes.
    #[serde(default)]
    pub(crate) code_size: u64,
    /// `Pending`, `Active`, `Inactive`, `Failed` and others.
    pub(crate) state: Option<String>,
    /// Such as `InvalidImage`.
    pub(crate) state_reason_code: Option<String>,
    /// `Successful`, `Failed` or `InProgress`.
    pub(crate) last_update_status: Option<String>,
    /// Such as `InsufficientRolePermissions`.
    pub(crate) last_update_status_reason_code: Option<String>,
    /// `arm64` or `x86_64`.
    #[serde(default)]
    pub(crate) architectures: Vec<String>,
}

/// The version that an alias names, and the share of the calls that other versions get.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Alias {
    pub(crate) function_version: String,
    #[serde(default)]
    routing_config: Option<RoutingConfig>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RoutingConfig {
    #[serde(default)]
    additional_version_weights: Option<BTreeMap<String, f64>>,
}

impl Alias {
    /// The versions that get a share of the calls while a rollout is under way: each, and a share of 1.
    pub(crate) fn others(&self) -> impl Iterator<Item = (&str, f64)> {
        let weights =
            self.routing_config.as_ref().and_then(|routing| routing.additional_version_weights.as_ref());
        weights.into_iter().flatten().map(|(version, weight)| (version.as_str(), *weight))
    }

    /// An alias of one version.
    #[cfg(test)]
    pub(crate) fn of_test(version: &str) -> Self {
        Self { function_version: version.to_owned(), routing_config: None }
    }
}

/// What connects a queue with a function.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Mapping {
    #[serde(rename = "UUID")]
    pub(crate) uuid: String,
    /// With the alias.
    #[serde(default)]
    pub(crate) function_arn: String,
    /// `Enabled`, `Disabled`, or on the way there.
    #[serde(default)]
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) function_response_types: Option<Vec<String>>,
    #[serde(default)]
    filter_criteria: Option<FilterCriteria>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FilterCriteria {
    #[serde(default)]
    filters: Option<Vec<serde_json::Value>>,
}

impl Mapping {
    /// Whether it deletes messages that do not match.
    pub(crate) fn has_filters(&self) -> bool {
        let filters = self.filter_criteria.as_ref().and_then(|criteria| criteria.filters.as_ref());
        filters.is_some_and(|filters| !filters.is_empty())
    }

    /// An enabled mapping of a function.
    #[cfg(test)]
    pub(crate) fn of_test(function_arn: &str, filters: usize) -> Self {
        Self {
            uuid: "6777".to_owned(),
            function_arn: function_arn.to_owned(),
            state: "Enabled".to_owned(),
            function_response_types: Some(vec!["ReportBatchItemFailures".to_owned()]),
            filter_criteria: Some(FilterCriteria { filters: Some(vec![serde_json::Value::Null; filters]) }),
        }
    }
}

/// How many environments may run at once in the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AccountLimit {
    pub(crate) concurrent_executions: u64,
    /// Those that no function has reserved.
    pub(crate) unreserved_concurrent_executions: u64,
}

impl Lambda {
    pub(crate) fn new(aws: &SdkConfig, clock: &AwsClock) -> anyhow::Result<Self> {
        Client::new(LAMBDA, aws, clock).map(Self)
    }

    /// The configuration of an alias or a version; without one, of the newest code.
    pub(crate) async fn configuration(
        &self,
        function: &str,
        qualifier: Option<&str>,
    ) -> Result<Configuration, RequestError> {
        let query: Vec<_> = qualifier.map(|qualifier| ("Qualifier", qualifier)).into_iter().collect();
        let path = ["2015-03-31", "functions", function, "configuration"];
        self.0.get("GetFunctionConfiguration", &path, &query).await
    }

    /// How many environments are reserved for the function, if any are; they are also its maximum.
    pub(crate) async fn reserved(&self, function: &str) -> Result<Option<u64>, RequestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Concurrency {
            reserved_concurrent_executions: Option<u64>,
        }
        let path = ["2019-09-30", "functions", function, "concurrency"];
        let answer: Concurrency = self.0.get("GetFunctionConcurrency", &path, &[]).await?;
        Ok(answer.reserved_concurrent_executions)
    }

    /// The alias `live`; `None` if there is none.
    pub(crate) async fn live(&self, function: &str) -> Result<Option<Alias>, RequestError> {
        let path = ["2015-03-31", "functions", function, "aliases", LIVE];
        match self.0.get("GetAlias", &path, &[]).await {
            Ok(alias) => Ok(Some(alias)),
            Err(RequestError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The mappings of a queue. An answer has up to 100, and this stack has one.
    pub(crate) async fn mappings(&self, queue_arn: &str) -> Result<Vec<Mapping>, RequestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Listed {
            #[serde(default)]
            event_source_mappings: Vec<Mapping>,
        }
        let query = [("EventSourceArn", queue_arn)];
        let answer: Listed =
            self.0.get("ListEventSourceMappings", &["2015-03-31", "event-source-mappings"], &query).await?;
        Ok(answer.event_source_mappings)
    }

    /// The limits of the account in this region.
    pub(crate) async fn account_limit(&self) -> Result<AccountLimit, RequestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Settings {
            account_limit: AccountLimit,
        }
        let answer: Settings =
            self.0.get("GetAccountSettings", &["2016-08-19", "account-settings"], &[]).await?;
        Ok(answer.account_limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_under_way_is_two_versions() {
        let json = r#"{"AliasArn":"arn","Name":"live","FunctionVersion":"7","Description":"",
            "RoutingConfig":{"AdditionalVersionWeights":{"8":0.1}},"RevisionId":"r"}"#;
        let alias: Alias = serde_json::from_str(json).unwrap();
        assert_eq!(alias.others().collect::<Vec<_>>(), [("8", 0.1)]);
        for json in [
            r#"{"FunctionVersion":"7"}"#,
            r#"{"FunctionVersion":"7","RoutingConfig":{}}"#,
            r#"{"FunctionVersion":"7","RoutingConfig":null}"#,
        ] {
            let alias: Alias = serde_json::from_str(json).unwrap();
            assert_eq!((alias.function_version.as_str(), alias.others().count()), ("7", 0));
        }
    }

    #[test]
    fn a_mapping_without_filters_is_told_from_one_with() {
        let has_filters = |json: &str| serde_json::from_str::<Mapping>(json).unwrap().has_filters();
        assert!(!has_filters(r#"{"UUID":"u"}"#));
        assert!(!has_filters(r#"{"UUID":"u","FilterCriteria":{"Filters":[]}}"#));
        assert!(has_filters(r#"{"UUID":"u","FilterCriteria":{"Filters":[{"Pattern":"{}"}]}}"#));
    }
}
