use anyhow::bail;
use warren_node::local::{ListenPort, ListenPortChange};

use crate::cli::{self, Global};
use crate::output::{self, say};

/// `warren lport [PORT | auto]`.
pub(crate) async fn lport(global: &Global, args: &cli::Lport) -> anyhow::Result<()> {
    let set = args.port.as_deref().map(parse).transpose()?;
    let change = super::client(global).listen_port(set).await?;
    if global.json {
        return output::json(&change);
    }
    match set {
        None => say!("Listen port: {}", shown(&change)),
        Some(_) => {
            say!("Listen port set to: {}", shown(&change));
            if change.changed {
                say!("Tunnel restarting in background...");
            }
        }
    }
    Ok(())
}

fn shown(change: &ListenPortChange) -> String {
    let note = if change.auto { " (auto-assigned)" } else { "" };
    format!("{}{note}", change.port)
}

fn parse(text: &str) -> anyhow::Result<ListenPort> {
    if text == "auto" {
        return Ok(ListenPort::Auto);
    }
    match text.parse() {
        Ok(0) | Err(_) => bail!("'{text}' isn't a port: give a number from 1 to 65535, or `auto`"),
        Ok(port) => Ok(ListenPort::Fixed(port)),
    }
}
