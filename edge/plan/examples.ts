/** Encodes the examples that an own adapter is fitted to, in the same way as requests. Pure. */
import type { Example } from "../../shared/contracts/examples.ts";
import type { EncodedExample } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { invalidRequest } from "../../shared/errors.ts";
import { promptEmbedding } from "../../shared/math/assignment.ts";
import type { Artifacts } from "../artifacts/artifacts.ts";
import { encodeMessages, subjectOf } from "./chat.ts";
import { encodePrompts } from "./encode.ts";
import { contextBound } from "./plan.ts";

/**
 * `centroid` of the result: mean prompt embedding of the examples, of length 1, [P]. `param`: the list's name in errors. `nowMs`: the time
 * that a chat template may show. Throws invalid_request.
 */
export function encodeExamples(examples: readonly Example[], artifacts: Artifacts, nowMs: number, param = "examples") {
  const refuse = (message: string, at = param) => invalidRequest(message, at);
  const { table, manifest } = artifacts;
  const sum = new Float32Array(table.dimensions);
  let tokens = 0;
  let learnt = 0;
  const encoded = examples.map((example, i) => {
    const at = `${param}[${i}]`;
    const { subjectIds, ...one } = encodeExample(example, artifacts, nowMs, at);
    // The backend adds one token to each example.
    const maxTokens = manifest.model.contextTokens - 1;
    const { length } = one.ids;
    if (length < 2) throw refuse(`${at} has ${length} tokens, the minimum is 2`, at);
    if (length > maxTokens) throw refuse(`${at} has at least ${length} tokens, the maximum is ${maxTokens}`, at);
    tokens += length;
    learnt += length - one.from;
    for (const [name, count, most] of [
      ["tokens", tokens, limits.adapterTokens],
      ["tokens to be learnt", learnt, limits.adapterLearntTokens],
    ] as const) {
      if (count > most) throw refuse(`${param}[0] to ${at} have ${count} ${name}, the maximum is ${most}`);
    }
    promptEmbedding(subjectIds.slice(0, manifest.embedding.prefixTokens), table).forEach((value, p) => {
      sum[p] += value;
    });
    return one;
  });
  const length = Math.hypot(...sum);
  return { examples: encoded, centroid: length > 0 ? sum.map((value) => value / length) : sum, tokens };
}

/** Encoding stops soon after the context's length. `subjectIds`: the tokens that would decide the prompt's nearest centroids. */
function encodeExample(
  example: Example,
  artifacts: Artifacts,
  nowMs: number,
  at: string,
): EncodedExample & { subjectIds: number[] } {
  const { tokenizer, manifest } = artifacts;
  const { contextTokens } = manifest.model;
  if (typeof example === "string") {
    const ids = tokenizer.encode(example, contextTokens - 1).slice(0, contextTokens - 1);
    return { ids, from: 1, subjectIds: ids };
  }
  const end = answerEnd(artifacts);
  const answered = (promptIds: number[], answer: string, subjectIds: number[]) => {
    const answerIds = tokenizer.encode(answer, Math.max(1, contextTokens - promptIds.length));
    return { ids: [...promptIds, ...answerIds, end], from: promptIds.length, subjectIds };
  };
  if ("prompt" in example) {
    const bound = contextBound(`${at}.prompt`, `${at}.prompt`, artifacts);
    const [promptIds] = encodePrompts([example.prompt], artifacts, bound);
    return answered(promptIds, example.completion, promptIds);
  }
  const asked = example.messages.slice(0, -1);
  const promptIds = encodeMessages(asked, artifacts, nowMs, `${at}.messages`);
  return answered(promptIds, example.messages.at(-1)!.content, subjectOf(asked, artifacts));
}

export function answerEnd({ tokenizer, manifest: { model } }: Artifacts): number {
  const { eosId } = tokenizer.roles;
  return model.stopIds.includes(eosId) ? eosId : model.stopIds[0];
}
