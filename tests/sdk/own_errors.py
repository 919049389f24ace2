"""Windward's own errors in the exceptions of every official SDK, and what these do about them by themselves: wait as long as they are
told, and ask again.

Started by tests/it/sdk_errors.rs: WINDWARD is the proxy's address, with a route for each API below `/openai`, `/azure`, `/anthropic`,
`/bedrock` and `/gemini`; below `/late` the same where a request that comes too late is refused, and below `/closed` where KEY does not
open the route. FULL is the address of the region behind the models `crowded-..`, which refuses and then is told not to.
"""

import json
import os
import time
import unittest
import unittest.mock
import urllib.request

import anthropic
import boto3
import openai
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError
from google import genai
from google.genai import errors, types

WINDWARD = os.environ["WINDWARD"]
KEY = "a-key-of-the-gateway"
HELLO = "Which way does the wind blow?"
CHAT = [{"role": "user", "content": HELLO}]
# What the proxy's own header for a narrower wish cannot mean.
ODD = {"x-windward-objective": "greenest"}
# Of the simulated region: that it says that it is full when it has said three words.
DIZZY = {"x-mock-output-tokens": "12", "x-mock-full-after-tokens": "3"}
# That its answer takes a second or two: some SDKs read to the end what nobody wants any more.
LONG = {"x-mock-output-tokens": "2000"}
# Questions that may be put until the region's refusal counts for the proxy itself.
PATIENCE = 50


def control(refuse):
    urllib.request.urlopen(urllib.request.Request(os.environ["FULL"] + "/_ctl", json.dumps({"refuse": refuse}).encode())).read()


class OpenAi:
    """What of an exception is looked at: its class, its status, the word for programs, and when to come again."""

    api = "openai"
    within = (openai.APIError, "rate_limit_exceeded")
    classes = {
        400: openai.BadRequestError,
        401: openai.AuthenticationError,
        403: openai.PermissionDeniedError,
        404: openai.NotFoundError,
        429: openai.RateLimitError,
        502: openai.InternalServerError,
        503: openai.InternalServerError,
    }
    words = {
        400: "bad_narrowing",
        401: "invalid_api_key",
        403: "key_not_allowed",
        404: "model_not_found",
        429: "shed",
        502: "backend_unreachable",
        503: "no_candidate",
    }

    def client(self, below="", retries=0, key=KEY):
        return openai.OpenAI(base_url=f"{WINDWARD}{below}/{self.api}/v1", api_key=key, max_retries=retries, timeout=30)

    def ask(self, model="small", odd=False, **more):
        return self.client(**more).chat.completions.create(model=model, messages=CHAT, extra_headers=ODD if odd else {})

    def stream(self, model, headers=None, **more):
        return self.client(**more).chat.completions.create(model=model, messages=CHAT, stream=True, extra_headers=headers)

    def word_within(self, error):
        return error.code

    def seen(self, error):
        return type(error), error.status_code, error.code, error.response.headers.get("retry-after"), error.message


class Azure(OpenAi):
    api = "azure"

    def client(self, below="", retries=0, key=KEY):
        return openai.AzureOpenAI(
            azure_endpoint=f"{WINDWARD}{below}/azure", api_version="2024-10-21", api_key=key, max_retries=retries, timeout=30
        )


class Anthropic:
    api = "anthropic"
    within = (anthropic.APIStatusError, "rate_limit_error")
    classes = {
        400: anthropic.BadRequestError,
        401: anthropic.AuthenticationError,
        403: anthropic.PermissionDeniedError,
        404: anthropic.NotFoundError,
        429: anthropic.RateLimitError,
        502: anthropic.InternalServerError,
        503: anthropic.InternalServerError,
    }
    words = {
        400: "invalid_request_error",
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        429: "rate_limit_error",
        502: "api_error",
        503: "overloaded_error",
    }

    def client(self, below="", retries=0, key=KEY):
        return anthropic.Anthropic(base_url=f"{WINDWARD}{below}/anthropic", api_key=key, max_retries=retries, timeout=30)

    def ask(self, model="small", odd=False, **more):
        headers = ODD if odd else {}
        return self.client(**more).messages.create(model=model, max_tokens=9, messages=CHAT, extra_headers=headers)

    def stream(self, model, headers=None, **more):
        return self.client(**more).messages.create(model=model, max_tokens=9, messages=CHAT, stream=True, extra_headers=headers)

    def word_within(self, error):
        return error.body["error"]["type"]

    def seen(self, error):
        # This SDK's classes for 503 and 529 are all of one kind.
        kind = anthropic.InternalServerError if isinstance(error, anthropic.InternalServerError) else type(error)
        word = error.body["error"]["type"]
        return kind, error.status_code, word, error.response.headers.get("retry-after"), error.body["error"]["message"]


