//! The role in `deploy-role.yaml` has the rights that a deploy needs, and no others: those that `CloudFormation`'s
//! schemas list for the types in the template, those of SAM, and those of `learnink doctor`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::LazyLock;

use learnink_tests::root;
use serde_json::{Value, json};

use super::transformed::{Template, cases, walk};
use super::{SHAPES, lines};
use crate::doctor;

const UNNEEDED: &str = include_str!("unneeded.txt");

/// What cfn-lint knows of AWS, and the role's template, as JSON.
const KNOWN: &str = "
import json, os
import cfnlint
from samtranslator.yaml_helper import yaml_parse
data = os.path.join(os.path.dirname(cfnlint.__file__), 'data')
read = lambda path: json.load(open(os.path.join(data, path)))
names = read('schemas/providers/us-east-1.json')
def rights(name):
    schema = read(f'schemas/resources/{names[name]}.json')
    handlers = schema.get('handlers', {})
    lists = [handler['permissions'] for verb, handler in handlers.items() if verb != 'list']
    return sorted({right for rights in lists + [schema.get('tagging', {}).get('permissions', [])] for right in rights})
types = json.loads(os.environ['TYPES'])
print(json.dumps({
    'role': yaml_parse(open('deploy-role.yaml').read()),
    'types': {name: rights(name) for name in types},
    'services': read('AdditionalSpecs/Policies.json'),
}))
";

/// What `sam deploy` calls, and `CloudFormation` for it.
/// Source: aws-sam-cli, `samcli/lib/deploy/deployer.py`, `samcli/lib/package/s3_uploader.py` and
/// `samcli/lib/utils/managed_cloudformation_stack.py`; the stack's tags are in `samconfig.toml`.
const SAM: [&str; 12] = [
    "cloudformation:CreateChangeSet",
    "cloudformation:DescribeChangeSet",
    "cloudformation:DescribeStackEvents",
    "cloudformation:DescribeStacks",
    "cloudformation:ExecuteChangeSet",
    "cloudformation:GetTemplateSummary",
    "cloudformation:TagResource",
    "cloudformation:UntagResource",
    "s3:AbortMultipartUpload",
    "s3:GetObject",
    "s3:GetObjectVersion",
    "s3:PutObject",
];

/// What an API's access log needs besides the rights of the schemas.
/// Source: API Gateway developer guide, "Permissions required to enable CloudWatch Logs" for HTTP APIs.
const ACCESS_LOG: [&str; 8] = [
    "logs:CreateLogDelivery",
    "logs:DeleteLogDelivery",
    "logs:DescribeLogGroups",
    "logs:DescribeResourcePolicies",
    "logs:GetLogDelivery",
    "logs:ListLogDeliveries",
    "logs:PutResourcePolicy",
    "logs:UpdateLogDelivery",
];

/// What is allowed on everything although it could be limited to a resource: `doctor` asks for all alarms and metrics,
/// and a mapping is limited by the function that it invokes.
const ON_EVERYTHING: [&str; 5] = [
    "cloudwatch:describealarms",
    "cloudwatch:getmetricdata",
    "lambda:createeventsourcemapping",
    "lambda:deleteeventsourcemapping",
    "lambda:updateeventsourcemapping",
];

/// The name of the stack's role of `CodeDeploy`, which SAM writes.
const CODE_DEPLOY_ROLE: &str = "CodeDeployServiceRole";

/// The most characters of the policies in a role, and of a managed policy, without white space.
/// Source: IAM user guide, "IAM and AWS STS quotas".
const MOST_CHARACTERS: [usize; 2] = [10_240, 6_144];

static ROLE: LazyLock<DeployRole> = LazyLock::new(|| DeployRole::read(&SHAPES[1]));

/// A role, by its statements and those of its boundary.
#[derive(Clone)]
struct DeployRole {
    json: Value,
    /// The rights of each type in the template.
    types: BTreeMap<String, Vec<String>>,
    /// IAM's actions, by service, in lower case.
    services: Value,
}

/// A right in lower case: IAM ignores the case.
fn right(action: &Value) -> String {
    action.as_str().unwrap_or("*").to_lowercase()
}

fn rights_of(statement: &Value) -> BTreeSet<String> {
    cases(&statement["Action"]).into_iter().map(right).collect()
}

