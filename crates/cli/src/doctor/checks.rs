//! The checks: what each looks at, which rights that needs, and how it is judged. A judgement is a plain function of
//! what was read.

use jiff::SignedDuration;
use learnink_local::pipeline::StackLimits;
use learnink_local::terminal::{option, quoted};
use learnink_receiver::verify::TOLERANCE_S;
use serde_json::json;

use super::facts::{Answer, Facts, Function, NamedSecret, SecretState};
use super::remedy::{Remedy, Shell};
use crate::aws::lambda::{Configuration, LIVE, Mapping};
use crate::table::seconds;
use crate::unread::{Read, Unread};

/// A check.
pub(super) struct Check {
    /// Its name, for people and for `--skip`.
    pub(super) name: &'static str,
    /// What it looks at.
    pub(super) looks_at: &'static str,
    /// The rights that this needs.
    pub(super) actions: &'static [&'static str],
    /// Says how it is.
    pub(super) judge: fn(&Facts, &Shell) -> Judgement,
}

/// How something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Judgement {
    /// As it should be.
    Good(String),
    /// There is something to mend.
    Found(Vec<Finding>),
    /// It could not be looked at, because of another finding.
    NotLooked(String),
}

/// Something to mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) what: String,
    pub(super) remedy: Remedy,
    /// Whether a webhook can be accepted and handled nevertheless.
    pub(super) events: Events,
}

/// What a finding means for webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Events {
    /// They are accepted and handled.
    Pass,
    /// They are not accepted, not handled, or must not be sent.
    Stop,
}

/// The checks, in the order in which they are shown.
pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "stack",
        looks_at: "whether the last deploy ended well",
        actions: &["cloudformation:DescribeStacks"],
        judge: stack,
    },
    Check {
        name: "outputs",
        looks_at: "whether the stack is of this version",
        actions: &["cloudformation:DescribeStacks"],
        judge: outputs,
    },
    Check {
        name: "clock",
        looks_at: "this machine's clock against AWS's",
        actions: &["cloudformation:DescribeStacks"],
        judge: clock,
    },
    Check {
        name: "signing-secret",
        looks_at: "whether LearnInk's signing secret is stored",
        actions: &["secretsmanager:GetSecretValue"],
        judge: signing_secret,
    },
    Check {
        name: "push-secret",
        looks_at: "the push sender's secret",
        actions: &["secretsmanager:GetSecretValue"],
        judge: push_secret,
    },
    Check {
        name: "forward-secret",
        looks_at: "the secret of forwarded events",
        actions: &["secretsmanager:GetSecretValue"],
        judge: forward_secret,
    },
    Check {
        name: "receiver",
        looks_at: "the receiver's code and its alias `live`",
        actions: &["lambda:GetFunctionConfiguration", "lambda:GetAlias"],
        judge: receiver,
    },
    Check {
        name: "consumer",
        looks_at: "the consumer's code and its alias `live`",
        actions: &["lambda:GetFunctionConfiguration", "lambda:GetAlias"],
        judge: consumer,
    },
    Check {
        name: "concurrency",
        looks_at: "whether both functions may run",
        actions: &["lambda:GetFunctionConcurrency", "lambda:GetAccountSettings"],
        judge: concurrency,
    },
    Check {
        name: "mapping",
        looks_at: "the event source mapping from the queue to the consumer",
        actions: &["lambda:ListEventSourceMappings"],
        judge: mapping,
    },
    Check {
        name: "queue",
        looks_at: "the queue's visibility timeout and redrive policy",
        actions: &["sqs:GetQueueAttributes"],
        judge: queue,
    },
    Check {
        name: "dead-letters",
        looks_at: "whether dead letters wait",
        actions: &["sqs:GetQueueAttributes"],
        judge: dead_letters,
    },
    Check {
        name: "ledger",
        looks_at: "whether DynamoDB takes the consumer's statements",
        actions: &[
            "dynamodb:PartiQLInsert",
            "dynamodb:PartiQLUpdate",
            "dynamodb:UpdateItem",
            "dynamodb:DeleteItem",
        ],
        judge: ledger,
    },
    Check {
        name: "url",
        looks_at: "whether the public URL refuses what it should",
        actions: &[],
        judge: url,
    },
    Check {
        name: "alarm-mail",
        looks_at: "whether the alarms reach somebody",
        actions: &["sns:ListSubscriptionsByTopic"],
        judge: alarm_mail,
    },
    Check {
        name: "alarms",
        looks_at: "alarms that ring",
        actions: &["cloudwatch:DescribeAlarms"],
        judge: alarms,
    },
];

