//! What people get wrong, through the real programs: each mistake is named with its cure, with the right exit status, and
//! leaves nothing behind that the next start trips over.

mod commands;
pub mod place;
mod starts;
