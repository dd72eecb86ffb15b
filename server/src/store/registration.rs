//! The sources of an app.

use std::{collections::BTreeMap, sync::Arc};

use wwproxy_protocol::{Secret, Source, SourceName};

use super::StoredSource;

/// The sources of an app, from which it receives webhooks. An app is registered while it has a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registration {
    /// The sources by name. A source that is replaced is a new `Arc`, also by equal settings.
    pub sources: BTreeMap<SourceName, StoredSource>,
}

impl Registration {
    /// The source of this name, if it is valid.
    #[must_use]
    pub fn source(&self, name: &SourceName) -> Option<&Arc<Source>> {
        self.sources.get(name)?.as_ref().ok()
    }

    /// Whether the app still has this source, neither replaced nor removed. An event in progress holds its `Arc`, so no
    /// other source can have the same address.
    #[must_use]
    pub fn has(&self, name: &SourceName, source: &Arc<Source>) -> bool {
        self.source(name).is_some_and(|current| Arc::ptr_eq(current, source))
    }

    /// The source `default` of Watson Work, with this webhook secret.
    #[must_use]
    pub fn watson_work(secret: Secret) -> Self {
        Self { sources: [(SourceName::default(), Ok(Arc::new(Source::watson_work(secret))))].into() }
    }
}