fn good(text: impl Into<String>) -> Judgement {
    Judgement::Good(text.into())
}

fn found(what: impl Into<String>, remedy: Remedy, events: Events) -> Judgement {
    Judgement::Found(vec![finding(what, remedy, events)])
}

fn finding(what: impl Into<String>, remedy: Remedy, events: Events) -> Finding {
    Finding { what: what.into(), remedy, events }
}

/// What was read, or the judgement that it was not.
fn known<T>(read: &Read<T>) -> Result<&T, Judgement> {
    read.as_ref().map_err(|unread| match unread {
        // The check of the outputs says what to do.
        Unread::NoOutput(_) | Unread::Skipped => Judgement::NotLooked(unread.to_string()),
        Unread::Call { action, is_denied: true, .. } => {
            let remedy = Remedy::note(format!(
                "allow {action} to the role that you use: docs/deploy.md lists the rights of each command"
            ));
            found(format!("not read: {unread}"), remedy, Events::Pass)
        }
        Unread::Call { .. } => {
            found(format!("not read: {unread}"), Remedy::note("run this again in a minute"), Events::Pass)
        }
    })
}

/// The judgement, whether or not something could be read.
fn judged(judgement: Result<Judgement, Judgement>) -> Judgement {
    judgement.unwrap_or_else(|unread| unread)
}

/// All findings, or else what is good.
fn all(findings: Vec<Finding>, else_good: impl Into<String>) -> Judgement {
    if findings.is_empty() { good(else_good) } else { Judgement::Found(findings) }
}

/// Source: `CloudFormation` user guide, "Stack status codes".
fn stack(facts: &Facts, shell: &Shell) -> Judgement {
    let status = facts.status.as_str();
    let name = shell.stack();
    let wait =
        |event: &str| Remedy::command(shell.aws(&format!("cloudformation wait {event} --stack-name {name}")));
    let why = "cloudformation describe-stack-events --query \
               'StackEvents[?contains(ResourceStatus, `FAILED`)].[LogicalResourceId,ResourceStatusReason]' \
               --output text --stack-name";
    let why = shell.aws(&format!("{why} {name}"));
    let deployed_again = |first: Vec<String>| {
        let deploy = shell.deploy();
        Remedy { note: deploy.note, commands: first.into_iter().chain(deploy.commands).collect() }
    };
    match status {
        "CREATE_COMPLETE" | "UPDATE_COMPLETE" | "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS" | "IMPORT_COMPLETE" => {
            good(format!("the last deploy ended well ({status})"))
        }
        "CREATE_IN_PROGRESS" => {
            found("its first deploy is under way", wait("stack-create-complete"), Events::Stop)
        }
        "UPDATE_IN_PROGRESS" => found("a deploy is under way", wait("stack-update-complete"), Events::Pass),
        "UPDATE_ROLLBACK_IN_PROGRESS" | "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS" => {
            found("a deploy is being rolled back", wait("stack-rollback-complete"), Events::Pass)
        }
        "UPDATE_ROLLBACK_COMPLETE" | "IMPORT_ROLLBACK_COMPLETE" => found(
            format!("the last deploy failed and was rolled back ({status}); the version before it runs"),
            deployed_again(vec![why]).with_note("see why it failed, repair it, and deploy again"),
            Events::Pass,
        ),
        "UPDATE_ROLLBACK_FAILED" => found(
            "the last deploy failed, and so did its rollback: no deploy is possible",
            Remedy::commands([
                why,
                shell.aws(&format!("cloudformation continue-update-rollback --stack-name {name}")),
                shell.aws(&format!("cloudformation wait stack-rollback-complete --stack-name {name}")),
            ])
            .with_note("see why it failed, repair it, and let the rollback go on"),
            Events::Pass,
        ),
        "ROLLBACK_COMPLETE" | "ROLLBACK_FAILED" | "CREATE_FAILED" | "ROLLBACK_IN_PROGRESS" => found(
            format!("its first deploy failed ({status}): nothing of it runs"),
            deployed_again(vec![
                why,
                shell.aws(&format!("cloudformation delete-stack --stack-name {name}")),
                shell.aws(&format!("cloudformation wait stack-delete-complete --stack-name {name}")),
            ])
            .with_note("see why it failed, repair it, delete what is left, and deploy again"),
            Events::Stop,
        ),
        status if status.starts_with("DELETE_") => found(
            format!("it is being deleted, or its deletion failed ({status})"),
            Remedy::command(why),
            Events::Stop,
        ),
        status => found(
            format!("the last deploy did not end well ({status})"),
            deployed_again(vec![why]).with_note("see why, repair it, and deploy again"),
            Events::Pass,
        ),
    }
}

