//! What the demo shows: a table that is drawn over itself, plain lines, or JSON.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use serde::Serialize;

use super::{camera, own_name};

/// All there is to see.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct View {
    pub(super) devices: Vec<DeviceView>,
    pub(super) paths: Vec<PathView>,
    pub(super) camera: CameraView,
    #[serde(skip)]
    pub(super) trouble: Option<String>,
}

/// A device and the NAT it is behind.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct DeviceView {
    pub(super) name: String,
    pub(super) behind: String,
    pub(super) address: String,
    pub(super) state: String,
    pub(super) mesh: Option<String>,
    pub(super) seen_as: Option<String>,
}

/// A pair, from the side that began.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct PathView {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) path: String,
    pub(super) endpoint: Option<String>,
    pub(super) relay: Option<String>,
    pub(super) rtt_ms: Option<f64>,
    pub(super) found_after_ms: Option<u64>,
    pub(super) reason: Option<String>,
}

/// The camera in the office's LAN, which has no Warren.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct CameraView {
    /// In the LAN.
    pub(super) address: String,
    pub(super) mesh: Option<String>,
    pub(super) state: String,
    /// How long its page took, from the laptop.
    pub(super) answered_ms: Option<u64>,
}

impl PathView {
    /// Whether the reason tells why it isn't direct.
    fn is_explained(&self) -> bool {
        self.endpoint.is_none() || self.relay.is_some()
    }
}

impl View {
    /// Whether every pair has found the best path that there is for it, and the camera was seen.
    pub(super) fn is_complete(&self) -> bool {
        let pairs = self.devices.len() * self.devices.len().saturating_sub(1) / 2;
        self.paths.iter().filter(|path| path.found_after_ms.is_some()).count() == pairs
            && self.camera.answered_ms.is_some()
    }
}

/// How it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// On a terminal, over and over in the same place.
    Table,
    /// What has changed, once.
    Lines,
    /// As [`Form::Lines`], the whole view each time.
    Json,
}

/// Where it is shown.
pub(super) struct Screen {
    form: Form,
    shown: Option<View>,
    height: usize,
}

impl Screen {
    pub(super) fn new(form: Form) -> Self {
        if form == Form::Table {
            let _ = writeln!(
                io::stdout(),
                "Building three homes, an office, a carrier and a broker on this machine …"
            );
        }
        Self { form, shown: None, height: 0 }
    }

    pub(super) fn draw(&mut self, view: &View) -> io::Result<()> {
        if self.shown.as_ref() == Some(view) {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        match self.form {
            Form::Table => {
                let text = table(view);
                if self.height > 0 {
                    // Up to where the last one began, and clear from there.
                    write!(out, "\x1b[{}A\x1b[J", self.height)?;
                }
                self.height = text.lines().count();
                // Cut off at the edge rather than wrapped: the height must hold.
                write!(out, "\x1b[?7l{text}\x1b[?7h")?;
            }
            Form::Lines => {
                for line in news(self.shown.as_ref(), view) {
                    writeln!(out, "{line}")?;
                }
            }
            Form::Json => writeln!(out, "{}", serde_json::to_string(view)?)?,
        }
        out.flush()?;
        self.shown = Some(view.clone());
        Ok(())
    }

    pub(super) fn end(&self) {
        let farewell = match self.form {
            Form::Table => "\nThe demo has ended; nothing of it is left on this machine.\n",
            Form::Lines => "ended\n",
            Form::Json => "",
        };
        // Whoever closed the output needs no farewell.
        let _ = io::stdout().write_all(farewell.as_bytes());
    }
}

fn table(view: &View) -> String {
    let mut text = String::new();
    let mut line = |columns: String| {
        let _ = writeln!(text, "{}", columns.trim_end());
    };
    line(String::new());
    line(format!("  {:<9}{:<17}{:<22}{}", "DEVICE", "MESH ADDRESS", "SEEN OUTSIDE AS", "BEHIND"));
    for device in &view.devices {
        line(format!(
            "  {:<9}{:<17}{:<22}{}",
            device.name,
            device.mesh.as_deref().unwrap_or(&device.state),
            device.seen_as.as_deref().unwrap_or("…"),
            device.behind
        ));
    }
    line(String::new());
    line(format!("  {:<19}{:<33}{:<12}{}", "FROM → TO", "PATH", "ROUND TRIP", "FOUND AFTER"));
    for path in &view.paths {
        line(format!(
            "  {:<19}{:<33}{:<12}{}",
            format!("{} → {}", path.from, path.to),
            path_goes(path),
            path.rtt_ms.map(|rtt| format!("{rtt:.1} ms")).unwrap_or_default(),
            path.found_after_ms.map(seconds).unwrap_or_default()
        ));
        if let (true, Some(reason)) = (path.is_explained(), &path.reason) {
            line(format!("      {reason}"));
        }
    }
    line(String::new());
    camera_words(&view.camera).lines().for_each(|words| line(format!("  {words}")));
    line(String::new());
    line("  Look inside, in another terminal (there: `warren status`, `ping desktop`):".to_owned());
    line(format!("    {}", way_in()));
    line("  Ctrl-C ends it.".to_owned());
    text
}

/// What becomes of the camera, in a line or two.
fn camera_words(view: &CameraView) -> String {
    let (name, edge, viewer) = (camera::NAME, camera::EDGE, camera::VIEWER);
    let mesh = view.mesh.as_deref().unwrap_or("…");
    let stands = format!("{name}, {} in the {edge}'s LAN", view.address);
    let seen = match view.answered_ms {
        Some(ms) => format!("{viewer} → http://{name}.{edge}/: its page opens, {ms} ms"),
        None => format!("{viewer} → http://{name}.{edge}/: {}", view.state),
    };
    format!("{stands}: in the mesh {mesh}\n{seen}")
}

/// The command that enters a device; the user who began the demo by `sudo` needs that again.
fn way_in() -> String {
    let sudo = if std::env::var_os("SUDO_USER").is_some() { "sudo " } else { "" };
    format!("{sudo}{} demo shell laptop", own_name())
}

fn path_goes(path: &PathView) -> String {
    match (&path.relay, &path.endpoint) {
        (Some(relay), _) => format!("{} via {relay}", path.path),
        (None, Some(endpoint)) => format!("{} via {endpoint}", path.path),
        (None, None) => path.path.clone(),
    }
}

fn path_words(path: &PathView) -> String {
    match &path.reason {
        Some(reason) if path.is_explained() => format!("{}: {reason}", path_goes(path)),
        Some(_) | None => path_goes(path),
    }
}

fn seconds(milliseconds: u64) -> String {
    format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100)
}

