use super::*;

const BODY: &str = r#"{"a":"é"}"#;

fn headers() -> String {
    "svix-id: msg_1\nsvix-timestamp: 1700000000\nsvix-signature: v1,aa= v1,bb=\n".to_owned()
}

/// The id, time, signatures and body that are read, and the format.
fn read(input: impl AsRef<[u8]>) -> ([String; 3], String, Format) {
    let (delivery, format) = parse(input.as_ref(), None).unwrap();
    let header = |name: &str| delivery.headers[name].to_str().unwrap().to_owned();
    let headers = ["svix-id", "svix-timestamp", "svix-signature"].map(header);
    (headers, String::from_utf8(delivery.body.unwrap()).unwrap(), format)
}

fn expected(format: Format) -> ([String; 3], String, Format) {
    (["msg_1", "1700000000", "v1,aa= v1,bb="].map(str::to_owned), BODY.to_owned(), format)
}

fn error(input: impl AsRef<[u8]>, entry: Option<usize>) -> ParseError {
    parse(input.as_ref(), entry).map(|(_, format)| format).unwrap_err()
}

#[test]
fn http_is_read_as_tools_and_dashboards_show_it() {
    let headers = headers();
    let in_capitals = headers.replace("svix-id", "Svix-Id").replace("svix-s", "SVIX-S");
    for input in [
        format!("{headers}\n{BODY}"),
        format!("\u{feff}\n{in_capitals}Content-Type: application/json\n\n{BODY}"),
        format!("POST /webhooks/learnink HTTP/1.1\r\nHost: a\r\n{}\r\n{BODY}", headers.replace('\n', "\r\n")),
        format!("HTTP/1.1 200 OK\n{headers}\n{BODY}"),
        // As `curl -v` shows a request.
        format!("> POST / HTTP/1.1\n{}>\n{BODY}", headers.replace("svix", "> svix")),
        // Tables that are copied from a page.
        format!("Request headers\n{}\nPayload\n{BODY}", headers.replace(": ", "\t")).replace("\nPayload", ""),
        format!("{}\n{BODY}", headers.replace(": ", "\n")),
        format!("{}\n{BODY}", headers.replace(": ", ":\n")),
        // Without an empty line.
        format!("{headers}{BODY}"),
        // Longer than it was sent: an editor has added line breaks.
        format!("{headers}Content-Length: 10\n\n{BODY}\r\n\n"),
    ] {
        assert_eq!(read(&input), expected(Format::Http), "{input}");
    }
}

#[test]
fn a_body_is_kept_as_it_is() {
    for body in ["", "\n", "\n{}\n", "a: b\n\nc", " {\r\n}", "\u{feff}{}", "> a"] {
        let (_, read, _) = read(format!("{}\n{body}", headers()));
        assert_eq!(read, body);
    }
    let (delivery, _) = parse(&[headers().as_bytes(), b"\n\xff\x00"].concat(), None).unwrap();
    assert_eq!(delivery.body.unwrap(), b"\xff\x00");
    let longer = format!("{}content-length: 3\n\n{BODY}\n", headers());
    let (delivery, _) = parse(longer.as_bytes(), None).unwrap();
    assert_eq!((delivery.body.unwrap().len(), delivery.content_length), (BODY.len() + 1, Some(3)));
}

#[test]
fn headers_may_be_a_json_object_as_the_guide_has_them() {
    for input in [
        format!(
            "{{\n  \"svix-id\": \"msg_1\",\n  \"svix-signature\": \"v1,aa= v1,bb=\",\n  \"svix-timestamp\": \
             \"1700000000\"\n}}\n\n{BODY}"
        ),
        format!(
            r#"{{"Svix-Id":"msg_1","host":["a"],"Svix-Signature":"v1,aa= v1,bb=","Svix-Timestamp":1700000000}} {BODY}"#
        ),
    ] {
        assert_eq!(read(&input), expected(Format::JsonHeaders), "{input}");
    }
}

/// An event of an HTTP API.
fn event(body: &str, is_base64: bool) -> String {
    serde_json::json!({
        "version": "2.0",
        "rawPath": "/webhooks/learnink",
        "headers": {"svix-id": "msg_1", "svix-timestamp": "1700000000", "svix-signature": "v1,aa= v1,bb=", "x": "y"},
        "requestContext": {"http": {"method": "POST"}, "timeEpoch": 1_700_000_002_500_i64},
        "body": body,
        "isBase64Encoded": is_base64,
    })
    .to_string()
}

