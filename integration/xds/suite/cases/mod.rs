//! The cases, in the order of the list.

mod order;
mod sessions;
mod subscriptions;
mod verdicts;
mod volume;

use super::Case;

macro_rules! case {
    ($number:literal, $title:literal, $module:ident::$function:ident) => {
        Case { number: $number, title: $title, run: |run| Box::pin($module::$function(run)) }
    };
}

/// Every case.
pub const CASES: &[Case] = &[
    case!(1, "a stale nonce is not answered (SotW)", verdicts::stale_nonce),
    case!(2, "a stale nonce keeps the subscription change it carries (delta)", verdicts::stale_nonce_with_a_change),
    case!(3, "a NACK is known by error_detail, never by versions", verdicts::known_by_error_detail),
    case!(4, "after a NACK nothing is resent until content changes; other types go on", verdicts::nothing_is_resent),
    case!(5, "a NACK that also changes the subscription: both count", verdicts::nack_with_a_change),
    case!(6, "an empty first request is a wildcard (LDS, CDS)", subscriptions::empty_is_a_wildcard),
    case!(7, "`*` and A, then A only, then nothing", subscriptions::wildcard_let_go),
    case!(8, "empty, then +A is still a wildcard (delta)", subscriptions::wildcard_and_more),
    case!(
        9,
        "unsubscribing A under a wildcard: A is sent or listed as removed",
        subscriptions::unsubscribed_under_wildcard
    ),
    case!(10, "a known name subscribed again is sent again", subscriptions::subscribed_again),
    case!(11, "a name that does not exist is said to be gone, and pushed when it comes", subscriptions::does_not_exist),
    case!(12, "the first wildcard is answered at once, even with nothing", subscriptions::wildcard_of_nothing),
    case!(13, "a reconnect is not resent what it has, and told what is gone", sessions::reconnect),
    case!(14, "versions are the same after a restart and on a replica", sessions::same_versions),
    case!(15, "SotW LDS and CDS are full sets; others may be partial", volume::full_sets),
    case!(16, "no name twice in a response", volume::no_name_twice),
    case!(17, "the node is needed on the first message only", sessions::node_once),
    case!(18, "no node at all is a clear gRPC error", sessions::no_node),
    case!(19, "an unknown type on an aggregated stream is ignored", sessions::unknown_type),
    case!(20, "aggregated and per-type streams at once", sessions::both_kinds_of_streams),
    case!(21, "CDS, EDS, LDS, RDS, each after the ACK before; removals last", order::make_before_break),
    case!(22, "a changed cluster's endpoints are pushed again", order::endpoints_again),
    case!(23, "a reconnect that forgets a type is closed", sessions::forgotten_type),
    case!(24, "a secret that is not there yet arrives when it is", order::late_secret),
    case!(25, "the ConfigSource of a secret never changes", order::config_sources),
    case!(26, "a slow reader gets the latest, and holds nobody up", volume::slow_reader),
    case!(27, "100 edits are a few pushes, and the final state exactly", volume::many_edits),
    case!(28, "unsubscribing what was never subscribed is ignored (delta)", subscriptions::never_subscribed),
    case!(29, "a TTL heartbeat has the same version and no body", volume::heartbeats),
    case!(30, "two streams with one node id", sessions::two_streams),
    case!(31, "what is over 4 MB arrives whole: split (delta), or in one (SotW)", volume::large),
    case!(32, "control_plane.identifier is set", volume::identifier),
];
