//! `warren serve`: how people sign in besides by password.

use std::path::PathBuf;

use clap::Args;
use warren_proto::DeviceName;

use super::values::parse_name;

const HEADING: &str = "Single sign-on";

#[derive(Debug, Args)]
#[command(next_help_heading = HEADING)]
pub(crate) struct SingleSignOn {
    /// OpenID provider that people may sign in by: its issuer URL. It sends them back to
    /// PUBLIC-URL/sign-in/sso/callback
    #[arg(long, value_name = "URL")]
    pub(crate) oidc_issuer: Option<String>,
    /// What this broker is called there
    #[arg(long, value_name = "ID")]
    pub(crate) oidc_client_id: Option<String>,
    /// The client's secret
    #[arg(
        long,
        value_name = "SECRET",
        env = "WARREN_OIDC_CLIENT_SECRET",
        hide_env_values = true,
        conflicts_with = "oidc_client_secret_file"
    )]
    pub(crate) oidc_client_secret: Option<String>,
    /// File with the client's secret
    #[arg(long, value_name = "FILE")]
    pub(crate) oidc_client_secret_file: Option<PathBuf>,
    /// What people call the provider: 'Continue with NAME' [default: its host]
    #[arg(long, value_name = "NAME")]
    pub(crate) oidc_name: Option<String>,
    /// Domain of the e-mail addresses that may come in so [default: all]
    #[arg(long, value_name = "DOMAIN", value_delimiter = ',')]
    pub(crate) oidc_domain: Vec<String>,
    /// Account that people of those domains join as members though nobody has invited them
    #[arg(long, value_name = "ACCOUNT", value_parser = parse_name)]
    pub(crate) oidc_new_users: Option<DeviceName>,
    /// PEM file of an authority that the provider's own certificate comes from
    #[arg(long, value_name = "FILE")]
    pub(crate) oidc_ca: Option<PathBuf>,
}
