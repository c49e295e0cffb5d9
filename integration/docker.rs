//! The adapter to Docker, against the real engine: what is made is found again, does what it should, and is gone at the end.

mod envoy;
mod refusals;
mod sandbox;
mod world;
