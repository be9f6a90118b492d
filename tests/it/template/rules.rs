//! Rules about values that have to fit together: the numbers of the queues, of the API and of the functions, and
//! their versions.

use std::collections::BTreeSet;

use learnink_receiver::OPERATION_TIMEOUT;
use learnink_receiver::secrets::LONGEST_WAIT;
use serde_json::{Value, json};

use super::transformed::{Template, Violations, cases, number, short, walk};

/// The longest time that SQS hides a message for. Source: SQS API, `ChangeMessageVisibility`.
const LONGEST_HIDDEN_S: u64 = 12 * 3_600;

/// After this many milliseconds Svix stops waiting. Source: Svix documentation, "Retries".
const SENDERS_PATIENCE_MS: u64 = 15_000;

pub(super) fn rules(template: &Template, violations: &mut Violations) {
    queues(template, violations);
    api(template, violations);
    versions(template, violations);
    bursts(template, violations);
    names(template, violations);
    partitions(template, violations);
    if template.is_gradual {
        rollouts(template, violations);
    }
}

fn queues(template: &Template, violations: &mut Violations) {
    let queue = template.properties("MessageQueue");
    let receives = number(template.looked_up(&queue["RedrivePolicy"]["maxReceiveCount"]));
    violations.require(
        receives.is_some_and(|receives| receives >= 5),
        "maxReceiveCount is under 5, or no number: throttled polls count as deliveries, and would \
         dead-letter what nobody has tried",
    );
    let kept_s = queue["MessageRetentionPeriod"].as_u64().unwrap_or_default();
    violations.require(
        receives.is_none_or(|receives| receives * LONGEST_HIDDEN_S < kept_s),
        "maxReceiveCount times SQS's longest visibility timeout, 12 h, is not under the time that a message \
         is kept: it could expire before it is dead-lettered, and be lost",
    );
    let window_s = template.properties("ConsumerMapping")["MaximumBatchingWindowInSeconds"].as_u64();
    let timeout_s =
        template.properties("ConsumerFunction")["Timeout"].as_u64().filter(|timeout_s| *timeout_s > 0);
    let least_s = timeout_s.zip(window_s).map(|(timeout_s, window_s)| 6 * timeout_s + window_s);
    let hidden_s = queue["VisibilityTimeout"].as_u64();
    violations.require(
        least_s.zip(hidden_s).is_some_and(|(least_s, hidden_s)| least_s <= hidden_s),
        "a message is hidden for less than 6 times the consumer's timeout plus the batch window, or one of \
         these is no number: it would be delivered again while it is being handled",
    );
}

fn api(template: &Template, violations: &mut Violations) {
    let own_ms = 1_000 * (LONGEST_WAIT + OPERATION_TIMEOUT).as_secs();
    let timeout_ms =
        template.properties("ReceiverFunction")["Timeout"].as_u64().map(|timeout_s| 1_000 * timeout_s);
    let gateway_ms = template.properties("WebhookIntegration")["TimeoutInMillis"].as_u64();
    let limits_ms = [Some(own_ms), timeout_ms, gateway_ms, Some(SENDERS_PATIENCE_MS)];
    violations.require(
        limits_ms.iter().all(Option::is_some) && limits_ms.is_sorted_by(|one, next| one < next),
        "the receiver's own limits, its function's timeout, the gateway's and the sender's 15 s do not \
         follow one another: the sender would hang up before it has an answer",
    );
    let access_log = &template.properties("WebhookApiStage")["AccessLogSettings"]["Format"];
    violations.require(
        access_log.as_object().is_some_and(|fields| !fields.is_empty()),
        "the API has no access log in JSON: nobody would see what never reached the receiver",
    );
    let text = access_log.to_string().to_lowercase();
    violations.require(
        !text.contains("header") && !text.contains("body"),
        "the access log has bodies or headers: personal data and signatures would be kept",
    );
}

/// The webhooks of LearnInk's Recover, which are sent without a pause and not sent again.
fn bursts(template: &Template, violations: &mut Violations) {
    const MESSAGES: u64 = 10_000;
    /// Messages per second. Source: svix.com/pricing, the larger of the published plans.
    const SENT: u64 = 800;
    /// Requests per second that each environment can get. Source: Lambda guide, "Lambda function scaling".
    const BY_ENVIRONMENT: u64 = 10;
    /// Requests per second, and at once, of an account in the regions with the lowest quotas.
    /// Source: API Gateway guide, "Quotas"; a stage cannot have more than the account.
    const LEAST_QUOTA: (u64, u64) = (2_500, 1_250);
    let default = |name: &str| template.json["Parameters"][name]["Default"].as_u64().unwrap_or_default();
    let (rate, burst) = (default("ThrottleRate"), default("ThrottleBurst"));
    let let_through = burst + rate * MESSAGES / SENT;
    violations.require(
        let_through >= MESSAGES,
        format!(
            "of a Recover of 10,000 at 800 a second the API lets {let_through} through: the others would stay failed"
        ),
    );
    violations.require(
        rate <= LEAST_QUOTA.0 && burst <= LEAST_QUOTA.1,
        "the throttle is over what some regions let an account have: some regions would refuse the stage",
    );
    violations.require(
        BY_ENVIRONMENT * default("ReceiverConcurrency") >= rate,
        "the API lets more through than the receiver's environments take: the receiver would be throttled",
    );
}

