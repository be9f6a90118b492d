use clap::{FromArgMatches, Subcommand};

use super::*;

fn parse(line: &str) -> Result<Command, clap::Error> {
    let command = Command::augment_subcommands(clap::Command::new("sim").subcommand_required(true));
    let words = std::iter::once("sim").chain(line.split(' '));
    Command::from_arg_matches(&command.try_get_matches_from(words)?)
}

/// The request of a command line that needs no answer of the console first.
fn request(line: &str) -> String {
    let request = match parse(line).unwrap() {
        Command::Endpoint(EndpointCommand::Add(args)) => add(&args).unwrap(),
        Command::Endpoint(EndpointCommand::Change(args)) => change(&args),
        Command::SendExample(args) => send_example(&args).unwrap(),
        Command::Resend(args) => resend(&args),
        Command::Replay(args) => attempt(&args, "replay"),
        Command::Now(args) => attempt(&args, "now"),
        Command::Answer(args) => answer(&args),
        Command::Speed(args) => speed(&args),
        Command::Scene(args) => scene(&args),
        other => panic!("{other:?} is not only a request"),
    };
    request.line()
}

#[test]
fn each_command_is_one_form_of_the_console() {
    for (line, expected) in [
        (
            "endpoint add http://127.0.0.1:1/x",
            "/learnink/endpoints url=http%3A%2F%2F127.0.0.1%3A1%2Fx&environment=staging&types=",
        ),
        (
            "endpoint add http://a --environment production --type a.b --type c",
            "/learnink/endpoints url=http%3A%2F%2Fa&environment=production&types=a.b%20c",
        ),
        (
            "endpoint change ep_1 http://a --type a.b c",
            "/learnink/endpoints/ep_1/change url=http%3A%2F%2Fa&types=a.b%20c",
        ),
        ("send-example notifications.sent", "/learnink/testing type=notifications.sent"),
        (
            "send-example notifications.sent --endpoint ep_1 --fresh",
            "/learnink/testing type=notifications.sent&endpoint=ep_1&fresh=1",
        ),
        ("resend msg_1", "/learnink/messages/msg_1/resend "),
        (
            "resend msg_1 --again --reason lost --endpoint ep_1",
            "/learnink/messages/msg_1/resend endpoint=ep_1&again=1&reason=lost",
        ),
        ("replay msg_1", "/learnink/messages/msg_1/replay "),
        ("now msg_1 --endpoint ep_1", "/learnink/messages/msg_1/now endpoint=ep_1"),
        ("answer 503 --next 3", "/learnink/fault answer=503&next=3"),
        ("answer none", "/learnink/fault answer=none&next=1"),
        ("answer close --share 0.5", "/learnink/fault answer=close&share=0.5"),
        ("answer 429 --share 1 --retry-after 90", "/learnink/fault answer=429&share=1&retry_after=90"),
        ("speed 600", "/learnink/speed speed=600"),
        ("scene night", "/learnink/scene scene=night&environment=staging"),
        ("scene phone --environment production", "/learnink/scene scene=phone&environment=production"),
    ] {
        assert_eq!(request(line), expected, "{line}");
    }
    // An id cannot leave its path.
    assert_eq!(request("resend a/b"), "/learnink/messages/a%2Fb/resend ");
}

#[test]
fn a_payload_and_a_secret_come_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let name = path.to_str().unwrap();
    std::fs::write(&path, "whsec_x\n").unwrap();
    let added = request(&format!("endpoint add http://a --secret-file {name}"));
    assert!(added.ends_with("&secret=whsec_x"), "{added}");
    let sent = request(&format!("send-example t --payload {name}"));
    assert!(sent.ends_with("&payload=whsec_x%0A"), "{sent}");
    for content in [&b" \n"[..], b"\xff"] {
        std::fs::write(&path, content).unwrap();
        let Command::SendExample(args) = parse(&format!("send-example t --payload {name}")).unwrap() else {
            panic!("it is an example");
        };
        assert!(send_example(&args).is_err());
    }
}

#[test]
fn the_filters_of_messages_are_a_query() {
    let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
    let command = Command::augment_subcommands(clap::Command::new("sim"));
    let words =
        ["sim", "messages", "--status", "failed", "--since", "5h ago", "--type", "t", "--before", "7"];
    let matches = command.try_get_matches_from(words).unwrap();
    let Command::Messages(args) = Command::from_arg_matches(&matches).unwrap() else {
        panic!("it is a list");
    };
    let query = filter(&args, now).unwrap();
    let expected = [("type", "t"), ("status", "failed"), ("since", "2026-01-01T19:00:00Z"), ("before", "7")];
    assert_eq!(query, expected.map(|(name, value)| (name, value.to_owned())));
}

#[test]
fn what_cannot_be_meant_is_wrong_use() {
    for line in [
        "answer 404",
        "answer 503 --next 0",
        "answer 503 --next 1 --share 1",
        "answer 503 --share 1.5",
        "answer 503 --share NaN",
        "speed 2",
        "scene storm",
        "recover",
        "recover --since soon",
        "resend",
        "resend msg_1 --reason x",
        "messages --status odd",
        "messages --environment test",
        "endpoint add",
        "endpoint add http://a --environment test",
        "endpoint change ep_1",
        "send-example",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}
