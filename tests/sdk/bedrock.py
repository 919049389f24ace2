"""boto3's `bedrock-runtime` against Windward in front of simulated regions that want AWS's signature: an application changes its
endpoint's URL, and nothing else.

Started by tests/it/sdk.rs, which says where everything listens: WINDWARD is the proxy's address, FULL that of a region
which is told to refuse. AWS_BEARER_TOKEN_BEDROCK is one of
its keys, and WINDWARD_ACCESS_KEY_ID with WINDWARD_SECRET_ACCESS_KEY is another one, to sign with.
"""

import json
import os
import unittest
import urllib.request

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

WINDWARD = os.environ["WINDWARD"]
MODEL = "gpt-oss"
ARN = "arn:aws:bedrock:us-west-2:123456789012:application-inference-profile/abc"
HELLO = [{"role": "user", "content": [{"text": "Which way does the wind blow?"}]}]
CHAT = json.dumps({"messages": [{"role": "user", "content": "Which way does the wind blow?"}]})
CLAUDE = json.dumps({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 64, "messages": [{"role": "user", "content": "Hi"}]})


def client(config=Config(), **more):
    # Without retries of its own, so that each error is seen as it comes.
    config = Config(retries={"total_max_attempts": 1}, read_timeout=30).merge(config)
    return boto3.client("bedrock-runtime", endpoint_url=WINDWARD, region_name="us-east-1", config=config, **more)


def by_signature():
    # A token in the environment would come first.
    return client(
        Config(signature_version="v4"),
        aws_access_key_id=os.environ["WINDWARD_ACCESS_KEY_ID"],
        aws_secret_access_key=os.environ["WINDWARD_SECRET_ACCESS_KEY"],
    )


class Operations(unittest.TestCase):
    def make(self):
        return client()

    def setUp(self):
        self.bedrock = self.make()

    def test_converse(self):
        answer = self.bedrock.converse(modelId=MODEL, messages=HELLO, inferenceConfig={"maxTokens": 12})
        self.assertTrue(answer["output"]["message"]["content"][0]["text"])
        self.assertEqual(answer["usage"]["inputTokens"], 8)
        self.assertLessEqual(answer["usage"]["outputTokens"], 12)
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        self.assertEqual(headers["x-windward-backend"], "oregon")
        self.assertTrue(answer["ResponseMetadata"]["RequestId"])

    def test_converse_by_arn(self):
        answer = self.bedrock.converse(modelId=ARN, messages=HELLO)
        self.assertTrue(answer["output"]["message"]["content"][0]["text"])

    def test_converse_stream(self):
        answer = self.bedrock.converse_stream(modelId=MODEL, messages=HELLO, inferenceConfig={"maxTokens": 12})
        events = list(answer["stream"])
        self.assertIn("messageStart", events[0])
        said = "".join(event["contentBlockDelta"]["delta"]["text"] for event in events if "contentBlockDelta" in event)
        self.assertTrue(said)
        self.assertEqual(events[-1]["metadata"]["usage"]["inputTokens"], 8)

    def test_invoke_model(self):
        answer = self.bedrock.invoke_model(modelId=MODEL, body=CHAT)
        body = json.loads(answer["body"].read())
        self.assertTrue(body["choices"][0]["message"]["content"])
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        self.assertEqual(headers["x-amzn-bedrock-output-token-count"], str(body["usage"]["completion_tokens"]))

    def test_invoke_model_in_anthropics_words(self):
        body = json.loads(self.bedrock.invoke_model(modelId=MODEL, body=CLAUDE)["body"].read())
        self.assertEqual(body["type"], "message")

    def test_invoke_model_with_response_stream(self):
        for body in [CHAT, CLAUDE]:
            answer = self.bedrock.invoke_model_with_response_stream(modelId=MODEL, body=body)
            pieces = [json.loads(event["chunk"]["bytes"]) for event in answer["body"]]
            self.assertIn("amazon-bedrock-invocationMetrics", pieces[-1])
            self.assertGreater(len(pieces), 2)

    def test_count_tokens(self):
        answer = self.bedrock.count_tokens(modelId=MODEL, input={"converse": {"messages": HELLO}})
        self.assertEqual(answer["inputTokens"], 8)
        answer = self.bedrock.count_tokens(modelId=MODEL, input={"invokeModel": {"body": CHAT}})
        self.assertEqual(answer["inputTokens"], 8)


class SignedOperations(Operations):
    """The same by a signature instead of a token."""

    def make(self):
        return by_signature()


class Errors(unittest.TestCase):
    def fails(self, bedrock, code, status, model=MODEL):
        with self.assertRaises(ClientError) as caught:
            bedrock.converse(modelId=model, messages=HELLO)
        self.assertEqual(caught.exception.response["Error"]["Code"], code)
        self.assertEqual(caught.exception.response["ResponseMetadata"]["HTTPStatusCode"], status)
        self.assertTrue(caught.exception.response["Error"]["Message"])
        return caught.exception

    def test_unknown_model(self):
        bedrock = client()
        error = self.fails(bedrock, "ResourceNotFoundException", 404, model="nobody")
        self.assertIsInstance(error, bedrock.exceptions.ResourceNotFoundException)

    def test_full_backend(self):
        order = urllib.request.Request(os.environ["FULL"] + "/_ctl", json.dumps({"refuse": True}).encode())
        urllib.request.urlopen(order).read()
        bedrock = client()
        error = self.fails(bedrock, "ThrottlingException", 429, model="crowded")
        self.assertIsInstance(error, bedrock.exceptions.ThrottlingException)

    def test_body_that_the_backend_refuses(self):
        bedrock = client()
        with self.assertRaises(bedrock.exceptions.ValidationException):
            bedrock.invoke_model(modelId=MODEL, body=json.dumps({"nothing": 1}))

    def test_wrong_token(self):
        os.environ["AWS_BEARER_TOKEN_BEDROCK"], right = "not-a-key", os.environ["AWS_BEARER_TOKEN_BEDROCK"]
        try:
            self.fails(client(), "AccessDeniedException", 401)
        finally:
            os.environ["AWS_BEARER_TOKEN_BEDROCK"] = right

    def test_wrong_signature(self):
        os.environ["WINDWARD_SECRET_ACCESS_KEY"], right = "not-the-key", os.environ["WINDWARD_SECRET_ACCESS_KEY"]
        try:
            self.fails(by_signature(), "InvalidSignatureException", 403)
        finally:
            os.environ["WINDWARD_SECRET_ACCESS_KEY"] = right


if __name__ == "__main__":
    unittest.main(verbosity=2)