class Bedrock:
    api = "bedrock"
    within = (EventStreamError, "throttlingException")
    classes = dict.fromkeys([400, 401, 403, 404, 429, 502, 503], ClientError)
    words = {
        400: "ValidationException",
        401: "InvalidSignatureException",
        403: "AccessDeniedException",
        404: "ResourceNotFoundException",
        429: "ThrottlingException",
        502: "InternalServerException",
        503: "ServiceUnavailableException",
    }

    def client(self, below="", retries=0, key=KEY):
        config = Config(
            signature_version="v4", read_timeout=30, retries={"mode": "standard", "total_max_attempts": 1 + 5 * retries}
        )
        return boto3.client(
            "bedrock-runtime",
            endpoint_url=f"{WINDWARD}{below}/bedrock",
            region_name="us-east-1",
            aws_access_key_id="WWAPP",
            aws_secret_access_key=key,
            config=config,
        )

    def ask(self, model="small", odd=False, **more):
        client = self.client(**more)
        if odd:
            client.meta.events.register("before-send", lambda request, **_: request.headers.update(ODD))
        return client.converse(modelId=model, messages=[{"role": "user", "content": [{"text": HELLO}]}])

    def stream(self, model, headers=None, **more):
        client = self.client(**more)
        if headers:
            client.meta.events.register("before-send", lambda request, **_: request.headers.update(headers))
        return client.converse_stream(modelId=model, messages=[{"role": "user", "content": [{"text": HELLO}]}])["stream"]

    def word_within(self, error):
        return error.response["Error"]["Code"]

    def seen(self, error):
        meta = error.response["ResponseMetadata"]
        retry_after = meta["HTTPHeaders"].get("retry-after")
        status = meta["HTTPStatusCode"]
        # A wrong signature is what AWS calls forbidden.
        status = 401 if error.response["Error"]["Code"] == "InvalidSignatureException" and status == 403 else status
        return ClientError, status, error.response["Error"]["Code"], retry_after, error.response["Error"]["Message"]


class Gemini:
    api = "gemini"
    within = (errors.ClientError, "RESOURCE_EXHAUSTED")
    classes = {
        **dict.fromkeys([400, 401, 403, 404, 429], errors.ClientError),
        **dict.fromkeys([502, 503], errors.ServerError),
    }
    words = {
        400: "INVALID_ARGUMENT",
        401: "UNAUTHENTICATED",
        403: "PERMISSION_DENIED",
        404: "NOT_FOUND",
        429: "RESOURCE_EXHAUSTED",
        502: "UNAVAILABLE",
        503: "UNAVAILABLE",
    }

    def client(self, below="", retries=0, key=KEY, headers=None):
        again = types.HttpRetryOptions(attempts=1 + 5 * retries, initial_delay=0.3)
        options = types.HttpOptions(base_url=f"{WINDWARD}{below}/gemini", timeout=30_000, retry_options=again, headers=headers)
        # It closes its connections when nobody has it any more, also within a question.
        self.last = genai.Client(api_key=key, http_options=options)
        return self.last

    def ask(self, model="small", odd=False, **more):
        return self.client(headers=ODD if odd else None, **more).models.generate_content(model=model, contents=HELLO)

    def stream(self, model, headers=None, **more):
        return self.client(headers=headers, **more).models.generate_content_stream(model=model, contents=HELLO)

    def word_within(self, error):
        return error.status

    def seen(self, error):
        return type(error), error.code, error.status, error.response.headers.get("retry-after"), error.message


