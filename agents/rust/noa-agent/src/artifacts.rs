//! Artifacts: values kept in a store under the name of their content, and references to them.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::failure::{ARTIFACT_UNREADABLE, ARTIFACT_UNWRITABLE, Failure};
use crate::proto;
use crate::uri::path_of;
use crate::whole_file::WholeFile;

const UNNAMED_TYPE: &str = "application/octet-stream";

/// A reference to bytes in the artifact store. In JSON it is `{"$artifact": {"uri": …}}`, so a field of this type in
/// an input or output is how actions hand large values to each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "Wire", into = "Wire")]
#[schemars(with = "Wire")]
pub struct ArtifactRef {
    /// Where the bytes are, such as `file:///absolute/path`.
    pub uri: String,
    /// Number of bytes.
    pub size_bytes: u64,
    /// SHA-256 of the bytes in lower-case hex.
    pub sha256: String,
    /// Media type of the bytes.
    pub content_type: String,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ArtifactRef")]
struct Wire {
    #[serde(rename = "$artifact")]
    artifact: Body,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
struct Body {
    uri: String,
    size_bytes: u64,
    sha256: String,
    #[serde(default)]
    content_type: String,
}

impl From<Wire> for ArtifactRef {
    fn from(Wire { artifact: Body { uri, size_bytes, sha256, content_type } }: Wire) -> Self {
        let content_type = if content_type.is_empty() { UNNAMED_TYPE.into() } else { content_type };
        Self { uri, size_bytes, sha256, content_type }
    }
}

impl From<ArtifactRef> for Wire {
    fn from(ArtifactRef { uri, size_bytes, sha256, content_type }: ArtifactRef) -> Self {
        Self { artifact: Body { uri, size_bytes, sha256, content_type } }
    }
}

impl From<proto::Artifact> for ArtifactRef {
    fn from(proto::Artifact { uri, size_bytes, sha256, content_type }: proto::Artifact) -> Self {
        Wire { artifact: Body { uri, size_bytes, sha256, content_type } }.into()
    }
}

impl From<ArtifactRef> for proto::Artifact {
    fn from(ArtifactRef { uri, size_bytes, sha256, content_type }: ArtifactRef) -> Self {
        Self { uri, size_bytes, sha256, content_type }
    }
}

/// The place where an execution may create artifacts, and the way to read any. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Artifacts {
    prefix: String,
}

impl Artifacts {
    pub(crate) fn new(prefix: String) -> Self {
        Self { prefix }
    }

    /// Whether the engine named a store to write to.
    pub fn is_writable(&self) -> bool {
        path_of(&self.prefix).is_some()
    }

    /// Creates an artifact of this content and returns once it is on disk.
    ///
    /// # Errors
    /// `ARTIFACT_UNWRITABLE`: there is no store or it cannot be written; nothing is left behind.
    pub async fn create(
        &self,
        content: impl AsRef<[u8]> + Send + 'static,
        content_type: impl Into<String>,
    ) -> Result<ArtifactRef, Failure> {
        let (store, content_type) = (self.clone(), content_type.into());
        off_thread(move || {
            let mut writer = store.writer(content_type)?;
            writer.write_all(content.as_ref()).map_err(|error| unwritable(&store.prefix, &error))?;
            writer.finish()
        })
        .await
    }

    /// Begins an artifact whose content is written piece by piece, from blocking code.
    ///
    /// # Errors
    /// `ARTIFACT_UNWRITABLE`: there is no store or it cannot be written.
    pub fn writer(&self, content_type: impl Into<String>) -> Result<ArtifactWriter, Failure> {
        let folder = path_of(&self.prefix).ok_or_else(|| {
            let message =
                format!("artifact_prefix '{}' is not a file:/// URI, so no artifact can be made", self.prefix);
            Failure::new(ARTIFACT_UNWRITABLE, message)
        })?;
        ArtifactWriter::begin(self.prefix.clone(), folder, content_type.into())
            .map_err(|error| unwritable(&self.prefix, &error))
    }

    /// Reads the whole of an artifact and checks its size and hash.
    ///
    /// # Errors
    /// `ARTIFACT_UNREADABLE`: it is not there, not a file of this machine, or not what the reference says.
    pub async fn read(&self, artifact: &ArtifactRef) -> Result<Vec<u8>, Failure> {
        let artifact = artifact.clone();
        off_thread(move || {
            let path = checked_path(&artifact)?;
            let content = fs::read(&path).map_err(|error| unreadable(&artifact, &error.to_string()))?;
            if hex(&Sha256::digest(&content)) != artifact.sha256 {
                return Err(unreadable(&artifact, "its content has another SHA-256 than the reference says"));
            }
            Ok(content)
        })
        .await
    }

    /// The file that holds an artifact, for reading piece by piece or mapping. Checks the size, not the hash.
    ///
    /// # Errors
    /// `ARTIFACT_UNREADABLE`: it is not there, not a file of this machine, or has another size.
    pub async fn path(&self, artifact: &ArtifactRef) -> Result<PathBuf, Failure> {
        let artifact = artifact.clone();
        off_thread(move || checked_path(&artifact)).await
    }
}

/// An artifact that is being written. Without [`finish`](Self::finish) nothing of it stays.
#[derive(Debug)]
pub struct ArtifactWriter {
    prefix: String,
    folder: PathBuf,
    content_type: String,
    file: WholeFile,
    hash: Sha256,
    size_bytes: u64,
}

impl ArtifactWriter {
    fn begin(prefix: String, folder: PathBuf, content_type: String) -> io::Result<Self> {
        let file = WholeFile::begin(&folder)?;
        Ok(Self { prefix, folder, content_type, file, hash: Sha256::new(), size_bytes: 0 })
    }