/// What is new in `view`, round trips left out: they change all the time.
fn news(before: Option<&View>, view: &View) -> Vec<String> {
    let mut lines = Vec::new();
    for device in &view.devices {
        let known = before.and_then(|view| view.devices.iter().find(|it| it.name == device.name));
        if known == Some(device) {
            continue;
        }
        let mut text = format!("{}: {}, behind {}", device.name, device.state, device.behind);
        if let Some(seen_as) = &device.seen_as {
            let _ = write!(text, ", seen from outside as {seen_as}");
        }
        if let Some(mesh) = &device.mesh {
            let _ = write!(text, ", mesh address {mesh}");
        }
        lines.push(text);
    }
    for path in &view.paths {
        let known = before
            .and_then(|view| view.paths.iter().find(|it| it.from == path.from && it.to == path.to));
        let same = |it: &PathView| {
            (&it.path, &it.endpoint, it.found_after_ms)
                == (&path.path, &path.endpoint, path.found_after_ms)
        };
        if known.is_some_and(same) {
            continue;
        }
        let mut text = format!("{} -> {}: {}", path.from, path.to, path_words(path));
        if let Some(rtt) = path.rtt_ms {
            let _ = write!(text, ", {rtt:.1} ms");
        }
        if let Some(after) = path.found_after_ms {
            let _ = write!(text, ", found after {}", seconds(after));
        }
        lines.push(text);
    }
    if before.is_none_or(|before| before.camera != view.camera) {
        lines.push(camera_words(&view.camera).replace('\n', "; "));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(path: &str, rtt_ms: f64) -> View {
        let device = |name: &str| DeviceView { name: name.to_owned(), ..DeviceView::default() };
        let path = PathView {
            from: "laptop".to_owned(),
            to: "desktop".to_owned(),
            path: path.to_owned(),
            endpoint: (path == "direct").then(|| "203.0.113.9:4000".to_owned()),
            relay: (path == "relayed").then(|| "broker".to_owned()),
            rtt_ms: Some(rtt_ms),
            found_after_ms: (path != "connecting").then_some(730),
            reason: (path == "relayed").then(|| "both NATs map per destination".to_owned()),
        };
        View {
            devices: vec![device("laptop"), device("desktop")],
            paths: vec![path],
            camera: CameraView { answered_ms: Some(31), ..CameraView::default() },
            trouble: None,
        }
    }

    #[test]
    fn a_view_is_complete_when_every_pair_has_its_path() {
        assert!(!view("connecting", 1.0).is_complete());
        assert!(view("direct", 1.0).is_complete());
        assert!(view("relayed", 1.0).is_complete());
        let mut unseen = view("direct", 1.0);
        unseen.camera.answered_ms = None;
        assert!(!unseen.is_complete());
        let mut more = view("direct", 1.0);
        more.devices.push(DeviceView::default());
        assert!(!more.is_complete());
    }

    #[test]
    fn the_table_fits_a_terminal_of_80_columns() {
        let mut view = view("direct", 123.4);
        view.devices = crate::demo::stage::SITES
            .iter()
            .map(|site| DeviceView {
                name: site.name.to_owned(),
                behind: site.behind.to_owned(),
                mesh: Some("100.127.255.254".to_owned()),
                seen_as: Some("203.0.113.254:65535".to_owned()),
                ..DeviceView::default()
            })
            .collect();
        view.paths[0].endpoint = Some("203.0.113.254:65535".to_owned());
        view.camera.address = "192.168.1.254".to_owned();
        view.camera.mesh = Some("100.127.255.254".to_owned());
        view.camera.answered_ms = Some(12_345);
        let own = way_in();
        for line in table(&view).lines().filter(|line| !line.contains(&own)) {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn plain_lines_tell_what_changed_and_leave_round_trips_out() {
        let before = view("connecting", 1.0);
        assert_eq!(
            news(Some(&before), &view("direct", 40.0)),
            ["laptop -> desktop: direct via 203.0.113.9:4000, 40.0 ms, found after 0.7 s"]
        );
        assert!(news(Some(&view("direct", 1.0)), &view("direct", 2.0)).is_empty());
        assert_eq!(
            news(Some(&before), &view("relayed", 41.0)),
            [
                "laptop -> desktop: relayed via broker: both NATs map per destination, 41.0 ms, found \
              after 0.7 s"
            ]
        );
    }
}
