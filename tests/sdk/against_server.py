"""The official SDK against Windward in front of a real model server (llama.cpp), as one of its users.

Started by tests/it/model_server.rs with WINDWARD, the proxy's address. It prints one line of JSON for each answer: which backend
gave it, and what the SDK says of its tokens, to be compared with the proxy's log.
"""

import json
import os
import sys

import openai

MODEL = "tiny"
HELLO = [{"role": "user", "content": "Which way does the wind blow?"}]
LIMIT = 16


def note(raw, said, usage):
    assert said, "the model said nothing"
    print(json.dumps({"backend": raw.headers["x-windward-backend"], "id": raw.headers["x-request-id"], "usage": usage}), flush=True)


def chat(client):
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, max_tokens=LIMIT)
    answer = raw.parse()
    note(raw, answer.choices[0].message.content, [answer.usage.prompt_tokens, answer.usage.completion_tokens])


def chat_stream(client, asked):
    more = {"stream_options": {"include_usage": True}} if asked else {}
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, max_tokens=LIMIT, stream=True, **more)
    chunks = list(raw.parse())
    usage = None
    if asked:
        last = chunks.pop()
        assert last.choices == [], last
        usage = [last.usage.prompt_tokens, last.usage.completion_tokens]
    assert all(chunk.choices and chunk.usage is None for chunk in chunks), chunks
    note(raw, "".join(chunk.choices[0].delta.content or "" for chunk in chunks), usage)


def completion(client):
    raw = client.completions.with_raw_response.create(model=MODEL, prompt="The wind", max_tokens=LIMIT)
    answer = raw.parse()
    note(raw, answer.choices[0].text, [answer.usage.prompt_tokens, answer.usage.completion_tokens])


def response(client):
    raw = client.responses.with_raw_response.create(model=MODEL, input="Which way?", max_output_tokens=LIMIT)
    answer = raw.parse()
    note(raw, answer.output_text, [answer.usage.input_tokens, answer.usage.output_tokens])


def response_stream(client):
    raw = client.responses.with_raw_response.create(model=MODEL, input="Which way?", max_output_tokens=LIMIT, stream=True)
    events = list(raw.parse())
    usage = events[-1].response.usage
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    note(raw, said, [usage.input_tokens, usage.output_tokens])


def main(what):
    with openai.OpenAI(base_url=os.environ["WINDWARD"] + "/v1", api_key="none", max_retries=0, timeout=60) as client:
        chat(client)
        if what == "all":
            chat_stream(client, asked=False)
            chat_stream(client, asked=True)
            completion(client)
            response(client)
            response_stream(client)


if __name__ == "__main__":
    main(sys.argv[1])
