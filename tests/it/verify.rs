//! `learnink verify`, as a person types it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use learnink_local::terminal::visible;
use learnink_tests::binaries::binary;
use learnink_tests::root;
use learnink_tests::signing::{OTHER_SECRET, SECRET, headers};
use serde_json::{Value, json};

use crate::command::{learnink, text};
use crate::signers::python;

const ID: &str = "msg_2Xbsq0kEJyo2hTb3Wd1vPzGk7mN";
const SIGNED_AT_S: i64 = 1_700_000_000;

/// What nothing may print: secrets and signatures, from their first characters, and what is personal.
const HIDDEN: [&str; 5] = ["MfKQ9r8G", "C2FVsBQI", "v1,", "2547054", "Mary"];

/// A folder with a delivery in many forms, and with secrets.
struct Folder(tempfile::TempDir);

/// The exit code, standard output and standard error of a call.
type Said = (Option<i32>, String, String);

/// The body of LearnInk's example, as it is sent.
fn body() -> String {
    let sample = std::fs::read_to_string(root().join("events/notifications.sent.json")).unwrap();
    serde_json::from_str::<Value>(&sample).unwrap().to_string()
}

/// The headers of a genuine delivery of `body`, a line each.
fn signed(secret: &str, body: &str) -> String {
    let lines =
        headers(secret, ID, SIGNED_AT_S, body.as_bytes()).map(|(name, value)| format!("{name}: {value}\n"));
    lines.concat()
}

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("signing-secret", format!("{SECRET}\n"));
        folder.write("other.txt", format!("{OTHER_SECRET}\n"));
        folder.write("both.txt", format!("{OTHER_SECRET}\n{SECRET}\n"));
        folder.write("good.txt", format!("POST / HTTP/1.1\n{}\n{}", signed(SECRET, &body()), body()));
        folder.write("body.json", body());
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path().join(name), content).unwrap();
    }

    /// `learnink verify` in this folder, with its secret as that of `learnink dev`.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = learnink(&[&["verify", "--state", "."], arguments].concat());
        command.current_dir(self.path());
        command
    }

    fn verify(&self, arguments: &[&str]) -> Said {
        said(&mut self.command(arguments))
    }

    /// The same with this standard input.
    fn verify_piped(&self, arguments: &[&str], input: &str) -> Said {
        let mut command = self.command(arguments);
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        checked(&process.wait_with_output().unwrap())
    }

    /// The names of the mistakes in JSON.
    fn mistakes(&self, arguments: &[&str]) -> Vec<String> {
        let (code, stdout, stderr) = self.verify(&[arguments, &["--json"]].concat());
        assert_eq!((code, stderr.as_str()), (Some(1), ""), "{stdout}");
        let report: Value = serde_json::from_str(&stdout).unwrap();
        let mistakes = report["mistakes"].as_array().unwrap().iter();
        mistakes.map(|mistake| mistake["mistake"].as_str().unwrap().to_owned()).collect()
    }
}

fn said(command: &mut Command) -> Said {
    checked(&command.output().unwrap())
}

/// What was said, which is nothing secret or personal.
fn checked(output: &std::process::Output) -> Said {
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    for hidden in HIDDEN {
        // The texts about the prefix have it in backticks.
        let printed = format!("{stdout}{stderr}").replace("`v1,`", "").replace("--signature v1,...", "");
        let printed = printed.replace("svix-signature: v1,...", "");
        assert!(!printed.contains(hidden), "{hidden}: {printed}");
    }
    (output.status.code(), stdout, stderr)
}