class Errors:
    """The same questions to each SDK."""

    def fails(self, status, **asked):
        with self.assertRaises(self.sdk.classes[status]) as caught:
            self.sdk.ask(**asked)
        kind, code, word, retry_after, message = self.sdk.seen(caught.exception)
        self.assertEqual((kind, code, word), (self.sdk.classes[status], status, self.sdk.words[status]))
        self.assertTrue(message)
        return retry_after

    def test_an_answer(self):
        self.assertTrue(self.sdk.ask())

    def test_a_wish_that_means_nothing(self):
        self.fails(400, odd=True)

    def test_a_wrong_key(self):
        self.fails(401, key="not-a-key")

    def test_a_route_that_is_not_open(self):
        self.fails(403, below="/closed")

    def test_an_unknown_model(self):
        self.assertIsNone(self.fails(404, model="nobody"))

    def test_a_request_that_would_come_too_late(self):
        # Where nobody is under way it is tried: its places are waited for, and somebody has one.
        before = iter(self.sdk.stream("slow", headers=LONG))
        kept = getattr(self.sdk, "last", None)
        self.assertTrue(next(before))
        self.assertEqual(self.fails(429, below="/late", model="slow"), "1")

    def test_a_backend_that_is_not_there(self):
        # Once more would find it known to be gone, which is another error.
        self.fails(502, model="absent")

    def test_a_region_that_is_full_within_an_answer(self):
        kind, word = self.sdk.within
        pieces = []
        with self.assertRaises(kind) as caught:
            for piece in self.sdk.stream("dizzy", headers=DIZZY):
                pieces.append(piece)
        self.assertTrue(pieces, "what had come before is there")
        self.assertEqual(self.sdk.word_within(caught.exception), word)
        # The next one is told so at once, and when to come again.
        self.assertGreaterEqual(int(self.fails(503, model="dizzy")), 1)

    def test_when_everybody_is_full_it_waits_as_long_as_it_is_told_and_asks_again(self):
        control(True)
        model = f"crowded-{self.sdk.api}"
        for _ in range(PATIENCE):
            with self.assertRaises(Exception) as caught:
                self.sdk.ask(model=model)
            kind, status, word, retry_after, _ = self.sdk.seen(caught.exception)
            self.assertGreaterEqual(int(retry_after), 1)
            if status == 503:
                break
            self.assertEqual(status, 429)
        self.assertEqual((kind, status, word), (self.sdk.classes[503], 503, self.sdk.words[503]))
        self.retried(lambda: self.sdk.ask(model=model, retries=2))
        control(True)
        self.retried(lambda: list(self.sdk.stream(model, retries=2)))

    def retried(self, ask):
        """The region has room again once the SDK has begun to wait; that it then is served shows that it waited long enough."""
        slept, sleep = [], time.sleep

        def wait(seconds):
            slept.append(seconds)
            control(False)
            sleep(seconds)

        with unittest.mock.patch("time.sleep", wait):
            self.assertTrue(ask())
        self.waited(slept)

    def waited(self, slept):
        self.assertGreaterEqual(len(slept), 1)


class AsItIsTold(Errors):
    """The SDKs that heed `retry-after`."""

    def waited(self, slept):
        self.assertEqual(len(slept), 1)
        self.assertIn(slept[0], [1.0, 2.0])


class OpenAiErrors(AsItIsTold, unittest.TestCase):
    sdk = OpenAi()


class AzureErrors(AsItIsTold, unittest.TestCase):
    sdk = Azure()


class AnthropicErrors(AsItIsTold, unittest.TestCase):
    sdk = Anthropic()


class BedrockErrors(Errors, unittest.TestCase):
    sdk = Bedrock()


class GeminiErrors(Errors, unittest.TestCase):
    sdk = Gemini()


if __name__ == "__main__":
    unittest.main(verbosity=2)
