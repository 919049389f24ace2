"""Anthropic's Python SDK against Windward in front of simulated regions: an application changes its base URL, and nothing else.

Started by tests/it/sdk.rs, which says where everything listens: WINDWARD is the proxy's address, FULL that of a region which is told
to refuse, BROKEN that of one which is told to fail. ANTHROPIC_API_KEY is one of the proxy's keys.
"""

import asyncio
import json
import os
import unittest
import urllib.request

import anthropic

WINDWARD = os.environ["WINDWARD"]
KEY = os.environ["ANTHROPIC_API_KEY"]
HELLO = [{"role": "user", "content": "Which way does the wind blow?"}]


def client(**more):
    # Without retries of its own, so that each error is seen as it comes.
    return anthropic.Anthropic(base_url=WINDWARD, **{"max_retries": 0, "timeout": 30, **more})


def ask(claude, model="claude", **more):
    return claude.messages.create(model=model, max_tokens=12, messages=HELLO, extra_headers={"x-mock-output-tokens": "12"}, **more)


def control(region, **fault):
    order = urllib.request.Request(os.environ[region] + "/_ctl", json.dumps(fault).encode())
    urllib.request.urlopen(order).read()


class Messages(unittest.TestCase):
    def test_create(self):
        message = ask(client(), system="Be brief.")
        self.assertEqual(message.usage.input_tokens, 10)
        self.assertEqual(message.usage.output_tokens, 12)
        self.assertEqual(message.stop_reason, "max_tokens")
        self.assertTrue(message.content[0].text)
        self.assertTrue(message._request_id)

    def test_headers(self):
        raw = client().messages.with_raw_response.create(model="claude", max_tokens=4, messages=HELLO)
        self.assertEqual(raw.headers["x-windward-backend"], "clean")
        self.assertTrue(raw.parse().content)

    def test_events(self):
        kinds = [event.type for event in ask(client(), stream=True)]
        self.assertEqual(kinds[0], "message_start")
        self.assertEqual(kinds[-1], "message_stop")
        self.assertIn("content_block_delta", kinds)

    def test_stream_helper(self):
        with client().messages.stream(model="claude", max_tokens=12, messages=HELLO) as stream:
            said = "".join(stream.text_stream)
            message = stream.get_final_message()
        self.assertEqual(said, message.content[0].text)
        self.assertGreater(message.usage.output_tokens, 0)
        self.assertEqual(message.usage.input_tokens, 8)

    def test_async(self):
        async def both():
            async with anthropic.AsyncAnthropic(base_url=WINDWARD, max_retries=0) as claude:
                whole = await claude.messages.create(model="claude", max_tokens=5, messages=HELLO)
                async with claude.messages.stream(model="claude", max_tokens=5, messages=HELLO) as stream:
                    said = [text async for text in stream.text_stream]
                return whole, said

        whole, said = asyncio.run(both())
        self.assertTrue(whole.content[0].text and said)

    def test_count_tokens(self):
        self.assertEqual(client().messages.count_tokens(model="claude", messages=HELLO).input_tokens, 8)

    def test_bearer(self):
        os.environ.pop("ANTHROPIC_API_KEY")
        try:
            self.assertTrue(ask(client(auth_token=KEY)).content)
        finally:
            os.environ["ANTHROPIC_API_KEY"] = KEY

    def test_beta(self):
        message = client().beta.messages.create(model="claude", max_tokens=4, messages=HELLO, betas=["context-1m-2025-08-07"])
        self.assertTrue(message.content)

    def test_models(self):
        self.assertIn("claude", [model.id for model in client().models.list()])
        self.assertEqual(client().models.retrieve("claude").display_name, "claude")


class Errors(unittest.TestCase):
    def fails(self, kind, status, word, claude=None, **more):
        with self.assertRaises(kind) as caught:
            ask(claude or client(), **more)
        error = caught.exception
        self.assertEqual(error.status_code, status)
        self.assertEqual(error.body["error"]["type"], word)
        self.assertTrue(error.request_id)
        return error

    def test_unknown_model(self):
        self.fails(anthropic.NotFoundError, 404, "not_found_error", model="nobody")

    def test_wrong_key(self):
        self.fails(anthropic.AuthenticationError, 401, "authentication_error", claude=client(api_key="not-a-key"))

    def test_full(self):
        control("FULL", refuse=True)
        error = self.fails(anthropic.RateLimitError, 429, "rate_limit_error", model="crowded")
        self.assertTrue(error.response.headers["retry-after"])

    def test_broken(self):
        control("BROKEN", error_rate=1)
        self.fails(anthropic.InternalServerError, 500, "api_error", model="unlucky")

    def test_gone(self):
        self.fails(anthropic.InternalServerError, 502, "api_error", model="absent")

    def test_body_that_the_backend_refuses(self):
        with self.assertRaises(anthropic.BadRequestError):
            client().post("/v1/messages", body={"model": "claude", "messages": []}, cast_to=object)

    def test_retries_until_it_works(self):
        control("BROKEN", error_rate=0.5)
        self.assertTrue(ask(client(max_retries=12), model="unlucky").content)

    def test_stream_that_breaks(self):
        control("BROKEN", error_rate=0, cut_after_tokens=3)
        try:
            with self.assertRaises(Exception):
                for _ in ask(client(), model="unlucky", stream=True):
                    pass
        finally:
            control("BROKEN", cut_after_tokens=None)


if __name__ == "__main__":
    unittest.main(verbosity=2)
