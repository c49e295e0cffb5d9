//! The server; see `agent-creds --help`.

/// Of the 28 KB that a connection of HTTP/2 reserves most is never touched: this one leaves that to the system, and puts what lives
/// long apart from what does not. With the C library's a client took 1.6 times as much.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    agent_creds::cli::server::main()
}
