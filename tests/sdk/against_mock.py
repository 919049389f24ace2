"""The official SDK against Windward in front of the simulated fleet: an application must notice nothing but the response headers.

Started by tests/it/sdk.rs, which says where everything listens: WINDWARD is the proxy's address, CLEAN, FULL and BROKEN are those of
the regions that are asked about from behind. Each test is about one thing that the SDK does with a response.
"""

import asyncio
import json
import os
import time
import unittest
import urllib.request

import openai

WINDWARD = os.environ["WINDWARD"]
MODEL = "gpt-oss-120b"
HELLO = [{"role": "user", "content": "Which way does the wind blow?"}]
# Tokens that the simulated region is to answer with.
SHORT = {"x-mock-output-tokens": "12"}
ENDLESS = {"x-mock-output-tokens": "1000000"}
# Tries, 20 ms apart, until something that is about to happen counts as never happening.
PATIENCE = 1000


def client(kind=openai.OpenAI, base="/v1"):
    # Without retries of its own, so that each error is seen as it comes.
    return kind(base_url=WINDWARD + base, api_key="a-client-key", max_retries=0, timeout=30)


def control(region, change):
    urllib.request.urlopen(urllib.request.Request(os.environ[region] + "/_ctl", json.dumps(change).encode())).read()


def ledger(region):
    with urllib.request.urlopen(os.environ[region] + "/_ledger") as answer:
        return [json.loads(line) for line in answer]


class Answers(unittest.TestCase):
    def test_chat(self):
        answer = client().chat.completions.create(model=MODEL, messages=HELLO, extra_headers=SHORT)
        self.assertEqual(answer.usage.completion_tokens, 12)
        self.assertGreater(answer.usage.prompt_tokens, 0)
        self.assertTrue(answer.choices[0].message.content)

    def test_chat_many_at_once(self):
        async def ask():
            async with client(openai.AsyncOpenAI) as windward:
                asked = (windward.chat.completions.create(model=MODEL, messages=HELLO, extra_headers=SHORT) for _ in range(16))
                return await asyncio.gather(*asked)

        answers = asyncio.run(ask())
        self.assertEqual([answer.usage.completion_tokens for answer in answers], [12] * 16)
        self.assertEqual(len({answer.id for answer in answers}), 16)

    def test_completion(self):
        answer = client().completions.create(model=MODEL, prompt="The wind", extra_headers=SHORT)
        self.assertTrue(answer.choices[0].text)
        self.assertEqual(answer.usage.completion_tokens, 12)

    def test_response(self):
        answer = client().responses.create(model=MODEL, input="Which way?", extra_headers=SHORT)
        self.assertTrue(answer.output_text)
        self.assertEqual(answer.usage.output_tokens, 12)

    def test_embeddings(self):
        answer = client().embeddings.create(model="text-embedding-3-small", input=["a", "b"], dimensions=16)
        self.assertEqual([len(item.embedding) for item in answer.data], [16, 16])
        self.assertIsInstance(answer.data[0].embedding[0], float)

    def test_models(self):
        names = {model.id for model in client().models.list()}
        self.assertLessEqual({MODEL, "text-embedding-3-small", "locked"}, names)
        self.assertEqual(client().models.retrieve(MODEL).id, MODEL)

    def test_file_goes_to_the_home_of_the_route(self):
        windward = client()
        lines = b'{"custom_id": "1"}\n'
        raw = windward.files.with_raw_response.create(file=("batch.jsonl", lines), purpose="batch")
        self.assertEqual(raw.headers["x-windward-backend"], "dirty")
        stored = raw.parse()
        self.assertIn(stored.id, {file.id for file in windward.files.list()})
        self.assertIn(lines, windward.files.content(stored.id).read())
        self.assertTrue(windward.files.delete(stored.id).deleted)

    def test_headers_tell_what_was_decided(self):
        raw = client().chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, extra_headers=SHORT)
        self.assertEqual(raw.headers["x-windward-backend"], "clean")
        self.assertEqual(raw.headers["x-windward-region"], "aws/eu-north-1")
        self.assertLess(int(raw.headers["x-windward-carbon-intensity"]), 200)
        self.assertTrue(raw.headers["x-request-id"])


