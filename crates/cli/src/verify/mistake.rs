//! The known mistakes because of which a genuine signature does not match.

use super::json_text::{Order, Spacing};

/// A difference between what was given and what was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mistake {
    /// Signed with a secret that the receiver does not have.
    OtherSecret,
    /// `v1,` in front of the secret.
    SecretVersion,
    /// Blanks, quotes or another text around or within the secret.
    SecretSurroundings,
    /// The secret is base64 of the secret.
    SecretEncodedTwice,
    /// The secret is in the URL-safe alphabet, or without padding.
    SecretAlphabet,
    /// Signed with the secret's text instead of the bytes that it encodes.
    SecretAsText,
    /// Signed with the secret's text and a line break.
    SecretAsTextWithLineBreak,
    /// Signed with the secret's text in quotes.
    SecretAsTextInQuotes,
    /// Signed with what `whsec_` and the rest decode to together.
    SecretPrefixDecoded,
    /// The id and the timestamp are swapped.
    IdAndTimestampSwapped,
    /// The timestamp is in milliseconds, and seconds were signed.
    TimestampInMilliseconds,
    /// The timestamp is in seconds, and milliseconds were signed.
    MillisecondsSigned,
    /// The timestamp is a date.
    TimestampAsDate,
    /// The example of LearnInk's guide, whose timestamp is not the one that was signed.
    TimestampOfGuide,
    /// A gateway joined a header that occurs twice.
    HeaderJoined,
    /// The signature is without `v1,`, without padding, in the URL-safe alphabet, or in hexadecimal digits.
    SignatureEncoding,
    /// The body is base64 of what was signed.
    BodyInBase64,
    /// Base64 of the body was signed.
    BodySignedInBase64,
    /// The body is a JSON text with what was signed.
    BodyQuoted,
    /// The body's UTF-8 was read as Latin-1.
    BodyReadAsLatin1,
    /// The body is Latin-1.
    BodyInLatin1,
    /// A byte order mark was added.
    BomAdded,
    /// A byte order mark was removed.
    BomRemoved,
    /// Line breaks were added at the end.
    LastLineBreakAdded,
    /// The last line break was removed.
    LastLineBreakRemoved,
    /// LF became CRLF.
    CrlfAdded,
    /// CRLF became LF.
    CrlfRemoved,
    /// The white space of JSON was changed.
    Spacing {
        /// As it was signed.
        signed: Spacing,
        /// Whether the JSON at hand has line breaks.
        is_on_lines: bool,
    },
    /// The order of members was changed.
    Order(Order),
    /// Characters were written as escapes.
    Escaped,
    /// `/` was written as `\/`.
    SlashesEscaped,
    /// Escapes of characters beyond ASCII were written as characters.
    UnicodeUnescaped,
    /// `\/` was written as `/`.
    SlashesUnescaped,
}

