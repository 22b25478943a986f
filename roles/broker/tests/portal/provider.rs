//! npm's `oidc-provider` as a process beside the broker.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::json;
use warren_broker::OidcConfig;
use warren_browser::Browser;

/// With what a query would take for its own, and a header for the end of the id.
const SECRET: &str = "s3cret: +&%";

/// Whose certificate comes from an authority of its own.
pub(crate) struct Provider {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// What the broker is told of a provider that will be at this port.
pub(crate) fn oidc(folder: &Path, port: u16) -> OidcConfig {
    OidcConfig {
        issuer: format!("https://127.0.0.1:{port}"),
        client_id: "warren".to_owned(),
        client_secret: SECRET.to_owned(),
        name: Some("Example".to_owned()),
        domains: Vec::new(),
        newcomers: None,
        authority: Some(folder.join("authority.pem")),
    }
}

/// A key and certificate for this machine; the certificate is also left in the folder.
pub(crate) fn certify(folder: &Path) -> (String, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(folder.join("authority.pem"), cert.pem()).unwrap();
    (signing_key.serialize_pem(), cert.pem())
}

impl Provider {
    /// Starts it for a broker.
    pub(crate) fn start(
        folder: &Path,
        (key, cert): &(String, String),
        port: u16,
        broker: &str,
    ) -> Self {
        let browser = Browser::find().unwrap();
        let job = json!({
            "modules": browser.modules(),
            "key": key,
            "cert": cert,
            "redirect": format!("{broker}/sign-in/sso/callback"),
            "secret": SECRET,
            "port": port,
        });
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/portal/provider.mjs");
        let mut process = Command::new(browser.node())
            .arg(script)
            .arg(job.to_string())
            .env("NODE_EXTRA_CA_CERTS", folder.join("authority.pem"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut provider = Self { process, input, output };
        let issuer = provider.line();
        assert_eq!(issuer, format!("https://127.0.0.1:{port}"));
        provider
    }

    /// Where the provider sends somebody who follows a URL and signs in there; nobody: he calls it
    /// off.
    pub(crate) fn visit(&mut self, url: &str, login: Option<&str>) -> String {
        let order = json!({"visit": url, "login": login});
        writeln!(self.input, "{order}").unwrap();
        self.line()
    }

    /// The broker goes on meanwhile.
    fn line(&mut self) -> String {
        tokio::task::block_in_place(|| {
            let mut line = String::new();
            self.output.read_line(&mut line).unwrap();
            line.trim().to_owned()
        })
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
