//! What the terminal interfaces of `adev` and `actl` share: the screen, how texts are made safe for it, how things are marked.

pub(super) mod entry;
mod palette;
mod screen;
#[cfg(test)]
pub(super) mod testing;
mod text;

pub(super) use self::palette::{Level, Palette, mark, mark_of};
pub(super) use self::screen::{Screen, key, left, now_ms};
pub(super) use self::text::{clean, contains, message, wrapped, wrapped_whole};
