//! Patterns of event names.

/// One pattern and what it does.
#[derive(Clone, Debug)]
pub struct Rule {
    pattern: String,
    /// Whether matching events are switched on; off with a dash in front.
    pub on: bool,
    /// Where it comes from, for messages.
    pub origin: String,
}

impl Rule {
    /// From the text of a user.
    pub fn new(text: &str, origin: String) -> Rule {
        let (pattern, on) = text.strip_prefix('-').map_or((text, true), |rest| (rest, false));
        Rule { pattern: pattern.to_owned(), on, origin }
    }

    /// Whether it means the event `SCOPE.EVENT`: by its whole name or by the event alone.
    pub fn matches(&self, name: &str) -> bool {
        let event = name.split_once('.').map_or(name, |(_, event)| event);
        glob(self.pattern.as_bytes(), name.as_bytes()) || glob(self.pattern.as_bytes(), event.as_bytes())
    }
}

/// Whether `text` is what `pattern` describes: `*` any bytes, `?` any one. Linear in memory, at worst the product in time.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last star does not fit.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(letter) if *letter == b'?' || text.get(t) == Some(letter) => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((after, from)) => {
                    retry = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|letter| *letter == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_match_whole_names_or_events() {
        let rule = |pattern: &str| Rule::new(pattern, String::new());
        let all = ["ide0.request", "ide0.dma_read", "ide0.dma_write", "serial0.request", "cpu.interrupt"];
        let found = |pattern: &str| {
            let rule = rule(pattern);
            all.iter().filter(|name| rule.matches(name)).copied().collect::<Vec<_>>()
        };
        assert_eq!(found("*"), all);
        assert_eq!(found("request"), ["ide0.request", "serial0.request"]);
        assert_eq!(found("ide0.*"), all[..3]);
        assert_eq!(found("ide0.dma_read"), ["ide0.dma_read"]);
        assert_eq!(found("*dma*"), all[1..3]);
        assert_eq!(found("dma_*e"), ["ide0.dma_write"]);
        assert_eq!(found("?pu.*t"), ["cpu.interrupt"]);
        assert_eq!(found("ide0"), [""; 0]);
        assert_eq!(found("**rr*pt"), ["cpu.interrupt"]);
        assert!(!rule("-ide0.*").on && rule("-ide0.*").matches("ide0.line"));
    }
}
