use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};

use flate2::read::GzDecoder;
use tempfile::TempDir;

const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn compressor(folder: &TempDir) -> Compressor {
    Compressor { root: folder.path().to_owned(), output: folder.path().join("out/below"), level: 6 }
}

fn asked(paths: &[&str]) -> Vec<Asked> {
    paths.iter().map(|path| Asked { path: path.into(), _size: None }).collect()
}

fn on(_done: usize) -> Result<(), Failure> {
    Ok(())
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// 5 MiB that do not repeat soon and compress a little.
fn noise() -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 58) as u8 // 6 bits of noise in each byte
    };
    std::iter::repeat_with(&mut next).take(5 << 20).collect()
}

#[test]
fn contents_are_hashed_and_come_back_from_their_gzip_files() {
    let folder = tempfile::tempdir().unwrap();
    let large = noise();
    fs::write(folder.path().join("large"), &large).unwrap();
    fs::write(folder.path().join("empty"), "").unwrap();
    fs::write(folder.path().join("ü b"), "abc").unwrap();
    symlink("large", folder.path().join("link")).unwrap();
    let compressor = compressor(&folder);
    let summary = compressor.compress(asked(&["large", "empty", "ü b", "link"]), on).unwrap();
    assert_eq!(summary.skipped, []);
    let [first, empty, small, link] = &summary.files[..] else { panic!("{summary:?}") };
    assert_eq!((empty.size_bytes, empty.sha256.as_str()), (0, EMPTY));
    assert!(small.sha256.starts_with("ba7816bf8f01cfea") && small.path == Path::new("ü b"));
    assert_eq!(Compressed { path: "large".into(), ..link.clone() }, *first);
    for (file, content) in [(first, &large[..]), (empty, b""), (small, b"abc")] {
        let mut back = Vec::new();
        GzDecoder::new(File::open(&file.gzip_path).unwrap()).read_to_end(&mut back).unwrap();
        assert!(back == content, "{file:?}");
        assert_eq!(file.gzip_path, compressor.output.join(format!("{}.gz", file.sha256)));
        assert_eq!(fs::metadata(&file.gzip_path).unwrap().len(), file.gzip_bytes);
    }
    assert!(first.gzip_bytes < first.size_bytes);
    assert_eq!(summary.bytes_in, 2 * large.len() as u64 + 3);
    assert_eq!(summary.bytes_out, first.gzip_bytes + empty.gzip_bytes + small.gzip_bytes);
    assert_eq!(names_in(&compressor.output).len(), 3);
}

#[test]
fn again_gives_the_same_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "abc").unwrap();
    let compressor = compressor(&folder);
    let first = compressor.compress(asked(&["a"]), on).unwrap();
    let written = fs::metadata(&first.files[0].gzip_path).unwrap().modified().unwrap();
    let absolute = folder.path().join("a");
    let second = compressor.compress(asked(&["a", absolute.to_str().unwrap()]), on).unwrap();
    assert_eq!(first.files[0], second.files[0]);
    assert_eq!((second.files[1].sha256.as_str(), second.bytes_out), (&*first.files[0].sha256, first.bytes_out));
    assert_eq!(fs::metadata(&first.files[0].gzip_path).unwrap().modified().unwrap(), written);
    assert_eq!(names_in(&compressor.output).len(), 1);
}

#[test]
fn what_cannot_be_read_is_skipped_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("closed"), "x").unwrap();
    fs::set_permissions(folder.path().join("closed"), PermissionsExt::from_mode(0o000)).unwrap();
    fs::write(folder.path().join("good"), "x").unwrap();
    symlink("nowhere", folder.path().join("dangling")).unwrap();
    symlink(".", folder.path().join("loop")).unwrap();
    let long = "x".repeat(300);
    let paths = ["missing", "good/below", ".", "dangling", "loop", "/dev/null", "nul\0", &long, "closed", "good"];
    let summary = compressor(&folder).compress(asked(&paths), on).unwrap();
    let skipped: Vec<_> =
        summary.skipped.iter().map(|file| (file.path.to_str().unwrap(), file.reason.as_str())).collect();
    let expected = [
        ("missing", "no such file or directory"),
        ("good/below", "not a directory"),
        (".", "is a directory"),
        ("dangling", "no such file or directory"),
        ("loop", "is a directory"),
        ("/dev/null", "is not a regular file"),
    ];
    assert_eq!(skipped[..6], expected);
    assert!(skipped[6].1.contains("NUL"), "{skipped:?}");
    assert_eq!(skipped[7].1, "file name too long");
    // Who may read everything reads this too.
    if File::open(folder.path().join("closed")).is_err() {
        assert_eq!(skipped[8], ("closed", "permission denied"));
    }
    assert_eq!(summary.files.last().unwrap().path, Path::new("good"));
    assert_eq!(summary.files.len() + skipped.len(), paths.len());
}

#[test]
fn work_that_shall_end_leaves_what_is_done_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("small"), "abc").unwrap();
    fs::write(folder.path().join("large"), noise()).unwrap();
    let compressor = compressor(&folder);
    let mut chunks = 0;
    let failure = compressor
        .compress(asked(&["small", "large"]), |done| {
            chunks += done;
            if chunks > 3 { Err(Failure::cancelled()) } else { Ok(()) }
        })
        .unwrap_err();
    assert_eq!(failure.code, "CANCELLED");
    let names = names_in(&compressor.output);
    assert!(names.len() == 1 && names[0].starts_with("ba7816bf"), "{names:?}");
}

#[test]
fn an_output_that_cannot_be_written_is_told() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("out"), "in the way").unwrap();
    let failure = compressor(&folder).compress(asked(&[]), on).unwrap_err();
    assert_eq!((failure.code.as_str(), failure.retryable), ("OUTPUT_NOT_WRITABLE", true));
    assert!(failure.message.contains("out/below"), "{failure}");
}
