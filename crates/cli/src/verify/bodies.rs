//! The bodies that may have been signed, given the one at hand.

use std::borrow::Cow;
use std::ops::ControlFlow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::json_text::{Json, Order, Rewrite, Spacing};
use super::mistake::Mistake;

const BOM: &str = "\u{feff}";

/// A change to the body before its JSON is written again, or after.
type Change = (Mistake, fn(&[u8]) -> Option<Vec<u8>>);

/// Takes a body, and the mistakes that lead from it to the one at hand.
type Visit<'v, B> = &'v mut dyn FnMut(&[u8], &[Mistake]) -> ControlFlow<B>;

/// Undone before the JSON is read, in this order.
const BEFORE: [Change; 8] = [
    (Mistake::BodyInBase64, from_base64),
    (Mistake::BodyQuoted, from_text),
    (Mistake::BodyReadAsLatin1, from_latin1_reading),
    (Mistake::BodyInLatin1, from_latin1),
    (Mistake::BomAdded, without_bom),
    (Mistake::LastLineBreakAdded, without_last_line_break),
    (Mistake::LastLineBreakAdded, without_last_line_breaks),
    (Mistake::CrlfAdded, with_lf),
];

/// Done after the JSON is written, in this order.
const AFTER: [Change; 4] = [
    (Mistake::LastLineBreakRemoved, with_last_line_break),
    (Mistake::CrlfRemoved, with_crlf),
    (Mistake::BomRemoved, with_bom),
    (Mistake::BodySignedInBase64, |body| Some(BASE64.encode(body).into())),
];

const SPACINGS: [Spacing; 5] =
    [Spacing::Compact, Spacing::Spaced, Spacing::TwoSpaces, Spacing::FourSpaces, Spacing::Tabs];
const ORDERS: [Order; 3] = [Order::Sorted, Order::OfGuide, Order::OfNotifications];

/// Calls `visit` with each body that may have been signed if `count` mistakes were made, 0 to 2, until it breaks.
/// The same body may come several times.
pub(super) fn visit<B>(
    body: &[u8],
    count: usize,
    visit: &mut impl FnMut(&[u8], &[Mistake]) -> ControlFlow<B>,
) -> ControlFlow<B> {
    changed(body, &BEFORE, count, &[], &mut |body, before| {
        rewritten(body, count - before.len(), before, &mut |body, rewritten| {
            changed(body, &AFTER, count - rewritten.len(), rewritten, &mut |body, mistakes| {
                if mistakes.len() == count { visit(body, mistakes) } else { ControlFlow::Continue(()) }
            })
        })
    })
}

/// The body with up to `most` of these changes, in their order.
fn changed<B>(
    body: &[u8],
    changes: &[Change],
    most: usize,
    mistakes: &[Mistake],
    visit: Visit<'_, B>,
) -> ControlFlow<B> {
    visit(body, mistakes)?;
    if most == 0 {
        return ControlFlow::Continue(());
    }
    let mut rest = changes;
    while let [(mistake, change), later @ ..] = rest {
        if let Some(changed_body) = change(body) {
            let mistakes = [mistakes, &[*mistake]].concat();
            changed(&changed_body, later, most - 1, &mistakes, visit)?;
        }
        rest = later;
    }
    ControlFlow::Continue(())
}

/// The body with its JSON written again in up to `most` respects.
fn rewritten<B>(body: &[u8], most: usize, mistakes: &[Mistake], visit: Visit<'_, B>) -> ControlFlow<B> {
    visit(body, mistakes)?;
    if most == 0 {
        return ControlFlow::Continue(());
    }
    let Ok(text) = str::from_utf8(body) else { return ControlFlow::Continue(()) };
    let Some(json) = Json::parse(text) else { return ControlFlow::Continue(()) };
    for (rewrite, made) in rewrites(text, &json, most) {
        let Some(value) = json.rewritten(rewrite) else { continue };
        let made = [mistakes, &made].concat();
        // White space around the value may be a part of what was written again.
        if rewrite.spacing.is_some() && json.has_ends() {
            visit(value.as_bytes(), &made)?;
        }
        visit(json.with_ends(&value).as_bytes(), &made)?;
    }
    ControlFlow::Continue(())
}