fn outputs(facts: &Facts, shell: &Shell) -> Judgement {
    if facts.missing_outputs.is_empty() {
        return good("the stack is of this version");
    }
    let missing = facts.missing_outputs.join(", ");
    let what = format!("it is of an older version, or another stack: it has no output {missing}");
    found(what, shell.deploy(), Events::Stop)
}

/// Differences up to this are seen without a clock that is synchronised by NTP.
const LARGEST_CLOCK_DIFFERENCE: SignedDuration = SignedDuration::from_secs(30);

fn clock(facts: &Facts, _: &Shell) -> Judgement {
    let Some(ahead) = facts.clock_ahead else {
        return Judgement::NotLooked("AWS's answers do not have the time".to_owned());
    };
    let seconds = ahead.abs().as_secs();
    if ahead.abs() <= LARGEST_CLOCK_DIFFERENCE {
        return good("this machine's clock and AWS's agree");
    }
    let side = if ahead.is_negative() { "ahead of" } else { "behind" };
    let what = format!(
        "this machine's clock is {seconds} s {side} AWS's: from {TOLERANCE_S} s on, what it signs is refused"
    );
    let remedy = Remedy::note(
        "set this machine's clock by NTP: on Linux with the command below, on macOS in Date & Time",
    );
    let remedy = Remedy { commands: vec!["sudo timedatectl set-ntp true".to_owned()], ..remedy };
    let is_too_far = seconds >= TOLERANCE_S - 10;
    found(what, remedy, if is_too_far { Events::Stop } else { Events::Pass })
}

fn signing_secret(facts: &Facts, shell: &Shell) -> Judgement {
    judged(known(&facts.signing_secret).map(|secret| {
        let put = || Remedy::command(shell.learnink("secret put"));
        let refused = "every webhook is answered 401, and LearnInk tries it again for 28 hours";
        match &secret.state {
            SecretState::Usable => good("LearnInk's signing secret is stored"),
            SecretState::Random => found(
                format!("the signing secret is still the random one: {refused}"),
                put().with_note("LearnInk shows the secret on the endpoint's page; it starts with `whsec_`"),
                Events::Stop,
            ),
            SecretState::Unusable(why) => found(format!("{why}: {refused}"), put(), Events::Stop),
            SecretState::NoValue => found(
                format!("the signing secret {} does not exist, or has no value: {refused}", secret.name),
                put(),
                Events::Stop,
            ),
            SecretState::Deleting => deleting(secret, shell, Events::Stop),
        }
    }))
}

