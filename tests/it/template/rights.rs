//! Who may do what: roles, policies of resources, permissions to invoke.

use serde_json::{Value, json};

use super::transformed::{Template, Violations, arn, cases, names, walk};

/// The only members that a statement may have. IAM's others state exceptions.
const MEMBERS: [&str; 6] = ["Sid", "Effect", "Principal", "Action", "Resource", "Condition"];

/// Who may assume a role.
const TRUSTED: [&str; 3] = ["lambda.amazonaws.com", "codedeploy.amazonaws.com", "firehose.amazonaws.com"];

/// Actions that cannot be limited to a resource. Source: Service authorization reference, "Actions defined by AWS
/// X-Ray".
const ON_EVERYTHING: [&str; 2] = ["xray:PutTraceSegments", "xray:PutTelemetryRecords"];

/// SAM gives it to the role that moves an alias.
const CODE_DEPLOY: &str = "arn:aws:iam::aws:policy/service-role/AWSCodeDeployRoleForLambda";

pub(super) fn rules(template: &Template, violations: &mut Violations) {
    for (name, resource) in template.resources() {
        policies(template, name, resource, violations);
    }
    for (name, permission) in template.of_type("AWS::Lambda::Permission") {
        let permission = &permission["Properties"];
        let is_ours = names(&permission["SourceArn"]).iter().any(|name| !template.properties(name).is_null());
        let principal = permission["Principal"].as_str().unwrap_or_default();
        violations.require(
            is_ours
                && principal.ends_with(".amazonaws.com")
                && permission["Action"] == "lambda:InvokeFunction",
            format!("{name} does not say what of this stack may invoke: others could as well"),
        );
    }
    let has_url = template.of_type("AWS::Lambda::Url").next().is_some();
    violations
        .require(!has_url, "a function has a URL: it could be invoked past the API's throttle and its log");
    for (kind, policy, target, action) in [
        ("AWS::SQS::Queue", "AWS::SQS::QueuePolicy", "Queues", "sqs:*"),
        ("AWS::S3::Bucket", "AWS::S3::BucketPolicy", "Bucket", "s3:*"),
    ] {
        for (name, resource) in template.of_type(kind) {
            let mut policies = template.of_type(policy);
            let is_denied = policies.any(|(_, policy)| {
                let properties = &policy["Properties"];
                policy["Condition"] == resource["Condition"]
                    && cases(&properties[target]) == [&json!({ "Ref": name })]
                    && cases(&properties["PolicyDocument"]["Statement"]).contains(&&without_tls(name, action))
            });
            violations
                .require(is_denied, format!("{name} could be reached without TLS: no policy denies it"));
        }
    }
}

/// The statement that denies access without TLS to a resource.
fn without_tls(name: &str, action: &str) -> Value {
    let all = match action {
        "s3:*" => json!([arn(name), {"Fn::Sub": format!("${{{name}.Arn}}/*")}]),
        _ => arn(name),
    };
    json!({
        "Sid": "DenyWithoutTls", "Effect": "Deny", "Principal": "*", "Action": action, "Resource": all,
        "Condition": {"Bool": {"aws:SecureTransport": "false"}}
    })
}

/// Whether a managed policy is the stack's own, whose statements are checked like all others.
fn is_of_the_stack(template: &Template, policy: &Value) -> bool {
    policy["Ref"]
        .as_str()
        .is_some_and(|name| template.json["Resources"][name]["Type"] == "AWS::IAM::ManagedPolicy")
}

/// All policies in a resource, at any depth.
fn policies(template: &Template, name: &str, resource: &Value, violations: &mut Violations) {
    let mut is_hidden = resource.to_string().contains(r#"\"Statement\""#);
    walk(resource, &mut |key, value| match key {
        "Statement" => {
            for statement in cases(value) {
                let fault = fault(template, statement);
                let why = format!("{name} {}: {statement}", fault.unwrap_or_default());
                violations.require(fault.is_none(), why);
            }
        }
        "ManagedPolicyArns" => violations.require(
            name == "CodeDeployServiceRole" && *value == json!([CODE_DEPLOY])
                || cases(value).iter().all(|policy| is_of_the_stack(template, policy)),
            format!("{name} has a managed policy, and would have its rights on everything: {value}"),
        ),
        "Fn::Transform" => is_hidden = true,
        _ => {}
    });
    let why = format!("{name} has a policy that cannot be read here: it could allow anything");
    violations.require(!is_hidden, why);
}

/// The fault of a policy's statement, if any.
fn fault(template: &Template, statement: &Value) -> Option<&'static str> {
    let mut members = statement.as_object().into_iter().flat_map(|statement| statement.keys());
    if !members.all(|member| MEMBERS.contains(&member.as_str())) {
        return Some("would allow or deny what is not named, or cannot be read here");
    }
    match statement["Effect"].as_str() {
        Some("Deny") => return None,
        Some("Allow") => {}
        _ => return Some("would allow or deny, depending on something else"),
    }
    let actions: Vec<_> =
        cases(&statement["Action"]).iter().map(|action| action.as_str().unwrap_or("*")).collect();
    if actions.is_empty() || actions.iter().any(|action| action.contains(['*', '?'])) {
        return Some("would allow actions that nobody has listed");
    }
    let needs_resource = !actions.iter().all(|action| ON_EVERYTHING.contains(action));
    if needs_resource && !cases(&statement["Resource"]).iter().all(|resource| is_named(template, resource)) {
        return Some("would have rights on resources that nobody has named");
    }
    let is_trust = actions.iter().any(|action| action.starts_with("sts:"));
    let is_known = |service: &&Value| match service.as_str().unwrap_or_default() {
        service if is_trust => TRUSTED.contains(&service),
        service => service.ends_with(".amazonaws.com") && statement["Condition"].is_object(),
    };
    let is_ours = |principal: &&Value| {
        let services = cases(&principal["Service"]);
        principal.as_object().is_some_and(|principal| principal.len() == 1)
            && !services.is_empty()
            && services.iter().all(is_known)
    };
    let is_ours = cases(&statement["Principal"]).iter().all(is_ours);
    (!is_ours).then_some("would let in others than the services that work for this stack")
}

/// Whether it is one resource, or the content of one in this stack. A parameter must not add a `*`.
fn is_named(template: &Template, resource: &Value) -> bool {
    let is_ours = |name: &str| !template.properties(name).is_null();
    let Some(text) = resource.as_str().or(resource["Fn::Sub"].as_str()) else {
        return resource["Ref"].as_str().or(resource["Fn::GetAtt"][0].as_str()).is_some_and(is_ours);
    };
    let is_bound = |name: &String| {
        let parameter = &template.json["Parameters"][name];
        parameter.is_null()
            || parameter["AllowedPattern"].is_string()
            || parameter["AllowedValues"].is_array()
    };
    let inside = text.strip_prefix("${").and_then(|text| text.split_once(".Arn}/"));
    let is_inside = inside.is_some_and(|(name, _)| is_ours(name));
    (is_inside || text.starts_with("arn:") && !text.ends_with('*'))
        && !text.trim_end_matches('*').contains(['*', '?'])
        && names(resource).iter().all(is_bound)
}