#[test]
fn an_event_is_read_as_the_receiver_reads_it() {
    assert_eq!(read(event(BODY, false)), expected(Format::GatewayEvent));
    assert_eq!(read(event("eyJhIjoiw6kifQ==", true)), expected(Format::GatewayEvent));
    let (delivery, _) = parse(event("not base64!", true).as_bytes(), None).unwrap();
    assert!(delivery.body.is_none());
    assert_eq!(delivery.received_at.unwrap().as_millisecond(), 1_700_000_002_500);
    let sample = include_str!("../../../../../events/lambda/http-api-request-base64.json");
    assert_eq!(read(sample).1, r#"{"test": 2432232314}"#);
}

/// A HAR file with these requests: method, whether it is signed, body.
fn har(requests: &[(&str, bool, Option<&str>)]) -> String {
    let entries: Vec<_> = requests
        .iter()
        .map(|(method, is_signed, body)| {
            let mut headers = vec![serde_json::json!({"name": "Accept", "value": "*/*"})];
            if *is_signed {
                for (name, value) in
                    [("Svix-Id", "msg_1"), ("Svix-Timestamp", "1700000000"), ("Svix-Signature", "v1,aa= v1,bb=")]
                {
                    headers.push(serde_json::json!({"name": name, "value": value}));
                }
            }
            serde_json::json!({
                "startedDateTime": "2023-11-14T22:13:21.000Z",
                "request": {
                    "method": method, "url": "https://example.com/", "headers": headers,
                    "postData": body.map(|text| serde_json::json!({"mimeType": "application/json", "text": text})),
                },
                "response": {"status": 401},
            })
        })
        .collect();
    serde_json::json!({"log": {"version": "1.2", "entries": entries}}).to_string()
}

#[test]
fn the_only_signed_post_of_a_har_file_is_taken() {
    let file = har(&[("GET", false, None), ("POST", false, Some("x")), ("POST", true, Some(BODY))]);
    assert_eq!(read(&file), expected(Format::HarEntry { entry: 3, of: 3 }));
    let (delivery, _) = parse(file.as_bytes(), None).unwrap();
    assert_eq!(delivery.received_at.unwrap().as_second(), 1_700_000_001);
    let value: serde_json::Value = serde_json::from_str(&file).unwrap();
    let entry = &value["log"]["entries"][2];
    assert_eq!(read(entry.to_string()), expected(Format::HarEntry { entry: 1, of: 1 }));
    let in_base64 =
        file.replace(&serde_json::json!(BODY).to_string(), "\"eyJhIjoiw6kifQ==\",\"encoding\":\"base64\"");
    assert_eq!(read(in_base64), expected(Format::HarEntry { entry: 3, of: 3 }));
}

#[test]
fn one_of_several_entries_has_to_be_named() {
    let file = har(&[("POST", true, Some("a")), ("GET", true, None), ("POST", true, Some("b"))]);
    assert_eq!(error(&file, None), ParseError::SeveralEntries { entries: "1, 3".to_owned() });
    let (delivery, format) = parse(file.as_bytes(), Some(3)).unwrap();
    assert_eq!(
        (delivery.body.unwrap().as_slice(), format),
        (&b"b"[..], Format::HarEntry { entry: 3, of: 3 })
    );
    assert_eq!(error(&file, Some(4)), ParseError::NoSuchEntry { of: 3 });
    assert_eq!(error(&file, Some(0)), ParseError::NoSuchEntry { of: 3 });
    assert_eq!(error(&file, Some(2)), ParseError::EntryWithoutBody { entry: 2 });
    assert_eq!(error(har(&[("GET", false, None)]), None), ParseError::NoEntry { of: 1 });
    let many = har(&[("POST", true, Some("a")); 13]);
    let entries = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 3 more".to_owned();
    assert_eq!(error(many, None), ParseError::SeveralEntries { entries });
}

#[test]
fn bad_input_is_an_error_that_says_what_to_do() {
    let utf16: Vec<u8> = headers().encode_utf16().flat_map(u16::to_le_bytes).collect();
    let rest_api = event(BODY, false).replace("rawPath", "httpMethod");
    for (input, entry, expected) in [
        (b"".to_vec(), None, ParseError::Empty),
        (b"\xef\xbb\xbf \r\n".to_vec(), None, ParseError::Empty),
        (vec![b' '; LARGEST_INPUT_BYTES + 1], None, ParseError::TooLarge { bytes: LARGEST_INPUT_BYTES + 1 }),
        (utf16.clone(), None, ParseError::Utf16),
        ([b"\xff\xfe".as_slice(), &utf16].concat(), None, ParseError::Utf16),
        (b"hello".to_vec(), None, ParseError::UnknownFormat),
        (b"host: a\n\n{}".to_vec(), None, ParseError::UnknownFormat),
        (BODY.into(), None, ParseError::UnknownFormat),
        (b"[1]".to_vec(), None, ParseError::UnknownFormat),
        (b"{\"a\":".to_vec(), None, ParseError::NotJson),
        (b"{\"\xff".to_vec(), None, ParseError::NotJson),
        (headers().into(), None, ParseError::NoBody),
        (b"{\"svix-id\":\"msg_1\"}\n\n".to_vec(), None, ParseError::NoBody),
        (format!("{}a line!\n\n{{}}", headers()).into(), None, ParseError::NotAHeader { line: 4 }),
        (rest_api.into(), None, ParseError::RestApiEvent),
        (b"{\"requestContext\":{}}".to_vec(), None, ParseError::HalfAnEvent),
        (format!("{}\n{BODY}", headers()).into(), Some(1), ParseError::EntryOfNoHar),
        (event(BODY, false).into(), Some(1), ParseError::EntryOfNoHar),
    ] {
        assert_eq!(
            error(&input, entry),
            expected,
            "{}",
            String::from_utf8_lossy(&input[..input.len().min(80)])
        );
        let said = expected.to_string();
        assert!(said.contains("; ") || said.contains(", and "), "{said}");
    }
}

#[test]
fn a_header_that_is_missing_or_occurs_twice_is_left_to_the_checks() {
    let without = headers().replace("svix-timestamp: 1700000000\n", "");
    let (delivery, _) = parse(format!("{without}\n{BODY}").as_bytes(), None).unwrap();
    assert_eq!(delivery.headers.len(), 2);
    let twice = format!("{}svix-id: msg_2\n\n{BODY}", headers());
    let (delivery, _) = parse(twice.as_bytes(), None).unwrap();
    assert_eq!(delivery.headers.get_all("svix-id").iter().count(), 2);
    let large = format!("{}\n{}", headers(), "x".repeat(2 * 1024 * 1024));
    assert_eq!(parse(large.as_bytes(), None).unwrap().0.body.unwrap().len(), 2 * 1024 * 1024);
}
