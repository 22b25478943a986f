//! Giving back memory: of code that has run for the last time, and of what was freed.
//!
//! The kernel maps 64 KiB of a program around every page that is touched, so that starting up
//! (arguments, certificates, netlink) leaves most of a large binary mapped for good. What is still
//! needed comes back from the page cache at the next call, a few microseconds later.

use super::check;

/// Unmaps the program's code pages until they are run again; returns how many bytes of code there
/// are. For a daemon that has started and now waits.
pub fn release_idle_code() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut released = 0;
    for (start, len) in maps.lines().filter_map(code) {
        // SAFETY: the range is a private mapping of a file, readable and executable and never
        // writable (proc(5)): its pages equal the file's, whence the kernel brings them back
        // (madvise(2), MADV_DONTNEED). Nothing is unmapped in the meantime that holds code.
        let result = unsafe { libc::madvise(start as *mut libc::c_void, len, libc::MADV_DONTNEED) };
        if check(result).is_ok() {
            released += len;
        }
    }
    released
}

/// Gives memory that was freed back to the system: after a task that took much of it, where the allocator
/// keeps it for more of the same. Takes some milliseconds; a daemon that waits loses nothing by it.
pub fn release_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and touches nothing but what is free, under the allocator's own locks
    // (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Start and length of a line of /proc/self/maps that stands for a file's code: `start-end r-xp
/// offset device inode path`.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    if fields.next()? != "r-xp" || !fields.nth(3)?.starts_with('/') {
        return None;
    }
    let (start, end) =
        (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_env = "gnu")]
    fn what_was_freed_is_the_systems_again() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            rss.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
        };
        // Small ones, of which the last stays: they aren't given back by themselves.
        let mut pieces: Vec<Box<[u8; 1000]>> = (0..32_000).map(|_| Box::new([1; 1000])).collect();
        let last = pieces.pop();
        drop(pieces);
        let before = resident();
        release_freed_memory();
        let after = resident();
        assert!(after + 20_000 < before, "{before} KiB before, {after} after");
        drop(last);
    }

    #[test]
    fn code_of_files_alone_is_taken() {
        let line = "55d0a000-55d0c000 r-xp 00002000 fd:00 1234      /usr/bin/warren";
        assert_eq!(code(line), Some((0x55d0_a000, 0x2000)));
        for other in [
            "55d0a000-55d0c000 r--p 00000000 fd:00 1234      /usr/bin/warren",
            "55d0a000-55d0c000 rw-p 00000000 fd:00 1234      /usr/bin/warren",
            "55d0a000-55d0c000 rwxp 00000000 fd:00 1234      /usr/bin/warren",
            "55d0a000-55d0c000 r-xs 00000000 fd:00 1234      /usr/bin/warren",
            "7ffd0000-7ffd2000 r-xp 00000000 00:00 0         [vdso]",
            "7ffd0000-7ffd2000 r-xp 00000000 00:00 0 ",
            "",
        ] {
            assert_eq!(code(other), None, "{other}");
        }
    }

    #[test]
    fn the_program_runs_on_with_fewer_pages() {
        let resident = || {
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let mut is_code = false;
            smaps.lines().fold(0_usize, |sum, line| {
                if line.split_once(' ').is_some_and(|(range, _)| range.contains('-')) {
                    is_code = code(line).is_some();
                }
                let rss = line.strip_prefix("Rss:").filter(|_| is_code);
                sum + rss.map_or(0, |kib| kib.trim().trim_end_matches(" kB").parse().unwrap())
            })
        };
        let before = resident();
        assert!(release_idle_code() > 0);
        let after = resident();
        assert!(after < before, "{before} KiB of code before, {after} after");
    }
}