#[test]
fn a_genuine_delivery_is_verified_from_every_format() {
    let folder = Folder::new();
    let body = body();
    let values = headers(SECRET, ID, SIGNED_AT_S, body.as_bytes());
    let object: serde_json::Map<_, _> =
        values.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    let event = |body: &str, is_base64: bool| {
        json!({
            "version": "2.0", "rawPath": "/webhooks/learnink", "headers": object, "body": body,
            "requestContext": {"http": {"method": "POST"}, "timeEpoch": (SIGNED_AT_S + 1) * 1000},
            "isBase64Encoded": is_base64,
        })
    };
    let list: Vec<_> = values.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    let request = json!({"method": "POST", "headers": list, "postData": {"text": body}});
    folder.write("event.json", event(&body, false).to_string());
    folder.write("guide.txt", format!("{}\n\n{body}", serde_json::to_string_pretty(&object).unwrap()));
    folder.write(
        "one.har",
        json!({"log": {"entries": [{"request": {"method": "GET"}}, {"request": request}]}}).to_string(),
    );
    let two = json!({"log": {"entries": [{"request": request}, {"request": request}]}}).to_string();
    folder.write("two.har", two);
    for (arguments, from) in [
        (&["good.txt"][..], "(headers and body)"),
        (&["guide.txt"], "(headers in JSON, and a body)"),
        (&["event.json"], "(event of an HTTP API)"),
        (&["one.har"], "(entry 2 of 2 of a HAR file)"),
        (&["two.har", "--entry", "1"], "(entry 1 of 2 of a HAR file)"),
        (&["good.txt", "--secret-file", "both.txt"], "(headers and body)"),
        (&["good.txt", "--now", "1700000300"], "(headers and body)"),
    ] {
        let (code, stdout, stderr) = folder.verify(arguments);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
        assert!(stdout.starts_with(&format!("{ID} {from}\n")), "{stdout}");
        assert!(stdout.contains("\nok           signature  made with "), "{stdout}");
    }
    let [(_, id), (_, timestamp), (_, signature)] = &values;
    let parts = ["--id", id, "--timestamp", timestamp, "--signature", signature, "--body"];
    assert_eq!(folder.verify(&[&parts[..], &["body.json"]].concat()).0, Some(0));
    assert_eq!(folder.verify_piped(&[&parts[..], &["-"]].concat(), &body).0, Some(0));
    let delivery = std::fs::read_to_string(folder.path().join("good.txt")).unwrap();
    assert_eq!(folder.verify_piped(&["-"], &delivery).0, Some(0));
    let (code, _, stderr) = folder.verify(&["two.har"]);
    assert_eq!(code, Some(2));
    assert_eq!(stderr, "error: two.har has several deliveries, the entries 1, 2; name one with --entry\n");
}

#[test]
fn the_secret_comes_from_a_file_a_variable_standard_input_or_the_state() {
    let folder = Folder::new();
    let by = |arguments: &[&str]| folder.command(&[&["good.txt"], arguments].concat());
    let from = |command: &mut Command, code: i32, place: &str| {
        let (found, stdout, stderr) = said(command);
        assert_eq!(found, Some(code), "{stderr}");
        assert!(stdout.contains(&format!("usable: 1 from {place}\n")), "{stdout}");
    };
    from(&mut by(&[]), 0, "the state of `learnink dev` (.)");
    from(by(&[]).env("LEARNINK_SIGNING_SECRET", SECRET), 0, "LEARNINK_SIGNING_SECRET");
    folder.write("signing-secret", OTHER_SECRET);
    folder.write("signing-secret.previous", SECRET);
    let (code, stdout, stderr) = said(&mut by(&[]));
    let expected = "signed with the secret from the previous value in the state of `learnink dev` (.)\n";
    assert!(stdout.ends_with(expected), "{stdout}{stderr}");
    assert_eq!(code, Some(0));
    from(by(&["--secret-file", "other.txt"]).env("LEARNINK_SIGNING_SECRET", SECRET), 1, "other.txt");
    let (code, stdout, _) =
        folder.verify_piped(&["good.txt", "--secret-file", "-"], &format!("\"{SECRET}\"\n"));
    assert_eq!(code, Some(0), "{stdout}");
    std::fs::remove_file(folder.path().join("signing-secret")).unwrap();
    let (code, _, stderr) = folder.verify(&["good.txt"]);
    let expected = "error: there is no signing secret in ., and no other is given; pass --secret-file or --stack, \
                    set LEARNINK_SIGNING_SECRET, or start `cargo dev`\n";
    assert_eq!((code, stderr.as_str()), (Some(2), expected));
}

/// Runs a program on a terminal, and types a line once the terminal does not show what is typed.
pub(crate) const ON_A_TERMINAL: &str = r"
import os, pty, sys, termios, time
typed, program = sys.argv[1], sys.argv[2:]
process, terminal = pty.fork()
if process == 0:
    os.execv(program[0], program)
deadline = time.monotonic() + 60
while termios.tcgetattr(terminal)[3] & termios.ECHO:
    assert time.monotonic() < deadline, 'the terminal shows what is typed'
    time.sleep(0.01)