class Streams(unittest.TestCase):
    def stream(self, **more):
        stream = client().chat.completions.create(model=MODEL, messages=HELLO, stream=True, extra_headers=SHORT, **more)
        return list(stream)

    def test_without_usage_every_chunk_has_choices(self):
        chunks = self.stream()
        self.assertTrue(all(chunk.choices for chunk in chunks))
        self.assertTrue(all(chunk.usage is None for chunk in chunks))
        self.assertTrue("".join(chunk.choices[0].delta.content or "" for chunk in chunks))
        self.assertIsNotNone(chunks[-1].choices[0].finish_reason)

    def test_usage_for_those_who_ask(self):
        chunks = self.stream(stream_options={"include_usage": True})
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, 12)
        self.assertTrue(all(chunk.choices for chunk in chunks[:-1]))

    def test_no_usage_for_those_who_decline(self):
        chunks = self.stream(stream_options={"include_usage": False})
        self.assertTrue(all(chunk.choices and chunk.usage is None for chunk in chunks))

    def test_completion(self):
        chunks = list(client().completions.create(model=MODEL, prompt="The wind", stream=True, extra_headers=SHORT))
        self.assertTrue(all(chunk.choices and chunk.usage is None for chunk in chunks))
        self.assertTrue("".join(chunk.choices[0].text for chunk in chunks))

    def test_response(self):
        events = list(client().responses.create(model=MODEL, input="Which way?", stream=True, extra_headers=SHORT))
        self.assertEqual(events[0].type, "response.created")
        self.assertEqual(events[-1].type, "response.completed")
        self.assertEqual(events[-1].response.usage.output_tokens, 12)
        said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        self.assertEqual(said, events[-1].response.output_text)

    def test_async(self):
        async def ask():
            async with client(openai.AsyncOpenAI) as windward:
                stream = await windward.chat.completions.create(model=MODEL, messages=HELLO, stream=True, extra_headers=SHORT)
                return [chunk async for chunk in stream]

        self.assertTrue(all(chunk.choices for chunk in asyncio.run(ask())))

    def test_client_that_closes_early_ends_the_generation(self):
        asked = {**ENDLESS, "x-request-id": "leaves-early"}
        raw = client().chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, stream=True, extra_headers=asked)
        with raw.parse() as stream:
            for _, chunk in zip(range(3), stream):
                self.assertTrue(chunk.choices)
        for _ in range(PATIENCE):
            cancelled = [row for row in ledger("CLEAN") if row["cancelled"]]
            if cancelled:
                break
            time.sleep(0.02)
        self.assertEqual(len(cancelled), 1, "the region still generates for a client that has gone")
        self.assertLess(cancelled[0]["output_tokens"], 1_000_000)


class Errors(unittest.TestCase):
    def fails(self, error, status, model=MODEL, base="/v1"):
        with self.assertRaises(error) as caught:
            client(base=base).chat.completions.create(model=model, messages=HELLO)
        self.assertEqual(caught.exception.status_code, status)
        return caught.exception

    def test_unknown_model(self):
        error = self.fails(openai.NotFoundError, 404, model="nobody-serves-this")
        self.assertEqual(error.code, "model_not_found")
        self.assertTrue(error.message)

    def test_request_that_the_backend_refuses(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            client().post("/chat/completions", body={"model": MODEL}, cast_to=object)
        self.assertEqual(caught.exception.type, "invalid_request_error")

    def test_request_that_names_no_model(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            client().post("/chat/completions", body={"messages": HELLO}, cast_to=object)
        self.assertEqual(caught.exception.code, "model_missing")

    def test_credential_that_the_backend_refuses(self):
        error = self.fails(openai.AuthenticationError, 401, model="own")
        self.assertEqual(error.code, "invalid_api_key")
        self.assertEqual(error.response.headers["x-windward-backend"], "passing")

    def test_credential_of_the_gateway_that_the_backend_refuses(self):
        error = self.fails(openai.InternalServerError, 502, model="locked")
        self.assertEqual(error.code, "backend_credential_refused")

    def test_backend_that_is_full(self):
        control("FULL", {"refuse": True})
        error = self.fails(openai.RateLimitError, 429, model="crowded")
        self.assertGreaterEqual(int(error.response.headers["retry-after"]), 1)

    def test_backend_that_breaks(self):
        control("BROKEN", {"error_rate": 1})
        self.fails(openai.InternalServerError, 500, model="unlucky")

    def test_backend_that_is_not_there(self):
        error = self.fails(openai.InternalServerError, 502, model="absent")
        self.assertEqual(error.code, "backend_unreachable")

    def test_nobody_may_serve_it(self):
        error = self.fails(openai.InternalServerError, 503, base="/european")
        self.assertEqual(error.code, "no_candidate")

    def test_an_own_error_has_an_id(self):
        error = self.fails(openai.NotFoundError, 404, model="nobody-serves-this")
        self.assertTrue(error.request_id)


if __name__ == "__main__":
    unittest.main(verbosity=2)