fn deleting(secret: &NamedSecret, shell: &Shell, events: Events) -> Judgement {
    let restore = format!("secretsmanager restore-secret {}", option("--secret-id", &secret.name));
    found(
        format!("the secret {} is scheduled for deletion: no function can read it", secret.name),
        Remedy::command(shell.aws(&restore)),
        events,
    )
}

fn push_secret(facts: &Facts, shell: &Shell) -> Judgement {
    let Some(secret) = &facts.push_secret else {
        return good("no push sender is set up");
    };
    judged(known(secret).map(|secret| {
        let store = || match facts.push_sender.as_deref() {
            Some("fcm") => {
                Remedy::command(shell.learnink("secret put push --secret-file service-account.json"))
            }
            _ => Remedy::command(shell.learnink("secret put push")),
        };
        let waits = "notifications wait, and are dead-lettered after some hours";
        match &secret.state {
            SecretState::Usable | SecretState::Random => good("the push sender's secret is stored"),
            SecretState::NoValue => {
                found(format!("the push sender's secret is not stored: {waits}"), store(), Events::Pass)
            }
            SecretState::Unusable(why) => found(
                format!("the push sender's secret cannot be used, because {why}: {waits}"),
                store(),
                Events::Pass,
            ),
            SecretState::Deleting => deleting(secret, shell, Events::Pass),
        }
    }))
}

fn forward_secret(facts: &Facts, shell: &Shell) -> Judgement {
    let Some(secret) = &facts.forward_secret else {
        return good("nothing is forwarded");
    };
    judged(known(secret).map(|secret| match &secret.state {
        SecretState::Usable | SecretState::Random => good("the secret of forwarded events is stored"),
        SecretState::NoValue => found(
            "the secret of forwarded events is not stored",
            shell.store_secret(&secret.name),
            Events::Pass,
        ),
        SecretState::Unusable(why) => found(
            format!("the secret of forwarded events cannot be used, because {why}"),
            shell.store_secret(&secret.name),
            Events::Pass,
        ),
        SecretState::Deleting => deleting(secret, shell, Events::Pass),
    }))
}

fn receiver(facts: &Facts, shell: &Shell) -> Judgement {
    judged(known(&facts.receiver).and_then(|function| deployed_function("receiver", function, shell)))
}

fn consumer(facts: &Facts, shell: &Shell) -> Judgement {
    judged(known(&facts.consumer).and_then(|function| deployed_function("consumer", function, shell)))
}

/// A release build of either function is several megabytes, and compressed still more than two.
const SMALLEST_CODE_BYTES: u64 = 500_000;

