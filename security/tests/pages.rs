//! The pages in `security/roles/` say what the policies say. `BLESS=1` writes them.

use std::path::Path;

use bulkhead_security::pages::{self, ROLES};
use bulkhead_security::policies::{self, DEVICE_ROLES, OTHER_ROLES};

fn check(name: &str, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("roles/{name}.md"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, page).expect("page written");
    }
    let have = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(have, page, "roles/{name}.md is not what the policies say: BLESS=1 writes it anew");
}

#[test]
fn every_role_has_its_page() {
    let names: Vec<&str> = ROLES.iter().map(|role| role.name).collect();
    for name in DEVICE_ROLES.iter().chain(OTHER_ROLES) {
        assert!(names.contains(name), "{name} has no entry");
    }
    assert_eq!(names.len(), DEVICE_ROLES.len() + OTHER_ROLES.len());
    for role in ROLES {
        check(role.name, &pages::page(role));
    }
    check("broker", &pages::broker_page());
}

#[test]
fn no_role_may_make_more_system_calls_than_its_kind_needs() {
    for role in DEVICE_ROLES {
        let calls = policies::of(role).expect("policy");
        assert!(pages::count(&calls) <= 12, "{role}: {}", pages::count(&calls));
    }
    for (role, most) in [("block", 17), ("char", 19), ("cpu", 27)] {
        let calls = policies::of(role).expect("policy");
        assert!(pages::count(&calls) <= most, "{role}: {}", pages::count(&calls));
    }
}

#[test]
fn every_rule_names_a_system_call_and_a_reason() {
    let mut rules = policies::broker();
    for role in DEVICE_ROLES.iter().chain(OTHER_ROLES) {
        rules.extend(policies::of(role).expect("policy"));
    }
    for rule in rules {
        assert!(bulkhead_security::names::name(rule.number).is_some(), "{}", rule.number);
        assert!(rule.why.len() > 3, "{}", rule.number);
    }
}
