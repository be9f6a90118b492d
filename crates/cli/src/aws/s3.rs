//! The versions of the objects in a bucket, which `object_store` neither lists nor deletes. Source: Amazon S3 API
//! reference.

use std::fmt::Write as _;

use aws_config::SdkConfig;
use jiff::Timestamp;
use serde::Deserialize;

use super::AwsClock;
use super::request::{Client, RequestError, S3};

/// A bucket, in one region.
#[derive(Debug)]
pub(crate) struct Bucket {
    client: Client,
    name: String,
}

/// A version of an object: of a bucket that keeps none, the object itself, whose version is `null`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ObjectVersion {
    #[serde(rename = "Key")]
    pub(crate) key: String,
    #[serde(rename = "VersionId")]
    pub(crate) id: String,
    #[serde(rename = "IsLatest")]
    pub(crate) is_latest: bool,
}

/// The id of the only version in a bucket that keeps none.
pub(crate) const NO_VERSION: &str = "null";

#[derive(Debug, Deserialize)]
struct Listed {
    #[serde(rename = "IsTruncated", default)]
    is_truncated: bool,
    #[serde(rename = "NextKeyMarker", default)]
    next_key: String,
    #[serde(rename = "NextVersionIdMarker", default)]
    next_version: String,
    #[serde(rename = "Version", default)]
    versions: Vec<ObjectVersion>,
}

#[derive(Debug, Deserialize)]
struct Retention {
    #[serde(rename = "RetainUntilDate")]
    until: Option<Timestamp>,
}

/// Why a version was not deleted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotDeleted {
    /// Object Lock protects it.
    #[error("S3 Object Lock keeps it until {0}")]
    Locked(Timestamp),
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl Bucket {
    pub(crate) fn new(name: &str, aws: &SdkConfig) -> anyhow::Result<Self> {
        Ok(Self { client: Client::new(S3, aws, &AwsClock::default())?, name: name.to_owned() })
    }

    /// All versions of all objects below a prefix, also of objects that were deleted. Delete markers, which have no
    /// content, are left out.
    pub(crate) async fn versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>, RequestError> {
        let mut versions = Vec::new();
        let (mut next_key, mut next_version) = (String::new(), String::new());
        loop {
            let mut query = vec![("versions", ""), ("prefix", prefix)];
            if !next_key.is_empty() {
                query.push(("key-marker", &next_key));
            }
            if !next_version.is_empty() {
                query.push(("version-id-marker", &next_version));
            }
            let answer = self.client.rest("ListBucketVersions", "GET", &self.path(""), &query).await?;
            // Of other elements, such as delete markers, there may be some between the versions.
            let page: Listed = quick_xml::de::from_str(&answer).map_err(|_| RequestError::Unreadable)?;
            versions.extend(page.versions);
            let is_the_same = page.next_key == next_key && page.next_version == next_version;
            if !page.is_truncated || is_the_same {
                return Ok(versions);
            }
            (next_key, next_version) = (page.next_key, page.next_version);
        }
    }

    /// Deletes a version for good.
    pub(crate) async fn delete(&self, version: &ObjectVersion) -> Result<(), NotDeleted> {
        let (path, query) = (self.path(&version.key), [("versionId", version.id.as_str())]);
        let deleted = self.client.rest("DeleteObjectVersion", "DELETE", &path, &query).await;
        match deleted {
            Ok(_) => Ok(()),
            // S3 answers so for a locked version as well as for a missing right.
            Err(error @ RequestError::Denied { .. }) => match self.locked_until(&path, &version.id).await {
                Some(until) => Err(NotDeleted::Locked(until)),
                None => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Until when Object Lock keeps a version, if it does and may be asked.
    async fn locked_until(&self, path: &str, version: &str) -> Option<Timestamp> {
        let query = [("retention", ""), ("versionId", version)];
        let answer = self.client.rest("GetObjectRetention", "GET", path, &query).await.ok()?;
        quick_xml::de::from_str::<Retention>(&answer).ok()?.until
    }

    /// The path of an object, or of the bucket.
    fn path(&self, key: &str) -> String {
        let mut path = format!("/{}", self.name);
        if !key.is_empty() {
            path.push('/');
            encode(key, &mut path);
        }
        path
    }
}

/// A key as AWS encodes it in a path that it signs.
/// Source: Amazon S3 API reference, "Signature Calculations for the Authorization Header", `UriEncode`.
fn encode(key: &str, path: &mut String) {
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            path.push(char::from(byte));
        } else {
            // Writing to a `String` does not fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_of_a_page_are_read_with_delete_markers_between_them() {
        let page = "<?xml version=\"1.0\"?><ListVersionsResult><Name>b</Name><IsTruncated>true</IsTruncated>\
            <NextKeyMarker>a/é&amp;</NextKeyMarker><NextVersionIdMarker>v1</NextVersionIdMarker>\
            <Version><Key>a/1</Key><VersionId>v2</VersionId><IsLatest>false</IsLatest><Size>7</Size></Version>\
            <DeleteMarker><Key>a/1</Key><VersionId>v3</VersionId><IsLatest>true</IsLatest></DeleteMarker>\
            <Version><Key>a/é&amp;</Key><VersionId>null</VersionId><IsLatest>true</IsLatest></Version>\
            </ListVersionsResult>";
        let page: Listed = quick_xml::de::from_str(page).unwrap();
        let versions: Vec<_> =
            page.versions.iter().map(|version| (&*version.key, &*version.id, version.is_latest)).collect();
        assert_eq!(versions, [("a/1", "v2", false), ("a/é&", NO_VERSION, true)]);
        assert_eq!((page.is_truncated, &*page.next_key, &*page.next_version), (true, "a/é&", "v1"));
    }

    #[test]
    fn the_end_of_a_lock_is_read() {
        let xml = "<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>2030-01-01T00:00:00Z</RetainUntilDate></Retention>";
        let until = quick_xml::de::from_str::<Retention>(xml).unwrap().until;
        assert_eq!(until, Some("2030-01-01T00:00:00Z".parse().unwrap()));
    }

    #[test]
    fn a_key_is_encoded_as_it_is_signed() {
        let mut path = String::new();
        encode("layout=stream/a!2f b/é.gz", &mut path);
        assert_eq!(path, "layout%3Dstream/a%212f%20b/%C3%A9.gz");
    }
}
