//! A subscriber of `tracing` that keeps all spans and events, for tests to look at, in this process
//! or in that of a role.

use crate::locks::lock;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

/// A span that has ended, or an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// `span` or `event`.
    pub what: String,
    /// Its target.
    pub target: String,
    /// Its name.
    pub name: String,
    /// Its level.
    pub level: String,
    /// The name of the span that it is in, or nothing.
    pub inside: String,
    /// How often a span was entered.
    pub entered: u64,
    /// Its fields, as they are shown.
    pub fields: BTreeMap<String, String>,
}

impl Captured {
    fn of(metadata: &Metadata<'_>, inside: Option<&str>) -> Self {
        Self {
            what: if metadata.is_span() { "span" } else { "event" }.to_owned(),
            target: metadata.target().to_owned(),
            name: metadata.name().to_owned(),
            level: metadata.level().to_string(),
            inside: inside.unwrap_or_default().to_owned(),
            entered: 0,
            fields: BTreeMap::new(),
        }
    }

    /// A field; the empty string if it was not given.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// A field that is a number.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn number(&self, name: &str) -> u64 {
        self.field(name).parse().unwrap_or_else(|_| panic!("{name} is no number: {self:?}"))
    }

    /// As one line, for [`Self::from_line`] in another process.
    #[must_use]
    pub fn to_line(&self) -> String {
        let mut parts: Vec<String> =
            [&self.what, &self.target, &self.name, &self.level, &self.inside]
                .into_iter()
                .cloned()
                .collect();
        parts.push(self.entered.to_string());
        parts.extend(self.fields.iter().map(|(name, value)| format!("{name}={value}")));
        parts.join("\t")
    }

    /// What [`Self::to_line`] wrote.
    ///
    /// # Panics
    /// If it did not.
    #[must_use]
    pub fn from_line(line: &str) -> Self {
        let mut parts = line.split('\t').map(str::to_owned);
        let mut next = || parts.next().expect("a part");
        let (what, target, name, level, inside) = (next(), next(), next(), next(), next());
        let entered = next().parse().expect("a number");
        let fields = parts.map(|field| {
            let (name, value) = field.split_once('=').expect("a field");
            (name.to_owned(), value.to_owned())
        });
        Self { what, target, name, level, inside, entered, fields: fields.collect() }
    }
}

impl Visit for Captured {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

static CAPTURED: Mutex<Vec<Captured>> = Mutex::new(Vec::new());

fn captured() -> MutexGuard<'static, Vec<Captured>> {
    lock(&CAPTURED)
}

struct Keeping;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Keeping {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let span = context.span(id).expect("it is new");
        let mut new =
            Captured::of(attributes.metadata(), span.parent().map(|parent| parent.name()));
        attributes.record(&mut new);
        span.extensions_mut().insert(new);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).expect("it is there");
        if let Some(captured) = span.extensions_mut().get_mut::<Captured>() {
            values.record(captured);
        }
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        let span = context.span(id).expect("it is there");
        if let Some(captured) = span.extensions_mut().get_mut::<Captured>() {
            captured.entered += 1;
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut new =
            Captured::of(event.metadata(), context.event_span(event).map(|span| span.name()));
        event.record(&mut new);
        captured().push(new);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).expect("it is there");
        if let Some(ended) = span.extensions_mut().remove::<Captured>() {
            captured().push(ended);
        }
    }
}

/// From now on everything is kept that this process tells of Ringbell, and of the target `test`.
///
/// # Panics
/// If there is a subscriber already.
pub fn capture_all() {
    let ours = tracing_subscriber::filter::filter_fn(|about| {
        about.target() == "test" || about.target().starts_with("ringbell::")
    });
    let subscriber = tracing_subscriber::registry().with(Keeping.with_filter(ours));
    assert!(tracing::level_filters::STATIC_MAX_LEVEL >= Level::TRACE, "levels are compiled out");
    tracing::subscriber::set_global_default(subscriber).expect("the only one");
}

/// What was captured since this was called last.
#[must_use]
pub fn take() -> Vec<Captured> {
    std::mem::take(&mut captured())
}