os.write(terminal, typed.encode() + b'\n')
printed = b''
while True:
    try:
        part = os.read(terminal, 4096)
    except OSError:
        break
    if not part:
        break
    printed += part
sys.stdout.buffer.write(printed)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
";

#[test]
fn a_terminal_asks_for_the_secret_and_does_not_show_it() {
    let folder = Folder::new();
    let learnink = binary("learnink").to_str().unwrap();
    for arguments in [&["--secret-file", "-"][..], &["--state", "none"]] {
        let mut command = python();
        command.args(["-c", ON_A_TERMINAL, SECRET, learnink, "verify", "good.txt"]).args(arguments);
        command.current_dir(folder.path()).env("TERM", "xterm");
        command.env_remove("LEARNINK_SIGNING_SECRET").env_remove("LEARNINK_STATE");
        let (code, shown, stderr) = said(&mut command);
        assert_eq!(code, Some(0), "{shown}{stderr}");
        assert!(shown.contains("signing secret (not shown): ") && shown.contains('✓'), "{shown}");
        assert!(shown.contains("usable: 1 from the prompt"), "{shown}");
    }
}

#[test]
fn what_dashboards_editors_and_programs_do_to_a_body_is_named() {
    let folder = Folder::new();
    let body = body();
    let signed_headers = signed(SECRET, &body);
    let value: Value = serde_json::from_str(&body).unwrap();
    let indented = serde_json::to_string_pretty(&value).unwrap();
    for (given, expected) in [
        (indented.clone(), &["body_indentation"][..]),
        (format!("{indented}\n"), &["body_indentation"]),
        (indented.replace('\n', "\r\n"), &["body_indentation"]),
        (format!("{body}\n"), &["last_line_break_added"]),
        (format!("\u{feff}{body}\r\n"), &["bom_added", "last_line_break_added"]),
        (body.replace('/', "\\/"), &["slashes_escaped"]),
        (indented.replace('/', "\\/"), &["body_indentation", "slashes_escaped"]),
    ] {
        folder.write("delivery.txt", format!("{signed_headers}\n{given}"));
        assert_eq!(folder.mistakes(&["delivery.txt"]), expected, "{}", visible(&given));
    }
    folder.write("delivery.txt", format!("{signed_headers}\n{indented}"));
    let (code, stdout, _) = folder.verify(&["delivery.txt"]);
    let expected = format!(
        "{ID} (headers and body)\n\
         ok           secret     usable: 1 from the state of `learnink dev` (.)\n\
         ok           size       {} bytes\n\
         ok           headers    svix-id, svix-timestamp, svix-signature\n\
         ok           id         usable\n\
         ok           timestamp  Unix seconds\n\
         not judged   age        signed at 2023-11-14 22:13:20Z; its age is not judged without --now\n\
         failed       signature  no signature matches\n\
         \n\
         Without one mistake, the signature matches, with the secret from the state of `learnink dev` (.):\n  \
         The body was re-indented. It was signed on one line without spaces, as `JSON.stringify(x)` writes it.\n    \
         Verify the bytes as they arrive, before a JSON parser reads and writes them; a dashboard shows JSON indented, \
         which is not what was sent.\n",
        indented.len()
    );
    assert_eq!((code, stdout), (Some(1), expected));
}

#[test]
fn the_example_of_learninks_guide_with_an_indented_body_is_recognised() {
    let folder = Folder::new();
    folder.write(
        "guide.txt",
        "{\n  \"svix-id\": \"msg_p5jXN8AQM9LWM0D4loKWxJek\",\n  \
         \"svix-signature\": \"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=\",\n  \
         \"svix-timestamp\": \"1668698818\"\n}\n\n{\n  \"test\": 2432232314\n}\n",
    );
    let (code, stdout, _) = folder.verify(&["guide.txt"]);
    assert_eq!(code, Some(1));
    for part in [
        "Without two mistakes, the signature matches",
        "These are the example headers of LearnInk's guide.",
        "The body was re-indented. It was signed on one line",
    ] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
    let (_, stdout, _) = folder.verify(&["guide.txt", "--secret-file", "other.txt"]);
    assert!(stdout.contains("The id is the one of the example in LearnInk's guide"), "{stdout}");
}

