import { expect, test } from "vitest";
import { maxStreamBytes, maxTokensOf, refuseManyLogprobs, TokenCount } from "../../../edge/answer/token-count.ts";
import type { Plan, PlannedChoice } from "../../../edge/plan/plan.ts";
import { limits } from "../../../shared/contracts/limits.ts";
import { doneFrame, sequenceRequest, tokenFrame } from "../../support/frames.ts";

/** A plan of `count` choices with prompts of three tokens, unless `promptIds` is given. */
function planOf(count: number, maxTokens: number, promptIds?: number[]): Plan {
  const sequence = { ...sequenceRequest("a"), maxTokens, ...(promptIds && { promptIds }) };
  return { choices: Array.from({ length: count }, () => ({ sequence })) } as unknown as Plan;
}

type Options = Parameters<typeof refuseManyLogprobs>[1];
const off = { promptLogprobs: null, echo: false, logprobs: null, compare: false, sources: false };
const plain: Options = { form: "completion", ...off };
const chat: Options = { ...plain, form: "chat" };
const echoed: Options = { ...plain, echo: true };

test.each<[number, number, Options, number, string]>([
  [16, 1000, { ...chat, logprobs: 20, compare: true }, 16 * 1000 * 22, "top_logprobs"],
  [16, 1000, { ...chat, logprobs: 20 }, 16 * 1000 * 21, "top_logprobs"],
  [128, 1021, { ...echoed, logprobs: 0 }, 128 * 1024, "logprobs"],
  [128, 1024, { ...chat, logprobs: 0, compare: true }, 128 * 2048, "logprobs"],
  [128, 1024, { ...chat, compare: true }, 128 * 1024, "chameleon.compare"],
])(
  "%i choices of %i tokens with %o are refused: too many values for one answer, because of the named field",
  (count, tokens, options, most, param) => {
    const message = expect.stringMatching(new RegExp(`${most} .*${limits.wholeLogprobs}`));
    const refusal = expect.objectContaining({ message, param });
    expect(() => refuseManyLogprobs(planOf(count, tokens), options)).toThrow(refusal);
  },
);

test("allows common requests", () => {
  expect(() => refuseManyLogprobs(planOf(128, 1024), plain)).not.toThrow();
  // A chat's single choice may fill a context of 1024 tokens, here with every option set.
  expect(() => refuseManyLogprobs(planOf(1, 1024), { ...plain, logprobs: 20, compare: true })).not.toThrow();
  expect(() => refuseManyLogprobs(planOf(32, 1021), { ...echoed, logprobs: 1 })).not.toThrow();
  expect(() => refuseManyLogprobs(planOf(32, 1022), { ...echoed, logprobs: 1 })).toThrow();
});

test("the most bytes of a stream without logprobs and echo grow with its choices and tokens", () => {
  expect(maxStreamBytes(planOf(3, 100), chat)).toBe(3 * maxStreamBytes(planOf(1, 100), chat)!);
  expect(maxStreamBytes(planOf(1, 101), chat)).toBeGreaterThan(maxStreamBytes(planOf(1, 100), chat)!);
  for (const more of [{ echo: true }, { logprobs: 0 }, { compare: true }]) {
    expect(maxStreamBytes(planOf(3, 100), { ...chat, ...more })).toBeNull();
  }
});

test("counts a chat's prompt_logprobs once, and a completion's in each choice", () => {
  const plan = planOf(16, 8, Array(1000).fill(1));
  expect(() => refuseManyLogprobs(plan, { ...chat, promptLogprobs: 20 })).not.toThrow();
  const refusal = expect.objectContaining({ param: "prompt_logprobs", message: expect.stringContaining("336000") });
  expect(() => refuseManyLogprobs(plan, { ...plain, promptLogprobs: 20 })).toThrow(refusal);
});

test("passages count as prompt tokens, once per prompt: those that were inserted, or the maximum until that is known", () => {
  const retrieval = { passages: 1, tokens: 20, query: [0, 3], at: 0, prefixIds: [], separatorIds: [] };
  const choices = ["a", "b", "c"].map((id, index) => ({
    ...{ index, prompt: index === 2 ? 1 : 0, assignment: { adapter: null } },
    sequence: { ...sequenceRequest(id), retrieval },
  })) as unknown as PlannedChoice[];
  expect(maxTokensOf(choices)).toBe(2 * (3 + 20) + 3 * 4);
  const countOf = () => new TokenCount("model", choices);
  const promptTokensOf = (count: TokenCount, everyPrompt = true) =>
    count.consumed(everyPrompt).map(({ promptTokens }) => promptTokens);
  expect(promptTokensOf(countOf())).toEqual([2 * (3 + 20)]);
  expect(promptTokensOf(countOf(), false)).toEqual([]);
  const begun = countOf();
  begun.add(choices[1], { ...tokenFrame("b", 0, 1), retrievedTokens: 7 });
  expect(promptTokensOf(begun)).toEqual([3 + 7 + 3 + 20]);
  expect(promptTokensOf(begun, false)).toEqual([3 + 7]);
  begun.add(choices[2], { ...doneFrame("c"), promptTokens: 3 + 11 });
  expect(promptTokensOf(begun)).toEqual([3 + 7 + 3 + 11]);
});
