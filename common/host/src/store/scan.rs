//! Keys with their values, in order.
//!
//! Owns [`Scan`]. Main invariant: every value it hands out is whole; the first that is not ends it.

use super::{Store, StoreError};

/// A key and its value.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// Keys with their values, in order.
pub struct Scan<'a> {
    pub(super) store: &'a Store,
    pub(super) inner: sled::Iter,
    pub(super) over: bool,
}

impl Scan<'_> {
    fn read(
        &mut self,
        item: Result<Option<sled::Result<(sled::IVec, sled::IVec)>>, StoreError>,
    ) -> Option<Result<KeyValue, StoreError>> {
        if self.over {
            return None;
        }
        let read = match item {
            Ok(None) => return None,
            Ok(Some(Ok((stored, head)))) => {
                let key = stored.get(1..).unwrap_or_default();
                self.store.whole(key, &head).map(|value| (key.to_vec(), value))
            }
            Ok(Some(Err(error))) => Err(self.store.read_failed(&error)),
            Err(error) => Err(error),
        };
        // One error ends a scan: what follows damage cannot be taken for all there is.
        self.over = read.is_err();
        Some(read)
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<KeyValue, StoreError>;
    fn next(&mut self) -> Option<Self::Item> {
        let store = self.store;
        let item = store.guarded(|| self.inner.next());
        self.read(item)
    }
}

impl DoubleEndedIterator for Scan<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let store = self.store;
        let item = store.guarded(|| self.inner.next_back());
        self.read(item)
    }
}
