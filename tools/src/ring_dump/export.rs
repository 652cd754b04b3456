//! How `--json` writes ids and moments.
//!
//! Programs such as `jq` keep numbers as doubles, which round above 2^53. What names something is
//! therefore a string: generations in hexadecimal as in the text, sessions, calls and positions in
//! decimal. Counts and times stay numbers: what is rounded there is less than a 2^53rd part.

use ringbell::inspect::Sleep;
use ringbell::layout::{Engine, Facts};
use serde::ser::{Error, Serialize, SerializeMap, Serializer};
use serde_json::Value;
use std::time::SystemTime;

/// Fields of the library's types that name something.
const IDS: [&str; 3] = ["oldest_call", "oldest_session", "word"];

/// A generation as it is written everywhere.
pub(crate) fn generation(generation: u64) -> String {
    format!("{generation:016x}")
}

/// A generation, for `serialize_with`.
pub(crate) fn hex<S: Serializer>(id: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&generation(*id))
}

/// The same, or null.
pub(crate) fn hex_or_null<S: Serializer>(id: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
    id.map(generation).serialize(to)
}

/// A session, a call or a position, for `serialize_with`.
pub(crate) fn decimal<S: Serializer>(id: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(id)
}

/// The same, or null.
pub(crate) fn decimal_or_null<S: Serializer>(id: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
    id.map(|id| id.to_string()).serialize(to)
}

/// A struct of the library, its ids as strings.
fn with_ids<T: Serialize, E: Error>(value: &T) -> Result<Value, E> {
    let mut value = serde_json::to_value(value).map_err(E::custom)?;
    if let Value::Object(fields) = &mut value {
        for (_, id) in fields.iter_mut().filter(|(name, _)| IDS.contains(&name.as_str())) {
            *id = Value::String(id.to_string());
        }
    }
    Ok(value)
}

/// Whether somebody sleeps.
pub(crate) fn sleep<S: Serializer>(sleep: &Sleep, to: S) -> Result<S::Ok, S::Error> {
    with_ids::<_, S::Error>(sleep)?.serialize(to)
}

/// What a server tells of itself; its engine by name, null if it does not say.
pub(crate) fn facts<S: Serializer>(facts: &Facts, to: S) -> Result<S::Ok, S::Error> {
    let mut value = with_ids::<_, S::Error>(facts)?;
    value["engine"] =
        serde_json::to_value(Engine::from_u64(facts.engine)).map_err(S::Error::custom)?;
    value.serialize(to)
}

/// The counters of a server or of a session, in their order.
pub(crate) trait Counters {
    /// Names and values.
    fn all(&self) -> impl Iterator<Item = (&'static str, u64)>;
}

impl Counters for ringbell::stats::ServerCounters {
    fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.iter()
    }
}

impl Counters for ringbell::stats::SessionCounters {
    fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.iter()
    }
}

/// Counters, and the id of a call that stands among them as a string.
pub(crate) fn counters<C: Counters, S: Serializer>(counters: &C, to: S) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(None)?;
    for (name, value) in counters.all() {
        match IDS.contains(&name) {
            true => map.serialize_entry(name, &value.to_string())?,
            false => map.serialize_entry(name, &value)?,
        }
    }
    map.end()
}

/// Milliseconds since 1970.
pub(crate) fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Days of the years before one, in the Gregorian calendar.
fn days_before(year: u64) -> u64 {
    let past = year - 1;
    365 * past + past / 4 - past / 100 + past / 400
}

