// OpenAI's SDK for Node against Windward in front of the simulated fleet: an application must notice nothing but the headers of the
// response. Started by tests/it/clients.rs, which says where everything listens: WINDWARD is the proxy's address, FULL that of a region
// which is told to refuse.

const { test } = require("node:test");
const assert = require("node:assert/strict");
const OpenAI = require("openai");

const { WINDWARD, FULL } = process.env;
const model = "gpt-oss-120b";
const messages = [{ role: "user", content: "Which way does the wind blow?" }];
// Tokens that the simulated region is to answer with.
const short = { headers: { "x-mock-output-tokens": "12" } };

// Without retries of its own, so that each error is seen as it comes.
const windward = new OpenAI({ baseURL: `${WINDWARD}/v1`, apiKey: "a-client-key", maxRetries: 0, timeout: 30_000 });

async function all(stream) {
  const items = [];
  for await (const item of await stream) items.push(item);
  return items;
}

test("an answer", async () => {
  const { data, response } = await windward.chat.completions.create({ model, messages }, short).withResponse();
  assert.equal(data.usage.completion_tokens, 12);
  assert.ok(data.choices[0].message.content);
  assert.equal(response.headers.get("x-windward-backend"), "clean");
  assert.ok(response.headers.get("x-request-id"));
});

test("many at once", async () => {
  const asked = Array.from({ length: 16 }, () => windward.chat.completions.create({ model, messages }, short));
  const answers = await Promise.all(asked);
  assert.equal(new Set(answers.map((answer) => answer.id)).size, 16);
});

test("a stream whose client did not ask for usage", async () => {
  const chunks = await all(windward.chat.completions.create({ model, messages, stream: true }, short));
  assert.ok(chunks.every((chunk) => chunk.choices.length > 0 && !chunk.usage));
  assert.ok(chunks.at(-1).choices[0].finish_reason);
});

test("a stream whose client asked for usage", async () => {
  const asked = { model, messages, stream: true, stream_options: { include_usage: true } };
  const chunks = await all(windward.chat.completions.create(asked, short));
  assert.equal(chunks.at(-1).usage.completion_tokens, 12);
});

test("the SDK's own helper for streams", async () => {
  const answer = await windward.chat.completions.stream({ model, messages }, short).finalChatCompletion();
  assert.ok(answer.choices[0].message.content);
});

test("responses", async () => {
  const answer = await windward.responses.create({ model, input: "Which way?" }, short);
  assert.ok(answer.output_text);
  const events = await all(windward.responses.create({ model, input: "Which way?", stream: true }, short));
  assert.equal(events.at(-1).type, "response.completed");
  assert.equal(events.at(-1).response.usage.output_tokens, 12);
});

test("embeddings", async () => {
  const answer = await windward.embeddings.create({ model: "text-embedding-3-small", input: ["a", "b"], dimensions: 16 });
  assert.deepEqual(answer.data.map((item) => item.embedding.length), [16, 16]);
});

test("models", async () => {
  const names = (await all(windward.models.list())).map((found) => found.id);
  assert.ok(names.includes(model));
});

test("a client that leaves early", async () => {
  const endless = { headers: { "x-mock-output-tokens": "1000000", "x-request-id": "leaves-early" } };
  const stream = await windward.chat.completions.create({ model, messages, stream: true }, endless);
  for await (const chunk of stream) {
    assert.ok(chunk.choices.length > 0);
    break;
  }
});

async function fails(asked, kind, status, code) {
  const error = await asked.then(() => assert.fail("it did not fail"), (error) => error);
  assert.ok(error instanceof kind, `${error}`);
  assert.equal(error.status, status);
  if (code !== undefined) assert.equal(error.code, code);
  return error;
}

test("a model that nobody serves", () =>
  fails(windward.chat.completions.create({ model: "nobody-serves-this", messages }), OpenAI.NotFoundError, 404, "model_not_found"));

test("a request that the backend refuses", () =>
  fails(windward.post("/chat/completions", { body: { model } }), OpenAI.BadRequestError, 400));

test("a request that names no model", () =>
  fails(windward.post("/chat/completions", { body: { messages } }), OpenAI.BadRequestError, 400, "model_missing"));

test("a backend that is not there", () =>
  fails(windward.chat.completions.create({ model: "absent", messages }), OpenAI.InternalServerError, 502, "backend_unreachable"));

test("a backend that is full", async () => {
  await fetch(`${FULL}/_ctl`, { method: "POST", body: JSON.stringify({ refuse: true }) });
  const error = await fails(windward.chat.completions.create({ model: "crowded", messages }), OpenAI.RateLimitError, 429);
  assert.ok(Number(error.headers.get("retry-after")) >= 1);
});
