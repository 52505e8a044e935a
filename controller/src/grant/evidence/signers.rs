//! Pure: whose SSH keys count as people's, in the format that git and `ssh-keygen` read (ssh-keygen(1), ALLOWED SIGNERS).

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use ssh_key::PublicKey;
use ssh_key::authorized_keys::ConfigOpts;
use ssh_key::public::KeyData;

/// The keys of people.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signers {
    people: Vec<Person>,
    /// Keys that a forge or another machine signs with: they prove no person, whoever lists them.
    machines: Vec<KeyData>,
}

/// One line of the file.
#[derive(Clone, Debug, PartialEq)]
struct Person {
    principals: String,
    key: KeyData,
    namespaces: Option<Vec<String>>,
    after: Option<Timestamp>,
    before: Option<Timestamp>,
}

/// Why a key proves nobody.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unknown {
    /// Nobody's.
    Key,
    /// A forge's.
    Machine,
    /// A person's, for other things than git.
    Namespace,
    /// A person's, at another time.
    Time,
}

impl Signers {
    /// Reads the file. A line that can't be used makes nobody else unknown: it is said, with its number.
    pub fn parse(text: &str, machines: &[String]) -> (Self, Vec<String>) {
        let (mut signers, mut errors) = (Self::default(), Vec::new());
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match Person::parse(line) {
                Ok(person) if signers.people.len() < PEOPLE_MAX => signers.people.push(person),
                Ok(_) => {
                    errors.push(format!("line {number}: more than {PEOPLE_MAX} keys"));
                    break;
                }
                Err(why) => errors.push(format!("line {number}: {why}")),
            }
        }
        for machine in machines {
            match PublicKey::from_openssh(machine.trim()) {
                Ok(key) => signers.machines.push(key.key_data().clone()),
                Err(_) => errors.push("a machine's key isn't one: write it as ssh-ed25519 AAAA…".to_owned()),
            }
        }
        (signers, errors)
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.people.is_empty()
    }

    /// Whose key this is, for signatures in this namespace at all of these times.
    pub fn whose(&self, key: &KeyData, namespace: &str, times: &[Timestamp]) -> Result<&str, Unknown> {
        if self.machines.contains(key) {
            return Err(Unknown::Machine);
        }
        let mut why = Unknown::Key;
        for person in self.people.iter().filter(|person| person.key == *key) {
            let namespaces = person.namespaces.as_deref();
            if namespaces.is_some_and(|all| !all.iter().any(|one| one == namespace)) {
                why = Unknown::Namespace;
            } else if !times.iter().all(|time| person.counts_at(*time)) {
                why = Unknown::Time;
            } else {
                return Ok(&person.principals);
            }
        }
        Err(why)
    }
}

impl Person {
    fn parse(line: &str) -> Result<Self, String> {
        let (principals, rest) = principals(line)?;
        let (options, key) = options(rest.trim()).map_err(|error| {
            format!("{error}; it is written as: alice@example.com [namespaces=\"git\"] ssh-ed25519 AAAA…")
        })?;
        let mut person = Self {
            principals: principals.to_owned(),
            key: key.key_data().clone(),
            namespaces: None,
            after: None,
            before: None,
        };
        for option in options.iter() {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let value = value.trim_matches('"');
            match name.to_ascii_lowercase().as_str() {
                "namespaces" => person.namespaces = Some(value.split(',').map(|one| one.trim().to_owned()).collect()),
                "valid-after" => person.after = Some(time(value)?),
                "valid-before" => person.before = Some(time(value)?),
                other => {
                    return Err(format!(
                        "option {other:?} isn't supported: namespaces, valid-after and valid-before are"
                    ));
                }
            }
        }
        Ok(person)
    }

    fn counts_at(&self, time: Timestamp) -> bool {
        self.after.is_none_or(|after| time >= after) && self.before.is_none_or(|before| time < before)
    }
}

/// Options may stand before the key.
fn options(text: &str) -> Result<(ConfigOpts, PublicKey), ssh_key::Error> {
    if let Ok(key) = PublicKey::from_openssh(text) {
        return Ok((ConfigOpts::default(), key));
    }
    let (options, key) = text.split_once([' ', '\t']).unwrap_or(("", text));
    Ok((ConfigOpts::new(options)?, PublicKey::from_openssh(key.trim())?))
}

