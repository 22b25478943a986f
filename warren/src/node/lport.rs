use warren_node::local::ListenPortChange;

use crate::cli::{self, Global};
use crate::output::{self, say};

/// `warren lport [PORT | auto]`.
pub(crate) async fn lport(global: &Global, args: &cli::Lport) -> anyhow::Result<()> {
    let change = super::client(global).listen_port(args.port).await?;
    if global.json {
        return output::json(&change);
    }
    match args.port {
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
