//! The server; see `agent-creds --help`.

fn main() -> std::process::ExitCode {
    agent_creds::cli::server::main()
}
