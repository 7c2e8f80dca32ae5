//! No text of the manifests contains a secret: no setting, file or command.

use serde_json::Value;

use crate::document::Document;
use crate::stability::walk;

/// Endings of the names of secrets.
const WORDS: &[&str] = &[
    "apikey",
    "api_key",
    "api-key",
    "authorization",
    "credential",
    "credentials",
    "passphrase",
    "passwd",
    "password",
    "private_key",
    "privatekey",
    "pwd",
    "secret",
    "secret_key",
    "secretkey",
    "token",
];

/// `DB_PASSWORD` and `--token` are names of secrets, `password_encryption` is not.
fn is_secret(name: &str) -> bool {
    let name = name.trim_matches(['"', '\'', '`']).to_ascii_lowercase();
    WORDS.iter().any(|word| name.ends_with(word))
}

/// Whether it is a value: not empty, and no reference such as `$(DB_PASSWORD)`.
fn is_literal(value: &str) -> bool {
    let value = value.trim_matches(|it: char| it.is_whitespace() || "\"'`,;".contains(it));
    !value.is_empty() && !value.starts_with('$')
}

/// `name=value` and `name: value`, in quotes or not.
fn assigns(line: &str) -> bool {
    line.match_indices(['=', ':']).any(|(at, _)| {
        let before = line[..at].trim_end().trim_end_matches(['"', '\'']);
        let starts = before.rfind(|it: char| !(it.is_alphanumeric() || "_-.".contains(it)));
        is_secret(&before[starts.map_or(0, |at| at + 1)..]) && is_literal(&line[at + 1..])
    })
}

/// `--password value`, and SQL's `password 'value'`.
fn passes(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    words.windows(2).any(|pair| {
        let tells = pair[0].starts_with('-') || pair[1].starts_with('\'');
        tells && is_secret(pair[0]) && is_literal(pair[1])
    })
}

/// `scheme://user:password@host`
fn is_in_address(line: &str) -> bool {
    line.match_indices("://").any(|(at, scheme)| {
        let rest = &line[at + scheme.len()..];
        let ends = rest.find(|it: char| it.is_whitespace() || "/?#\"'`".contains(it));
        let user = rest[..ends.unwrap_or(rest.len())].rsplit_once('@').map(|(user, _)| user);
        let password = user.and_then(|user| user.split_once(':')).map(|(_, password)| password);
        password.is_some_and(is_literal)
    })
}

/// Whether a text, a line or a whole file, contains a secret.
fn tells(text: &str) -> bool {
    let is_key = text.contains("PRIVATE KEY-----");
    is_key || text.lines().any(|line| assigns(line) || passes(line) || is_in_address(line))
}

/// The secret in a value, recognized by the text beside it.
fn tells_by_place(value: &Value) -> bool {
    let literal = |value: &Value| value.as_str().is_some_and(is_literal);
    match value {
        Value::Object(fields) => {
            let is_named = fields.get("name").and_then(Value::as_str).is_some_and(is_secret);
            let has_value = fields.get("value").is_some_and(literal);
            is_named && has_value
                || fields.iter().any(|(key, value)| is_secret(key) && literal(value))
        }
        Value::Array(arguments) => arguments.windows(2).any(|pair| {
            let flag = pair[0].as_str().unwrap_or_default();
            flag.starts_with('-') && is_secret(flag) && literal(&pair[1])
        }),
        _ => false,
    }
}

pub(crate) fn no_secret_is_written(documents: &[Document]) -> Vec<String> {
    let mut found = Vec::new();
    for document in documents {
        if document.kind() == "Secret" {
            found.push(format!("{}: belongs in no overlay", document.title()));
        }
        walk(&document.value, "", &mut |path, value| {
            // It is encoded, so no reader sees what it contains.
            let hidden = path == "/binaryData";
            if hidden || tells_by_place(value) || value.as_str().is_some_and(tells) {
                found.push(format!("{}: {path} contains a secret", document.title()));
            }
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{no_secret_is_written, tells};
    use crate::{CONTAINER, notices, set};

    #[test]
    fn a_secret_is_found_wherever_it_is_written() {
        let rule = no_secret_is_written;
        notices(rule, "ConfigMap", "lambda-config", set("/kind", json!("Secret")));
        notices(rule, "ConfigMap", "lambda-config", |document| {
            document["data"]["DB_PASSWORD"] = json!("s");
        });
        notices(rule, "ConfigMap", "lambda-config", |document| {
            document["binaryData"] = json!({ "file": "cw==" });
        });
        notices(rule, "ConfigMap", "lambda-config", |document| {
            document["data"]["DB_HOST"] = json!("postgres://lambda:s@lambda-postgres/lambda");
        });
        for file in ["ssl.key.password=s", "  password: 's'", "x\n{\"Password\": \"s\"}\n"] {
            notices(rule, "ConfigMap", "lambda-patroni", |document| {
                let text = document["data"]["patroni.yaml"].as_str().unwrap();
                document["data"]["patroni.yaml"] = json!(format!("{text}\n{file}\n"));
            });
        }
        let of_container = |key: &'static str, value: Value| {
            notices(rule, "Deployment", "lambda-consumer", move |document| {
                document.pointer_mut(CONTAINER).unwrap()[key] = value;
            });
        };
        of_container("env", json!([{ "name": "DB_PASSWORD", "value": "s" }]));
        of_container("env", json!([{ "name": "URL", "value": "http://u:s@host" }]));
        of_container("args", json!(["--token", "s"]));
        of_container("args", json!(["--token=s"]));
        of_container("command", json!(["sh", "-c", "PGPASSWORD=s exec lambda-consumer"]));
        notices(rule, "Deployment", "lambda-consumer", |document| {
            document["metadata"]["annotations"] = json!({ "registry-token": "s" });
        });
    }

    #[test]
    fn texts_tell_secrets() {
        for text in [
            "DB_PASSWORD=s",
            "export TOKEN = \"s\"",
            "Authorization: Bearer s",
            "create role r login password 's'",
            "client --password s",
            "jaas.config=Plain username=\"u\" password=\"s\";",
            "https://u:s@host/path",
            "-----BEGIN PRIVATE KEY-----",
        ] {
            assert!(tells(text), "{text}");
        }
        for text in [
            "DB_PASSWORD=$DB_PASSWORD",
            "password: \"$(DB_PASSWORD)\"",
            "password_encryption: scram-sha-256",
            "\"PasswordExecCommand\": \"printenv DB_PASSWORD\"",
            "As the owner (asks for the password)",
            "https://host:443/path@2",
            "https://user@host",
            "postgres://u:$(DB_PASSWORD)@host",
            "password:",
        ] {
            assert!(!tells(text), "{text}");
        }
    }
}