/// Whether a right is the one that a line of `unneeded.txt` names, or begins like it.
fn is_named_by(right: &str, named: &str) -> bool {
    let named = named.to_lowercase();
    named.strip_suffix('*').map_or(right == named, |begin| right.starts_with(begin))
}

impl DeployRole {
    fn read(template: &Template) -> Self {
        let types: BTreeSet<_> =
            template.resources().filter_map(|(_, resource)| resource["Type"].as_str()).collect();
        let mut python = Command::new(root().join(".venv/bin/python"));
        python.current_dir(root()).env("TYPES", json!(types).to_string()).args(["-c", KNOWN]);
        let output = python.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut known: Value = serde_json::from_slice(&output.stdout).unwrap();
        let types = serde_json::from_value(known["types"].take()).unwrap();
        Self { json: known["role"].take(), types, services: known["services"].take() }
    }

    fn statements(&self) -> Vec<&Value> {
        cases(
            &self.json["Resources"]["DeployRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"],
        )
    }

    fn boundary(&self) -> Vec<&Value> {
        cases(&self.json["Resources"]["Boundary"]["Properties"]["PolicyDocument"]["Statement"])
    }

    fn allowed(&self) -> BTreeSet<String> {
        self.statements().into_iter().flat_map(rights_of).collect()
    }

    /// Whether IAM can limit a right to a resource. A right that cfn-lint does not know can be.
    fn is_limitable(&self, right: &str) -> bool {
        let (service, action) = right.split_once(':').unwrap();
        let action = &self.services[service]["Actions"][action];
        action.is_null() || !action["Resources"].is_null()
    }

    /// What a deploy of the template needs; the lines of `unneeded.txt` that apply are in `used`.
    fn needed(&self, template: &Template, used: &mut BTreeSet<String>) -> BTreeSet<String> {
        let mut needed: BTreeSet<_> = SAM.into_iter().chain(doctor::ACTIONS).map(str::to_lowercase).collect();
        let has_log = template
            .of_type("AWS::ApiGatewayV2::Stage")
            .any(|(_, stage)| !stage["Properties"]["AccessLogSettings"].is_null());
        needed.extend(ACCESS_LOG.into_iter().filter(|_| has_log).map(str::to_lowercase));
        for (name, rights) in &self.types {
            let mut rights: BTreeSet<_> = rights.iter().map(|right| right.to_lowercase()).collect();
            for (path, named, _) in lines(UNNEEDED) {
                let Some(property) = path.strip_prefix(&format!("{name}/")) else { continue };
                let pointer = format!("/Properties/{property}");
                if template.of_type(name).any(|(_, resource)| resource.pointer(&pointer).is_some()) {
                    continue;
                }
                for named in named.as_array().unwrap().iter().filter_map(Value::as_str) {
                    let before = rights.len();
                    rights.retain(|right| !is_named_by(right, named));
                    if rights.len() < before {
                        used.insert(format!("{path} {named}"));
                    }
                }
            }
            needed.extend(rights);
        }
        needed
    }

    /// What is wrong with the role, in sentences.
    fn faults(&self, template: &Template) -> Vec<String> {
        let needed = self.needed(template, &mut BTreeSet::new());
        let allowed = self.allowed();
        let mut faults: Vec<_> = needed
            .difference(&allowed)
            .map(|right| format!("a deploy would fail: the role does not allow {right}"))
            .collect();
        faults.extend(allowed.difference(&needed).map(|right| format!("no deploy needs {right}")));
        for statement in self.statements().into_iter().chain(self.boundary()) {
            faults.extend(self.faults_of(statement));
        }
        let used: BTreeSet<_> = functions_statements(template).into_iter().flat_map(rights_of).collect();
        let limit: BTreeSet<_> = self.boundary().into_iter().flat_map(rights_of).collect();
        faults.extend(
            used.difference(&limit).map(|right| format!("the boundary would take {right} from a function")),
        );
        faults.extend(limit.difference(&used).map(|right| format!("no function needs {right}")));
        for (name, role) in template.of_type("AWS::IAM::Role") {
            let has_limit = role["Properties"]["PermissionsBoundary"]["Fn::If"][0] == "IsBounded";
            if !has_limit && name != CODE_DEPLOY_ROLE {
                faults
                    .push(format!("{name} does not have the boundary: the deploy role could not create it"));
            }
        }
        faults
    }

