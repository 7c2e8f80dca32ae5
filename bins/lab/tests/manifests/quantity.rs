//! Quantities as Kubernetes writes them.

/// Suffixes with their unit in thousandths, and the number from which the next one is used.
const SUFFIXES: &[(&str, u128, u128)] = &[
    ("m", 1, 1_000),
    ("", 1_000, 1_000),
    ("k", 1_000_000, 1_000),
    ("M", 1_000_000_000, 1_000),
    ("G", 1_000_000_000_000, 1_000),
    ("T", 1_000_000_000_000_000, 1_000),
    ("Ki", 1_000 << 10, 1_024),
    ("Mi", 1_000 << 20, 1_024),
    ("Gi", 1_000 << 30, 1_024),
    ("Ti", 1_000 << 40, 1_024),
];

/// The whole number, and its suffix's unit and limit.
fn parts(quantity: &str) -> Option<(u128, u128, u128)> {
    let digits = quantity.trim_end_matches(|last: char| !last.is_ascii_digit());
    let number = digits.parse().ok()?;
    let suffix = &quantity[digits.len()..];
    let (_, unit, next) = SUFFIXES.iter().find(|(it, _, _)| *it == suffix)?;
    Some((number, *unit, *next))
}

/// Parses whole numbers only: no others are canonical.
pub(crate) fn thousandths(quantity: &str) -> Option<u128> {
    let (number, unit, _) = parts(quantity)?;
    Some(number * unit)
}

/// Whether the API server would return this quantity as it is written.
pub(crate) fn is_canonical(quantity: &str) -> bool {
    let plain = quantity.starts_with(|first: char| first.is_ascii_digit() && first != '0');
    let short = parts(quantity).is_some_and(|(number, _, next)| number % next != 0);
    quantity == "0" || plain && short
}

#[test]
fn quantities_are_read() {
    let read =
        [("250m", 250), ("2", 2_000), ("1Ki", 1_024_000), ("3Gi", 3_000 << 30), ("1k", 1_000_000)];
    for (quantity, value) in read {
        assert_eq!(thousandths(quantity), Some(value), "{quantity}");
    }
    for quantity in ["", "m", "0.5", "1Xi", "-1"] {
        assert_eq!(thousandths(quantity), None, "{quantity}");
    }
}

#[test]
fn quantities_are_canonical_as_the_api_server_writes_them() {
    for quantity in ["500m", "1500m", "1", "0", "1500", "1k", "1Gi", "1536Mi", "40"] {
        assert!(is_canonical(quantity), "{quantity}");
    }
    for quantity in ["0.5", "1000m", "1024Mi", "1000", "01Gi", "+1", "0Gi", "1e3", "1.5Gi", ""] {
        assert!(!is_canonical(quantity), "{quantity}");
    }
}