/// The ways to write a JSON text again with one mistake or two, and `most` at most. Those that would change nothing are
/// left out.
fn rewrites(text: &str, json: &Json<'_>, most: usize) -> Vec<(Rewrite, Vec<Mistake>)> {
    let given = json.spacing();
    // A text in JSON has no line break, which is an escape there.
    let is_on_lines = text.trim().contains('\n');
    let spacings = SPACINGS.into_iter().filter(|signed| Some(*signed) != given);
    let spacings = spacings.map(|signed| {
        let rewrite = Rewrite { spacing: Some(signed), ..Rewrite::default() };
        (rewrite, Mistake::Spacing { signed, is_on_lines })
    });
    let orders = ORDERS.into_iter().filter(|order| !json.is_in(*order)).map(|order| {
        let rewrite = Rewrite { order: Some(order), ..Rewrite::default() };
        (rewrite, Mistake::Order(order))
    });
    let (has_escapes, has_slashes) = (text.contains('\\'), text.contains('/'));
    let escapes = [
        // Before the one that undoes this and more.
        (has_escapes, Rewrite { unescape_slashes: true, ..Rewrite::default() }, Mistake::SlashesEscaped),
        (has_escapes, Rewrite { unescape: true, ..Rewrite::default() }, Mistake::Escaped),
        (
            has_escapes || !text.is_ascii(),
            Rewrite { escape_unicode: true, ..Rewrite::default() },
            Mistake::UnicodeUnescaped,
        ),
        (has_slashes, Rewrite { escape_slashes: true, ..Rewrite::default() }, Mistake::SlashesUnescaped),
    ];
    let escapes = escapes.into_iter().filter(|(is_possible, ..)| *is_possible);
    let escapes = escapes.map(|(_, rewrite, mistake)| (rewrite, mistake));
    let single: Vec<_> = spacings.chain(orders).chain(escapes).collect();
    let mut all: Vec<_> = single.iter().map(|(rewrite, mistake)| (*rewrite, vec![*mistake])).collect();
    for (index, (first, one)) in single.iter().enumerate().filter(|_| most > 1) {
        for (second, two) in single.iter().skip(index + 1) {
            all.extend(both(*first, *second).map(|rewrite| (rewrite, vec![*one, *two])));
        }
    }
    all
}

/// Two ways at once; `None` if one replaces the other.
fn both(one: Rewrite, two: Rewrite) -> Option<Rewrite> {
    let slashes = |rewrite: Rewrite| rewrite.escape_slashes || rewrite.unescape_slashes;
    let excludes = (one.spacing.is_some() && two.spacing.is_some())
        || (one.order.is_some() && two.order.is_some())
        || (slashes(one) && slashes(two));
    (!excludes).then(|| Rewrite {
        spacing: one.spacing.or(two.spacing),
        order: one.order.or(two.order),
        unescape: one.unescape || two.unescape,
        unescape_slashes: one.unescape_slashes || two.unescape_slashes,
        escape_unicode: one.escape_unicode || two.escape_unicode,
        escape_slashes: one.escape_slashes || two.escape_slashes,
    })
}

fn from_base64(body: &[u8]) -> Option<Vec<u8>> {
    let body = body.trim_ascii();
    // JSON is not base64, and most bodies are JSON.
    if matches!(body.first(), None | Some(b'{' | b'[')) {
        return None;
    }
    // Some encoders break lines after 64 or 76 characters.
    let joined: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    BASE64.decode(joined).ok()
}

fn from_text(body: &[u8]) -> Option<Vec<u8>> {
    if body.trim_ascii().first() != Some(&b'"') {
        return None;
    }
    serde_json::from_slice::<String>(body).ok().map(String::into_bytes)
}

fn from_latin1_reading(body: &[u8]) -> Option<Vec<u8>> {
    let text = str::from_utf8(body).ok().filter(|text| !text.is_ascii())?;
    let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(c).ok()).collect::<Option<_>>()?;
    str::from_utf8(&bytes).is_ok().then_some(bytes)
}

fn from_latin1(body: &[u8]) -> Option<Vec<u8>> {
    let is_utf8 = str::from_utf8(body).is_ok();
    (!is_utf8).then(|| body.iter().copied().map(char::from).collect::<String>().into_bytes())
}

fn without_bom(body: &[u8]) -> Option<Vec<u8>> {
    body.strip_prefix(BOM.as_bytes()).map(<[u8]>::to_vec)
}

fn with_bom(body: &[u8]) -> Option<Vec<u8>> {
    (!body.starts_with(BOM.as_bytes())).then(|| [BOM.as_bytes(), body].concat())
}

fn without_last_line_break(body: &[u8]) -> Option<Vec<u8>> {
    let rest = body.strip_suffix(b"\n")?;
    Some(rest.strip_suffix(b"\r").unwrap_or(rest).to_vec())
}

/// All of them, if they are not only one.
fn without_last_line_breaks(body: &[u8]) -> Option<Vec<u8>> {
    let mut rest = body;
    while let [before @ .., b'\r' | b'\n'] = rest {
        rest = before;
    }
    let is_one = matches!(body.strip_prefix(rest), Some(b"" | b"\n" | b"\r\n"));
    (!is_one).then(|| rest.to_vec())
}

fn with_last_line_break(body: &[u8]) -> Option<Vec<u8>> {
    Some([body, b"\n"].concat())
}

