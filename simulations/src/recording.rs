//! Recordings of what a link carried, as Mahimahi has them: a time in milliseconds a line, at each of which 1500 bytes may cross;
//! a time that is repeated lets several, and after the last one the recording begins again.

use std::path::Path;

/// The times of a recording, which rise.
pub fn read(path: &Path) -> Result<Vec<u64>, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown} can't be read: {error}"))?;
    let times: Result<Vec<u64>, _> = text.lines().map(|line| line.trim().parse()).collect();
    let times = times.map_err(|error| format!("{shown} is no recorded link: {error}"))?;
    if times.last().is_none_or(|last| *last == 0) || !times.is_sorted() {
        return Err(format!("{shown} is no recorded link: its times must rise"));
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_rise_is_no_recording() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("link");
        for (text, found) in [("0\n3\n3\n9\n", Some(vec![0, 3, 3, 9])), ("", None), ("0\n", None), ("5\n4\n", None)] {
            std::fs::write(&path, text).expect("written");
            assert_eq!(read(&path).ok(), found, "{text:?}");
        }
        assert!(read(&folder.path().join("none")).is_err());
    }
}
