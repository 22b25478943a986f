use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::acme::is_challenge;

/// What an accepted connection goes through.
#[derive(Clone, Debug)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    /// Answers an ACME authority.
    challenge: Option<Arc<ServerConfig>>,
}

impl Acceptor {
    /// For a certificate that comes from elsewhere.
    pub fn new(config: Arc<ServerConfig>) -> Self {
        Self { config, challenge: None }
    }

    pub(crate) fn with_challenge(config: Arc<ServerConfig>, challenge: Arc<ServerConfig>) -> Self {
        Self { config, challenge: Some(challenge) }
    }

    /// The same, offering one more protocol by ALPN.
    #[must_use]
    pub fn with_protocol(self, protocol: &[u8]) -> Self {
        let mut config = ServerConfig::clone(&self.config);
        config.alpn_protocols.push(protocol.to_vec());
        Self { config: Arc::new(config), ..self }
    }

    /// The handshake. `None`: it was a challenge, which the handshake itself answers.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn accept<S>(&self, socket: S) -> io::Result<Option<TlsStream<S>>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket).await?;
        if let Some(challenge) = &self.challenge
            && is_challenge(&start.client_hello())
        {
            let mut stream = start.into_stream(Arc::clone(challenge)).await?;
            stream.shutdown().await?;
            return Ok(None);
        }
        Ok(Some(start.into_stream(Arc::clone(&self.config)).await?))
    }
}
