//! `actl`: watches and controls a server; see `actl --help`.

fn main() -> std::process::ExitCode {
    agent_creds::cli::actl::main()
}
