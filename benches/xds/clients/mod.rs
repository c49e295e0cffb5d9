//! Many light clients in one thread, and the server they are clients of: for the benchmark and for the tests of faults.

pub(crate) mod fleet;
pub(crate) mod http2;
pub(crate) mod messages;
pub(crate) mod server;
