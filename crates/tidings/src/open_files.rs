//! How many files and connections the process may have open at once.

/// Besides the connections that are accepted: databases, the log, receivers, brokers.
const RESERVE: u64 = 1_024;

/// Raises the soft limit to the hard one, as servers do; where that is too little for so many connections it is said.
/// Without room for another, nothing can be accepted, and receivers cannot be reached.
pub(crate) fn allow(connections: usize) {
    let wanted = (connections as u64).saturating_add(RESERVE);
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) if limit < wanted => tracing::warn!(
            limit,
            wanted,
            "the process may open too few files for server.max_connections; raise its limit (ulimit -n, LimitNOFILE)"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of open files cannot be raised"),
    }
}