fn deployed_function(binary: &str, function: &Function, shell: &Shell) -> Result<Judgement, Judgement> {
    let name = &function.name;
    let Some(newest) = known(&function.newest)? else {
        return Ok(found(format!("the function {name} does not exist"), shell.deploy(), Events::Stop));
    };
    let deploy = |code: &Configuration| {
        let architecture = code.architectures.first().map_or("x86_64", String::as_str);
        shell.deploy_code(binary, name, architecture)
    };
    let reason = |code: &Option<String>| code.clone().unwrap_or_else(|| "no reason".to_owned());
    let Some(live) = known(&function.live)? else {
        let publish = shell.aws(&format!(
            "lambda create-alias --function-name {} --name {LIVE} --function-version \"$({})\"",
            quoted(name),
            shell.aws(&format!(
                "lambda publish-version --function-name {} --query Version --output text",
                quoted(name)
            ))
        ));
        let what = format!("{name} has no alias `{LIVE}`, which calls go to");
        return Ok(found(what, Remedy::command(publish), Events::Stop));
    };
    let Some(code) = known(&function.live_version)? else {
        let what = format!("the alias `{LIVE}` of {name} names a version that does not exist");
        return Ok(found(what, deploy(newest), Events::Stop));
    };
    let mut findings = Vec::new();
    if code.code_size < SMALLEST_CODE_BYTES {
        let what = format!(
            "version {} of {name} is a placeholder of {} bytes, not a build of this repository",
            live.function_version, code.code_size
        );
        findings.push(finding(what, deploy(code), Events::Stop));
    }
    if let Some(state @ ("Failed" | "Deactivated" | "Deleting" | "ActiveNonInvocable")) =
        code.state.as_deref()
    {
        let what = format!("{name} cannot run: it is {state} ({})", reason(&code.state_reason_code));
        findings.push(finding(what, deploy(code), Events::Stop));
    }
    if newest.last_update_status.as_deref() == Some("Failed") {
        let reason = reason(&newest.last_update_status_reason_code);
        let what = format!("the last update of {name} failed ({reason}); the version before it runs");
        findings.push(finding(what, deploy(newest), Events::Pass));
    }
    let others: Vec<_> =
        live.others().map(|(version, share)| format!("{:.0}% on {version}", share * 100.0)).collect();
    let rollout = if others.is_empty() { String::new() } else { format!(" ({})", others.join(", ")) };
    Ok(all(findings, format!("version {} of {name} is live{rollout}", live.function_version)))
}

/// Lambda refuses a reservation that leaves the rest of the account under this.
/// Source: AWS Lambda developer guide, "Configuring reserved concurrency".
const ALWAYS_UNRESERVED: u64 = 100;

/// The number of the quota of environments that run at once. Source: AWS Lambda developer guide, "Lambda quotas".
const CONCURRENCY_QUOTA: &str = "L-B99A9384";

fn concurrency(facts: &Facts, shell: &Shell) -> Judgement {
    judged(concurrencies(facts, shell))
}

fn concurrencies(facts: &Facts, shell: &Shell) -> Result<Judgement, Judgement> {
    let wanted = facts.receiver_concurrency.unwrap_or_default();
    let mut findings = Vec::new();
    for (function, reserves, what) in [
        (known(&facts.receiver)?, wanted, "every webhook is answered 503"),
        (known(&facts.consumer)?, 0, "no message is handled"),
    ] {
        if *known(&function.reserved)? != Some(0) {
            continue;
        }
        let name = quoted(&function.name);
        let command = if reserves > 0 {
            format!(
                "lambda put-function-concurrency --function-name {name} --reserved-concurrent-executions {reserves}"
            )
        } else {
            format!("lambda delete-function-concurrency --function-name {name}")
        };
        let what = format!("{} may not run at all: its reserved concurrency is 0, and {what}", function.name);
        findings.push(finding(what, Remedy::command(shell.aws(&command)), Events::Stop));
    }
    let limit = known(&facts.account_limit)?;
    let needed = if wanted > 0 { wanted + ALWAYS_UNRESERVED } else { 0 };
    let consumers = facts.consumer_concurrency.unwrap_or_default();
    let raise = || {
        let command = format!(
            "service-quotas request-service-quota-increase --service-code lambda --quota-code {CONCURRENCY_QUOTA} \
             --desired-value 1000"
        );
        Remedy::command(shell.aws(&command)).with_note("AWS answers within some days")
    };
    if limit.concurrent_executions < needed {
        let what = format!(
            "the account runs {} environments at once, and ReceiverConcurrency={wanted} needs {needed}: the next \
             deploy fails",
            limit.concurrent_executions
        );
        findings.push(finding(what, raise(), Events::Pass));
    } else if limit.unreserved_concurrent_executions < consumers {
        let what = format!(
            "only {} environments of the account are not reserved, fewer than ConsumerConcurrency={consumers}: the \
             consumer is throttled",
            limit.unreserved_concurrent_executions
        );
        findings.push(finding(what, raise(), Events::Pass));
    }
    let text = format!(
        "both functions may run; the account runs {} environments at once",
        limit.concurrent_executions
    );
    Ok(all(findings, text))
}

