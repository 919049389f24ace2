"""OpenAI's and Anthropic's Python SDKs against Windward in front of a simulated region of Bedrock's, which wants AWS's signature and its
own API: an application changes its base URL, and nothing else.

Started by tests/it/sdk.rs, which says where everything listens: WINDWARD is the proxy's address, FULL that of a region which is told
to refuse. What the translator writes is held to the shapes that AWS's own SDK has.
"""

import asyncio
import glob
import json
import os
import unittest
import urllib.request

import anthropic
import botocore.session
import botocore.validate
import openai
import pydantic
from anthropic.types import message_create_params
from anthropic.types.beta import message_create_params as beta_message_create_params
from openai.types.chat import completion_create_params

WINDWARD = os.environ["WINDWARD"]
KEY = "a-key-of-the-gateway"
CASES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cases", "translate")
HELLO = [{"role": "user", "content": "Which way does the wind blow?"}]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SPEAK = {"type": "function", "function": {"name": "speak", "parameters": {"type": "object", "properties": {"words": {"type": "string"}}}}}


def control(region, **fault):
    order = urllib.request.Request(os.environ[region] + "/_ctl", json.dumps(fault).encode())
    urllib.request.urlopen(order).read()


# Of the simulated region: that it says that it is full when it has said three words.
DIZZY = {"x-mock-output-tokens": "12", "x-mock-full-after-tokens": "3"}
# Every member of a chat that the SDK has, with what is to be said in it: what comes to Bedrock ..
TRANSLATED = {
    "messages": {},
    "model": {},
    "max_tokens": {"max_tokens": 64},
    "max_completion_tokens": {"max_completion_tokens": 64},
    "metadata": {"metadata": {"team": "blue"}},
    "parallel_tool_calls": {"parallel_tool_calls": True, "tools": [SPEAK]},
    "reasoning_effort": {"reasoning_effort": "high"},
    "response_format": {"response_format": {"type": "json_schema", "json_schema": {"name": "w", "schema": {"type": "object"}}}},
    "service_tier": {"service_tier": "flex"},
    "stop": {"stop": ["END", "STOP"]},
    "stream": {"stream": True},
    "stream_options": {"stream": True, "stream_options": {"include_usage": True}},
    "temperature": {"temperature": 0.5},
    "tool_choice": {"tool_choice": "auto", "tools": [SPEAK]},
    "tools": {"tools": [SPEAK]},
    "top_p": {"top_p": 0.5},
    # By which the proxy itself keeps a conversation where its cache is.
    "prompt_cache_key": {"prompt_cache_key": "k"},
    "user": {"user": "u"},
}
# .. and what does not.
REFUSED = {
    "audio": {"format": "wav", "voice": "alloy"},
    "frequency_penalty": 0.5,
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "logit_bias": {"1": 5},
    "logprobs": True,
    "modalities": ["text", "audio"],
    "moderation": {"model": "omni-moderation-latest"},
    "n": 2,
    "prediction": {"type": "content", "content": "x"},
    "presence_penalty": 0.5,
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
    "safety_identifier": "s",
    "seed": 1,
    "store": True,
    "top_logprobs": 2,
    "verbosity": "low",
    "web_search_options": {},
}
# The same of Anthropic's messages, also of what is still a beta there. Bedrock takes nearly all of it in the same words ..
SPEAK_TOO = {"name": "speak", "input_schema": {"type": "object"}}
SAME = {
    "betas": {"betas": ["context-1m-2025-08-07"]},
    "cache_control": {"cache_control": {"type": "ephemeral"}},
    "context_management": {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
    "max_tokens": {},
    "messages": {},
    "metadata": {"metadata": {"user_id": "u"}},
    "model": {},
    "output_config": {"output_config": {"effort": "low"}},
    # Of which both words ask for what is so there.
    "service_tier": {"service_tier": "standard_only"},
    "stop_sequences": {"stop_sequences": ["END"]},
    "stream": {"stream": True},
    "system": {"system": "Be brief."},
    "thinking": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    "tool_choice": {"tool_choice": {"type": "auto"}, "tools": [SPEAK_TOO]},
    "tools": {"tools": [SPEAK_TOO]},
    "user_profile_id": {"extra_body": {"user_profile_id": "p"}},
}
# .. but for what only Anthropic's own service does.
ANTHROPICS_OWN = {
    "billing_policy": {"type": "any"},
    "compaction": {"type": "auto"},
    "container": "c",
    "diagnostics": {"previous_message_id": "m"},
    "fallback_credit_token": "t",
    "fallbacks": [{"model": "other"}],
    "inference_geo": "us",
    "mcp_servers": [{"type": "url", "url": "https://example.com", "name": "x"}],
    "speed": "fast",
    "thread": {"id": "t"},
    "workspace_id": "w",
}


class Wind(pydantic.BaseModel):
    direction: str


class Chat(unittest.TestCase):
    def setUp(self):
        # Without retries of its own, so that each error is seen as it comes.
        self.openai = openai.OpenAI(base_url=WINDWARD + "/v1", api_key=KEY, max_retries=0, timeout=30)

    def ask(self, model="claude", messages=HELLO, **more):
        headers = {"x-mock-output-tokens": "12"}
        return self.openai.chat.completions.create(model=model, messages=messages, extra_headers=headers, **more)

    def test_create(self):
        answer = self.ask(max_completion_tokens=64, temperature=0.2, top_p=0.9, stop=["END"], metadata={"team": "blue"})
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        self.assertEqual(len(answer.choices[0].message.content.split()), 12)
        self.assertEqual((answer.usage.prompt_tokens, answer.usage.completion_tokens), (8, 12))
        self.assertTrue(answer.id.startswith("chatcmpl-"))

    def test_limit(self):
        self.assertEqual(self.ask(max_tokens=12).choices[0].finish_reason, "length")

    def test_stream(self):
        chunks = list(self.ask(stream=True))
        self.assertTrue(all(chunk.choices and chunk.usage is None for chunk in chunks))
        self.assertEqual(len("".join(chunk.choices[0].delta.content or "" for chunk in chunks).split()), 12)
        self.assertEqual(chunks[-1].choices[0].finish_reason, "stop")

    def test_stream_with_usage(self):
        *chunks, last = self.ask(stream=True, stream_options={"include_usage": True})
        self.assertEqual((last.choices, last.usage.completion_tokens), ([], 12))
        self.assertTrue(all(chunk.usage is None for chunk in chunks))

    def test_a_conversation_with_tools_and_a_picture(self):
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + PIXEL}}
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]},
        ]
        answer = self.ask(messages=messages, tools=[SPEAK], tool_choice="required")
        self.assertEqual(answer.choices[0].finish_reason, "tool_calls")
        call = answer.choices[0].message.tool_calls[0]
        self.assertEqual(call.function.name, "speak")
        self.assertEqual(len(json.loads(call.function.arguments)["words"].split()), 12)
        # As applications do it: the message goes back as it came.
        messages += [answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "done"}]
        self.assertTrue(self.ask(messages=messages, tools=[SPEAK]).choices[0].message.content)
        dumped = [*messages[:2], answer.choices[0].message.model_dump(), messages[3]]
        self.assertTrue(self.ask(messages=dumped, tools=[SPEAK]).choices[0].message.content)

    def test_streamed_tool(self):
        choice = {"type": "function", "function": {"name": "speak"}}
        with self.openai.chat.completions.stream(model="claude", messages=HELLO, tools=[SPEAK], tool_choice=choice) as stream:
            done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
            final = stream.get_final_completion()
        self.assertEqual(done[0].name, "speak")
        self.assertTrue(json.loads(final.choices[0].message.tool_calls[0].function.arguments)["words"])

    def test_schema(self):
        # The simulated model keeps to no schema; that the request is taken is what is seen here.
        schema = {"type": "json_schema", "json_schema": {"name": "wind", "strict": True, "schema": Wind.model_json_schema()}}
        self.assertTrue(self.ask(response_format=schema, reasoning_effort="low").choices[0].message.content)

    def test_what_cannot_be_said_there(self):
        for more, param in [
            ({"n": 2}, "n"),
            ({"seed": 1}, "seed"),
            ({"logprobs": True}, "logprobs"),
            ({"response_format": {"type": "json_object"}}, "response_format.type"),
            ({"extra_body": {"top_k": 5}}, "top_k"),
        ]:
            with self.assertRaises(openai.BadRequestError) as raised:
                self.ask(**more)
            self.assertEqual((raised.exception.param, raised.exception.code), (param, "untranslatable"))
        with self.assertRaises(openai.BadRequestError):
            self.openai.embeddings.create(model="claude", input="x")

    def test_every_member_that_the_sdk_knows_is_translated_or_refused_by_its_name(self):
        known = set(completion_create_params.CompletionCreateParamsBase.__annotations__)
        known |= set(completion_create_params.CompletionCreateParamsStreaming.__annotations__)
        self.assertEqual(known, set(TRANSLATED) | set(REFUSED), "the SDK has learned something new")
        for name, more in TRANSLATED.items():
            with self.subTest(name):
                answer = self.ask(**more)
                self.assertTrue(list(answer) if name.startswith("stream") else answer.choices)
        for name, value in REFUSED.items():
            with self.subTest(name), self.assertRaises(openai.BadRequestError) as raised:
                self.ask(**{name: value})
            self.assertEqual((raised.exception.param, raised.exception.code), (name, "untranslatable"))
            self.assertTrue(raised.exception.body["message"].startswith(f"`{name}` "))

    def test_a_region_that_is_full_within_a_stream(self):
        pieces = []
        with self.assertRaises(openai.APIError) as raised:
            for piece in self.openai.chat.completions.create(model="dizzy", messages=HELLO, stream=True, extra_headers=DIZZY):
                pieces.append(piece)
        self.assertTrue(any(piece.choices[0].delta.content for piece in pieces))
        self.assertEqual((raised.exception.code, raised.exception.type), ("ThrottlingException", "rate_limit_error"))

    def test_errors(self):
        control("FULL", refuse=True)
        with self.assertRaises(openai.RateLimitError) as raised:
            self.ask(model="crowded")
        self.assertEqual(raised.exception.code, "ThrottlingException")
        with self.assertRaises(openai.NotFoundError):
            self.ask(model="nobody")

    def test_async(self):
        async def said():
            async with openai.AsyncOpenAI(base_url=WINDWARD + "/v1", api_key=KEY, max_retries=0) as client:
                stream = await client.chat.completions.create(model="claude", messages=HELLO, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        self.assertTrue(asyncio.run(said()))

    def test_models(self):
        self.assertIn("claude", [model.id for model in self.openai.models.list()])


class Messages(unittest.TestCase):
    def setUp(self):
        self.anthropic = anthropic.Anthropic(base_url=WINDWARD, api_key=KEY, max_retries=0, timeout=30)

    def ask(self, model="claude", messages=HELLO, of=None, **more):
        headers = {"x-mock-output-tokens": "12"}
        of = of or self.anthropic.messages
        return of.create(model=model, max_tokens=64, messages=messages, extra_headers=headers, **more)

    def test_create(self):
        message = self.ask(system="Be brief.")
        self.assertEqual((message.stop_reason, message.usage.output_tokens), ("end_turn", 12))
        self.assertTrue(message._request_id)

    def test_stream_helper(self):
        with self.anthropic.messages.stream(model="claude", max_tokens=64, messages=HELLO) as stream:
            said = "".join(stream.text_stream)
            message = stream.get_final_message()
        self.assertEqual(said, message.content[0].text)
        self.assertGreater(message.usage.output_tokens, 0)

    def test_tools(self):
        tools = [{"name": "speak", "input_schema": {"type": "object"}}]
        message = self.ask(tools=tools, tool_choice={"type": "any"})
        self.assertEqual((message.stop_reason, message.content[0].name), ("tool_use", "speak"))
        result = {"type": "tool_result", "tool_use_id": message.content[0].id, "content": "done"}
        messages = [*HELLO, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
        self.assertTrue(self.ask(messages=messages, tools=tools).content[0].text)
        more = {"tools": tools, "tool_choice": {"type": "tool", "name": "speak"}}
        with self.anthropic.messages.stream(model="claude", max_tokens=64, messages=HELLO, **more) as stream:
            self.assertTrue(stream.get_final_message().content[0].input["words"])

    def test_beta(self):
        message = self.ask(of=self.anthropic.beta.messages, betas=["context-1m-2025-08-07"])
        self.assertTrue(message.content[0].text)

    def test_what_cannot_be_said_there(self):
        remote = {"type": "image", "source": {"type": "url", "url": "https://example.com/x.png"}}
        for more, field in [
            ({"inference_geo": "us"}, "inference_geo"),
            ({"messages": [{"role": "user", "content": [remote]}]}, "messages[0].content[0].source.type"),
            ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ]:
            with self.assertRaises(anthropic.BadRequestError) as raised:
                self.ask(**more)
            self.assertTrue(raised.exception.body["error"]["message"].startswith(f"`{field}` "))

    def test_every_member_that_the_sdk_knows_passes_or_is_refused_by_its_name(self):
        known = set(message_create_params.MessageCreateParamsBase.__annotations__) | {"stream"}
        known |= set(beta_message_create_params.MessageCreateParamsStreaming.__annotations__)
        self.assertEqual(known, set(SAME) | set(ANTHROPICS_OWN), "the SDK has learned something new")
        for name, more in SAME.items():
            with self.subTest(name):
                answer = self.ask(of=self.anthropic.beta.messages, **more)
                self.assertTrue(list(answer) if name == "stream" else answer.content)
        for name, value in ANTHROPICS_OWN.items():
            with self.subTest(name), self.assertRaises(anthropic.BadRequestError) as raised:
                self.ask(extra_body={name: value})
            self.assertTrue(raised.exception.body["error"]["message"].startswith(f"`{name}` "))

    def test_a_region_that_is_full_within_a_stream(self):
        pieces = []
        with self.assertRaises(anthropic.APIStatusError) as raised:
            asked = {"model": "woozy", "max_tokens": 64, "messages": HELLO, "stream": True}
            for piece in self.anthropic.messages.create(extra_headers=DIZZY, **asked):
                pieces.append(piece)
        self.assertIn("content_block_delta", [piece.type for piece in pieces])
        self.assertEqual(raised.exception.body["error"]["type"], "rate_limit_error")

    def test_errors(self):
        control("FULL", refuse=True)
        with self.assertRaises(anthropic.RateLimitError):
            # Not the model of the other test: what was refused a moment ago is not asked for again at once.
            self.ask(model="packed")


class Shapes(unittest.TestCase):
    def test_what_is_written_is_what_awss_sdk_would_write(self):
        service = botocore.session.get_session().get_service_model("bedrock-runtime")
        shape = service.operation_model("Converse").input_shape
        files = glob.glob(os.path.join(CASES, "chat-*.there.json"))
        self.assertGreaterEqual(len(files), 3)
        for file in files:
            with open(file, encoding="utf-8") as text:
                request = json.load(text)
            report = botocore.validate.ParamValidator().validate({"modelId": "a.model", **request}, shape)
            self.assertFalse(report.has_errors(), f"{file}: {report.generate_report()}")
            # What the validator passes over, though the service would not.
            self.assertLessEqual(set(request), set(shape.members), file)


if __name__ == "__main__":
    unittest.main()
