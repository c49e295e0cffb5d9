//! The keys that leave a terminal without ending what runs in it: Ctrl-P Ctrl-Q, as with Docker.

const FIRST: u8 = 0x10;
const SECOND: u8 = 0x11;

/// Looks for the keys in what is typed. The first of them is held back until it is clear what follows.
#[derive(Debug, Default)]
pub(super) struct DetachKeys {
    held: bool,
}

impl DetachKeys {
    /// What is to be passed on of `typed`, and whether the keys came; what follows them is dropped.
    pub(super) fn push(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len() + 1);
        for &byte in typed {
            if std::mem::take(&mut self.held) {
                if byte == SECOND {
                    return (passed, true);
                }
                passed.push(FIRST);
            }
            if byte == FIRST {
                self.held = true;
            } else {
                passed.push(byte);
            }
        }
        (passed, false)
    }

    /// Whether a key is held back.
    pub(super) fn holds(&self) -> bool {
        self.held
    }

    /// The key held back, when nothing follows it for a while: it was meant for the program.
    pub(super) fn release(&mut self) -> &'static [u8] {
        if std::mem::take(&mut self.held) { &[FIRST] } else { &[] }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_two_keys_in_a_row_detach() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.push(b"ls\x10\x11rm"), (b"ls".to_vec(), true));
        assert_eq!(keys.push(b"a\x10"), (b"a".to_vec(), false));
        assert!(keys.holds());
        assert_eq!(keys.push(b"\x11"), (Vec::new(), true));
        // The first key twice: the second of them may still be the start.
        assert_eq!(keys.push(b"\x10\x10\x11"), (b"\x10".to_vec(), true));
        assert_eq!(keys.push(b"\x11\x10x"), (b"\x11\x10x".to_vec(), false));
        assert_eq!(keys.push(b"\x10"), (Vec::new(), false));
        assert_eq!((keys.release(), keys.release(), keys.holds()), (&b"\x10"[..], &b""[..], false));
        assert_eq!(keys.push(b"\x11"), (b"\x11".to_vec(), false), "too late");
    }

    proptest! {
        #[test]
        fn whatever_is_not_the_keys_is_passed_on_as_it_is(
            parts in proptest::collection::vec(proptest::collection::vec(prop_oneof![Just(FIRST), Just(SECOND), any::<u8>()], 0..6), 0..8)
        ) {
            let typed: Vec<u8> = parts.concat();
            let mut keys = DetachKeys::default();
            let mut passed = Vec::new();
            let detached = parts.iter().any(|part| {
                let (bytes, detached) = keys.push(part);
                passed.extend(bytes);
                detached
            });
            passed.extend(keys.release());
            let end = typed.windows(2).position(|pair| pair == [FIRST, SECOND]);
            prop_assert_eq!(detached, end.is_some());
            prop_assert_eq!(passed, &typed[..end.unwrap_or(typed.len())]);
        }
    }
}