/// A moment in milliseconds since 1970 as RFC 3339 has it: `2026-12-01T02:49:22.123Z`. A moment
/// after the year 9999, which has no such form, is the end of that year.
pub(crate) fn date(unix_ms: u64) -> String {
    /// Of the last millisecond of 9999.
    const LAST: u64 = 253_402_300_799_999;
    let unix_ms = unix_ms.min(LAST);
    let (seconds, ms) = (unix_ms / 1000, unix_ms % 1000);
    let day = days_before(1970) + seconds / 86_400;
    // A guess that is never too late, and one year too early at most.
    let mut year = day * 400 / 146_097 + 1;
    year -= u64::from(days_before(year) > day);
    year += u64::from(days_before(year + 1) <= day);
    let leap = days_before(year + 1) - days_before(year) == 366;
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let (mut month, mut left) = (1, day - days_before(year));
    for length in lengths {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!(
        "{year:04}-{month:02}-{:02}T{hours:02}:{minutes:02}:{:02}.{ms:03}Z",
        left + 1,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Code;
    use ringbell::stats::{ServerCounters, SessionCounters};
    use serde_json::json;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // By `date -u -d @SECONDS`.
        for (unix_ms, said) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (68_169_599_999, "1972-02-28T23:59:59.999Z"),
            (68_169_600_000, "1972-02-29T00:00:00.000Z"),
            (94_694_399_000, "1972-12-31T23:59:59.000Z"),
            (951_827_696_789, "2000-02-29T12:34:56.789Z"),
            (1_796_093_362_123, "2026-12-01T02:49:22.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(date(unix_ms), said);
        }
        // Each day is the one after the day before, over two rounds of the calendar.
        let mut last = String::new();
        for day in 0..300_000 {
            let next = date(day * 86_400_000);
            assert!(next > last, "{next} after {last}");
            last = next;
        }
    }

    #[test]
    fn an_id_beyond_2_to_the_53_stays_itself() {
        let impossible = Sleep::Impossible { word: u64::MAX };
        let mut out = Vec::new();
        sleep(&impossible, &mut serde_json::Serializer::new(&mut out)).expect("JSON");
        let json: Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(json["word"], "18446744073709551615");
        let mut told = Facts { oldest_call: u64::MAX, engine: 2, ..Facts::default() };
        let json = facts(&told, serde_json::value::Serializer).expect("JSON");
        assert_eq!(json["oldest_call"], "18446744073709551615");
        assert_eq!(json["engine"], "concurrent");
        told.engine = 99;
        let json = facts(&told, serde_json::value::Serializer).expect("JSON");
        assert_eq!(json["engine"], Value::Null);
    }

    /// What the schema says of the counters of a side.
    fn described(what: &str, fields: &[(&str, usize)], meanings: &[&str]) -> Value {
        let properties = fields.iter().zip(meanings).map(|((name, _), meaning)| {
            let field = match IDS.contains(name) {
                true => json!({ "$ref": "#/$defs/id", "description": meaning }),
                false => json!({ "type": "integer", "minimum": 0, "description": meaning }),
            };
            ((*name).to_owned(), field)
        });
        let names: Vec<_> = fields.iter().map(|(name, _)| name).collect();
        json!({
            "type": "object",
            "description": what,
            "properties": properties.collect::<serde_json::Map<_, _>>(),
            "required": names,
        })
    }

    /// `RINGBELL_BLESS=1` writes them anew.
    #[test]
    fn the_schema_has_the_counters_and_the_codes() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/ring-dump.schema.json");
        let stored = std::fs::read_to_string(path).expect("read");
        let mut schema: Value = serde_json::from_str(&stored).expect("JSON");
        let definitions = &mut schema["$defs"];
        definitions["server_counters"] = described(
            "What a server counted over all sessions.",
            ServerCounters::FIELDS,
            ServerCounters::MEANINGS,
        );
        definitions["session_counters"] = described(
            "What one side of a session counted.",
            SessionCounters::FIELDS,
            SessionCounters::MEANINGS,
        );
        let codes: Vec<_> = Code::ALL.iter().map(|code| code.word()).collect();
        definitions["code"]["enum"] = json!(codes);
        let right = serde_json::to_string_pretty(&schema).expect("JSON") + "\n";
        if std::env::var_os("RINGBELL_BLESS").is_some() {
            std::fs::write(path, &right).expect("written");
        } else {
            assert!(stored == right, "{path} lacks a counter or a code: RINGBELL_BLESS=1");
        }
    }
}
