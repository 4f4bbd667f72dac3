use super::*;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use tempfile::TempDir;

/// Files whose sizes tell which is which.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, size) in [("b", 2), ("a/z", 1), ("a.txt", 3), (".git/x", 9), ("c/d/e", 4), ("c/d/f", 0), ("Z", 7)] {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![0; size]).unwrap();
    }
    folder
}

fn asked(folder: &Path) -> Input {
    Input { path: folder.to_owned(), exclude: Some(vec![".git".into()]), ..Input::default() }
}

fn following(folder: &Path) -> Input {
    Input { follow_links: Some(true), ..asked(folder) }
}

fn sizes(input: &Input) -> Vec<u64> {
    find(input, |_| Ok(())).unwrap().sizes
}

#[test]
fn the_order_is_by_bytes_with_folders_among_files() {
    let folder = folder();
    assert_eq!(sizes(&asked(folder.path())), [7, 1, 3, 2, 4, 0]); // Z, a/z, a.txt, b, c/d/e, c/d/f
    assert_eq!(sizes(&Input { max_files: Some(3), ..asked(folder.path()) }), [7, 1, 3]);
    assert_eq!(sizes(&Input { max_files: Some(0), ..asked(folder.path()) }), [0_u64; 0]);
    assert_eq!(sizes(&Input { exclude: Some(vec![]), ..asked(folder.path()) })[0], 9);
}

#[test]
fn names_are_compared_alone_and_as_bytes_whatever_they_are() {
    let folder = tempfile::tempdir().unwrap();
    // In the order of the walk; each file has as many bytes as its place. The order of whole paths would be another
    // one ("a-b" before "a/x"), and so would the order of characters (U+10000 before U+FF5E in UTF-16).
    let names: [&[u8]; 12] = [
        b"A",
        b"a/x",
        b"a/\xff",
        b"a b",
        b"a-b",
        b"a-c/y",
        b"a.txt",
        b"a0",
        b"\xc3\xa9",
        b"\xef\xbd\x9e",
        b"\xf0\x90\x80\x80",
        b"\xff\xfe/z",
    ];
    for (size, name) in names.iter().enumerate().rev() {
        let path = folder.path().join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![0; size]).unwrap();
    }
    assert_eq!(sizes(&asked(folder.path())), (0..12).collect::<Vec<_>>());
}

#[test]
fn a_folder_that_several_links_lead_to_is_entered_once_by_the_first() {
    let folder = folder();
    symlink("c", folder.path().join("B")).unwrap(); // Before c.
    symlink("c", folder.path().join("y")).unwrap(); // After it.
    symlink(".git", folder.path().join("x")).unwrap(); // Passed over by its own name only.
    assert_eq!(sizes(&following(folder.path())), [4, 0, 7, 1, 3, 2, 9]); // B/d/e, B/d/f, Z, a/z, a.txt, b, x/x
}

#[test]
fn the_folder_may_be_a_link_and_may_have_an_excluded_name() {
    let folder = folder();
    symlink(folder.path(), folder.path().join("target")).unwrap();
    let input = Input { exclude: None, ..asked(&folder.path().join("target")) };
    assert_eq!(sizes(&input).len(), 6);
}

#[test]
fn links_are_followed_when_asked_and_never_in_circles() {
    let folder = folder();
    symlink("b", folder.path().join("link")).unwrap();
    symlink(".", folder.path().join("c/circle")).unwrap();
    symlink("nowhere", folder.path().join("dangling")).unwrap();
    assert_eq!(sizes(&asked(folder.path())).len(), 6);
    let found = find(&following(folder.path()), |_| Ok(())).unwrap();
    assert_eq!(found, Found { sizes: vec![7, 1, 3, 2, 4, 0, 2], unreadable: 1 });
}

#[test]
fn a_step_that_fails_ends_the_walk() {
    let folder = folder();
    let stop = |found: &Found| if found.sizes.len() == 2 { Err(Failure::new("STOP", "")) } else { Ok(()) };
    assert_eq!(find(&asked(folder.path()), stop).unwrap_err().code, "STOP");
}

#[test]
fn a_folder_that_is_not_there_is_an_error() {
    let code = |path| find(&asked(Path::new(path)), |_| Ok(())).unwrap_err().code;
    assert_eq!(code("/nonexistent"), "INPUT_NOT_FOUND");
    assert_eq!(code("/proc/self/status"), "INPUT_NOT_A_FOLDER");
}