/// The first field, which may stand in quotes.
fn principals(line: &str) -> Result<(&str, &str), String> {
    let found = match line.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"'),
        None => line.split_once([' ', '\t']),
    };
    found
        .filter(|(principals, _)| !principals.is_empty())
        .ok_or_else(|| "there is a key and nobody that it is of, or the other way round".to_owned())
}

/// `YYYYMMDD` or `YYYYMMDDHHMM[SS]`, with `Z` or without: UTC in both cases, as a controller has no time zone of its own.
fn time(text: &str) -> Result<Timestamp, String> {
    let digits = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    let format = match digits.len() {
        8 => "%Y%m%d",
        12 => "%Y%m%d%H%M",
        _ => "%Y%m%d%H%M%S",
    };
    let parsed = if digits.len() == 8 {
        jiff::civil::Date::strptime(format, digits).map(|date| date.at(0, 0, 0, 0))
    } else {
        DateTime::strptime(format, digits)
    };
    let zoned = parsed.and_then(|time| time.to_zoned(TimeZone::UTC));
    zoned
        .map(|time| time.timestamp())
        .map_err(|_unreadable| format!("{text:?} is no time: YYYYMMDD or YYYYMMDDHHMMSS, UTC"))
}

/// More people than any forge's team has.
const PEOPLE_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8h";

    fn key(text: &str) -> KeyData {
        PublicKey::from_openssh(text).unwrap().key_data().clone()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn whose(line: &str, time: &str) -> Result<String, Unknown> {
        let (signers, errors) = Signers::parse(line, &[]);
        assert!(errors.is_empty(), "{errors:?}");
        signers.whose(&key(KEY), "git", &[at(time)]).map(str::to_owned)
    }

    #[test]
    fn a_line_counts_for_its_namespaces_and_its_time() {
        let noon = "2026-06-01T12:00:00Z";
        let alice = Ok("alice@example.com".to_owned());
        let cases = [
            (String::new(), Err(Unknown::Key)),
            (format!("alice@example.com {OTHER}"), Err(Unknown::Key)),
            (format!("alice@example.com {KEY} laptop"), alice.clone()),
            (
                format!("\"alice@example.com\" namespaces=\"file,git\" {KEY}"),
                alice.clone(),
            ),
            (
                format!("alice@example.com namespaces=\"file\" {KEY}"),
                Err(Unknown::Namespace),
            ),
            (
                format!("alice@example.com valid-after=\"20260601\",valid-before=\"202606011201Z\" {KEY}"),
                alice.clone(),
            ),
            (
                format!("alice@example.com valid-after=\"20260602\" {KEY}"),
                Err(Unknown::Time),
            ),
            (
                format!("alice@example.com valid-before=\"20260601120000\" {KEY}"),
                Err(Unknown::Time),
            ),
            (
                format!("# people\n\nbob@example.com namespaces=\"file\" {KEY}\nalice@example.com {KEY}"),
                alice,
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(whose(&line, noon), expected, "{line}");
        }
    }

    #[test]
    fn every_time_has_to_be_within() {
        let line = format!("alice@example.com valid-before=\"20260601\" {KEY}");
        let (signers, _) = Signers::parse(&line, &[]);
        let times = [at("2026-05-01T00:00:00Z"), at("2026-07-01T00:00:00Z")];
        assert!(signers.whose(&key(KEY), "git", &times[..1]).is_ok());
        assert_eq!(
            signers.whose(&key(KEY), "git", &times),
            Err(Unknown::Time),
            "an old date proves nothing"
        );
    }

    #[test]
    fn a_machines_key_is_nobodys_although_it_is_listed() {
        let (signers, errors) = Signers::parse(&format!("alice@example.com {KEY}"), &[format!("{KEY} forge")]);
        assert!(errors.is_empty());
        assert_eq!(signers.whose(&key(KEY), "git", &[]), Err(Unknown::Machine));
    }

    #[test]
    fn a_wrong_line_is_said_and_stops_no_other() {
        let text = format!(
            "alice@example.com\nmallory cert-authority {OTHER}\nbob valid-after=\"soon\" {OTHER}\nalice@example.com {KEY}"
        );
        let (signers, errors) = Signers::parse(&text, &["no key".to_owned()]);
        assert_eq!(signers.people.len(), 1);
        let begins = [
            "line 1:",
            "line 2: option \"cert-authority\"",
            "line 3: \"soon\" is no time",
            "a machine's key",
        ];
        assert_eq!(errors.len(), begins.len(), "{errors:?}");
        for (error, begin) in errors.iter().zip(begins) {
            assert!(error.starts_with(begin), "{error}");
        }
    }
}
