//! Secrets as their owners make them, and as they get them wrong.

use super::*;

fn content(kind: &str, data: &[(&str, &str)]) -> Content {
    let data = data
        .iter()
        .map(|(key, value)| ((*key).to_owned(), SecretSlice::from(value.as_bytes().to_vec())));
    Content {
        kind: kind.to_owned(),
        data: data.collect(),
    }
}

fn hosts(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn refusal(content: &Content, key: &str, names: &[&str]) -> (Reason, String) {
    let unusable = content.material(key, &hosts(names)).err().unwrap();
    (unusable.reason, unusable.message)
}

#[test]
fn basic_auth_is_a_password_with_its_user() {
    let good = content(BASIC_AUTH, &[("username", "robot\n"), ("password", "fake-password\n")]);
    let material = good.material("password", &hosts(&["a.example.com"])).unwrap();
    assert_eq!(
        (material.username.as_deref(), material.secret.as_slice()),
        (Some("robot"), b"fake-password".as_slice())
    );
    let opaque = content("Opaque", &[("password", "fake-password")]);
    assert_eq!(opaque.material("password", &hosts(&[])).unwrap().username, None);
    let table = [
        (
            content(BASIC_AUTH, &[("username", "robot")]),
            Reason::SecretNotFound,
            "has no key password",
        ),
        (
            content(BASIC_AUTH, &[("password", "fake")]),
            Reason::SecretNotFound,
            "has no key username",
        ),
        (
            content(BASIC_AUTH, &[("username", "a:b"), ("password", "fake")]),
            Reason::SecretInvalid,
            "username",
        ),
        (
            content(BASIC_AUTH, &[("username", ""), ("password", "fake")]),
            Reason::SecretInvalid,
            "username",
        ),
    ];
    for (content, reason, said) in table {
        let (found, message) = refusal(&content, "password", &[]);
        assert_eq!(found, reason);
        assert!(message.contains(said), "{message}");
    }
}

fn docker(json: &str) -> Content {
    content(DOCKER_CONFIG, &[(DOCKER_CONFIG_KEY, json)])
}

#[test]
fn a_registrys_login_is_found_by_the_routes_host() {
    let logins = r#"{"auths": {
        "https://registry.example.com/v2/": {"username": "robot", "password": "fake-one"},
        "other.example.com:5000": {"auth": "dXNlcjpmYWtlOnR3bw=="},
        "https://index.docker.io/v1/": {"auth": "aHViOmZha2UtaHVi"}
    }}"#;
    let table = [
        (vec!["registry.example.com"], "robot", "fake-one"),
        (vec!["registry.example.com", "auth.example.com"], "robot", "fake-one"),
        (vec!["other.example.com"], "user", "fake:two"),
        (vec!["registry-1.docker.io", "auth.docker.io"], "hub", "fake-hub"),
    ];
    for (names, username, password) in table {
        let material = docker(logins).material(DOCKER_CONFIG_KEY, &hosts(&names)).unwrap();
        assert_eq!(
            (material.username.as_deref(), material.secret.as_slice()),
            (Some(username), password.as_bytes())
        );
    }
}

#[test]
fn a_configuration_that_is_wrong_is_told_without_its_values() {
    let secret = "fake-password-that-is-quoted-nowhere";
    let wrong = |json: String, names: &[&str]| refusal(&docker(&json), DOCKER_CONFIG_KEY, names);
    let registry = ["registry.example.com"];
    let login = |at: &str| format!(r#""{at}": {{"username": "u", "password": "{secret}"}}"#);
    let table = [
        (
            wrong(format!("{secret}: not JSON"), &registry),
            "isn't a docker configuration",
        ),
        (
            wrong(format!(r#"{{"auths": "{secret}"}}"#), &registry),
            "isn't a docker configuration",
        ),
        (
            wrong(format!(r#"{{"auths": {{{}}}}}"#, login("other.example.com")), &registry),
            "has no login for registry.example.com",
        ),
        (
            wrong(
                format!(
                    r#"{{"auths": {{{}, {}}}}}"#,
                    login("registry.example.com/a"),
                    login("registry.example.com/b")
                ),
                &registry,
            ),
            "several logins",
        ),
        (
            wrong(r#"{"auths": {"registry.example.com": {}}}"#.to_owned(), &registry),
            "no username and password",
        ),
        (
            wrong(
                r#"{"auths": {"registry.example.com": {"auth": "!!"}}}"#.to_owned(),
                &registry,
            ),
            "isn't base64",
        ),
    ];
    for ((reason, message), said) in table {
        assert_eq!(reason, Reason::SecretInvalid, "{message}");
        assert!(message.contains(said) && !message.contains(secret), "{message}");
    }
    let (reason, message) = refusal(&content(DOCKER_CONFIG, &[]), DOCKER_CONFIG_KEY, &registry);
    assert_eq!(
        (reason, message.as_str()),
        (Reason::SecretNotFound, "has no key .dockerconfigjson")
    );
}
