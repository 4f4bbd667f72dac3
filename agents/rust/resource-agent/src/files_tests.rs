use super::*;
use std::os::unix::fs::symlink;
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

fn walk() -> Walk {
    Walk { max_files: usize::MAX, follow_links: false, exclude: HashSet::from([".git".into()]) }
}

fn sizes(walk: &Walk, folder: &Path) -> Vec<u64> {
    walk.run(folder, |_| Ok::<_, io::Error>(())).unwrap().sizes
}

#[test]
fn the_order_is_by_bytes_with_folders_among_files() {
    let folder = folder();
    assert_eq!(sizes(&walk(), folder.path()), [7, 1, 3, 2, 4, 0]); // Z, a/z, a.txt, b, c/d/e, c/d/f
    assert_eq!(sizes(&Walk { max_files: 3, ..walk() }, folder.path()), [7, 1, 3]);
    assert_eq!(sizes(&Walk { max_files: 0, ..walk() }, folder.path()), [0_u64; 0]);
    assert_eq!(sizes(&Walk { exclude: HashSet::new(), ..walk() }, folder.path())[0], 9);
}

#[test]
fn links_are_followed_when_asked_and_never_in_circles() {
    let folder = folder();
    symlink("b", folder.path().join("link")).unwrap();
    symlink(".", folder.path().join("c/circle")).unwrap();
    symlink("nowhere", folder.path().join("dangling")).unwrap();
    assert_eq!(sizes(&walk(), folder.path()).len(), 6);
    let follow = Walk { follow_links: true, ..walk() };
    let found = follow.run(folder.path(), |_| Ok::<_, io::Error>(())).unwrap();
    assert_eq!(found, Found { sizes: vec![7, 1, 3, 2, 4, 0, 2], unreadable: 1 });
}

#[test]
fn a_step_that_fails_ends_the_walk() {
    let folder = folder();
    let stop = |found: &Found| if found.sizes.len() == 2 { Err(io::Error::other("stop")) } else { Ok(()) };
    assert_eq!(walk().run(folder.path(), stop).unwrap_err().to_string(), "stop");
}

#[test]
fn a_folder_that_is_not_there_is_an_error() {
    let error = walk().run(Path::new("/nonexistent"), |_| Ok::<_, io::Error>(())).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}
