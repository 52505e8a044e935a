//! Pure: the text of a file → its documents, every field with its place, read as kubectl reads them.
//!
//! Whatever a text says, what comes out is hardly larger than what went in: aliases may repeat little, and nesting ends
//! long before the stack does.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};
use serde_saphyr::{Location, Options, Spanned};

/// Line and column, from 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place {
    /// Line.
    pub line: u64,
    /// Column, in characters.
    pub column: u64,
}

/// A value and where it stands in its document.
#[derive(Clone, Debug)]
pub struct Node {
    place: Place,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<Field>),
}

/// A key, where it stands, and its value.
#[derive(Clone, Debug)]
pub struct Field {
    /// The key.
    pub name: String,
    /// Where the key stands, in its document.
    pub place: Place,
    /// Its value.
    pub node: Node,
}

/// A document of a file.
pub struct Document<'a> {
    text: &'a str,
    first_line: u64,
}

/// A document that can't be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unreadable {
    /// Where, in the file.
    pub place: Place,
    /// Why.
    pub message: String,
    /// Whether it is only larger than a manifest of ours may be.
    pub oversized: bool,
}

/// Splits a file. A document marker stands at a line's start, whatever is around it: YAML allows it nowhere else.
pub fn split(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut documents, mut begin, mut first_line, mut offset) = (Vec::new(), 0, 1, 0);
    for (line, number) in text.split_inclusive('\n').zip(1..) {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if marker {
            documents.push(Document {
                text: text.get(begin..offset).unwrap_or_default(),
                first_line,
            });
            (begin, first_line) = (offset, number);
        }
        offset += line.len();
    }
    documents.push(Document {
        text: text.get(begin..).unwrap_or_default(),
        first_line,
    });
    documents.retain(|document| !document.is_blank());
    documents
}

impl Document<'_> {
    fn is_blank(&self) -> bool {
        self.text
            .lines()
            .map(str::trim)
            .all(|line| line.is_empty() || line == "---" || line.starts_with(['#', '%']))
    }

    /// Whether a word stands in it as written.
    pub fn mentions(&self, word: &str) -> bool {
        self.text.contains(word)
    }

    /// Reads it.
    pub fn read(&self) -> Result<Node, Unreadable> {
        serde_saphyr::from_str_with_options(self.text, options(self.text.len())).map_err(|error| {
            let place = error.location().map_or(Place { line: 1, column: 1 }, Place::from);
            let words = error.without_snippet().to_string();
            let words = words.lines().next().unwrap_or_default();
            Unreadable {
                place: self.place(place),
                message: words.split(" at line ").next().unwrap_or(words).to_owned(),
                oversized: matches!(error.without_snippet(), serde_saphyr::Error::Budget { .. }),
            }
        })
    }

    /// A place of the document as a place of the file.
    pub fn place(&self, place: Place) -> Place {
        Place {
            line: self.first_line + place.line.max(1) - 1,
            column: place.column.max(1),
        }
    }
}

impl Node {
    /// Where it stands, in its document.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The fields of an object.
    pub fn fields(&self) -> Option<&[Field]> {
        match &self.content {
            Content::Map(fields) => Some(fields),
            Content::Scalar(_) | Content::List(_) => None,
        }
    }

    /// A field of an object.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields()?.iter().find(|field| field.name == name)
    }

    /// A text.
    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar(value) => value.as_str(),
            Content::List(_) | Content::Map(_) => None,
        }
    }

    /// Whether nothing is said.
    pub fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar(Value::Null))
    }

    /// The value alone.
    pub fn value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => items.iter().map(Self::value).collect(),
            Content::Map(fields) => fields
                .iter()
                .map(|field| (field.name.clone(), field.node.value()))
                .collect(),
        }
    }
}

fn options(length: usize) -> Options {
    serde_saphyr::options! {
        legacy_octal_numbers: true,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_aliases: ALIASES_MAX,
            max_anchors: ALIASES_MAX,
            max_total_scalar_bytes: length.saturating_mul(2).saturating_add(SCALARS_SPARE),
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: REPLAYED_MAX,
        },
    }
}

