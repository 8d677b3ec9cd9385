//! Functions that were compiled already, in memory: of a component that is built again after an
//! edit, most are the same.

use std::{
    borrow::Cow,
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use wasmtime::CacheStore;

/// Most bytes that are kept, keys included; a component of half a megabyte takes two.
const ROOM: usize = 64 << 20;

/// What wasmtime made of each function, by a digest of all that it depends on.
///
/// It has two halves. What is looked up or made goes to the new one; when that is full it becomes
/// the old one, and what was in there and not looked up since is forgotten.
#[derive(Debug)]
pub struct Functions {
    halves: Mutex<Halves>,
    room: usize,
}

#[derive(Debug, Default)]
struct Halves {
    new: Entries,
    /// The size of `new`, in bytes.
    size: usize,
    old: Entries,
}

type Entries = HashMap<Box<[u8]>, Arc<[u8]>>;

impl Default for Functions {
    fn default() -> Self {
        Self::with_room(ROOM)
    }
}

impl Functions {
    fn with_room(room: usize) -> Self {
        Self {
            halves: Mutex::default(),
            room,
        }
    }

    /// Runs `act`; what a panic left are whole entries.
    fn with<T>(&self, act: impl FnOnce(&mut Halves) -> T) -> T {
        act(&mut self.halves.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Halves {
    fn get(&mut self, key: &[u8], half: usize) -> Option<Arc<[u8]>> {
        if let Some(code) = self.new.get(key) {
            return Some(code.clone());
        }
        let (key, code) = self.old.remove_entry(key)?;
        self.add(key, code.clone(), half);
        Some(code)
    }

    /// Gives whether there is room for it at all.
    fn add(&mut self, key: Box<[u8]>, code: Arc<[u8]>, half: usize) -> bool {
        let size = key.len() + code.len();
        if size > half {
            return false;
        }
        if self.size + size > half {
            self.old = mem::take(&mut self.new);
            self.size = 0;
        }
        let key_size = key.len();
        self.size += size;
        if let Some(before) = self.new.insert(key, code) {
            self.size -= key_size + before.len();
        }
        true
    }
}

impl CacheStore for Functions {
    fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>> {
        let code = self.with(|halves| halves.get(key, self.room / 2))?;
        Some(Cow::Owned(code.to_vec()))
    }

    fn insert(&self, key: &[u8], value: Vec<u8>) -> bool {
        self.with(|halves| halves.add(key.into(), value.into(), self.room / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Room for eight entries of 16 bytes: four in each half.
    fn functions() -> Functions {
        Functions::with_room(128)
    }

    fn insert(functions: &Functions, key: u8) {
        assert!(functions.insert(&[key], vec![key; 15]));
    }

    fn has(functions: &Functions, key: u8) -> bool {
        let code = functions.get(&[key]);
        assert!(code.as_ref().is_none_or(|code| **code == [key; 15]));
        code.is_some()
    }

    #[test]
    fn what_is_used_stays_and_the_rest_goes_with_time() {
        let functions = functions();
        for key in 0..100 {
            insert(&functions, key);
            assert!(has(&functions, 0), "forgotten at {key}");
            let halves = functions.halves.lock().unwrap();
            let size = |entries: &Entries| entries.values().map(|code| 1 + code.len()).sum();
            let (new, old): (usize, usize) = (size(&halves.new), size(&halves.old));
            assert_eq!(new, halves.size);
            assert!(new <= 64 && old <= 64);
        }
        assert!(has(&functions, 99));
        assert!(!has(&functions, 1));
    }

    #[test]
    fn the_same_again_takes_no_more_room() {
        let functions = functions();
        insert(&functions, 1);
        for _ in 0..20 {
            insert(&functions, 2);
        }
        assert_eq!(functions.halves.lock().unwrap().size, 32);
        assert!(has(&functions, 1) && has(&functions, 2));
    }

    #[test]
    fn what_is_too_large_is_refused_and_displaces_nothing() {
        let functions = functions();
        insert(&functions, 1);
        assert!(!functions.insert(&[2], vec![0; 64]));
        assert_eq!(functions.get(&[2]), None);
        assert!(has(&functions, 1));
    }
}
