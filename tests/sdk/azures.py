"""The official SDK's Azure client, and its usual client for Azure's v1 API, against Windward in front of simulated resources: an
application changes its endpoint, and nothing else.

Started by tests/it/sdk.rs: WINDWARD is the proxy's address, FULL that of a region which is told to refuse. What the client calls a
deployment is the name of a model here: `gpt` is behind the classic API, and `gpt-v1` behind the other.
"""

import asyncio
import json
import os
import unittest
import urllib.request

import openai

WINDWARD = os.environ["WINDWARD"]
KEY = "a-key-of-the-gateway"
VERSION = "2024-10-21"
HELLO = [{"role": "user", "content": "Which way does the wind blow?"}]
SHORT = {"x-mock-output-tokens": "12"}


def azure(kind=openai.AzureOpenAI, **more):
    more = {"api_key": KEY, **more}
    # Without retries of its own, so that each error is seen as it comes.
    return kind(azure_endpoint=WINDWARD, api_version=VERSION, max_retries=0, timeout=30, **more)


class Answers(unittest.TestCase):
    def test_chat_whichever_api_is_behind(self):
        for model in ["gpt", "gpt-v1"]:
            raw = azure().chat.completions.with_raw_response.create(model=model, messages=HELLO, extra_headers=SHORT)
            self.assertEqual(raw.headers["x-windward-backend"], "classic" if model == "gpt" else "v1")
            answer = raw.parse()
            self.assertEqual(answer.usage.completion_tokens, 12)
            self.assertTrue(answer.choices[0].message.content)

    def test_a_deployment_that_the_client_is_made_with(self):
        answer = azure(azure_deployment="gpt").chat.completions.create(model="whatever", messages=HELLO, extra_headers=SHORT)
        self.assertEqual(answer.usage.completion_tokens, 12)

    def test_completion(self):
        answer = azure().completions.create(model="gpt", prompt="The wind", extra_headers=SHORT)
        self.assertTrue(answer.choices[0].text)

    def test_embeddings(self):
        answer = azure().embeddings.create(model="ada", input=["a", "b"], dimensions=16)
        self.assertEqual([len(item.embedding) for item in answer.data], [16, 16])

    def test_response(self):
        for model in ["gpt", "gpt-v1"]:
            answer = azure().responses.create(model=model, input="Which way?", extra_headers=SHORT)
            self.assertTrue(answer.output_text)

    def test_models(self):
        self.assertLessEqual({"gpt", "gpt-v1", "ada"}, {model.id for model in azure().models.list()})

    def test_an_entra_token_in_the_place_of_a_key(self):
        windward = azure(api_key=None, azure_ad_token_provider=lambda: KEY)
        answer = windward.chat.completions.create(model="gpt", messages=HELLO, extra_headers=SHORT)
        self.assertEqual(answer.usage.completion_tokens, 12)

    def test_the_usual_client_for_the_v1_api(self):
        windward = openai.OpenAI(base_url=WINDWARD + "/openai/v1/", api_key=KEY, max_retries=0, timeout=30)
        for model in ["gpt", "gpt-v1"]:
            answer = windward.chat.completions.create(model=model, messages=HELLO, extra_headers=SHORT)
            self.assertEqual(answer.usage.completion_tokens, 12)


class Streams(unittest.TestCase):
    def test_without_usage(self):
        for model in ["gpt", "gpt-v1"]:
            chunks = list(azure().chat.completions.create(model=model, messages=HELLO, stream=True, extra_headers=SHORT))
            # What its filter says of the prompt is Azure's own, and stays.
            self.assertEqual(chunks[0].choices, [])
            self.assertTrue(all(chunk.choices for chunk in chunks[1:]))
            self.assertTrue(all(chunk.usage is None for chunk in chunks))
            self.assertTrue("".join(chunk.choices[0].delta.content or "" for chunk in chunks[1:]))

    def test_usage_for_those_who_ask(self):
        asked = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = list(azure().chat.completions.create(model="gpt", messages=HELLO, extra_headers=SHORT, **asked))
        self.assertEqual(chunks[-1].usage.completion_tokens, 12)

    def test_async(self):
        async def ask():
            async with azure(openai.AsyncAzureOpenAI) as windward:
                stream = await windward.chat.completions.create(model="gpt", messages=HELLO, stream=True, extra_headers=SHORT)
                return [chunk async for chunk in stream]

        self.assertGreater(len(asyncio.run(ask())), 2)


class Errors(unittest.TestCase):
    def test_a_deployment_that_nobody_has(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            azure().chat.completions.create(model="nobody", messages=HELLO)
        self.assertEqual(caught.exception.code, "model_not_found")

    def test_a_wrong_key(self):
        with self.assertRaises(openai.AuthenticationError):
            azure(api_key="not-a-key").chat.completions.create(model="gpt", messages=HELLO)

    def test_a_resource_that_is_full(self):
        urllib.request.urlopen(urllib.request.Request(os.environ["FULL"] + "/_ctl", json.dumps({"refuse": True}).encode())).read()
        with self.assertRaises(openai.RateLimitError) as caught:
            azure().chat.completions.create(model="crowded", messages=HELLO)
        self.assertGreaterEqual(int(caught.exception.response.headers["retry-after"]), 1)

    def test_a_request_that_the_resource_refuses(self):
        with self.assertRaises(openai.BadRequestError):
            azure().post("/deployments/gpt/chat/completions", body={"x": 1}, cast_to=object)


if __name__ == "__main__":
    unittest.main(verbosity=2)
