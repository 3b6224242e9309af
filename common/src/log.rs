//! Logs always go to stderr: stdout is for results.

use tracing_subscriber::EnvFilter;

/// Starts logging at `level`, or more with `-v` and `-vv`; RUST_LOG overrides both.
pub fn init(verbose: u8, level: &str) {
    let level = match verbose {
        0 => level,
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new(format!(
            "warn,agent_client={level},agent_server={level},common={level},trust={level}"
        ))
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
}
