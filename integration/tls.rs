//! TLS on both sides of a real Envoy: which names are served, what is presented, and whom Envoy trusts.

mod hello;
mod leaf;
mod many;
mod names;
mod upstream;
mod wildcard;

const STRIPE: &str = "api.stripe.com";
const OPENAI: &str = "api.openai.com";