fn mapping(facts: &Facts, shell: &Shell) -> Judgement {
    judged(mappings(facts, shell))
}

fn mappings(facts: &Facts, shell: &Shell) -> Result<Judgement, Judgement> {
    let (consumer, queue) = (known(&facts.consumer)?, known(&facts.queue)?);
    let mappings = known(&facts.mappings)?;
    let function = format!(":function:{}:{LIVE}", consumer.name);
    let Some(mapping) = mappings.iter().find(|mapping| mapping.function_arn.ends_with(&function)) else {
        let concurrency = facts.consumer_concurrency.unwrap_or(10);
        let create = format!(
            "lambda create-event-source-mapping --function-name {} --event-source-arn {} --batch-size 10 \
             --maximum-batching-window-in-seconds 0 --function-response-types ReportBatchItemFailures \
             --scaling-config MaximumConcurrency={concurrency}",
            quoted(format!("{}:{LIVE}", consumer.name)),
            quoted(&queue.arn)
        );
        let what = "no event source mapping connects the queue with the consumer: messages wait";
        return Ok(found(what, Remedy::command(shell.aws(&create)), Events::Stop));
    };
    Ok(mapping_found(mapping, shell))
}

fn mapping_found(mapping: &Mapping, shell: &Shell) -> Judgement {
    let update = |option: &str| {
        let uuid = quoted(&mapping.uuid);
        Remedy::command(shell.aws(&format!("lambda update-event-source-mapping --uuid {uuid} {option}")))
    };
    let mut findings = Vec::new();
    match mapping.state.as_str() {
        "Disabled" | "Disabling" => {
            let what = "the event source mapping is disabled: messages wait on the queue";
            findings.push(finding(what, update("--enabled"), Events::Stop));
        }
        "Deleting" => {
            let note = Remedy::note("wait a minute and run this again: it then says how to make another one");
            findings.push(finding("the event source mapping is being deleted", note, Events::Stop));
        }
        _ => {}
    }
    let types = mapping.function_response_types.iter().flatten();
    if !types.into_iter().any(|kind| kind == "ReportBatchItemFailures") {
        let what = "the event source mapping ignores which messages of a batch failed, and deletes them";
        let remedy = update("--function-response-types ReportBatchItemFailures");
        findings.push(finding(what, remedy, Events::Stop));
    }
    if mapping.has_filters() {
        let what = "the event source mapping has a filter: it deletes the messages that do not match";
        findings.push(finding(what, update("--filter-criteria '{}'"), Events::Stop));
    }
    all(findings, "the consumer gets the queue's messages")
}

fn queue(facts: &Facts, shell: &Shell) -> Judgement {
    judged(known(&facts.queue).map(|queue| {
        let StackLimits { visibility_timeout_s, max_receive_count, .. } = StackLimits::TEMPLATE;
        let set = |attributes: serde_json::Value| {
            let command = format!(
                "sqs set-queue-attributes --queue-url {} --attributes {}",
                quoted(&queue.url),
                quoted(attributes.to_string())
            );
            Remedy::command(shell.aws(&command))
        };
        let mut findings = Vec::new();
        if queue.visibility_timeout_s != Some(visibility_timeout_s) {
            let is = queue.visibility_timeout_s.map_or_else(|| "unknown".to_owned(), |is| format!("{is} s"));
            let what = format!(
                "the queue's visibility timeout is {is} instead of {visibility_timeout_s} s: two consumers may get a \
                 message at once, or a retry comes late"
            );
            let value = json!({ "VisibilityTimeout": visibility_timeout_s.to_string() });
            findings.push(finding(what, set(value), Events::Pass));
        }
        let policy = json!({
            "deadLetterTargetArn": queue.expected_target,
            "maxReceiveCount": max_receive_count.to_string(),
        });
        let repair = || set(json!({ "RedrivePolicy": policy.to_string() }));
        match &queue.redrive {
            None => {
                let what = "the queue has no redrive policy: a message that kills the consumer comes back for days";
                findings.push(finding(what, repair(), Events::Pass));
            }
            Some(redrive) if redrive.target_arn != queue.expected_target => {
                let what = "the queue's redrive policy names another dead-letter queue than the stack's";
                findings.push(finding(what, repair(), Events::Pass));
            }
            Some(redrive) if redrive.max_receive_count != max_receive_count => {
                let what = format!(
                    "the queue's redrive policy moves a message after {} deliveries, and the consumer counts on \
                     {max_receive_count}",
                    redrive.max_receive_count
                );
                findings.push(finding(what, repair(), Events::Pass));
            }
            Some(_) => {}
        }
        all(findings, "its visibility timeout and its redrive policy are the template's")
    }))
}

