//! The location of an archive, from its URL.

use object_store::path::Path;
use reqwest::Url;

/// The longest prefix in bytes: with a record's name after it, it stays below S3's 1024.
const LONGEST_PREFIX_BYTES: usize = 512;

/// The form of a URL.
const FORM: &str = "it must be a URL such as s3://bucket/prefix or file:///folder";

/// Where an archive is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Below a prefix in a bucket.
    Bucket { bucket: String, prefix: Path },
    /// In a folder of this machine.
    Folder(Path),
}

impl Place {
    /// Reads a URL, or says what is wrong with it.
    ///
    /// The path is used verbatim, as `aws s3` uses a URL and a shell `file://$PWD`: a space, `#` or a letter
    /// beyond ASCII is part of it. A percent sign with two hexadecimal digits is refused, because it may be meant
    /// literally or as an escape. A path without a scheme, `/folder`, is a folder, whatever characters it has.
    pub(super) fn parse(url: &str) -> Result<Self, &'static str> {
        if url.starts_with('/') {
            return Ok(Self::Folder(path(url)?));
        }
        if let Some(rest) = url.get(..5).filter(|scheme| scheme.eq_ignore_ascii_case("file:")) {
            let rest = url.get(rest.len()..).unwrap_or_default();
            // `file:/folder` does not name a host, and `file://host/folder` names another machine.
            let path = match rest.strip_prefix("//") {
                None => rest,
                Some(rest) => rest.strip_prefix("localhost").unwrap_or(rest),
            };
            if !path.starts_with('/') {
                return Err(FORM);
            }
            return Ok(Self::Folder(literal(path)?));
        }
        let parsed = Url::parse(url).map_err(|_| FORM)?;
        if parsed.scheme() != "s3" {
            return Err(FORM);
        }
        if parsed.query().is_some() || parsed.fragment().is_some() || !parsed.username().is_empty() {
            return Err("a URL of an archive has neither `?` nor `#` nor `@`");
        }
        let bucket = parsed.host_str().filter(|bucket| !bucket.is_empty());
        let bucket =
            bucket.ok_or("it names no bucket; it must be a URL such as s3://bucket/prefix")?.to_owned();
        let prefix = url.split('/').skip(3).collect::<Vec<_>>().join("/");
        Ok(Self::Bucket { bucket, prefix: literal(&prefix)? })
    }
}

/// The path of a URL.
fn literal(path: &str) -> Result<Path, &'static str> {
    let is_escape = |rest: &str| {
        let digits = rest.as_bytes().first_chunk::<2>();
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if path.split('%').skip(1).any(is_escape) {
        return Err(
            "its path has a percent sign with two hexadecimal digits, which may mean another character; \
                    write the path as it is, without escapes, or use another one",
        );
    }
    self::path(path)
}

/// A path verbatim, without slashes at its ends and without doubled ones.
fn path(path: &str) -> Result<Path, &'static str> {
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    let path = Path::parse(parts.join("/")).map_err(|_| "its path has a part that cannot be a name")?;
    if path.as_ref().len() > LONGEST_PREFIX_BYTES {
        return Err("its path is too long for a prefix");
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_where_it_says() {
        for (url, expected) in [
            ("file:///folder", "folder"),
            ("file:///a b/é/h#x/what?/pct%zz/100%", "a b/é/h#x/what?/pct%zz/100%"),
            ("FILE://localhost//tmp//archive/", "tmp/archive"),
            ("file:/tmp/archive", "tmp/archive"),
            ("/tmp//p%41/a%20b/h#x?y/", "tmp/p%41/a%20b/h#x?y"),
        ] {
            let path = Path::parse(expected).unwrap();
            assert_eq!(Place::parse(url), Ok(Place::Folder(path)), "{url}");
        }
        for (url, expected) in [
            ("s3://bucket", ""),
            ("s3://bucket/", ""),
            ("s3://bucket/a/prefix/", "a/prefix"),
            ("s3://bucket/ö ffnung%/x", "ö ffnung%/x"),
        ] {
            let place = Place::Bucket { bucket: "bucket".to_owned(), prefix: Path::parse(expected).unwrap() };
            assert_eq!(Place::parse(url), Ok(place), "{url}");
        }
    }

    #[test]
    fn a_path_that_may_be_two_is_refused() {
        for path in ["p%41", "a%20b", "a/%2e%2E/b", "%25"] {
            for url in [format!("file:///{path}"), format!("s3://bucket/{path}")] {
                assert!(Place::parse(&url).unwrap_err().contains("percent sign"), "{url}");
            }
        }
    }

    #[test]
    fn a_path_that_leaves_its_folder_is_refused() {
        for url in ["file:///a/../b", "file:///a/./b", "s3://bucket/../b", "file:///a\u{0}b"] {
            assert_eq!(Place::parse(url), Err("its path has a part that cannot be a name"), "{url:?}");
        }
    }
}
