//! Integer expressions of monitor arguments: C operators on 64-bit numbers, `'c'` and `$register`.
//!
//! As documented for this monitor's model, sums bind least, then `& | ^`, then `* / %`, then the signs.

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExprError {
    /// Not a number where one must be.
    #[error("invalid char in expression")]
    Invalid,
    /// Nothing there.
    #[error("unexpected end of expression")]
    End,
    /// Division.
    #[error("division by zero")]
    DivideByZero,
    /// `)` missing.
    #[error("')' expected")]
    Parenthesis,
    /// No such register.
    #[error("unknown register")]
    Register,
    /// Too many nested parentheses.
    #[error("expression too deep")]
    Depth,
}

const DEPTH_MAX: u32 = 64;

/// A parser on the rest of a line. `registers` gives a register's value by its name without `$`.
pub struct Parser<'a, F> {
    rest: &'a str,
    registers: F,
    depth: u32,
}

impl<'a, F: FnMut(&str) -> Option<u64>> Parser<'a, F> {
    /// On `text`.
    pub fn new(text: &'a str, registers: F) -> Self {
        Parser { rest: text, registers, depth: 0 }
    }

    /// What follows the expressions parsed so far.
    pub fn rest(&self) -> &'a str {
        self.rest.trim_start()
    }

    fn peek(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_start();
        self.rest.bytes().next()
    }

    fn skip(&mut self, count: usize) {
        self.rest = self.rest.get(count..).unwrap_or_default();
    }

    /// One expression. Blanks mean nothing, so that it goes on while operators follow: `a -b` is a difference, as in C, and not two
    /// arguments.
    ///
    /// # Errors
    /// See [`ExprError`].
    pub fn value(&mut self) -> Result<u64, ExprError> {
        let mut value = self.logic()?;
        loop {
            match self.peek() {
                Some(b'+') => {
                    self.skip(1);
                    value = value.wrapping_add(self.logic()?);
                }
                Some(b'-') => {
                    self.skip(1);
                    value = value.wrapping_sub(self.logic()?);
                }
                _ => return Ok(value),
            }
        }
    }

    fn logic(&mut self) -> Result<u64, ExprError> {
        let mut value = self.product()?;
        loop {
            let Some(operator @ (b'&' | b'|' | b'^')) = self.peek() else { return Ok(value) };
            self.skip(1);
            let right = self.product()?;
            value = match operator {
                b'&' => value & right,
                b'|' => value | right,
                _ => value ^ right,
            };
        }
    }

    fn product(&mut self) -> Result<u64, ExprError> {
        let mut value = self.unary()?;
        loop {
            let Some(operator @ (b'*' | b'/' | b'%')) = self.peek() else { return Ok(value) };
            self.skip(1);
            let right = self.unary()?;
            value = match operator {
                b'*' => value.wrapping_mul(right),
                b'/' => value.checked_div(right).ok_or(ExprError::DivideByZero)?,
                _ => value.checked_rem(right).ok_or(ExprError::DivideByZero)?,
            };
        }
    }

    fn unary(&mut self) -> Result<u64, ExprError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(ExprError::Depth);
        }
        let value = match self.peek().ok_or(ExprError::End)? {
            b'+' => {
                self.skip(1);
                self.unary()?
            }
            b'-' => {
                self.skip(1);
                self.unary()?.wrapping_neg()
            }
            b'~' => {
                self.skip(1);
                !self.unary()?
            }
            b'(' => {
                self.skip(1);
                let value = self.value()?;
                if self.peek() != Some(b')') {
                    return Err(ExprError::Parenthesis);
                }
                self.skip(1);
                value
            }
            b'\'' => match self.rest.as_bytes() {
                [_, c, b'\'', ..] if c.is_ascii() => {
                    let value = u64::from(*c);
                    self.skip(3);
                    value
                }
                _ => return Err(ExprError::Invalid),
            },
            b'$' => {
                self.skip(1);
                let name = self.word();
                (self.registers)(&name.to_ascii_lowercase()).ok_or(ExprError::Register)?
            }
            b'0'..=b'9' => number(self.word()).ok_or(ExprError::Invalid)?,
            _ => return Err(ExprError::Invalid),
        };
        self.depth -= 1;
        Ok(value)
    }

    fn word(&mut self) -> &'a str {
        let ends = |c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.');
        let end = self.rest.find(ends).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }
}

/// A number as C writes it.
fn number(word: &str) -> Option<u64> {
    if let Some(digits) = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        u64::from_str_radix(digits, 16).ok()
    } else if word.len() > 1 && word.starts_with('0') {
        u64::from_str_radix(word.get(1..)?, 8).ok()
    } else {
        word.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<u64, ExprError> {
        Parser::new(text, |name| (name == "eip").then_some(0x100)).value()
    }

    #[test]
    fn operators_bind_as_documented() {
        assert_eq!(value("1+2*3"), Ok(7));
        assert_eq!(value("(1+2)*3"), Ok(9));
        assert_eq!(value("0xff & 0x0f | 0x30"), Ok(0x3f));
        assert_eq!(value("-1"), Ok(u64::MAX));
        assert_eq!(value("~0 ^ 017"), Ok(!0o17));
        assert_eq!(value("'A'"), Ok(0x41));
        assert_eq!(value("$eip + 4"), Ok(0x104));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(value("1/0"), Err(ExprError::DivideByZero));
        assert_eq!(value("(1"), Err(ExprError::Parenthesis));
        assert_eq!(value("$nope"), Err(ExprError::Register));
        assert_eq!(value("1 +"), Err(ExprError::End));
        assert_eq!(value("12ab"), Err(ExprError::Invalid));
        assert_eq!(value(&"(".repeat(100_000)), Err(ExprError::Depth));
    }

    #[test]
    fn what_follows_an_expression_is_left() {
        let mut parser = Parser::new("0x10 20", |_| None);
        assert_eq!(parser.value(), Ok(16));
        assert_eq!(parser.value(), Ok(20));
        assert_eq!(parser.rest(), "");
    }
}
