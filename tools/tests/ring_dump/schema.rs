//! Whether JSON is what `ring-dump.schema.json` says: as much of JSON Schema 2020-12 as that file
//! uses. An object has no field that the schema does not name, which is stricter than the schema:
//! others may find fields that came later.

use serde_json::{Map, Value};

/// A schema.
pub(crate) struct Schema(Value);

impl Schema {
    /// That of ring-dump.
    pub(crate) fn read() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/ring-dump.schema.json");
        let text = std::fs::read_to_string(path).expect("the schema");
        Self(serde_json::from_str(&text).expect("JSON"))
    }

    /// What is wrong with a value that should be as a definition says.
    pub(crate) fn flaws(&self, definition: &str, value: &Value) -> Vec<String> {
        let mut flaws = Vec::new();
        self.check(self.definition(definition), value, definition, &mut flaws);
        flaws
    }

    pub(crate) fn assert(&self, definition: &str, value: &Value) {
        let flaws = self.flaws(definition, value);
        assert!(flaws.is_empty(), "{}\nin {value:#}", flaws.join("\n"));
    }

    fn definition(&self, name: &str) -> &Value {
        let found = &self.0["$defs"][name];
        assert!(found.is_object(), "there is no definition {name}");
        found
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, flaws: &mut Vec<String>) {
        let schema = schema.as_object().expect("a schema is an object");
        for (keyword, says) in schema {
            match keyword.as_str() {
                "description" => {}
                "$ref" => {
                    let name = says.as_str().and_then(|path| path.strip_prefix("#/$defs/"));
                    self.check(self.definition(name.expect("a definition")), value, at, flaws);
                }
                "anyOf" => self.check_any(says.as_array().expect("schemas"), value, at, flaws),
                "const" if says != value => flaws.push(format!("{at}: {value} is not {says}")),
                "enum" if !says.as_array().expect("values").contains(value) => {
                    flaws.push(format!("{at}: {value} is none of {says}"));
                }
                "type" if !has_type(says, value) => {
                    flaws.push(format!("{at}: {value} is no {says}"));
                }
                "minimum" if value.as_f64() < says.as_f64() && value.is_number() => {
                    flaws.push(format!("{at}: {value} is below {says}"));
                }
                "pattern" => {
                    let pattern = says.as_str().expect("a pattern");
                    if value.as_str().is_some_and(|text| !matches(pattern, text)) {
                        flaws.push(format!("{at}: {value} does not match {pattern}"));
                    }
                }
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(says, item, &format!("{at}[{index}]"), flaws);
                    }
                }
                "minItems" | "maxItems" => {
                    let length = value.as_array().map_or(0, Vec::len) as u64;
                    let limit = says.as_u64().expect("a length");
                    if (keyword == "minItems" && length < limit)
                        || (keyword == "maxItems" && length > limit)
                    {
                        flaws.push(format!("{at}: {length} items"));
                    }
                }
                "required" if value.is_object() => {
                    let names = says.as_array().expect("names").iter();
                    let names = names.map(|name| name.as_str().expect("a name"));
                    let missing = names.filter(|name| value.get(name).is_none());
                    flaws.extend(missing.map(|name| format!("{at}: no field {name}")));
                }
                "properties"
                | "additionalProperties"
                | "const"
                | "enum"
                | "type"
                | "minimum"
                | "required" => {}
                other => panic!("{at}: this test does not know the keyword {other}"),
            }
        }
        self.check_fields(schema, value, at, flaws);
    }

    fn check_any(&self, schemas: &[Value], value: &Value, at: &str, flaws: &mut Vec<String>) {
        let mut best: Option<Vec<String>> = None;
        for schema in schemas {
            let mut found = Vec::new();
            self.check(schema, value, at, &mut found);
            if best.as_ref().is_none_or(|best| found.len() < best.len()) {
                best = Some(found);
            }
        }
        flaws.extend(best.expect("a schema"));
    }

    fn check_fields(
        &self,
        schema: &Map<String, Value>,
        value: &Value,
        at: &str,
        flaws: &mut Vec<String>,
    ) {
        let named = schema.get("properties").and_then(Value::as_object);
        let others = schema.get("additionalProperties");
        let Some(fields) = value.as_object().filter(|_| named.is_some() || others.is_some()) else {
            return;
        };
        for (name, field) in fields {
            let at = format!("{at}.{name}");
            match (named.and_then(|named| named.get(name)), others) {
                (Some(schema), _) | (None, Some(schema)) => self.check(schema, field, &at, flaws),
                (None, None) => flaws.push(format!("{at}: not in the schema")),
            }
        }
    }
}

fn has_type(says: &Value, value: &Value) -> bool {
    let is = |name: &Value| match name.as_str().expect("a type") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => panic!("no type {other}"),
    };
    says.as_array().map_or_else(|| is(says), |names| names.iter().any(is))
}

/// The patterns that the schema uses, each by hand.
fn matches(pattern: &str, text: &str) -> bool {
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    match pattern {
        "^[0-9a-f]{16}$" => text.len() == 16 && text.bytes().all(hex),
        "^([0-9a-f]{2})*$" => text.len().is_multiple_of(2) && text.bytes().all(hex),
        "^[0-9]+$" => !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()),
        _ if pattern.starts_with("^[0-9]{4}-[0-9]{2}") => {
            let form = "0000-00-00T00:00:00.000Z";
            text.len() == form.len()
                && text.bytes().zip(form.bytes()).all(|(byte, form)| match form {
                    b'0' => byte.is_ascii_digit(),
                    form => byte == form,
                })
        }
        other => panic!("this test does not know the pattern {other}"),
    }
}