    /// What is wrong with a statement: resources that are not this stack's, or a right that gives other rights.
    fn faults_of(&self, statement: &Value) -> Vec<String> {
        let resources: Vec<_> = cases(&statement["Resource"])
            .into_iter()
            .map(|resource| resource.as_str().or(resource["Fn::Sub"].as_str()).unwrap_or("*"))
            .collect();
        let mut faults = Vec::new();
        if statement["Effect"] != "Allow" || resources.is_empty() {
            faults.push(format!("it cannot be read here: {statement}"));
        }
        let is_on_everything = resources.contains(&"*");
        for right in rights_of(statement) {
            if right.contains('*') {
                faults.push(format!("{right} would allow actions that nobody has listed"));
            } else if is_on_everything
                && self.is_limitable(&right)
                && !ON_EVERYTHING.contains(&right.as_str())
            {
                faults.push(format!("{right} would be allowed on other stacks"));
            } else if !is_on_everything && !self.is_limitable(&right) {
                faults.push(format!("{right} cannot be limited to a resource, and would not be allowed"));
            }
            let needs = match right.as_str() {
                "iam:passrole" => "iam:PassedToService",
                "iam:attachrolepolicy" | "iam:putrolepolicy" | "iam:putrolepermissionsboundary" => {
                    "iam:PermissionsBoundary"
                }
                "iam:createrole" if !resources.iter().all(|name| name.contains(CODE_DEPLOY_ROLE)) => {
                    "iam:PermissionsBoundary"
                }
                "lambda:createeventsourcemapping" => "lambda:FunctionArn",
                _ => continue,
            };
            let condition = &statement["Condition"];
            let mut is_limited = false;
            walk(condition, &mut |key, _| is_limited |= key == needs);
            // CodeDeploy's role may only have the policy of AWS.
            is_limited |= right == "iam:attachrolepolicy"
                && condition["ArnEquals"]["iam:PolicyARN"]["Fn::Sub"].as_str().is_some_and(|policy| {
                    policy.ends_with(":iam::aws:policy/service-role/AWSCodeDeployRoleForLambda")
                });
            if !is_limited {
                faults.push(format!("with {right}, the role could give itself any right: it needs {needs}"));
            }
        }
        // Names that do not contain the stack's: random ids, what SAM shares between stacks, a bus that a parameter names.
        let others = [
            ":apigateway:*::/",
            ":codedeploy:*:${AWS::AccountId}:deploymentconfig:CodeDeployDefault.*",
            ":lambda:*:${AWS::AccountId}:event-source-mapping:*",
            "aws-sam-cli-managed-default",
            ":aws:transform/Serverless-2016-10-31",
            ":events:*:${AWS::AccountId}:event-bus/*",
        ];
        for name in resources.iter().filter(|name| **name != "*") {
            let is_ours = name.contains("${StackName}-") || name.contains("${StackName}/");
            if !is_ours && !others.iter().any(|other| name.contains(other)) {
                faults.push(format!("{name} is not a part of the stack"));
            }
        }
        faults
    }
}

/// The statements of all roles and policies of the functions.
fn functions_statements(template: &Template) -> Vec<&Value> {
    let mut statements = Vec::new();
    let roles = template.of_type("AWS::IAM::Role").filter(|(name, _)| *name != CODE_DEPLOY_ROLE);
    for (_, resource) in roles.chain(template.of_type("AWS::IAM::ManagedPolicy")) {
        let properties = &resource["Properties"];
        for policy in cases(&properties["Policies"]) {
            statements.extend(cases(&policy["PolicyDocument"]["Statement"]));
        }
        statements.extend(cases(&properties["PolicyDocument"]["Statement"]));
    }
    statements
}

/// Those of the texts that a pattern of a parameter matches as a whole.
fn matching<'a>(pattern: &str, texts: &[&'a str]) -> Vec<&'a str> {
    let code = "import re, sys; print(*[bool(re.fullmatch(sys.argv[1], text)) for text in sys.argv[2:]])";
    let mut python = Command::new(root().join(".venv/bin/python"));
    let output = python.args(["-c", code, pattern]).args(texts).output().unwrap();
    let answers = String::from_utf8(output.stdout).unwrap();
    texts
        .iter()
        .zip(answers.split_whitespace())
        .filter(|(_, answer)| *answer == "True")
        .map(|(text, _)| *text)
        .collect()
}

