//! Receives running Podman containers from hosts that are paired with this one.

fn main() -> std::process::ExitCode {
    common::multicall::dispatch();
    agent_server::cli::run(agent_server::cli::Cli::read())
}
