//! Whether this process may open as many files as its connections need.

/// A stream takes two: the client's connection and the backend's.
const EACH: usize = 2;

/// Says so when there are not descriptors for `connections`, before the first client finds out.
pub(super) fn warn_of_too_few(connections: usize) {
    // Only Linux has it; elsewhere nothing is known, and nothing is said.
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if let Some(files) = open_files(&limits).filter(|files| files / EACH < connections) {
        tracing::warn!(
            files,
            connections,
            "`limits.connections` is more than this process may open files for, two for each; \
             raise the limit of open files (`ulimit -n`, `LimitNOFILE=` of systemd), or lower it to {}",
            files / EACH
        );
    }
}

/// The limit in force of the files that may be open at once; `None` where there is none.
fn open_files(limits: &str) -> Option<usize> {
    limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_in_force_is_found() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             95977                95977                processes \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(open_files(&limits.replace("1024 ", "unlimited ")), None);
        assert_eq!(open_files(""), None);
    }
}
