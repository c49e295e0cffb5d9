//! The xDS server: what Envoy is told, and how.
//!
//! ```text
//!              resources ──▶ snapshot ──▶ watch::Receiver<Arc<Fleet>>
//!         (policy → Envoy)   (immutable)            │
//!                                                   ▼
//!   Envoy ◀── gRPC ──▶ service (tonic shell) ⇄ stream (pure protocol state machine) ──▶ encode
//! ```
//!
//! A [`snapshot::Snapshot`] is consistent by construction and its resources are encoded once. A
//! [`stream::AdsStream`] decides, for one gRPC stream and without any IO, what to answer; [`service`] carries it.

pub mod encode;
pub mod metrics;
pub mod on_demand;
pub mod resource;
pub mod resources;
pub mod service;
pub mod snapshot;
pub mod stream;
