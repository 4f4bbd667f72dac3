//! The processes that this one started, and those that they started.

use std::collections::HashMap;
use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// Ends all of them at once. Finds them in `/proc`, so it does nothing where there is none.
pub(crate) fn kill_all() {
    kill_below(std::process::id().cast_signed());
}

/// Ends a child that was not waited for yet, and what it started.
pub(crate) fn kill(child: u32) {
    let child = child.cast_signed();
    kill_below(child);
    signal(child);
}

fn kill_below(ancestor: i32) {
    // A child may start another one between the look and the signal; a second look finds it.
    for _ in 0..2 {
        descendants_of(ancestor, &parents()).into_iter().for_each(signal);
    }
}

fn signal(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL); // It may have ended just now.
    }
}

fn parents() -> HashMap<i32, i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return HashMap::new() };
    entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            Some((pid, parent_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))
        })
        .collect()
}

/// The parent's pid; the name before it is in brackets and may hold anything.
fn parent_in(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn descendants_of(ancestor: i32, parents: &HashMap<i32, i32>) -> Vec<i32> {
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(
            parents
                .iter()
                .filter(|&(pid, of)| *of == parent && !found.contains(pid))
                .map(|(pid, _)| *pid)
                .collect::<Vec<_>>(),
        );
        next += 1;
    }
    found.split_off(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_hide_the_parent() {
        assert_eq!(parent_in("12 (a) b (c) S 7 12 12 0"), Some(7));
        assert_eq!(parent_in("nonsense"), None);
    }

    #[test]
    fn what_was_started_is_ended() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        kill_all();
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn grandchildren_are_found_and_others_are_not() {
        let parents = HashMap::from([(2, 1), (3, 2), (4, 3), (5, 1), (6, 5)]);
        let mut found = descendants_of(2, &parents);
        found.sort_unstable();
        assert_eq!(found, [3, 4]);
    }
}
