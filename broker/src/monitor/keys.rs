//! Key names of `sendkey`: set-1 make codes, plus 0x100 for keys with the 0xe0 prefix.

/// Name and code. Keys of letters and digits stand for their position on the US layout.
const KEYS: &[(&str, u16)] = &[
    ("shift", 0x2a),
    ("shift_r", 0x36),
    ("alt", 0x38),
    ("alt_r", 0x138),
    ("altgr", 0x138),
    ("altgr_r", 0x138),
    ("ctrl", 0x1d),
    ("ctrl_r", 0x11d),
    ("menu", 0x15d),
    ("esc", 0x01),
    ("1", 0x02),
    ("2", 0x03),
    ("3", 0x04),
    ("4", 0x05),
    ("5", 0x06),
    ("6", 0x07),
    ("7", 0x08),
    ("8", 0x09),
    ("9", 0x0a),
    ("0", 0x0b),
    ("minus", 0x0c),
    ("equal", 0x0d),
    ("backspace", 0x0e),
    ("tab", 0x0f),
    ("q", 0x10),
    ("w", 0x11),
    ("e", 0x12),
    ("r", 0x13),
    ("t", 0x14),
    ("y", 0x15),
    ("u", 0x16),
    ("i", 0x17),
    ("o", 0x18),
    ("p", 0x19),
    ("bracket_left", 0x1a),
    ("bracket_right", 0x1b),
    ("ret", 0x1c),
    ("a", 0x1e),
    ("s", 0x1f),
    ("d", 0x20),
    ("f", 0x21),
    ("g", 0x22),
    ("h", 0x23),
    ("j", 0x24),
    ("k", 0x25),
    ("l", 0x26),
    ("semicolon", 0x27),
    ("apostrophe", 0x28),
    ("grave_accent", 0x29),
    ("backslash", 0x2b),
    ("z", 0x2c),
    ("x", 0x2d),
    ("c", 0x2e),
    ("v", 0x2f),
    ("b", 0x30),
    ("n", 0x31),
    ("m", 0x32),
    ("comma", 0x33),
    ("dot", 0x34),
    ("slash", 0x35),
    ("asterisk", 0x37),
    ("spc", 0x39),
    ("caps_lock", 0x3a),
    ("f1", 0x3b),
    ("f2", 0x3c),
    ("f3", 0x3d),
    ("f4", 0x3e),
    ("f5", 0x3f),
    ("f6", 0x40),
    ("f7", 0x41),
    ("f8", 0x42),
    ("f9", 0x43),
    ("f10", 0x44),
    ("f11", 0x57),
    ("f12", 0x58),
    ("num_lock", 0x45),
    ("scroll_lock", 0x46),
    ("kp_divide", 0x135),
    ("kp_multiply", 0x37),
    ("kp_subtract", 0x4a),
    ("kp_add", 0x4e),
    ("kp_enter", 0x11c),
    ("kp_decimal", 0x53),
    ("sysrq", 0x54),
    ("kp_0", 0x52),
    ("kp_1", 0x4f),
    ("kp_2", 0x50),
    ("kp_3", 0x51),
    ("kp_4", 0x4b),
    ("kp_5", 0x4c),
    ("kp_6", 0x4d),
    ("kp_7", 0x47),
    ("kp_8", 0x48),
    ("kp_9", 0x49),
    ("<", 0x56),
    ("less", 0x56),
    ("print", 0x137),
    ("home", 0x147),
    ("pgup", 0x149),
    ("pgdn", 0x151),
    ("end", 0x14f),
    ("left", 0x14b),
    ("up", 0x148),
    ("down", 0x150),
    ("right", 0x14d),
    ("insert", 0x152),
    ("delete", 0x153),
];

/// Codes of `ctrl-alt-f1` in the order of pressing; `Err` names the key that is not known.
pub fn parse(text: &str) -> Result<Vec<u16>, String> {
    text.split('-').map(|name| code(name).ok_or_else(|| format!("unknown key: '{name}'"))).collect()
}

fn code(name: &str) -> Option<u16> {
    let raw = name.strip_prefix('#').or_else(|| name.starts_with("0x").then_some(name));
    if let Some(raw) = raw {
        let value = match raw.strip_prefix("0x") {
            Some(digits) => u16::from_str_radix(digits, 16).ok()?,
            None => raw.parse().ok()?,
        };
        // As a scan code with the prefix folded into the top bit.
        return match value {
            0x01..=0x7f => Some(value),
            0x81..=0xff => Some(0x100 | (value & 0x7f)),
            _ => None,
        };
    }
    KEYS.iter().find(|(known, _)| *known == name).map(|(_, code)| *code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_raw_codes_become_scan_codes_in_order() {
        assert_eq!(parse("ctrl-alt-delete"), Ok(vec![0x1d, 0x38, 0x153]));
        assert_eq!(parse("#0x1e"), Ok(vec![0x1e]));
        assert_eq!(parse("#203"), Ok(vec![0x14b]));
        assert_eq!(parse("ctrl-nokey"), Err("unknown key: 'nokey'".to_owned()));
    }
}
