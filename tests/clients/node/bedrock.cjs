// AWS's SDK for Node, `bedrock-runtime`, against Windward in front of a simulated region that wants AWS's signature. This client speaks
// HTTP/2 with prior knowledge to an endpoint without TLS. Started by tests/it/clients.rs: WINDWARD is the proxy's address, KEY and
// ACCESS_KEY_ID are one of its keys, to sign with.

const { test } = require("node:test");
const assert = require("node:assert/strict");
const aws = require("@aws-sdk/client-bedrock-runtime");

const { WINDWARD, KEY, ACCESS_KEY_ID } = process.env;
const modelId = "gpt-oss";
const messages = [{ role: "user", content: [{ text: "Which way does the wind blow?" }] }];
const body = JSON.stringify({ messages: [{ role: "user", content: "Which way does the wind blow?" }] });

const client = (secretAccessKey) =>
  new aws.BedrockRuntimeClient({
    endpoint: WINDWARD,
    region: "us-east-1",
    maxAttempts: 1,
    // Said here because a token in the environment would come first.
    authSchemePreference: ["aws.auth#sigv4"],
    credentials: { accessKeyId: ACCESS_KEY_ID, secretAccessKey },
  });
const bedrock = client(KEY);

async function all(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

test("Converse", async () => {
  const answer = await bedrock.send(new aws.ConverseCommand({ modelId, messages, inferenceConfig: { maxTokens: 12 } }));
  assert.ok(answer.output.message.content[0].text);
  assert.equal(answer.usage.inputTokens, 8);
  assert.ok(answer.$metadata.requestId);
});

test("ConverseStream", async () => {
  const answer = await bedrock.send(new aws.ConverseStreamCommand({ modelId, messages, inferenceConfig: { maxTokens: 12 } }));
  const events = await all(answer.stream);
  assert.ok(events[0].messageStart);
  assert.ok(events.some((event) => event.contentBlockDelta?.delta.text));
  assert.equal(events.at(-1).metadata.usage.inputTokens, 8);
});

test("InvokeModel", async () => {
  const answer = await bedrock.send(new aws.InvokeModelCommand({ modelId, body }));
  assert.ok(JSON.parse(new TextDecoder().decode(answer.body)).choices[0].message.content);
});

test("InvokeModelWithResponseStream", async () => {
  const answer = await bedrock.send(new aws.InvokeModelWithResponseStreamCommand({ modelId, body }));
  const pieces = (await all(answer.body)).map((event) => JSON.parse(new TextDecoder().decode(event.chunk.bytes)));
  assert.ok(pieces.length > 2);
  assert.ok("amazon-bedrock-invocationMetrics" in pieces.at(-1));
});

test("CountTokens", async () => {
  const answer = await bedrock.send(new aws.CountTokensCommand({ modelId, input: { converse: { messages } } }));
  assert.equal(answer.inputTokens, 8);
});

test("a token in the place of a signature", async () => {
  const token = { token: KEY };
  const bearer = new aws.BedrockRuntimeClient({ endpoint: WINDWARD, region: "us-east-1", maxAttempts: 1, authSchemePreference: ["httpBearerAuth"], token });
  const answer = await bearer.send(new aws.ConverseCommand({ modelId, messages }));
  assert.ok(answer.output.message.content[0].text);
});

test("a model that nobody serves", () =>
  assert.rejects(bedrock.send(new aws.ConverseCommand({ modelId: "nobody", messages })), aws.ResourceNotFoundException));

test("a signature by another key", () =>
  assert.rejects(client("not-the-key").send(new aws.ConverseCommand({ modelId, messages })), (error) => {
    assert.equal(error.name, "InvalidSignatureException");
    assert.equal(error.$metadata.httpStatusCode, 403);
    return true;
  }));
