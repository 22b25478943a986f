//! What the portal and the edge's pages share: one layout and style, embedded assets, cookies,
//! tokens against cross-site requests, and the headers that keep a page to itself.
//!
//! A page is an askama template that extends `templates/layout.html` (or `bare.html` for somebody
//! who isn't signed in) and calls the macros of `parts.html`. It answers with [`Html`], and
//! [`finish`] adds what every answer has. Every page works as plain HTML; `assets/app.js` and htmx
//! save reloads.

pub mod assets;
pub mod chart;
pub mod cookie;
mod csrf;
mod form;
mod guard;
mod html;
mod layout;
pub mod qr;
mod when;

pub use csrf::Csrf;
pub use form::{Fields, FormError};
pub use guard::is_same_origin;
pub use html::{Html, Shield, finish, takes_gzip};
pub use layout::{Account, Layout, NavItem, Person, Theme, Toast, Tone};
pub use when::{When, calendar, since};
