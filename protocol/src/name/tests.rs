//! The rules of names, as tables.

use proptest::prelude::*;

use super::*;

#[test]
fn dataset_names() {
    for good in ["a", "plant-3/line_1/cam.left", "a/b/c", "A-Z.0", &"x".repeat(200)] {
        assert!(DatasetName::new(good).is_ok(), "{good}");
    }
    for bad in
        ["", "/a", "a/", "a//b", ".a", "a/.b", "..", "a/../b", "a b", "a*", "a{b}", "ä", "a\0", "a@1", &"x".repeat(201)]
    {
        assert!(DatasetName::new(bad).is_err(), "{bad:?} was accepted");
    }
}

#[test]
fn templates_put_labels_in() {
    let labels = [("site".to_owned(), "berlin".to_owned()), ("bad".to_owned(), "a/b".to_owned())];
    let context = NameContext { device: "cam-01", labels: &labels };
    let cases = [
        ("plain", Ok("plain")),
        ("raw/{device}", Ok("raw/cam-01")),
        ("{label.site}/{device}/left", Ok("berlin/cam-01/left")),
        ("pre-{label.site}-post", Ok("pre-berlin-post")),
        ("{label.line}/x", Err("needs the label `line`")),
        ("{label.bad}/x", Err("the label bad `a/b` can't stand")),
        ("{device", Err("braces must come in pairs")),
        ("device}", Err("braces must come in pairs")),
        ("{host}", Err("`{host}` in `{host}` is not known")),
        ("a//{device}", Err("empty or begins with a dot")),
        ("a b/{device}", Err("holds ' '")),
    ];
    for (template, wanted) in cases {
        let made = NameTemplate::new(template).and_then(|template| template.expand(&context));
        match (made, wanted) {
            (Ok(name), Ok(wanted)) => assert_eq!(name.as_str(), wanted),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{template}: {error}"),
            (made, _) => panic!("{template}: {made:?}"),
        }
    }
}

#[test]
fn a_label_cannot_hide_a_part() {
    let labels = [("site".to_owned(), "..".to_owned())];
    let made = NameTemplate::new("a/{label.site}/b")
        .expect("a template")
        .expand(&NameContext { device: "d", labels: &labels });
    assert!(matches!(made, Err(TemplateError::Name(NameError::Component(_)))), "{made:?}");
}

#[test]
fn patterns() {
    let cases = [
        ("a/b", "a/b", true),
        ("a/b", "a/bc", false),
        ("a/*", "a/b", true),
        ("a/*", "a/b/c", false),
        ("a/*", "a", false),
        ("a/**", "a/b/c", true),
        ("a/**", "a", false),
        ("**", "x/y/z", true),
        ("*", "x/y", false),
        ("**/left", "left", true),
        ("**/left", "a/b/left", true),
        ("**/left", "a/sinister-left", false),
        ("a/**/z", "a/z", true),
        ("a/**/z", "a/b/c/z", true),
        ("a/**/z", "a/b/c/zz", false),
        ("cam-*-raw/*", "cam-12-raw/x", true),
        ("*a*b*", "xxaxxbxx", true),
        ("*a*b*", "xxbxxaxx", false),
        ("raw/{device}/**", "raw/x/y", false),
    ];
    for (pattern, name, wanted) in cases {
        let matched = NamePattern::new(pattern).expect(pattern).matches(&DatasetName::new(name).expect(name));
        assert_eq!(matched, wanted, "{pattern} against {name}");
    }
    for bad in ["", "/a", "a//b", "a/", "***", "a b", "{", "{x}", "a?", "../x", "a/../b", ".*", "a/.b"] {
        assert!(NamePattern::new(bad).is_err(), "{bad:?} was accepted");
    }
}

#[test]
fn patterns_know_the_device() {
    let labels = [("site".to_owned(), "berlin".to_owned())];
    let context = NameContext { device: "cam-01", labels: &labels };
    for (pattern, name, wanted) in [
        ("raw/{device}/**", "raw/cam-01/x", true),
        ("raw/{device}/**", "raw/cam-02/x", false),
        ("{label.site}/*", "berlin/x", true),
        ("{label.site}/*", "paris/x", false),
        ("{label.none}/*", "x/x", false),
    ] {
        let matched =
            NamePattern::new(pattern).expect(pattern).matches_for(&DatasetName::new(name).expect(name), &context);
        assert_eq!(matched, wanted, "{pattern} against {name}");
    }
}

#[test]
fn device_names_and_labels() {
    for good in ["cam-01", "a", "0.b_c", &"x".repeat(64)] {
        assert!(check_device_name(good).is_ok(), "{good}");
    }
    for bad in ["", "-a", ".a", "a/b", "a b", "ä", &"x".repeat(65)] {
        assert!(check_device_name(bad).is_err(), "{bad:?} was accepted");
    }
    assert_eq!(parse_label("site=Berlin Mitte"), Ok(("site".into(), "Berlin Mitte".into())));
    assert_eq!(parse_label("k=a=b"), Ok(("k".into(), "a=b".into())));
    for bad in ["", "site", "=x", "site=", "Site=x", "a b=x", "k= x", "k=x\n", "k=\u{7}"] {
        assert!(parse_label(bad).is_err(), "{bad:?} was accepted");
    }
}

proptest! {
    #[test]
    fn names_survive_and_patterns_never_panic(text in "[a-z*/{}.]{0,24}", name in "[a-z]{1,4}(/[a-z]{1,4}){0,3}") {
        let name = DatasetName::new(name).expect("made to fit");
        prop_assert_eq!(&DatasetName::new(name.as_str()).expect("still fits"), &name);
        if let Ok(pattern) = NamePattern::new(text) {
            let _ = pattern.matches(&name);
        }
        prop_assert!(NamePattern::any().matches(&name));
        prop_assert!(NamePattern::new(name.as_str()).expect("a name is a pattern").matches(&name));
    }
}
