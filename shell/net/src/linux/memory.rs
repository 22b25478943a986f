//! Memory: how a server's heap is laid out, and giving back code that has run for the last time.
//!
//! glibc's heap begins with 8 heaps per core, and carves buffers of many kilobytes out of whatever
//! has been used before. A server's connections live for days, and most pages of their buffers are
//! never written: in pages of their own, which the kernel gives out once they are touched, those
//! cost nothing (docs/adr/0014).
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

/// Blocks from this size on are mapped alone: two pages.
const LARGE: libc::c_int = 8 * 1024;

/// Lays the heap out for many connections that live for days: one heap for all threads, and large
/// blocks in pages of their own. To be called before there are threads; returns whether the
/// allocator is one that can.
#[cfg(target_env = "gnu")]
pub fn keep_large_blocks_apart() -> bool {
    // The heap grows by what is asked for: room at its end would go to large blocks.
    let settings = [(libc::M_MMAP_THRESHOLD, LARGE), (libc::M_ARENA_MAX, 1), (libc::M_TOP_PAD, 0)];
    settings.into_iter().all(|(parameter, value)| {
        // SAFETY: these parameters take any non-negative number (mallopt(3)).
        unsafe { libc::mallopt(parameter, value) == 1 }
    })
}

/// Lays the heap out for many connections that live for days, where the allocator can: not here.
#[cfg(not(target_env = "gnu"))]
pub fn keep_large_blocks_apart() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_env = "gnu")]
    fn pages_of_large_blocks_that_nobody_touched_cost_nothing() {
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/statm").unwrap();
            text.split(' ').nth(1).unwrap().parse::<usize>().unwrap()
        };
        assert!(keep_large_blocks_apart());
        let before = resident();
        let blocks: Vec<Vec<u8>> = (0..1000).map(|_| Vec::with_capacity(16 * 1024)).collect();
        let each = (resident() - before) as f64 / blocks.len() as f64;
        assert!(each < 2.0, "{each} pages for each block");
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