fn dead_letters(facts: &Facts, shell: &Shell) -> Judgement {
    judged(known(&facts.dead_letters).map(|count| {
        if *count == 0 {
            return good("no dead letter waits");
        }
        let wait =
            if *count == 1 { "1 dead letter waits".to_owned() } else { format!("{count} dead letters wait") };
        let commands = [shell.learnink("dlq causes"), shell.learnink("dlq redrive --all")];
        let remedy = Remedy::commands(commands).with_note("see why, put it right, and send them again");
        found(wait, remedy, Events::Pass)
    }))
}

fn ledger(facts: &Facts, shell: &Shell) -> Judgement {
    if let Err(Unread::Call { is_denied: false, why, .. }) = &facts.ledger {
        let what = format!("the consumer cannot claim or settle a message: {why}");
        return found(what, shell.deploy(), Events::Stop);
    }
    let takes = "DynamoDB takes the statements that claim and settle a message";
    judged(known(&facts.ledger).map(|()| good(takes)))
}

fn url(facts: &Facts, shell: &Shell) -> Judgement {
    judged(known(&facts.url).map(|url| {
        if let Err(why) = &url.unsigned {
            let what = format!("{} does not answer: {why}", url.url);
            let look = Remedy::commands([format!("curl -i -X POST {}", quoted(&url.url))]);
            let note = "check the network and the proxy of this machine; if the API is gone, deploy again";
            let Remedy { commands, .. } = shell.deploy();
            let remedy = Remedy { commands: [look.commands, commands].concat(), note: Some(note.to_owned()) };
            return found(what, remedy, Events::Stop);
        }
        let stops = |judgement| {
            matches!(judgement, Judgement::Found(found) if found.iter().any(|found| found.events == Events::Stop))
        };
        if matches!(url.unsigned, Ok(500..)) && (stops(receiver(facts, shell)) || stops(concurrency(facts, shell))) {
            return Judgement::NotLooked("the receiver cannot answer, as is said above".to_owned());
        }
        let is_refused = |answer: &Answer| matches!(answer, Ok(403..=405));
        let shown = |answer: &Answer| match answer {
            Ok(status) => format!("answered {status}"),
            Err(why) => format!("not answered: {why}"),
        };
        let logs = |what: String| {
            let receiver = facts.receiver.as_ref().map_or("receiver", |function| &function.name);
            let command = format!(
                "logs filter-log-events --log-group-name {} --filter-pattern ERROR --max-items 20 \
                 --query 'events[].message' --output text",
                quoted(format!("/aws/lambda/{receiver}"))
            );
            finding(what, Remedy::command(shell.aws(&command)), Events::Stop)
        };
        let mut findings = Vec::new();
        match url.unsigned {
            Ok(401) | Err(_) => {}
            Ok(status @ 500..) => {
                findings.push(logs(format!(
                    "a request without a signature is answered {status}: the receiver fails"
                )));
            }
            Ok(404) => {
                let what = "the webhook's path is answered 404: the API has no such route";
                findings.push(finding(what, shell.deploy(), Events::Stop));
            }
            Ok(status @ 200..300) => {
                let what =
                    format!("a request without a signature is answered {status}: nobody checks signatures");
                findings.push(finding(what, shell.deploy(), Events::Stop));
            }
            Ok(status) => {
                findings
                    .push(logs(format!("a request without a signature is answered {status} instead of 401")));
            }
        }
        for (answer, what) in [(&url.wrong_method, "a GET"), (&url.wrong_path, "another path")] {
            if !is_refused(answer) {
                let what = format!("{what} is {} instead of 404 or 405", shown(answer));
                findings.push(finding(what, shell.deploy(), Events::Pass));
            }
        }
        if let Some(old) = url.old.as_ref().filter(|old| **old != Ok(401)) {
            let what = format!("a signature of ten minutes ago is {} instead of 401", shown(old));
            findings.push(finding(what, shell.deploy(), Events::Stop));
        }
        let old = if url.old.is_some() { ", an old signature" } else { "" };
        all(findings, format!("it refuses a missing signature{old}, another method and another path"))
    }))
}

