//! `warren serve`.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use warren_broker::{
    AcmeConfig, DeviceLimit, OidcConfig, RelayRuntime, ServeConfig, SetLogFilter, SmtpConfig,
    TlsMode,
};

use crate::cli::{Serve, SingleSignOn, Smtp, Tls};
use crate::folder;
use crate::logging::SetFilter;
use crate::output::Usage;
use crate::shutdown;

/// Where the broker keeps its things unless `--data` says otherwise.
pub(crate) fn data_folder(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    given
        .or_else(|| folder::of("broker"))
        .context("there is no home folder for the broker's data: give --data DIR")
}

#[cfg(feature = "relay")]
fn relay(unwanted: bool) -> Option<Arc<dyn RelayRuntime>> {
    (!unwanted).then(|| Arc::new(crate::relay::Embedded) as Arc<dyn RelayRuntime>)
}

#[cfg(not(feature = "relay"))]
fn relay(_unwanted: bool) -> Option<Arc<dyn RelayRuntime>> {
    None
}

/// All of it or nothing.
fn oidc(args: SingleSignOn) -> anyhow::Result<Option<OidcConfig>> {
    let secret = secret(args.oidc_client_secret, args.oidc_client_secret_file.as_deref())?;
    let is_wanted = args.oidc_client_id.is_some() || secret.is_some();
    let Some(issuer) = args.oidc_issuer else {
        if is_wanted {
            return Err(Usage("give --oidc-issuer URL, too".to_owned()).into());
        }
        return Ok(None);
    };
    let lacks = |what: &str| Usage(format!("--oidc-issuer needs {what}, too"));
    Ok(Some(OidcConfig {
        issuer,
        client_id: args.oidc_client_id.ok_or_else(|| lacks("--oidc-client-id"))?,
        client_secret: secret
            .ok_or_else(|| lacks("--oidc-client-secret or --oidc-client-secret-file"))?,
        name: args.oidc_name,
        domains: args.oidc_domain,
        newcomers: args.oidc_new_users,
        authority: args.oidc_ca,
    }))
}

/// All of it or nothing.
fn smtp(args: Smtp) -> anyhow::Result<Option<SmtpConfig>> {
    let password = secret(args.smtp_password, args.smtp_password_file.as_deref())?;
    let usage = |what: &str| Usage(what.to_owned());
    let Some(server) = args.smtp_server else {
        if args.smtp_from.is_some() || args.smtp_user.is_some() || password.is_some() {
            return Err(usage("give --smtp-server HOST, too").into());
        }
        return Ok(None);
    };
    let credentials = match (args.smtp_user, password) {
        (Some(user), Some(password)) => Some((user, password)),
        (None, None) => None,
        (Some(_), None) => {
            return Err(usage("--smtp-user needs --smtp-password-file, too").into());
        }
        (None, Some(_)) => return Err(usage("a mail password needs --smtp-user, too").into()),
    };
    Ok(Some(SmtpConfig {
        server,
        security: args.smtp_tls.into(),
        credentials,
        from: args.smtp_from.ok_or_else(|| usage("--smtp-server needs --smtp-from, too"))?,
        authority: args.smtp_ca,
    }))
}

/// A secret, or the one that a file has.
fn secret(given: Option<String>, file: Option<&Path>) -> anyhow::Result<Option<String>> {
    let Some(path) = file else { return Ok(given) };
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("can't read the secret in {}", path.display()))?;
    Ok(Some(text.trim().to_owned()))
}

pub(crate) async fn serve(args: Box<Serve>, set_log_filter: SetFilter) -> anyhow::Result<()> {
    let args = *args;
    let mut config = ServeConfig::new(data_folder(args.data)?);
    config.listen = args.listen;
    config.public_url = args.public_url;
    config.stun = args.stun;
    config.stun_public = args.stun_public;
    config.trusted_proxies = args.trusted_proxy;
    config.dns_suffix = Some(args.suffix);
    config.admin_socket = args.admin_socket;
    config.relay = relay(args.no_relay);
    config.set_log_filter = Some(SetLogFilter(set_log_filter));
    config.webhook_targets = args.allow_webhook;
    config.oidc = oidc(args.single_sign_on)?;
    config.smtp = smtp(args.smtp)?;
    config.max_devices = DeviceLimit(args.max_devices);
    // Under a service manager the journal would keep the secret.
    config.first_link = std::io::stdout().is_terminal();
    config.tls = match args.tls {
        Tls::SelfSigned => TlsMode::SelfSigned,
        Tls::Off => TlsMode::Off,
        Tls::Acme => {
            let mut acme = AcmeConfig {
                root: args.acme_root,
                email: args.acme_email,
                ..AcmeConfig::default()
            };
            if let Some(directory) = args.acme_directory {
                acme.directory = directory;
            }
            TlsMode::Acme(acme)
        }
    };
    config.check().map_err(|error| Usage(format!("{error:#}")))?;
    warren_broker::serve(config, shutdown::signal()?).await
}
