//! `adev`: launches sandboxes and attaches to them; see `adev --help`.

fn main() -> std::process::ExitCode {
    agent_creds::cli::adev::main()
}
