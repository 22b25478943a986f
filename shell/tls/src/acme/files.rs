//! Account and certificate as files of mode 0600, named after what they are for and whom they are from.

use std::io::{Error, ErrorKind};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};

use crate::secret;

/// What is kept over restarts: the account's key (PKCS #8, DER) and the certificate with its key (PEM).
#[derive(Debug)]
pub(super) struct SecretFiles {
    folder: PathBuf,
    account: String,
    certificate: String,
}

impl SecretFiles {
    pub(super) fn new(
        folder: PathBuf,
        directory: &str,
        contact: Option<&str>,
        domain: &str,
    ) -> Result<Self> {
        secret::create_folder(&folder)?;
        Ok(Self {
            folder,
            account: file_name("account", directory, contact),
            certificate: file_name("certificate", directory, Some(domain)),
        })
    }

    pub(super) async fn load_account(&self) -> Result<Option<Vec<u8>>> {
        load(self.folder.join(&self.account)).await
    }

    pub(super) async fn store_account(&self, contents: Vec<u8>) -> Result<()> {
        store(self.folder.join(&self.account), contents).await
    }

    pub(super) async fn load_certificate(&self) -> Result<Option<Vec<u8>>> {
        load(self.folder.join(&self.certificate)).await
    }

    pub(super) async fn store_certificate(&self, contents: Vec<u8>) -> Result<()> {
        store(self.folder.join(&self.certificate), contents).await
    }
}

fn file_name(kind: &str, directory: &str, name: Option<&str>) -> String {
    let mut text = directory.to_owned();
    if let Some(name) = name {
        text.push('\0');
        text.push_str(name);
    }
    let digest = digest(&SHA256, text.as_bytes());
    format!("{kind}-{}.pem", URL_SAFE_NO_PAD.encode(&digest.as_ref()[..16]))
}

async fn load(path: PathBuf) -> Result<Option<Vec<u8>>> {
    match tokio::fs::read(&path).await {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("can't read {}", path.display())),
    }
}

/// On a thread for it: the disk is waited for.
async fn store(path: PathBuf, contents: Vec<u8>) -> Result<()> {
    tokio::task::spawn_blocking(move || secret::write(&path, &contents))
        .await
        .map_err(Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names under which a folder in use has them: another name would be another order.
    #[test]
    fn files_are_called_as_they_ever_were() {
        let directory = "https://localhost:37329/dir";
        let account = file_name("account", directory, Some("mailto:admin@example.test"));
        assert_eq!(account, "account-cteb_3hLzLeVgAtAFjHvlA.pem");
        let certificate = file_name("certificate", directory, Some("broker.example.test"));
        assert_eq!(certificate, "certificate-0sVZH_WaQtRKH-9KBNA_nw.pem");
        assert_ne!(file_name("account", directory, None), account);
    }
}