impl From<Location> for Place {
    fn from(location: Location) -> Self {
        Self {
            line: location.line(),
            column: location.column(),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Content>::deserialize(deserializer)?;
        Ok(Self {
            place: spanned.referenced.into(),
            content: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value that JSON can hold")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Content, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number that JSON can't hold"))?;
        Ok(Content::Scalar(number.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        Content::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Content, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Content::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Content, A::Error> {
        let mut fields = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            fields.push(Field {
                name: key.value,
                place: key.referenced.into(),
                node: access.next_value()?,
            });
        }
        Ok(Content::Map(fields))
    }
}

/// Deeper than any manifest.
const DEPTH_MAX: usize = 32;
/// Values in one document; the schemas' bounds end before that.
const NODES_MAX: usize = 20_000;
/// Anchors and aliases in one document; people write a handful.
const ALIASES_MAX: usize = 256;
/// What aliases may repeat in one document.
const REPLAYED_MAX: usize = 4_096;
/// Text that aliases may repeat, besides as much as the document has.
const SCALARS_SPARE: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<Value> {
        split(text)
            .iter()
            .map(|document| document.read().expect("a document").value())
            .collect()
    }

    #[test]
    fn scalars_mean_what_they_mean_to_kubectl() {
        let read = values("[no, y, on, 0755, 0o17, 1_000, '1', 1.5, ~, null, 2001-01-01, \"\\u00e9\", 1e3]");
        let wanted = serde_json::json!([[
            false,
            true,
            true,
            493,
            15,
            1000,
            "1",
            1.5,
            null,
            null,
            "2001-01-01",
            "é",
            1000.0
        ]]);
        assert_eq!(Value::from(read), wanted);
    }

    #[test]
    fn merge_keys_and_aliases_are_followed() {
        let read = values("base: &b {x: 1, y: 2}\nmore: {<<: *b, y: 3}\nsame: *b\n");
        let wanted =
            serde_json::json!([{"base": {"x": 1, "y": 2}, "more": {"x": 1, "y": 3}, "same": {"x": 1, "y": 2}}]);
        assert_eq!(Value::from(read), wanted);
    }

    #[test]
    fn every_field_knows_its_place() {
        let text = "# comment\n---\na: 1\nb:\n  c: {d: x}\n";
        let documents = split(text);
        let node = documents[0].read().expect("a document");
        let b = node.field("b").expect("b");
        let c = b.node.field("c").expect("c");
        let d = c.node.field("d").expect("d");
        let places = [b.place, c.place, d.place, d.node.place()].map(|place| documents[0].place(place));
        let wanted = [(4, 1), (5, 3), (5, 7), (5, 10)].map(|(line, column)| Place { line, column });
        assert_eq!(places, wanted);
    }

    #[test]
    fn markers_split_and_blank_documents_are_none() {
        for (text, count) in [
            ("", 0),
            ("# only words\n", 0),
            ("%YAML 1.2\n---\na: 1\n", 1),
            ("---\r\na: 1\r\n---\r\nb: 2\r\n", 2),
            ("a: 1\n--- # second\nb: 2\n---\n", 2),
            ("--- {a: 1}\n", 1),
            ("\u{feff}a: 1\n", 1),
            ("a: |\n  ---\n  b\n", 1),
            ("a: '----'\n----: 1\n", 1),
        ] {
            assert_eq!(split(text).len(), count, "{text:?}");
            assert!(split(text).iter().all(|document| document.read().is_ok()), "{text:?}");
        }
    }

    #[test]
    fn what_comes_out_is_hardly_larger_than_what_went_in() {
        let flood = format!("a: &a \"{}\"\nb: [{}]\n", "x".repeat(10_000), ["*a"; 90].join(","));
        let level = |level: usize| {
            format!(
                "l{level}: &l{level} [{}]\n",
                vec![format!("*l{}", level - 1); 9].join(",")
            )
        };
        let laughs = (1..9).map(level).collect::<Vec<_>>().concat();
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        for bomb in [flood, format!("l0: &l0 [x]\n{laughs}"), deep] {
            assert!(split(&bomb)[0].read().is_err(), "{}", &bomb[..40]);
        }
    }
}
