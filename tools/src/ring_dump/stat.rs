//! Files of /proc that tell of a process or a thread.

use std::fs;

/// What is in a file of /proc. Names in it may be any bytes.
pub(crate) fn read(path: &str) -> std::io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}

/// Name, state and start time in ticks, out of `/proc/PID/stat`. The name may contain anything.
pub(crate) fn parse(stat: &str) -> Option<(&str, char, u64)> {
    let (from, to) = (stat.find('(')?, stat.rfind(')')?);
    let name = stat.get(from + 1..to)?;
    let mut rest = stat.get(to + 1..)?.split_ascii_whitespace();
    let letter = rest.next()?.chars().next()?;
    let ticks = rest.nth(18)?.parse().ok()?;
    Some((name, letter, ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_contain_anything() {
        let stat =
            "812 (a ) (b)) T 1 812 812 0 -1 4194560 110 0 0 0 0 0 0 0 20 0 1 0 4321 2936832 177";
        assert_eq!(parse(stat), Some(("a ) (b)", 'T', 4321)));
        for cut in 0..stat.len() {
            let _ = parse(&stat[..cut]);
        }
    }
}