/// A policy as IAM gets it, with the longest names.
fn resolved(value: &Value) -> Value {
    match value {
        Value::Object(object) if object.len() == 1 && object.contains_key("Fn::Sub") => {
            let text = object["Fn::Sub"].as_str().unwrap().replace("${StackName}", &"n".repeat(32));
            json!(
                text.replace("${AWS::AccountId}", "123456789012").replace("${AWS::Partition}", "aws-us-gov")
            )
        }
        Value::Object(object) => object.iter().map(|(name, value)| (name.clone(), resolved(value))).collect(),
        Value::Array(items) => items.iter().map(resolved).collect(),
        value => value.clone(),
    }
}

#[test]
fn the_deploy_role_has_the_rights_that_a_deploy_needs_and_no_others() {
    let faults = ROLE.faults(&SHAPES[1]);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_right_that_is_taken_out_of_the_deploy_role_or_its_boundary_is_missed() {
    let policies = [
        "/Resources/DeployRole/Properties/Policies/0/PolicyDocument/Statement",
        "/Resources/Boundary/Properties/PolicyDocument/Statement",
    ];
    let mut taken = 0;
    for policy in policies {
        let statements = ROLE.json.pointer(policy).unwrap().as_array().unwrap();
        for (number, statement) in statements.iter().enumerate() {
            for action in cases(&statement["Action"]) {
                let mut role = ROLE.clone();
                let rest: Vec<_> =
                    cases(&statement["Action"]).into_iter().filter(|other| *other != action).collect();
                role.json.pointer_mut(policy).unwrap()[number]["Action"] = json!(rest);
                // Some rights are needed on two kinds of resources, and are in two statements.
                let is_elsewhere =
                    if policy.contains("Boundary") { role.boundary() } else { role.statements() }
                        .into_iter()
                        .any(|statement| rights_of(statement).contains(&right(action)));
                let faults = role.faults(&SHAPES[1]).join("\n");
                assert!(is_elsewhere || faults.contains(&right(action)), "nobody misses {action}");
                taken += usize::from(!is_elsewhere);
            }
        }
    }
    assert!(taken > 150, "only {taken} rights were taken");
}

#[test]
fn a_resource_type_or_a_property_that_nobody_gave_rights_for_is_noticed() {
    for (edit, missing) in [
        (
            "template['Resources']['Stream'] = {'Type': 'AWS::Kinesis::Stream', 'Properties': {'ShardCount': 1}}",
            "kinesis:createstream",
        ),
        (
            "template['Resources']['LearnersTable']['Properties']['KinesisStreamSpecification'] = {'StreamArn': 'arn'}",
            "dynamodb:enablekinesisstreamingdestination",
        ),
        (
            "receiver['VpcConfig'] = {'SubnetIds': ['subnet'], 'SecurityGroupIds': ['group']}",
            "ec2:describesubnets",
        ),
    ] {
        let template = Template::transformed(true, edit);
        let faults = DeployRole::read(&template).faults(&template).join("\n");
        assert!(faults.contains(&format!("does not allow {missing}")), "{edit}: {faults}");
    }
    let template = Template::transformed(
        true,
        "consumer_policy = template['Resources']['ConsumerRole']['Properties']['Policies'][0]['PolicyDocument']
consumer_policy['Statement'].append({'Effect': 'Allow', 'Action': 'ses:SendEmail', 'Resource': '*'})
del template['Resources']['ReceiverRole']['Properties']['PermissionsBoundary']",
    );
    let faults = ROLE.faults(&template).join("\n");
    assert!(faults.contains("the boundary would take ses:sendemail from a function"), "{faults}");
    assert!(faults.contains("ReceiverRole does not have the boundary"), "{faults}");
}

#[test]
fn each_right_that_counts_as_unneeded_is_one_that_a_schema_lists() {
    let mut used = BTreeSet::new();
    ROLE.needed(&SHAPES[1], &mut used);
    let listed: BTreeSet<_> = lines(UNNEEDED)
        .flat_map(|(path, named, _)| {
            let named = named.as_array().unwrap().clone();
            named.into_iter().map(move |named| format!("{path} {}", named.as_str().unwrap()))
        })
        .collect();
    let stale: Vec<_> = listed.difference(&used).collect();
    assert!(stale.is_empty(), "no longer in a schema, or needed by now: {stale:?}");
}

#[test]
fn a_weakened_deploy_role_is_refused_with_a_sentence_that_says_why() {
    let statements = "/Resources/DeployRole/Properties/Policies/0/PolicyDocument/Statement";
    let with = |statement: Value| {
        let mut role = ROLE.clone();
        role.json.pointer_mut(statements).unwrap().as_array_mut().unwrap().push(statement);
        role.faults(&SHAPES[1]).join("\n")
    };
    for (statement, why) in [
        (json!({"Effect": "Allow", "Action": "sqs:*", "Resource": "*"}), "actions that nobody has listed"),
        (
            json!({"Effect": "Allow", "Action": "sqs:PurgeQueue", "Resource": {"Fn::Sub": "arn:${StackName}-x"}}),
            "no deploy needs",
        ),
        (json!({"Effect": "Allow", "Action": "sqs:DeleteQueue", "Resource": "*"}), "allowed on other stacks"),
        (
            json!({"Effect": "Allow", "Action": "sqs:DeleteQueue", "Resource": "arn:aws:sqs:*:*:*"}),
            "not a part of the stack",
        ),
        (
            json!({"Effect": "Allow", "Action": "secretsmanager:GetRandomPassword", "Resource": {"Fn::Sub": "arn:${StackName}-x"}}),
            "cannot be limited",
        ),
        (
            json!({"Effect": "Allow", "Action": "iam:PassRole", "Resource": {"Fn::Sub": "role/${StackName}-*"}}),
            "any right",
        ),
        (
            json!({"Effect": "Allow", "Action": "iam:PutRolePolicy", "Resource": {"Fn::Sub": "role/${StackName}-*"}}),
            "any right",
        ),
        (
            json!({"Effect": "Allow", "Action": "iam:CreateRole", "Resource": {"Fn::Sub": "role/${StackName}-*"}}),
            "any right",
        ),
        (
            json!({"Effect": "Allow", "Action": "iam:AttachRolePolicy", "Resource": {"Fn::Sub": "role/${StackName}-*"}}),
            "any right",
        ),
        (json!({"Effect": "Deny", "Action": "sqs:DeleteQueue", "Resource": "*"}), "cannot be read"),
    ] {
        let faults = with(statement.clone());
        assert!(faults.contains(why), "{statement}: {faults}");
    }
}

#[test]
fn only_a_job_of_one_environment_of_one_repository_assumes_the_deploy_role() {
    let resources = &ROLE.json["Resources"];
    let role = &resources["DeployRole"]["Properties"];
    let trust = cases(&role["AssumeRolePolicyDocument"]["Statement"]);
    assert_eq!(trust.len(), 1);
    assert_eq!(
        trust[0]["Condition"],
        json!({"StringEquals": {
            "token.actions.githubusercontent.com:aud": "sts.amazonaws.com",
            "token.actions.githubusercontent.com:sub": {"Fn::Sub": "${Repository}:environment:${Environment}"},
        }})
    );
    for parameter in ["Repository", "Environment", "StackName"] {
        let pattern = ROLE.json["Parameters"][parameter]["AllowedPattern"].as_str().unwrap();
        let taken = matching(
            pattern,
            &[
                "*",
                "repo:*",
                "repo:acme/*",
                "repo:acme@*/webhooks@1",
                "repo:acme/web?ooks",
                "repo:acme/webhooks:ref:*",
            ],
        );
        assert!(taken.is_empty(), "{parameter} takes {taken:?}");
    }
    let repository = ROLE.json["Parameters"]["Repository"]["AllowedPattern"].as_str().unwrap();
    let both = ["repo:acme/learnink-webhooks", "repo:acme@123456/learnink-webhooks@456789"];
    assert_eq!(matching(repository, &both), both);
    // Neither the role nor its boundary has a name that the role has rights on.
    for (resource, name) in [("DeployRole", "RoleName"), ("Boundary", "ManagedPolicyName")] {
        let name = resources[resource]["Properties"][name]["Fn::Sub"].as_str().unwrap();
        assert!(name.ends_with("-${StackName}") && !name.starts_with("${StackName}"), "{name}");
    }
}

#[test]
fn the_policies_of_the_deploy_role_fit_into_iams_limits() {
    let resources = &ROLE.json["Resources"];
    let policies = [
        &resources["DeployRole"]["Properties"]["Policies"][0]["PolicyDocument"],
        &resources["Boundary"]["Properties"]["PolicyDocument"],
    ];
    for (policy, most) in policies.into_iter().zip(MOST_CHARACTERS) {
        let text = resolved(policy).to_string();
        let characters = text.chars().filter(|char| !char.is_whitespace()).count();
        assert!(characters <= most, "{characters} characters of {most}");
    }
}
