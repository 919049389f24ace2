//! Files that clients leave with a region. Each lives in the one region that took it, which is what makes pinning testable: its id
//! carries the region's name, and every other region answers 404.

use std::collections::VecDeque;

use bytes::Bytes;
use serde_json::{Value, json};

/// Files kept in one region; the oldest goes first.
const MAX_FILES: usize = 256;
/// All their bytes together, in one region.
const MAX_BYTES: usize = 64 << 20;

struct File {
    id: String,
    created: i64,
    content: Bytes,
}

impl File {
    fn json(&self) -> Value {
        json!({
            "id": self.id, "object": "file", "bytes": self.content.len(), "created_at": self.created,
            "filename": "upload", "purpose": "user_data", "status": "processed",
        })
    }
}

/// The files of one region.
pub(super) struct Files {
    prefix: String,
    kept: VecDeque<File>,
    bytes: usize,
    taken: u64,
}

impl Files {
    pub(super) fn new(prefix: String) -> Self {
        Self { prefix, kept: VecDeque::new(), bytes: 0, taken: 0 }
    }

    /// Keeps a body as it came (the parts of a form are not taken apart) and describes it.
    pub(super) fn put(&mut self, content: Bytes, created: i64) -> Value {
        self.taken += 1;
        self.bytes += content.len();
        let file = File { id: format!("file-{}-{}", self.prefix, self.taken), created, content };
        let described = file.json();
        self.kept.push_back(file);
        while self.kept.len() > MAX_FILES || self.bytes > MAX_BYTES {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.bytes -= oldest.content.len();
        }
        described
    }

    pub(super) fn list(&self) -> Value {
        let files: Vec<Value> = self.kept.iter().map(File::json).collect();
        json!({"object": "list", "data": files, "has_more": false})
    }

    pub(super) fn describe(&self, id: &str) -> Option<Value> {
        self.kept.iter().find(|file| file.id == id).map(File::json)
    }

    pub(super) fn content(&self, id: &str) -> Option<Bytes> {
        self.kept.iter().find(|file| file.id == id).map(|file| file.content.clone())
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Value> {
        let index = self.kept.iter().position(|file| file.id == id)?;
        let file = self.kept.remove(index)?;
        self.bytes -= file.content.len();
        Some(json!({"id": id, "object": "file", "deleted": true}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_few_enough_and_little_enough() {
        let mut files = Files::new("here".to_owned());
        for _ in 0..=MAX_FILES {
            files.put(Bytes::from_static(b"x"), 0);
        }
        assert!(files.describe("file-here-1").is_none());
        assert_eq!(files.content("file-here-2"), Some(Bytes::from_static(b"x")));
        files.put(Bytes::from(vec![0; MAX_BYTES]), 0);
        assert_eq!(files.list()["data"].as_array().unwrap().len(), 1);
        assert!(files.remove("file-here-258").is_some() && files.bytes == 0);
    }
}
