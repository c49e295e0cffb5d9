//! The operator's story, with an Envoy on "another machine": a network namespace that shares nothing with the server's.