impl Mistake {
    /// The mistake's name in JSON.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::OtherSecret => "other_secret",
            Self::SecretVersion => "secret_version",
            Self::SecretSurroundings => "secret_surroundings",
            Self::SecretEncodedTwice => "secret_encoded_twice",
            Self::SecretAlphabet => "secret_alphabet",
            Self::SecretAsText => "secret_as_text",
            Self::SecretAsTextWithLineBreak => "secret_as_text_with_line_break",
            Self::SecretAsTextInQuotes => "secret_as_text_in_quotes",
            Self::SecretPrefixDecoded => "secret_prefix_decoded",
            Self::IdAndTimestampSwapped => "id_and_timestamp_swapped",
            Self::TimestampInMilliseconds => "timestamp_in_milliseconds",
            Self::MillisecondsSigned => "milliseconds_signed",
            Self::TimestampAsDate => "timestamp_as_date",
            Self::TimestampOfGuide => "timestamp_of_guide",
            Self::HeaderJoined => "header_joined",
            Self::SignatureEncoding => "signature_encoding",
            Self::BodyInBase64 => "body_in_base64",
            Self::BodySignedInBase64 => "body_signed_in_base64",
            Self::BodyQuoted => "body_quoted",
            Self::BodyReadAsLatin1 => "body_read_as_latin1",
            Self::BodyInLatin1 => "body_in_latin1",
            Self::BomAdded => "bom_added",
            Self::BomRemoved => "bom_removed",
            Self::LastLineBreakAdded => "last_line_break_added",
            Self::LastLineBreakRemoved => "last_line_break_removed",
            Self::CrlfAdded => "crlf_added",
            Self::CrlfRemoved => "crlf_removed",
            Self::Spacing { signed, is_on_lines } => {
                if is_on_lines || has_lines(signed) {
                    "body_indentation"
                } else {
                    "body_spacing"
                }
            }
            Self::Order(Order::Sorted) => "members_not_sorted",
            Self::Order(Order::OfGuide | Order::OfNotifications) => "members_sorted",
            Self::Escaped => "body_escaped",
            Self::SlashesEscaped => "slashes_escaped",
            Self::UnicodeUnescaped => "unicode_unescaped",
            Self::SlashesUnescaped => "slashes_unescaped",
        }
    }

    /// What differs, for a person.
    pub(super) fn explanation(self) -> String {
        let text = match self {
            Self::OtherSecret => "It was signed with a secret that the receiver does not have.",
            Self::SecretVersion => "The secret has `v1,` in front.",
            Self::SecretSurroundings => "The secret has blanks, quotes or another text around it or in it.",
            Self::SecretEncodedTwice => "The secret was encoded in base64 once more.",
            Self::SecretAlphabet => {
                "The secret is in the URL-safe alphabet of base64, or its padding `=` is missing."
            }
            Self::SecretAsText => {
                "It was signed with the secret's text, instead of with the bytes that its base64 encodes."
            }
            Self::SecretAsTextWithLineBreak => {
                "It was signed with the secret's text and a line break, instead of with the bytes that its base64 \
                 encodes."
            }
            Self::SecretAsTextInQuotes => {
                "It was signed with the secret's text in quotes, instead of with the bytes that its base64 encodes."
            }
            Self::SecretPrefixDecoded => {
                "It was signed with a key that was decoded together with the prefix `whsec_`."
            }
            Self::IdAndTimestampSwapped => "The id and the timestamp are swapped.",
            Self::TimestampInMilliseconds => "The timestamp is in milliseconds; seconds were signed.",
            Self::MillisecondsSigned => "The timestamp is in seconds; milliseconds were signed.",
            Self::TimestampAsDate => "The timestamp is a date; Unix seconds were signed.",
            Self::TimestampOfGuide => {
                "These are the example headers of LearnInk's guide. Their timestamp is not the one that was signed."
            }
            Self::HeaderJoined => "A header was sent twice, and a gateway joined both values with a comma.",
            Self::SignatureEncoding => {
                "The signature is not `v1,` and standard base64: its version or padding is missing, or it has another \
                 alphabet."
            }
            Self::BodyInBase64 => "The body is base64; what it decodes to was signed.",
            Self::BodySignedInBase64 => "The body was decoded; its base64 was signed.",
            Self::BodyQuoted => "The body is a JSON text in quotes; what it contains was signed.",
            Self::BodyReadAsLatin1 => "The body was read as Latin-1; its UTF-8 was signed.",
            Self::BodyInLatin1 => "The body is Latin-1; its UTF-8 was signed.",
            Self::BomAdded => "The body has a byte order mark at its start that was not signed.",
            Self::BomRemoved => "The body was signed with a byte order mark at its start.",
            Self::LastLineBreakAdded => "The body has a line break at its end that was not signed.",
            Self::LastLineBreakRemoved => "The body was signed with a line break at its end.",
            Self::CrlfAdded => "The body has CRLF line breaks; LF was signed.",
            Self::CrlfRemoved => "The body has LF line breaks; CRLF was signed.",
            Self::Spacing { signed, is_on_lines } => return spacing_explanation(signed, is_on_lines),
            Self::Order(Order::Sorted) => {
                "The members of the body's JSON objects were signed in the order of their names."
            }
            Self::Order(Order::OfGuide | Order::OfNotifications) => {
                "The members of the body's JSON objects were put in another order; LearnInk's own was signed."
            }
            Self::Escaped => {
                "Characters of the body were written as escapes (`\\u00e9` or `\\/`) that were not signed."
            }
            Self::SlashesEscaped => "Each `/` of the body was written as `\\/`.",
            Self::UnicodeUnescaped => {
                "The body was signed with `\\uXXXX` for each character beyond ASCII, and now has the characters."
            }
            Self::SlashesUnescaped => "The body was signed with `\\/` for each `/`.",
        };
        text.to_owned()
    }

    /// What to do about it.
    pub(super) const fn remedy(self) -> &'static str {
        match self {
            Self::OtherSecret => {
                "Compare the endpoint's secret in LearnInk with the stored one: each environment (staging, production) \
                 has its own, and a rotation replaces it. Store the endpoint's secret."
            }
            Self::SecretVersion
            | Self::SecretSurroundings
            | Self::SecretEncodedTwice
            | Self::SecretAlphabet => {
                "Copy the secret from LearnInk again, and store `whsec_...` alone, as plain text."
            }
            Self::SecretAsText
            | Self::SecretAsTextWithLineBreak
            | Self::SecretAsTextInQuotes
            | Self::SecretPrefixDecoded => {
                "LearnInk does not sign like this, so another program did. There, remove `whsec_` and decode the rest \
                 from base64: these bytes are the key."
            }
            Self::IdAndTimestampSwapped => {
                "The order is svix-id, svix-timestamp, body, joined by full stops."
            }
            Self::TimestampInMilliseconds | Self::MillisecondsSigned | Self::TimestampAsDate => {
                "Use svix-timestamp as it was sent: Unix seconds, ten digits."
            }
            Self::TimestampOfGuide => {
                "Use the headers and the body of a real delivery; Send Example in LearnInk's dashboard makes one."
            }
            Self::HeaderJoined => {
                "Find the proxy or client that adds the header again, and send each header once."
            }
            Self::SignatureEncoding => "Use svix-signature as it was sent.",
            Self::BodyInBase64 | Self::BodySignedInBase64 => {
                "Verify the bytes as they arrive over HTTP; isBase64Encoded in the event says whether to decode."
            }
            Self::BodyQuoted | Self::BodyReadAsLatin1 | Self::BodyInLatin1 => {
                "Verify the bytes as they arrive over HTTP, before anything decodes them."
            }
            Self::BomAdded
            | Self::BomRemoved
            | Self::LastLineBreakAdded
            | Self::LastLineBreakRemoved
            | Self::CrlfAdded
            | Self::CrlfRemoved => {
                "Keep the bytes as they arrive: editors, shells and Git change these when they save a file."
            }
            Self::Spacing { .. }
            | Self::Order(_)
            | Self::Escaped
            | Self::SlashesEscaped
            | Self::UnicodeUnescaped
            | Self::SlashesUnescaped => {
                "Verify the bytes as they arrive, before a JSON parser reads and writes them; a dashboard shows JSON \
                 indented, which is not what was sent."
            }
        }
    }
}

/// Whether JSON with this white space has line breaks.
const fn has_lines(spacing: Spacing) -> bool {
    matches!(spacing, Spacing::TwoSpaces | Spacing::FourSpaces | Spacing::Tabs)
}

fn spacing_explanation(signed: Spacing, is_on_lines: bool) -> String {
    let signed_as = match signed {
        Spacing::Compact => "on one line without spaces, as `JSON.stringify(x)` writes it",
        Spacing::Spaced => {
            "on one line with a space after `,` and `:`, as Python's `json.dumps(x)` writes it"
        }
        Spacing::TwoSpaces => "indented by two spaces, as `JSON.stringify(x, null, 2)` writes it",
        Spacing::FourSpaces => "indented by four spaces",
        Spacing::Tabs => "indented by tabs",
    };
    let what = match (is_on_lines, has_lines(signed)) {
        (true, _) => "The body was re-indented.",
        (false, true) => "The body's indentation was removed.",
        (false, false) => "The spaces in the body's JSON were changed.",
    };
    format!("{what} It was signed {signed_as}.")
}
