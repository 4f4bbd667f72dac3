//! `file:` URIs and the paths that they name.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// The path that a `file:` URI of this machine names, or `None` for any other text.
#[must_use]
pub fn path_of(uri: &str) -> Option<PathBuf> {
    let rest = uri.strip_prefix("file://")?;
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return None;
    }
    Some(PathBuf::from(OsString::from_vec(unescaped(path.as_bytes())?)))
}

fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(*rest.next()?).to_digit(16)?;
            let low = char::from(*rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok().filter(|&byte| byte != 0)?);
        } else {
            bytes.push(byte);
        }
    }
    Some(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    /// The `file:` URI of an absolute path.
    pub(crate) fn uri_of(path: &Path) -> String {
        let mut uri = String::from("file://");
        for &byte in path.as_os_str().as_bytes() {
            if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
                uri.push(char::from(byte));
            } else {
                uri.push_str(&format!("%{byte:02X}"));
            }
        }
        uri
    }

    #[test]
    fn a_path_survives_the_way_through_a_uri() {
        for path in ["/", "/a b/ü%41/c#d?e", "/tmp/.noa/artifacts/"] {
            assert_eq!(path_of(&uri_of(Path::new(path))).as_deref(), Some(Path::new(path)));
        }
    }

    #[test]
    fn other_texts_are_not_paths() {
        for text in ["", "/tmp", "s3://bucket/key", "file://host/path", "file:///a%", "file:///a%zz", "file:///%00"] {
            assert_eq!(path_of(text), None, "{text}");
        }
    }
}
