"""Google's Gen AI SDK, and Anthropic's for Vertex AI, against Windward in front of simulated regions: an application changes its base
URL, and nothing else.

Started by tests/it/sdk.rs, which says where everything listens: WINDWARD is the proxy's address, FULL that of a region which is told
to refuse. GATEWAY_KEY is one of the proxy's keys.
"""

import asyncio
import json
import os
import unittest
import urllib.request

import anthropic
from google import genai
from google.genai import errors, types
from google.oauth2.credentials import Credentials

WINDWARD = os.environ["WINDWARD"]
KEY = os.environ["GATEWAY_KEY"]
HELLO = "Which way does the wind blow?"


def options(**more):
    return types.HttpOptions(base_url=WINDWARD, timeout=30_000, **more)


class Gemini(unittest.TestCase):
    def make(self):
        return genai.Client(api_key=KEY, http_options=options())

    def setUp(self):
        self.client = self.make()

    def test_generate(self):
        answer = self.client.models.generate_content(
            model="flash", contents=HELLO, config=types.GenerateContentConfig(max_output_tokens=12)
        )
        self.assertTrue(answer.text)
        self.assertEqual(answer.usage_metadata.prompt_token_count, 8)
        self.assertLessEqual(answer.usage_metadata.candidates_token_count, 12)

    def test_stream(self):
        pieces = list(self.client.models.generate_content_stream(model="flash", contents=HELLO))
        self.assertGreater(len(pieces), 1)
        self.assertTrue("".join(piece.text or "" for piece in pieces))
        self.assertEqual(pieces[-1].usage_metadata.prompt_token_count, 8)

    def test_async(self):
        async def ask():
            said = []
            async for piece in await self.client.aio.models.generate_content_stream(model="flash", contents=HELLO):
                said.append(piece.text)
            return said

        self.assertTrue(asyncio.run(ask()))

    def test_count_tokens(self):
        self.assertEqual(self.client.models.count_tokens(model="flash", contents=HELLO).total_tokens, 8)

    def test_embeddings(self):
        answer = self.client.models.embed_content(model="flash", contents=["The wind", "the sea"])
        self.assertTrue(all(len(item.values) == 8 for item in answer.embeddings))
        self.assertTrue(answer.embeddings)

    def fails(self, model, status, word):
        with self.assertRaises(errors.APIError) as caught:
            self.client.models.generate_content(model=model, contents=HELLO)
        self.assertEqual((caught.exception.code, caught.exception.status), (status, word))
        self.assertTrue(caught.exception.message)

    def test_unknown_model(self):
        self.fails("nobody", 404, "NOT_FOUND")

    def test_full(self):
        order = urllib.request.Request(os.environ["FULL"] + "/_ctl", json.dumps({"refuse": True}).encode())
        urllib.request.urlopen(order).read()
        self.fails("crowded", 429, "RESOURCE_EXHAUSTED")

    def test_wrong_key(self):
        self.client = genai.Client(api_key="not-a-key", http_options=options())
        self.fails("flash", 401, "UNAUTHENTICATED")


class Vertex(Gemini):
    """The same with a project, a location and a bearer's token in place of a key."""

    # Once is enough: after a refusal the model is left alone at its only backend for as long as that says.
    test_full = None
    # By `predict`, for a model of that name, which is passed through unread.
    test_embeddings = None

    def make(self):
        return genai.Client(vertexai=True, project="any", location="us-central1", credentials=Credentials(KEY), http_options=options())

    def test_wrong_key(self):
        self.client = genai.Client(
            vertexai=True, project="any", location="us-central1", credentials=Credentials("not-a-key"), http_options=options()
        )
        self.fails("flash", 401, "UNAUTHENTICATED")


class ClaudeOnVertex(unittest.TestCase):
    def setUp(self):
        self.claude = anthropic.AnthropicVertex(
            base_url=WINDWARD + "/v1", region="us-central1", project_id="any", access_token=KEY, max_retries=0
        )

    def test_create(self):
        message = self.claude.messages.create(model="claude", max_tokens=12, messages=[{"role": "user", "content": HELLO}])
        self.assertTrue(message.content[0].text)
        self.assertEqual(message.usage.input_tokens, 8)

    def test_count_tokens(self):
        count = self.claude.messages.count_tokens(model="claude", messages=[{"role": "user", "content": HELLO}])
        self.assertEqual(count.input_tokens, 8)

    def test_stream(self):
        with self.claude.messages.stream(model="claude", max_tokens=12, messages=[{"role": "user", "content": HELLO}]) as stream:
            self.assertTrue("".join(stream.text_stream))


if __name__ == "__main__":
    unittest.main(verbosity=2)
