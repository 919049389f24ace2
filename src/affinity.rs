//! Which conversation a request goes on with, and who is likely to have most of its prompt at hand.
//!
//! A model server keeps what it computed of a prompt for some minutes, and the next turn of a conversation begins with all of the turn
//! before. Whoever served that turn reads the rest alone: sooner, and at a tenth of the energy. So for every conversation it is
//! remembered who served it, and that backend is judged with what it need not read again. Moving away then costs what it costs, in
//! milliseconds and in grams, and no rule of its own has to keep conversations where they are.
//!
//! A conversation is known by what the client calls it, or else by how its prompt begins: by the hashes of the first 1, 2, 4, .. KiB,
//! of which the longest that is known counts. One hash of one length would take every conversation with the same long instructions for
//! the same. The hashes are keyed with a number that is drawn at the start and kept nowhere, and nothing of a prompt is kept besides.
//!
//! What is remembered is shared by all workers, since the next turn may come by a connection of another one: with a memory of its own
//! each of four would know a quarter. It is a table of relaxed atomics of a fixed size, in which the oldest gives way. A reader that
//! comes between two writes of one entry may believe something wrong of one request; a lock would cost every request.

mod memory;
mod session;

pub use memory::{Memory, Tag, Warm};
pub use session::{PrefixScan, Session, SessionKey};