    /// Syncs what was written, gives it its name, and returns the reference.
    ///
    /// # Errors
    /// `ARTIFACT_UNWRITABLE`: the store cannot be written; nothing is left behind.
    pub fn finish(self) -> Result<ArtifactRef, Failure> {
        let sha256 = hex(&self.hash.finalize());
        let target = self.folder.join(&sha256[..2]).join(&sha256);
        if !fs::metadata(&target).is_ok_and(|found| found.is_file() && found.len() == self.size_bytes) {
            self.file.keep(&target).map_err(|error| unwritable(&self.prefix, &error))?;
        }
        Ok(ArtifactRef {
            uri: format!("{}{}/{sha256}", self.prefix, &sha256[..2]),
            size_bytes: self.size_bytes,
            sha256,
            content_type: self.content_type,
        })
    }
}

impl Write for ArtifactWriter {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        let written = self.file.write(content)?;
        self.hash.update(&content[..written]);
        self.size_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn checked_path(artifact: &ArtifactRef) -> Result<PathBuf, Failure> {
    let path = path_of(&artifact.uri).ok_or_else(|| unreadable(artifact, "it is not a file:/// URI"))?;
    let size = size_of(&path).map_err(|error| unreadable(artifact, &error.to_string()))?;
    if size != artifact.size_bytes {
        let problem = format!("it has {size} bytes where the reference says {}", artifact.size_bytes);
        return Err(unreadable(artifact, &problem));
    }
    Ok(path)
}

fn size_of(path: &Path) -> io::Result<u64> {
    let found = fs::metadata(path)?;
    if found.is_file() { Ok(found.len()) } else { Err(io::Error::other("it is not a file")) }
}

fn unreadable(artifact: &ArtifactRef, problem: &str) -> Failure {
    Failure::new(ARTIFACT_UNREADABLE, format!("artifact {} cannot be used: {problem}", artifact.uri))
}

fn unwritable(prefix: &str, error: &io::Error) -> Failure {
    Failure::new(ARTIFACT_UNWRITABLE, format!("an artifact cannot be written below {prefix}: {error}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(Failure::internal)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uri::tests::uri_of;

    fn store() -> (tempfile::TempDir, Artifacts) {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::new(format!("{}/", uri_of(&folder.path().join("new store"))));
        (folder, artifacts)
    }

    fn files_in(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn an_artifact_is_named_by_its_content_and_reads_back() {
        let (folder, artifacts) = store();
        let made = artifacts.create("abc", "text/plain").await.unwrap();
        let again = artifacts.create("abc", "text/plain").await.unwrap();
        assert_eq!(made, again);
        assert!(made.uri.ends_with("/new%20store/ba/ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
        assert_eq!(artifacts.read(&made).await.unwrap(), b"abc");
        assert_eq!(files_in(&folder.path().join("new store")), ["ba"]);
    }

    #[tokio::test]
    async fn an_artifact_that_is_not_finished_leaves_nothing() {
        let (folder, artifacts) = store();
        let mut writer = artifacts.writer("text/plain").unwrap();
        writer.write_all(b"half").unwrap();
        drop(writer);
        assert!(files_in(&folder.path().join("new store")).is_empty());
    }

    #[tokio::test]
    async fn content_that_is_not_what_the_reference_says_is_refused() {
        let (_folder, artifacts) = store();
        let made = artifacts.create("abc", "text/plain").await.unwrap();
        let path = artifacts.path(&made).await.unwrap();
        fs::write(&path, "xyz").unwrap();
        assert!(artifacts.read(&made).await.unwrap_err().message.contains("SHA-256"));
        fs::write(&path, "longer").unwrap();
        assert!(artifacts.path(&made).await.unwrap_err().message.contains("6 bytes"));
        fs::remove_file(&path).unwrap();
        assert_eq!(artifacts.path(&made).await.unwrap_err().code, ARTIFACT_UNREADABLE);
    }

    #[tokio::test]
    async fn without_a_store_nothing_can_be_made() {
        let failure = Artifacts::new(String::new()).create("abc", "text/plain").await.unwrap_err();
        assert_eq!(failure.code, ARTIFACT_UNWRITABLE);
    }

    #[test]
    fn in_json_it_is_an_object_with_one_key() {
        let json = r#"{"$artifact":{"uri":"file:///a","size_bytes":1,"sha256":"00","content_type":"text/plain"}}"#;
        let artifact: ArtifactRef = serde_json::from_str(json).unwrap();
        assert_eq!(artifact.size_bytes, 1);
        assert_eq!(serde_json::to_string(&artifact).unwrap(), json);
        let schema = serde_json::to_value(schemars::schema_for!(ArtifactRef)).unwrap();
        assert_eq!(schema["required"], serde_json::json!(["$artifact"]));
    }
}
