//! What surrounds a page.

use crate::{Csrf, assets};

/// Light or dark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Theme {
    /// As the system says.
    #[default]
    System,
    /// Always light.
    Light,
    /// Always dark.
    Dark,
}

impl Theme {
    /// Reads what [`Theme::word`] said; anything else is the system's choice.
    pub fn from_word(word: &str) -> Self {
        match word {
            "light" => Self::Light,
            "dark" => Self::Dark,
            _ => Self::System,
        }
    }

    /// For the cookie and the document's root.
    pub fn word(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }
}

/// How good the news is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// It was done.
    Good,
    /// It wasn't.
    Bad,
}

/// What is said once, after something was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toast {
    /// The sentence.
    pub text: String,
    /// How good the news is.
    pub tone: Tone,
}

impl Toast {
    /// Whether it is bad news, which stays until somebody has read it.
    pub fn is_bad(&self) -> bool {
        self.tone == Tone::Bad
    }
}

/// An entry of the navigation.
#[derive(Debug, Clone)]
pub struct NavItem {
    /// Where it leads.
    pub href: String,
    /// Its text.
    pub label: &'static str,
    /// The icon's name, one of `templates/icons.html`.
    pub icon: &'static str,
    /// Whether it is where we are.
    pub current: bool,
}

/// An entry of the account switcher.
#[derive(Debug, Clone)]
pub struct Account {
    /// Where it leads.
    pub href: String,
    /// Its name.
    pub name: String,
    /// What else tells it from the others: the person's role.
    pub note: String,
    /// Whether it is the one that is shown.
    pub current: bool,
}

/// Who is signed in.
#[derive(Debug, Clone)]
pub struct Person {
    /// What he is called.
    pub name: String,
    /// How he signs in.
    pub email: String,
}

/// What surrounds a page: title, navigation, who is signed in.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The page's title.
    pub title: String,
    /// Light or dark.
    pub theme: Theme,
    /// The navigation, in groups.
    pub nav: Vec<Vec<NavItem>>,
    /// The accounts that the person can switch to, the current one among them.
    pub accounts: Vec<Account>,
    /// Who is signed in.
    pub person: Option<Person>,
    /// What is said once.
    pub toast: Option<Toast>,
    /// The event stream that says when what the page shows has changed.
    pub live: Option<String>,
    /// The path of the page, to come back to.
    pub path: String,
    /// Makes the forms' tokens.
    pub csrf: Csrf,
}

impl Layout {
    /// The token of a form that is sent to `path`.
    pub fn token(&self, path: &str) -> String {
        self.csrf.token(path)
    }

    /// The stylesheet's URL.
    pub fn style(&self) -> String {
        assets::style()
    }

    /// The URL of our own script.
    pub fn script(&self) -> String {
        assets::script()
    }

    /// htmx's URL.
    pub fn htmx(&self) -> String {
        assets::htmx()
    }

    /// The icon's URL.
    pub fn icon(&self) -> String {
        assets::icon()
    }

    /// The current account's name.
    pub fn account(&self) -> Option<&str> {
        let current = self.accounts.iter().find(|account| account.current);
        current.map(|account| account.name.as_str())
    }

    /// The letters that stand for the person.
    pub fn initials(&self) -> String {
        let name = self.person.as_ref().map_or("", |person| person.name.as_str());
        let words = name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        words.take(2).filter_map(|word| word.chars().next()).flat_map(char::to_uppercase).collect()
    }
}