#[test]
fn the_secret_that_signed_is_named_by_its_file_and_place() {
    let folder = Folder::new();
    let staging = ["good.txt", "--secret-file", "other.txt", "--other-secret-file", "both.txt"];
    assert_eq!(folder.mistakes(&staging), ["other_secret"]);
    let (_, stdout, _) = folder.verify(&staging);
    assert!(stdout.contains("the signature matches, with secret 2 of 2 from both.txt:"), "{stdout}");
    folder.write("versioned.txt", format!("v1,{SECRET}"));
    let (code, stdout, _) = folder.verify(&["good.txt", "--secret-file", "versioned.txt"]);
    assert_eq!(code, Some(1));
    let problem = "failed       secret     the signing secret has a version in front; leave out `v1,` (1 from versioned.txt)";
    assert!(stdout.contains(problem) && stdout.contains("The secret has `v1,` in front."), "{stdout}");
}

#[test]
fn a_signature_that_no_mistake_explains_is_said_to_be_unexplained() {
    let folder = Folder::new();
    let body = body();
    let changed = body.replace("Hi Mary!", "Hi Mara!");
    folder.write(
        "delivery.txt",
        format!("{}Content-Length: {}\n\n{changed}", signed(SECRET, &body), body.len() + 7),
    );
    let (code, stdout, stderr) = folder.verify(&["delivery.txt"]);
    assert_eq!((code, stderr.as_str()), (Some(1), ""));
    for part in ["No known mistake was found: none of ", "of the same attempt", "content-length says "] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
    let (code, stdout, _) = folder.verify(&["good.txt", "--now", "2023-11-14T23:00:00Z"]);
    assert_eq!(code, Some(1));
    assert!(stdout.contains("failed       age        the signature is too old: "), "{stdout}");
    assert!(stdout.contains("The signature is genuine"), "{stdout}");
}

#[test]
fn wrong_use_is_one_clear_line_and_exit_code_2() {
    let folder = Folder::new();
    folder.write("empty.txt", "");
    folder.write("hello.txt", "hello\n");
    folder.write("utf16.txt", b"\xff\xfes\0v\0i\0x\0");
    folder.write("blank.txt", "\n");
    for (arguments, expected) in [
        (&["none.txt"][..], "error: cannot read none.txt: "),
        (&["empty.txt"], "error: empty.txt is empty; put the headers, an empty line and the body into it"),
        (
            &["hello.txt"],
            "error: hello.txt is neither headers and a body, nor an event of an HTTP API, nor a HAR file; ",
        ),
        (&["utf16.txt"], "error: utf16.txt is UTF-16, which PowerShell's `>` writes; save it as UTF-8"),
        (
            &["-", "--secret-file", "-"],
            "error: standard input can be only one of FILE, --body and the secrets; ",
        ),
        (&["good.txt", "--entry", "1"], "error: good.txt is not a HAR file; "),
        (&["good.txt", "--secret-file", "none.txt"], "error: cannot read none.txt: "),
        (&["good.txt", "--secret-file", "blank.txt"], "error: there is no secret in blank.txt; "),
    ] {
        let (code, stdout, stderr) = folder.verify(arguments);
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (Some(2), "", 1), "{stderr}");
        assert!(stderr.starts_with(expected), "{stderr}");
    }
    for (arguments, expected) in [
        (&[][..], "required arguments were not provided"),
        (&["--id", "msg_1", "--body", "body.json"], "required arguments were not provided"),
        (&["good.txt", "--body", "body.json"], "cannot be used with"),
        (
            &["good.txt", "--now", "soon"],
            "expected a time such as 2026-01-02T08:00:00Z, Unix seconds, or now",
        ),
        (&["good.txt", "--secret", "x"], "unexpected argument '--secret'"),
    ] {
        let (code, _, stderr) = folder.verify(arguments);
        assert_eq!(code, Some(2));
        assert!(stderr.contains(expected), "{stderr}");
    }
}

#[test]
fn what_stands_in_a_delivery_cannot_steer_the_terminal() {
    let folder = Folder::new();
    let hostile = "msg_\u{1b}[2J\u{202e}";
    folder.write(
        "delivery.txt",
        format!("svix-id: {hostile}\nsvix-timestamp: \u{1b}c\nsvix-signature: \u{7}\n\n{{}}"),
    );
    let (code, stdout, stderr) = folder.verify(&["delivery.txt"]);
    assert_eq!((code, stderr.as_str()), (Some(1), ""));
    assert!(stdout.lines().all(|line| visible(line) == line), "{stdout:?}");
}
