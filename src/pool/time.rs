//! Times as people write them: `30s`, `5ms`, `1m 30s`; and `never` where there may be none.

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserializer, Serializer};
use std::time::Duration;

struct Time;

impl Visitor<'_> for Time {
    type Value = Duration;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a time with its unit, such as 30s or 5ms")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
        humantime::parse_duration(text).map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
    }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    from.deserialize_str(Time)
}

pub(crate) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&humantime::format_duration(*time))
}

/// A time, or `never`.
pub(crate) mod optional {
    use super::{Deserializer, Duration, Error, Serializer, Unexpected, Visitor};

    struct TimeOrNever;

    impl Visitor<'_> for TimeOrNever {
        type Value = Option<Duration>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a time with its unit, such as 30s or 5ms, or `never`")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Option<Duration>, E> {
            match text {
                "never" => Ok(None),
                text => match humantime::parse_duration(text) {
                    Ok(time) => Ok(Some(time)),
                    Err(_) => Err(E::invalid_value(Unexpected::Str(text), &self)),
                },
            }
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        from.deserialize_str(TimeOrNever)
    }

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::serialize(time, to),
            None => to.serialize_str("never"),
        }
    }
}
