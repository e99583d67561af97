/** Makes the request that computes an answer again, and finds where two answers differ. Pure. */
import { z } from "zod";

export const requestSchema = z.looseObject({
  seed: z.int().nullish(),
  temperature: z.number().nullish(),
  chameleon: z.looseObject({}).nullish(),
});
const withSeed = z.looseObject({ chameleon: z.looseObject({ seed: z.int().optional() }).optional() });
export const answerSchema = z.union([
  z.looseObject({
    object: z.enum(["text_completion", "chat.completion"]),
    system_fingerprint: z.string(),
    choices: z.array(withSeed).min(1),
  }),
  withSeed.extend({ object: z.literal("response"), system_fingerprint: z.string() }),
]);
export type Answer = z.infer<typeof answerSchema>;

export interface Difference {
  /** Path of the field that differs, such as `choices[0].text`. */
  path: string;
  answer: unknown;
  computed: unknown;
}

/** Fields that differ in every answer, at any depth. */
const passing = ["timings", "prompt_tokens_details", "input_tokens_details", "cache"];
/** Fields that differ in every answer if they are at a path of `ofAnswer`. */
const own = ["id", "call_id", "created", "created_at"];
const ofAnswer = /^$|^output\[\d+\]$|\.tool_calls\[\d+\]$/;

const paths = {
  text_completion: "/v1/completions",
  "chat.completion": "/v1/chat/completions",
  response: "/v1/responses",
};

/** Returns the request with the answer's seed and without streaming. Throws an Error if the answer has no seed. */
export function repetitionOf(request: z.infer<typeof requestSchema>, answer: Answer): { path: string; body: object } {
  const { chameleon } = answer.object === "response" ? answer : answer.choices[0];
  const seed = request.seed ?? chameleon?.seed;
  if (seed === undefined && request.temperature !== 0) {
    throw new Error('the seed is unknown: neither the request has one, nor does the answer tell it ("chameleon": {})');
  }
  const { stream: _, stream_options: __, ...rest } = request;
  return { path: paths[answer.object], body: { ...rest, stream: false, ...(seed !== undefined && { seed }) } };
}

export function differencesOf(answer: Answer, computed: Answer, max: number): Difference[] {
  const found: Difference[] = [];
  const compare = (path: string, a: unknown, b: unknown): void => {
    if (found.length === max || Object.is(a, b)) return;
    const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null;
    if (!isObject(a) || !isObject(b) || Array.isArray(a) !== Array.isArray(b)) {
      found.push({ path, answer: a, computed: b });
      return;
    }
    for (const name of new Set([...Object.keys(a), ...Object.keys(b)])) {
      if (passing.includes(name) || (ofAnswer.test(path) && own.includes(name))) continue;
      compare(Array.isArray(a) ? `${path}[${name}]` : path === "" ? name : `${path}.${name}`, a[name], b[name]);
    }
  };
  compare("", answer, computed);
  return found;
}
