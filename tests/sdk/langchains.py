"""LangChain's OpenAI package against Windward: an application changes its base URL or endpoint, and nothing else.

Started by tests/it/sdk.rs, with the configuration of azures.py: WINDWARD is the proxy's address.
"""

import asyncio
import os
import unittest

import openai
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import AzureChatOpenAI, AzureOpenAIEmbeddings, ChatOpenAI, OpenAIEmbeddings

WINDWARD = os.environ["WINDWARD"]
KEY = "a-key-of-the-gateway"
HELLO = [SystemMessage("Be short."), HumanMessage("Which way does the wind blow?")]


def chat(**more):
    more = {"model": "gpt", "max_tokens": 12, **more}
    return ChatOpenAI(base_url=WINDWARD + "/v1", api_key=KEY, max_retries=0, timeout=30, **more)


def azure(**more):
    more = {"azure_deployment": "gpt", "max_tokens": 12, **more}
    return AzureChatOpenAI(azure_endpoint=WINDWARD, api_key=KEY, api_version="2024-10-21", max_retries=0, timeout=30, **more)


class Answers(unittest.TestCase):
    def test_a_chat(self):
        for model in [chat(), chat(model="gpt-v1"), azure(), azure(azure_deployment="gpt-v1")]:
            answer = model.invoke(HELLO)
            self.assertTrue(answer.content)
            self.assertLessEqual(answer.usage_metadata["output_tokens"], 12)
            self.assertGreater(answer.usage_metadata["input_tokens"], 0)

    def test_a_stream(self):
        for model in [chat(), azure()]:
            pieces = list(model.stream(HELLO))
            self.assertGreater(len(pieces), 2)
            self.assertTrue("".join(piece.content for piece in pieces))

    def test_a_stream_whose_client_asks_for_usage(self):
        for model in [chat(stream_usage=True), azure(stream_usage=True)]:
            said = [piece.usage_metadata for piece in model.stream(HELLO) if piece.usage_metadata]
            # It adds them up, so that there has to be one.
            self.assertEqual(len(said), 1)

    def test_many_at_once(self):
        answers = asyncio.run(chat().abatch([HELLO] * 8))
        self.assertEqual(len(answers), 8)
        self.assertTrue(all(answer.content for answer in answers))

    def test_responses(self):
        answer = chat(use_responses_api=True, max_tokens=None).invoke(HELLO)
        self.assertTrue(answer.text)

    def test_embeddings(self):
        # Without its own count of tokens, for which it would fetch a file from elsewhere.
        plain = OpenAIEmbeddings(
            base_url=WINDWARD + "/v1", api_key=KEY, model="ada", dimensions=16, check_embedding_ctx_length=False, max_retries=0
        )
        classic = AzureOpenAIEmbeddings(
            azure_endpoint=WINDWARD,
            api_key=KEY,
            api_version="2024-10-21",
            azure_deployment="ada",
            dimensions=16,
            check_embedding_ctx_length=False,
            max_retries=0,
        )
        for model in [plain, classic]:
            self.assertEqual([len(vector) for vector in model.embed_documents(["a", "b"])], [16, 16])


class Errors(unittest.TestCase):
    def test_a_model_that_nobody_serves(self):
        for model in [chat(model="nobody"), azure(azure_deployment="nobody")]:
            with self.assertRaises(openai.NotFoundError):
                model.invoke(HELLO)

    def test_a_wrong_key(self):
        with self.assertRaises(openai.AuthenticationError):
            ChatOpenAI(base_url=WINDWARD + "/v1", api_key="not-a-key", model="gpt", max_retries=0).invoke(HELLO)


if __name__ == "__main__":
    unittest.main(verbosity=2)
