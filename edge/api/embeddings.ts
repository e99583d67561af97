/** POST /v1/embeddings and POST /v1/assign (nearest centroids and experts), which need no backend. */
import { limits } from "../../shared/contracts/limits.ts";
import { assignRequestSchema, embeddingsRequestSchema } from "../../shared/contracts/openai.ts";
import type { AssignResponse, EmbeddingsResponse } from "../../shared/contracts/responses.ts";
import { invalidRequest } from "../../shared/errors.ts";
import { promptEmbedding } from "../../shared/math/assignment.ts";
import { assign, rank, selectionOf } from "../plan/assign.ts";
import { encodePrompts } from "../plan/encode.ts";
import { serverTiming } from "../platform/server-timing.ts";
import { answerList } from "./answer.ts";
import { readBody } from "./body.ts";
import { setOf } from "./completions.ts";
import type { RouteHandler } from "./dependencies.ts";

const { embeddingTokens } = limits;
const input = { param: "input", single: "input", begin: [] };
const bound = { ...input, maxTokens: embeddingTokens, limitText: `the maximum is ${embeddingTokens}` };

export const embeddings: RouteHandler = async (c, dependencies) => {
  const { now } = dependencies;
  const request = await readBody(c, dependencies, embeddingsRequestSchema);
  const artifacts = await dependencies.artifacts();
  const { manifest, table } = artifacts;
  const own = await dependencies.adapters.named(c.get("access"), request.model, null, manifest);
  selectionOf(request.model, null, manifest, own); // throws model_not_found
  const model = request.model ?? manifest.model.servedAs;
  const dimensions = request.dimensions ?? table.dimensions;
  if (dimensions > table.dimensions) {
    throw invalidRequest(`dimensions is ${dimensions}, the maximum is ${table.dimensions}`, "dimensions");
  }

  const started = now();
  const inputs = encodePrompts(request.input, artifacts, bound);
  const tokens = inputs.reduce((sum, ids) => sum + ids.length, 0);
  const tokenized = now();
  const admission = await c.get("admission").reserve(tokens);
  const consumed = { model, centroid: null, requests: 1, promptTokens: tokens, completionTokens: 0 };

  const embedding = now();
  const vectors = new Float32Array(inputs.length * dimensions); // [S, P]
  inputs.forEach((ids, i) => {
    vectors.set(shortened(promptEmbedding(ids, table), dimensions), i * dimensions);
  });
  const timing = serverTiming({ tokenize: tokenized - started, embed: now() - embedding });
  Object.assign(c.get("attributes"), {
    "gen_ai.request.model": model.slice(0, 80),
    "gen_ai.usage.input_tokens": tokens,
  });
  const usage = { prompt_tokens: tokens, total_tokens: tokens };
  const write = request.encoding_format === "base64" ? base64Of : (vector: Float32Array) => [...vector];
  return answerList<EmbeddingsResponse>(c, dependencies, entriesOf(vectors, dimensions, write), {
    others: { model, usage },
    headers: { "server-timing": timing },
    retainedBytes: vectors.byteLength,
    admission: { renew: () => admission.renew(), settle: (isSent) => admission.settle(isSent ? [consumed] : []) },
  });
};

type Entry = EmbeddingsResponse["data"][number];

function* entriesOf(
  vectors: Float32Array<ArrayBuffer>, // [S, P]
  dimensions: number,
  write: (vector: Float32Array<ArrayBuffer>) => Entry["embedding"],
): Generator<Entry> {
  for (let index = 0; index * dimensions < vectors.length; index++) {
    const vector = vectors.subarray(index * dimensions, (index + 1) * dimensions);
    yield { object: "embedding", index, embedding: write(vector) };
  }
}

/** The vector's first dimensions, normalised. Training orders dimensions by importance. */
function shortened(vector: Float32Array<ArrayBuffer>, dimensions: number): Float32Array<ArrayBuffer> {
  if (dimensions === vector.length) return vector;
  const leading = vector.slice(0, dimensions);
  const length = Math.hypot(...leading);
  return length > 0 ? leading.map((value) => value / length) : leading;
}

/** Little-endian, as on every machine that runs workerd. */
function base64Of(vector: Float32Array<ArrayBuffer>): string {
  return new Uint8Array(vector.buffer, vector.byteOffset, vector.byteLength).toBase64();
}

export const assignTexts: RouteHandler = async (c, dependencies) => {
  const request = await readBody(c, dependencies, assignRequestSchema);
  await c.get("admission").end();
  const served = await dependencies.artifacts();
  const access = c.get("access");
  const own = await dependencies.adapters.named(access, request.model, null, served.manifest);
  const artifacts = await setOf(own, served, access.tenant, dependencies);
  const { centroids } = artifacts.manifest;
  const selection = selectionOf(request.model, null, artifacts.manifest, own);
  const maxTokens = artifacts.manifest.embedding.prefixTokens;
  const inputs = encodePrompts(request.input, artifacts, { ...input, maxTokens, limitText: null });
  const data = inputs.map((ids, index) => {
    const { centroid, similarity, mode, experts } = assign(ids, selection, artifacts);
    const others = rank(ids, artifacts).filter((one) => centroids[one.index].id !== centroid.id);
    return {
      index,
      tokens: ids.length,
      centroid: centroid.id,
      similarity,
      mode,
      experts: mode === "evidence" ? ["base", ...experts] : experts.length > 0 ? experts : ["base"],
      runners_up: others
        .slice(0, request.top - 1)
        .map((one) => ({ centroid: centroids[one.index].id, similarity: one.similarity })),
    };
  });
  return c.json({ object: "list", data } satisfies AssignResponse);
};
