//! What is written in mails: plain text, with nothing in it that a stranger has chosen.

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use warren_coord::Email;
use warren_proto::InvitationId;

use super::Invite;

/// A mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    to: Email,
    subject: String,
    text: String,
    /// The invitation that it brings.
    pub(super) invitation: Option<InvitationId>,
}

impl Letter {
    pub(super) fn invitation(invite: &Invite<'_>) -> Self {
        let Invite { id, to, name, by, link, .. } = invite;
        let who = match by {
            Some(email) => format!("{email} invites you"),
            None => "You are invited".to_owned(),
        };
        let text = format!(
            "Hello,\n\n{who} to the private network \"{name}\". Open this link to join it; it works \
             once, and only for {to}:\n\n{link}\n\nIf you don't know what this is about, do \
             nothing.\n"
        );
        let subject = format!("Invitation to {name}");
        Self { to: (*to).clone(), subject, text, invitation: Some(*id) }
    }

    pub(super) fn password(to: Email, broker: &str, link: &str) -> Self {
        let text = format!(
            "Hello,\n\nsomebody, perhaps you, has forgotten the password of {to} at {broker}. Open \
             this link within an hour to set a new one; it works once:\n\n{link}\n\nIf it wasn't \
             you, do nothing: your password stays as it is.\n"
        );
        Self { to, subject: "A new password".to_owned(), text, invitation: None }
    }

    pub(super) fn test(to: &Email, broker: &str) -> Self {
        let text = format!("Hello,\n\nmail from {broker} arrives.\n");
        let subject = "Mail from your broker works".to_owned();
        Self { to: to.clone(), subject, text, invitation: None }
    }

    pub(super) fn message(&self, from: &Mailbox) -> Result<Message> {
        let to = self.to.as_str().parse().context("mail can't be sent to this address")?;
        let random = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>());
        let id = format!("<{random}@{}>", from.email.domain());
        // RFC 3834 §5: nobody's holiday is told to the broker.
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        let message = Message::builder()
            .from(from.clone())
            .to(Mailbox::new(None, to))
            .subject(&self.subject)
            .message_id(Some(id))
            .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()))
            .header(ContentType::TEXT_PLAIN)
            .body(self.text.clone());
        message.context("the mail can't be written")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_letter_becomes_a_header() {
        let from = "Warren <warren@example.org>".parse().unwrap();
        let letter = Letter {
            to: "bob@example.org".parse().unwrap(),
            subject: "You\r\nBcc: eve@example.org\r\n\r\nand this".to_owned(),
            text: "Hello\r\n.\r\nRSET".to_owned(),
            invitation: None,
        };
        let text = String::from_utf8(letter.message(&from).unwrap().formatted()).unwrap();
        let (head, _) = text.split_once("\r\n\r\n").unwrap();
        let names: Vec<&str> = head
            .split("\r\n")
            .filter(|line| !line.starts_with([' ', '\t']))
            .filter_map(|line| Some(line.split_once(':')?.0))
            .collect();
        assert!(!names.contains(&"Bcc") && !head.contains("\nBcc"), "{text}");
        assert!(names.contains(&"Auto-Submitted") && names.contains(&"Date"), "{text}");
    }
}
