//! Usage that each event of a stream says of its own choice, as vLLM and its kin write it (`continuous_usage_stats`): a running total of
//! every choice, which only the last event, that without choices, sums up. Of a stream that broke before, the sum is made here.

use super::Operation;
use super::events::{fields, members};
use super::json::{USAGE, after};
use super::usage::{Usage, count, read};

/// Most choices of which the totals are kept; OpenAI allows 128 of them. What others say is left to the count of events.
const MOST: usize = 256;

/// The totals of one stream.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// By the choice's index.
    each: Vec<Option<Usage>>,
    /// The backend itself has summed them up.
    whole: bool,
}

impl Totals {
    /// Of a stream one of whose first events says usage beside a choice; boxed, because few do.
    pub(super) fn begun_by(operation: Operation, event: &[u8]) -> Option<Box<Self>> {
        let mut totals = Self::default();
        let takes = matches!(operation, Operation::Chat | Operation::Completions);
        (takes && totals.take(operation, event) && !totals.whole).then(|| Box::new(totals))
    }

    /// Takes what an event says; whether it says anything.
    pub(super) fn take(&mut self, operation: Operation, event: &[u8]) -> bool {
        // Most streams say none, and none of theirs is walked through.
        if USAGE.find(event).is_none() {
            return false;
        }
        let Some((index, usage)) = fields(event, b"data:").find_map(|data| said(operation, data)) else { return false };
        match index {
            None => self.whole = true,
            Some(index) if index < MOST => {
                self.each.resize(self.each.len().max(index + 1), None);
                self.each[index] = Some(usage);
            }
            Some(_) => {}
        }
        true
    }

    /// The sum over several choices that nobody else has made. They have one prompt in a chat; how many there were in a call for
    /// completions, and which of them a choice goes on from, is not said.
    pub(super) fn sum(&self, operation: Operation) -> Option<Usage> {
        let each = || self.each.iter().flatten();
        if self.whole || each().count() < 2 {
            return None;
        }
        let add = |of: fn(&Usage) -> Option<u64>| each().filter_map(of).reduce(u64::saturating_add);
        let prompt = each().max_by_key(|usage| usage.input_tokens).filter(|_| operation == Operation::Chat);
        Some(Usage {
            input_tokens: prompt.and_then(|prompt| prompt.input_tokens),
            cached_tokens: prompt.and_then(|prompt| prompt.cached_tokens),
            output_tokens: add(|usage| usage.output_tokens),
            reasoning_tokens: add(|usage| usage.reasoning_tokens),
        })
    }
}

/// The usage in an event's data, and the choice that it is of; none where it is of all of them.
fn said(operation: Operation, data: &[u8]) -> Option<(Option<usize>, Usage)> {
    let (mut usage, mut index) = (None, None);
    for (name, value) in members(data) {
        match name {
            b"usage" if value.first() == Some(&b'{') && value.last() == Some(&b'}') => usage = read(operation, value),
            b"choices" if value.first() == Some(&b'[') && after(value, 1, b']').is_none() => {
                let said = members(&value[1..]).find(|(name, _)| *name == b"index").and_then(|(_, value)| count(value).ok()?);
                index = Some(said.unwrap_or(0) as usize);
            }
            _ => {}
        }
    }
    Some((index, usage?))
}

#[cfg(test)]
mod tests {
    use super::super::usage::{Meter, UsageSource};
    use super::*;

    fn event(choices: &str, tokens: u64) -> String {
        let usage = format!(r#"{{"prompt_tokens":11,"total_tokens":{},"completion_tokens":{tokens}}}"#, 11 + tokens);
        format!("data: {{\"model\":\"m\",\"choices\":[{choices}],\"usage\":{usage}}}\n\n")
    }

    fn choice(operation: Operation, index: usize, tokens: u64) -> String {
        let text = if tokens == 0 { "" } else { "x" };
        let says = match operation {
            Operation::Chat => format!(r#""delta":{{"content":"{text}"}}"#),
            _ => format!(r#""text":"{text}""#),
        };
        event(&format!(r#"{{"index":{index},{says}}}"#), tokens)
    }

    fn found(operation: Operation, stream: &str) -> (Option<u64>, Option<u64>, UsageSource) {
        let by = |size: usize| {
            let mut meter = Meter::sse(operation);
            stream.as_bytes().chunks(size).for_each(|chunk| meter.feed(&bytes::Bytes::copy_from_slice(chunk)));
            let (usage, source) = meter.finish();
            (usage.input_tokens, usage.output_tokens, source)
        };
        assert_eq!([1, 7].map(by), [by(stream.len()); 2]);
        by(stream.len())
    }

    #[test]
    fn the_totals_of_several_choices_are_summed_where_the_backend_did_not() {
        use Operation::{Chat, Completions};
        let said = [(0, 0), (1, 0), (2, 0), (0, 4), (1, 9), (0, 6), (2, 5), (1, 10)];
        let stream = |operation, said: &[(usize, u64)]| -> String {
            said.iter().map(|(index, tokens)| choice(operation, *index, *tokens)).collect()
        };
        let broken = stream(Chat, &said);
        assert_eq!(found(Chat, &broken), (Some(11), Some(21), UsageSource::Counted), "one prompt, 6 and 10 and 5");
        assert_eq!(
            found(Chat, &(broken + &event("", 33))),
            (Some(11), Some(33), UsageSource::Reported),
            "what it sums up itself"
        );
        assert_eq!(found(Chat, &stream(Chat, &[(0, 0), (0, 4), (0, 6)])), (Some(11), Some(6), UsageSource::Reported));
        assert_eq!(found(Completions, &stream(Completions, &said)), (None, Some(21), UsageSource::Counted), "of unknown prompts");
        // What was seen is never less than what was said.
        let unsaid = "data: {\"choices\":[{\"index\":3,\"delta\":{\"content\":\"x\"}}],\"usage\":null}\n\n".repeat(40);
        let broken = stream(Chat, &said) + &unsaid;
        assert_eq!(found(Chat, &broken), (Some(11), Some(45), UsageSource::Counted));
        // A choice of any number is survived.
        assert_eq!(found(Chat, &stream(Chat, &[(0, 1), (usize::MAX, 7), (MOST, 7)])), (Some(11), Some(7), UsageSource::Reported));
    }
}
