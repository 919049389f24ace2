//! What a request asks of whoever serves it, and how large it is expected to be.

/// What a request asks of whoever serves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Bytes of the request body.
    pub body_bytes: usize,
    /// The most output tokens that the client wants, where it said.
    pub max_output_tokens: Option<u32>,
    /// Whether the response is wanted as a stream, so that its first token is what the client waits for.
    pub streamed: bool,
    /// Whether vectors are asked for: then there are no output tokens, and the response is one piece.
    pub embeddings: bool,
}

/// What all requests together have asked for lately.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usual {
    /// Output tokens of the usual request; 0 where nobody knows.
    pub answer: f64,
    /// Output tokens for those who can hardly wait, as a share of what the backends together can give that may serve them.
    pub hurried: f64,
}

/// How large a request is expected to be; the same for all of its candidates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the response; 0 for embeddings.
    pub output_tokens: u32,
}