/// Names that AWS would misread, or that exist once for a whole account.
fn names(template: &Template, violations: &mut Violations) {
    // Source: Secrets Manager API, `CreateSecret`, `Name`.
    const SUFFIX: usize = "-xxxxxx".len();
    for (name, secret) in template.of_type("AWS::SecretsManager::Secret") {
        let text = short(&secret["Properties"]["Name"]);
        // A parameter before it can end in any text.
        let literal = text.rsplit('}').next().unwrap_or_default();
        let suffix = literal.len().checked_sub(SUFFIX).and_then(|start| literal.get(start..));
        violations.require(
            suffix.is_some_and(|suffix| !suffix.starts_with('-')),
            format!(
                "{name}'s name may end in a hyphen and six characters: an ARN without the random suffix would be \
                 taken for a complete one, and not be found"
            ),
        );
    }
    // Source: CloudWatch API, `PutDashboard`.
    for (name, dashboard) in template.of_type("AWS::CloudWatch::Dashboard") {
        let inputs = dashboard["Properties"]["DashboardName"].to_string();
        violations.require(
            ["${AWS::StackName}", "${AWS::Region}"].iter().all(|part| inputs.contains(part)),
            format!("{name} has one name in all regions: the same stack in another would replace it"),
        );
    }
}

/// An AWS address of one partition would be wrong in another.
fn partitions(template: &Template, violations: &mut Violations) {
    for section in ["Resources", "Outputs"] {
        walk(&template.json[section], &mut |key, value| {
            let text = if key == "Fn::Sub" { &value[0] } else { value };
            let text = text.as_str().or(value.as_str()).unwrap_or_default();
            let is_bound = text.starts_with("arn:aws:") || text.contains("console.aws.amazon.com/");
            let why = format!("`{text}` is for one partition: elsewhere it would lead nowhere");
            violations.require(!is_bound || text.starts_with("arn:aws:iam::aws:policy/"), why);
        });
    }
}

/// SAM names a version after the properties as they are written, so a change of only a parameter's value would not
/// publish one. Another description does, because it is the version's own; but not if the function is unchanged.
fn versions(template: &Template, violations: &mut Violations) {
    let parameters_of = |inputs: &BTreeSet<String>| -> BTreeSet<String> {
        inputs.iter().flat_map(|input| template.parameters_of(input)).collect()
    };
    for (name, function) in template.of_type("AWS::Lambda::Function") {
        let own = ["Environment", "LoggingConfig", "Architectures", "TracingConfig"]
            .map(|key| function["Properties"][key].clone());
        let own = template.inputs(&json!(own));
        let said = template.said_by(&template.properties(&format!("{name}Version"))["Description"]);
        // For a parameter with two values, a condition shows which.
        let is_told_by = |condition: &String, input: &String| {
            let values = template.json["Parameters"][input]["AllowedValues"].as_array();
            template.is_condition(condition)
                && values.is_some_and(|values| values.len() == 2)
                && template.parameters_of(condition) == BTreeSet::from([input.clone()])
        };
        let is_said = |input: &String| {
            said.contains(input)
                || said.iter().any(|condition| is_told_by(condition, input))
                || template.is_condition(input) && template.parameters_of(input).is_subset(&said)
        };
        let unsaid: Vec<_> = own.iter().filter(|input| !is_said(input)).map(String::as_str).collect();
        let why = format!(
            "{name} depends on {}, and the description of its version does not: another value would publish \
             no version, and not reach the alias",
            unsaid.join(", ")
        );
        violations.require(unsaid.is_empty(), why);
        let why = format!(
            "the description of {name}'s version depends on what the function does not: another value would \
             ask for a version of an unchanged function, which Lambda refuses"
        );
        violations.require(parameters_of(&said).is_subset(&parameters_of(&own)), why);
    }
}

fn rollouts(template: &Template, violations: &mut Violations) {
    for (name, alias) in template.of_type("AWS::Lambda::Alias") {
        let group = &alias["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"]["DeploymentGroupName"];
        let alarms = &template.properties(&short(group))["AlarmConfiguration"]["Alarms"];
        let alarms = cases(alarms);
        violations.require(
            !alarms.is_empty(),
            format!("{name} is moved at once, or no alarm is asked: bad code would get all the work"),
        );
        let watches_new = |alarm: &&Value| {
            let dimensions = &template.properties(&short(&alarm["Name"]))["Dimensions"];
            let version = &alias["Properties"]["FunctionVersion"];
            cases(dimensions).iter().any(|dimension| dimension["Value"] == *version)
        };
        violations.require(
            alarms.iter().all(watches_new),
            format!(
                "{name} is moved back for more than its new version: what rings already would refuse a fix"
            ),
        );
    }
}
