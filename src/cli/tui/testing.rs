//! What the tests of both screens need.

use proptest::prelude::*;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::{Frame, Terminal};

/// What is drawn on a screen of this size.
pub(in crate::cli) fn drawn(draw: impl FnOnce(&mut Frame<'_>), width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(draw).unwrap();
    terminal.backend().buffer().clone()
}

/// Its lines.
pub(in crate::cli) fn lines(buffer: &Buffer) -> String {
    let (width, height) = (buffer.area.width, buffer.area.height);
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned() + "\n";
    (0..height).map(line).collect()
}

/// The screens as they were when somebody looked at them; `UPDATE_GOLDEN` writes them anew.
pub(in crate::cli) fn are_as_they_were(screens: &str, golden: &str) {
    let file = format!("{}/{golden}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, screens).unwrap();
    }
    let was = std::fs::read_to_string(&file).unwrap();
    let differs = was.lines().zip(screens.lines()).position(|(a, b)| a != b);
    let line = differs.unwrap_or(was.lines().count().min(screens.lines().count()));
    assert!(
        screens == was,
        "line {} of {golden}:\n  is now {:?}\n  was    {:?}\nIf that is meant: run this with UPDATE_GOLDEN=1.",
        line + 1,
        screens.lines().nth(line),
        was.lines().nth(line)
    );
}

/// Texts as nobody means well by them.
pub(in crate::cli) fn hostile() -> impl Strategy<Value = String> {
    let worst = [
        "\u{1b}[2J",
        "\u{1b}]0;x\u{7}",
        "\n",
        "\r\t",
        "\0",
        "\u{9b}31m",
        "\u{202e}",
        "\u{200b}",
        "日本",
        "e\u{301}",
        "👩‍👩‍👧",
        "x",
    ];
    prop::collection::vec(
        prop_oneof![
            prop::sample::select(worst.to_vec()).prop_map(str::to_owned),
            "\\PC{0,9}",
            any::<char>().prop_map(String::from)
        ],
        0..12,
    )
    .prop_map(|parts| parts.concat())
}
