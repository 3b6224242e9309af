//! Text from elsewhere that a person gets to see: on a terminal it must be text and nothing else.

use serde::{Deserialize, Deserializer};

/// Reads a text; characters that would act on a terminal are escaped.
///
/// # Errors
/// Those of the deserializer.
pub fn one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(shown(&String::deserialize(deserializer)?))
}

/// Reads a text that may be absent, likewise.
///
/// # Errors
/// Those of the deserializer.
pub fn maybe<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(|text| shown(&text)))
}

/// Reads a list of texts, likewise.
///
/// # Errors
/// Those of the deserializer.
pub fn many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    Ok(texts.iter().map(|text| shown(text)).collect())
}

/// A text with characters that would act on a terminal escaped. Lines stay lines. What has been escaped already stays as it is.
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        // Those that change the direction of what follows (Unicode, bidirectional formatting) could make a
        // command read like another one.
        let misleads = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c != '\n' && (c.is_control() || misleads) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_acts_on_a_terminal() {
        let hostile = "gone\u{1b}[2J\u{9b}1A\rok\u{202e}\nthe second line – näher";
        let text = shown(hostile);
        assert_eq!(
            text,
            "gone\\u{1b}[2J\\u{9b}1A\\rok\\u{202e}\nthe second line – näher"
        );
        assert_eq!(shown(&text), text);
    }

    #[test]
    fn a_refusal_arrives_without_them() {
        let refused = r#"{"code":"failed","message":"\u001b]0;x\u0007","log":"\u001b"}"#;
        let refused: crate::protocol::Refused = serde_json::from_str(refused).unwrap();
        assert_eq!(refused.message, "\\u{1b}]0;x\\u{7}");
        assert_eq!(refused.log.as_deref(), Some("\\u{1b}"));
    }
}