fn alarm_mail(facts: &Facts, shell: &Shell) -> Judgement {
    judged(known(&facts.topic).map(|topic| {
        let subscribe = format!(
            "sns subscribe --topic-arn {} --protocol email --notification-endpoint \"$address\"",
            quoted(&topic.arn)
        );
        let remedy = Remedy::commands(["read -r address".to_owned(), shell.aws(&subscribe)]);
        let recipients = |count: usize| {
            if count == 1 { "1 recipient".to_owned() } else { format!("{count} recipients") }
        };
        match (topic.subscriptions.confirmed, topic.subscriptions.pending) {
            (0, 0) => found(
                "the alarms reach nobody: their topic has no subscription",
                remedy.with_note("type the address; its owner then has to follow the link that AWS mails"),
                Events::Pass,
            ),
            (0, pending) => found(
                format!(
                    "the alarms reach nobody: {} did not follow the link that AWS mailed",
                    recipients(pending)
                ),
                remedy.with_note("follow the link; to have it mailed again, type the address"),
                Events::Pass,
            ),
            (confirmed, _) => good(format!("the alarms reach {}", recipients(confirmed))),
        }
    }))
}

/// What to type when an alarm rings, by the end of its name. Its description says the rest.
const ALARM_COMMANDS: &[(&str, &[&str])] = &[
    ("dead-letters", &["dlq causes", "dlq redrive --all"]),
    ("more-dead-letters", &["dlq causes", "dlq redrive --all"]),
    ("moved-by-sqs", &["dlq causes", "dlq redrive --all"]),
    ("refused-share", &["secret put"]),
    ("only-the-old-secret", &["secret put"]),
    ("new-secret", &["secret put"]),
    ("unknown-version", &["unknown"]),
];

fn alarms(facts: &Facts, shell: &Shell) -> Judgement {
    judged(known(&facts.alarms).map(|alarms| {
        let findings = alarms.iter().map(|alarm| {
            let name = &alarm.alarm_name;
            let since = alarm.state_updated_timestamp.map(|at| format!(" since {}", seconds(at)));
            let short = name.strip_prefix(&format!("{}-", shell.stack())).unwrap_or(name);
            let commands =
                ALARM_COMMANDS.iter().find(|(ending, _)| *ending == short).map(|(_, commands)| *commands);
            let commands: Vec<_> = match commands {
                Some(commands) => commands.iter().map(|command| shell.learnink(command)).collect(),
                None => vec![shell.learnink("status")],
            };
            let remedy = Remedy { commands, note: alarm.alarm_description.clone() };
            finding(format!("{name} rings{}", since.unwrap_or_default()), remedy, Events::Pass)
        });
        all(findings.collect(), "no alarm rings")
    }))
}

#[cfg(test)]
#[path = "checks/tests.rs"]
mod tests;
