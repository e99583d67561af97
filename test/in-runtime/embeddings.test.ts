import { describe, expect, test } from "vitest";
import { limits } from "../../shared/contracts/limits.ts";
import type { EmbeddingsResponse } from "../../shared/contracts/responses.ts";
import { expectError, jsonOf } from "./answers.ts";
import { testApp } from "./harness.ts";

async function embed(body: object, app = testApp()): Promise<EmbeddingsResponse> {
  return jsonOf(app.post("/v1/embeddings", body));
}

const vectorsOf = ({ data }: EmbeddingsResponse) => data.map(({ embedding }) => embedding as number[]);
const lengthOf = (vector: number[]) => Math.hypot(...vector);
const floatsOf = (base64: string) => {
  const view = new DataView(Uint8Array.fromBase64(base64).buffer);
  return Array.from({ length: view.byteLength / 4 }, (_, i) => view.getFloat32(4 * i, true));
};

describe("embeddings", () => {
  test("have OpenAI's shape and length 1, and point where their text does", async () => {
    const app = testApp();
    const response = await app.post("/v1/embeddings", { model: "gpt2", input: ["aab", "zzz"], user: "someone" });
    expect(response.headers.get("server-timing")).toMatch(/^tokenize;dur=\d+\.\d\d, embed;dur=\d+\.\d\d$/);
    expect(response.headers.get("x-request-id")).toMatch(/^req_/);
    const body = await response.json<EmbeddingsResponse>();
    expect(body).toEqual({
      object: "list",
      data: [
        { object: "embedding", index: 0, embedding: expect.any(Array) },
        { object: "embedding", index: 1, embedding: [0, 0, 1, 0] },
      ],
      model: "gpt2",
      usage: { prompt_tokens: 6, total_tokens: 6 },
    });
    const [[a, b, ...rest]] = vectorsOf(body);
    expect(a).toBeCloseTo(2 / Math.sqrt(5), 6);
    expect(b).toBeCloseTo(1 / Math.sqrt(5), 6);
    expect(rest).toEqual([0, 0]);
  });

  test("are the same for a text, its token ids, and any model that is served", async () => {
    const text = vectorsOf(await embed({ input: "abz" }));
    for (const body of [
      { input: [97, 98, 122] },
      { input: [[97, 98, 122]] },
      { input: "abz", model: "gpt2:auto" },
      { input: "abz", model: "gpt2:c1" },
    ]) {
      expect(vectorsOf(await embed(body))).toEqual(text);
    }
  });

  test("read the whole text, also beyond the model's context", async () => {
    const [[a, b]] = vectorsOf(await embed({ input: "a".repeat(50) + "b".repeat(50) }));
    expect(a).toBeCloseTo(Math.SQRT1_2, 6);
    expect(b).toBeCloseTo(Math.SQRT1_2, 6);
  });

  test("with dimensions: the leading ones, of length 1 again, in both formats", async () => {
    const [whole] = vectorsOf(await embed({ input: "abbz" }));
    const { data } = await embed({ input: "abbz", dimensions: 2, encoding_format: "base64" });
    const short = floatsOf(data[0].embedding as string);
    expect(short).toHaveLength(2);
    expect(lengthOf(short)).toBeCloseTo(1, 6);
    expect(short[1] / short[0]).toBeCloseTo(whole[1] / whole[0], 5);
    expect(vectorsOf(await embed({ input: "abbz", dimensions: 4 }))).toEqual([whole]);
    // A vector of zeros has no direction to normalise.
    expect(vectorsOf(await embed({ input: "zzz", dimensions: 2 }))).toEqual([[0, 0]]);
  });

  test("count as their tenant's tokens, by the model that was named", async () => {
    const app = testApp();
    await embed({ model: "gpt2:auto", input: ["aaa", "bb"] }, app);
    await app.settled();
    const used = { model: "gpt2:auto", centroid: null, requests: 1, promptTokens: 5, completionTokens: 0 };
    expect(app.reported).toEqual([["local", used]]);
  });
});

const cases: [string, number, string | null, object, string[]][] = [
  ["no input", 400, "input", {}, ["input"]],
  ["an empty text", 400, "input", { input: "" }, ["empty"]],
  ["an empty text among others", 400, "input", { input: ["a", ""] }, ["input[1]"]],
  ["too many texts", 400, "input", { input: Array(limits.embeddingInputs + 1).fill("a") }, ["2049", "2048"]],
  ["a text too long", 400, "input", { input: ["a", "b".repeat(9000)] }, ["input[1]", "at least 8193", "8192"]],
  ["a token id out of the vocabulary", 400, "input", { input: [264] }, ["264"]],
  ["no dimension", 400, "dimensions", { input: "a", dimensions: 0 }, ["0", "1"]],
  ["a dimension too many", 400, "dimensions", { input: "a", dimensions: 5 }, ["5", "4"]],
  ["half a dimension", 400, "dimensions", { input: "a", dimensions: 1.5 }, ["1.5"]],
  ["another format", 400, "encoding_format", { input: "a", encoding_format: "int8" }, ["int8", "float", "base64"]],
  ["another model", 404, "model", { input: "a", model: "text-embedding-3-small" }, ["text-embedding-3-small"]],
];
test.each(cases)("%s: %d", async (_, status, param, body, mentioned) => {
  const refused = testApp().post("/v1/embeddings", body);
  await expectError(refused, { status, param, type: "invalid_request_error", mentions: mentioned });
});