fn with_lf(body: &[u8]) -> Option<Vec<u8>> {
    let text = str::from_utf8(body).ok().filter(|text| text.contains("\r\n"))?;
    Some(text.replace("\r\n", "\n").into())
}

fn with_crlf(body: &[u8]) -> Option<Vec<u8>> {
    let text = str::from_utf8(body).ok().filter(|text| text.contains('\n'))?;
    // Those that are CRLF already stay.
    let lf: Cow<'_, str> =
        if text.contains("\r\n") { text.replace("\r\n", "\n").into() } else { text.into() };
    Some(lf.replace('\n', "\r\n").into()).filter(|changed: &Vec<u8>| changed != body)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the mistakes that lead from `given` to `signed`, the fewest.
    fn between(given: impl AsRef<[u8]>, signed: impl AsRef<[u8]>) -> Option<Vec<&'static str>> {
        (0..=2).find_map(|count| {
            let found = visit(given.as_ref(), count, &mut |body, mistakes| {
                if body == signed.as_ref() {
                    ControlFlow::Break(mistakes.iter().map(|mistake| mistake.name()).collect())
                } else {
                    ControlFlow::Continue(())
                }
            });
            found.break_value()
        })
    }

    #[test]
    fn each_change_of_the_bytes_is_undone() {
        let signed = "{\"a\":\"Zoë\"}";
        for (given, expected) in [
            (signed.as_bytes().to_vec(), &[][..]),
            (BASE64.encode(signed).into(), &["body_in_base64"]),
            (serde_json::to_vec(signed).unwrap(), &["body_quoted"]),
            (signed.bytes().map(char::from).collect::<String>().into(), &["body_read_as_latin1"]),
            (b"{\"a\":\"Zo\xeb\"}".to_vec(), &["body_in_latin1"]),
            (format!("\u{feff}{signed}").into(), &["bom_added"]),
            (format!("{signed}\r\n").into(), &["last_line_break_added"]),
            (format!("\u{feff}{signed}\n").into(), &["bom_added", "last_line_break_added"]),
            (
                BASE64.encode(serde_json::to_string(signed).unwrap()).into(),
                &["body_in_base64", "body_quoted"],
            ),
        ] {
            assert_eq!(between(&given, signed).as_deref(), Some(expected), "{given:?}");
        }
        let two_lines = "{\n\"a\": 1}";
        assert_eq!(between(two_lines.replace('\n', "\r\n"), two_lines), Some(vec!["crlf_added"]));
        assert_eq!(between(two_lines, two_lines.replace('\n', "\r\n")), Some(vec!["crlf_removed"]));
        assert_eq!(between("x", "x\n"), Some(vec!["last_line_break_removed"]));
        assert_eq!(between("x", "\u{feff}x"), Some(vec!["bom_removed"]));
        assert_eq!(between("x", "eA=="), Some(vec!["body_signed_in_base64"]));
    }

    #[test]
    fn each_way_to_write_json_again_is_undone() {
        for (given, signed, expected) in [
            ("{\n  \"a\": 1\n}\n", "{\"a\":1}", &["body_indentation"][..]),
            ("{\"a\":1}", "{\n\t\"a\": 1\n}", &["body_indentation"]),
            ("{\"a\": 1, \"b\": 2}", "{\"a\":1,\"b\":2}", &["body_spacing"]),
            ("{\"a\":1, \"b\":2}", "{\"a\":1,\"b\":2}", &["body_spacing"]),
            ("{\"b\":1,\"a\":2}", "{\"a\":2,\"b\":1}", &["members_not_sorted"]),
            ("{\"object\":1,\"type\":2}", "{\"type\":2,\"object\":1}", &[]),
            ("{\"data\":1,\"object\":2}", "{\"object\":2,\"data\":1}", &["members_sorted"]),
            ("{\"a\":\"\\u00e9\\/\"}", "{\"a\":\"é/\"}", &["body_escaped"]),
            ("{\"a\":\"é/\"}", "{\"a\":\"\\u00e9/\"}", &["unicode_unescaped"]),
            ("{\"a\":\"é/\"}", "{\"a\":\"é\\/\"}", &["slashes_unescaped"]),
            ("{\"a\":\"é/\"}", "{\"a\":\"\\u00e9\\/\"}", &["unicode_unescaped", "slashes_unescaped"]),
            ("{\n    \"a\": \"\\u00e9\"\n}", "{\"a\":\"é\"}", &["body_indentation", "body_escaped"]),
            ("{\"b\": 1, \"a\": 2}\n", "{\"a\":2,\"b\":1}", &["body_spacing", "members_not_sorted"]),
        ] {
            let found = between(given, signed);
            assert_eq!(found.as_deref().unwrap_or_default(), expected, "{given}");
        }
    }
}
