//! QR codes as SVG, for a phone's camera.

use qrcode::{Color, EcLevel, QrCode};

/// Modules of white around the code (ISO/IEC 18004 §6.3.8).
const QUIET: usize = 4;

/// Draws a QR code, black on white in light and dark alike: cameras want it so. `None`: the text is
/// too long for one. `label` says what it is to who doesn't see it.
pub fn svg(text: &str, label: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::M).ok()?;
    let width = code.width();
    let colors = code.to_colors();
    let mut path = String::new();
    for (y, row) in colors.chunks(width).enumerate() {
        let mut x = 0;
        while x < width {
            let run = row[x..].iter().take_while(|color| **color == Color::Dark).count();
            if run > 0 {
                path.push_str(&format!("M{} {}h{run}v1h-{run}z", x + QUIET, y + QUIET));
            }
            x += run.max(1);
        }
    }
    let side = width + 2 * QUIET;
    let label = escape(label);
    Some(format!(
        "<svg class=\"qr\" viewBox=\"0 0 {side} {side}\" role=\"img\" aria-label=\"{label}\" \
         shape-rendering=\"crispEdges\"><rect width=\"{side}\" height=\"{side}\" \
         fill=\"#fff\"/><path fill=\"#000\" d=\"{path}\"/></svg>"
    ))
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_drawn_with_its_quiet_zone_and_its_label_escaped() {
        let svg = svg("https://mesh.example.com/join#key.pin", "Join \"home\" <now>").unwrap();
        assert!(svg.contains("aria-label=\"Join &quot;home&quot; &lt;now&gt;\""));
        assert!(svg.contains("M4 4h7v1h-7z"), "the finder pattern stands after four white modules");
        assert!(!svg.contains("style="));
        assert!(super::svg(&"x".repeat(5000), "").is_none());
    }
}
