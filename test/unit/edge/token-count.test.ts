import { expect, test } from "vitest";
import { maxStreamBytes, maxTokensOf, refuseManyLogprobs, TokenCount } from "../../../edge/answer/token-count.ts";
import type { Plan, PlannedChoice } from "../../../edge/plan/plan.ts";
import { limits } from "../../../shared/contracts/limits.ts";
import { doneFrame, sequenceRequest, tokenFrame } from "../../support/frames.ts";

/** A plan of `count` choices with prompts of three tokens. */
function planOf(count: number, maxTokens: number): Plan {
  const sequence = { ...sequenceRequest("a"), maxTokens };
  return { choices: Array.from({ length: count }, () => ({ sequence })) } as unknown as Plan;
}

type Options = Parameters<typeof refuseManyLogprobs>[1];

test("counts each choice's tokens with their alternatives and an echoed prompt, and names the field that was set", () => {
  const chat = { form: "chat" as const, promptLogprobs: null, echo: false };
  const echoed = { form: "completion" as const, promptLogprobs: null, echo: true };
  const cases: [Plan, Options, number, string][] = [
    [planOf(16, 1000), { ...chat, logprobs: 20, compare: true, sources: false }, 16 * 1000 * 22, "top_logprobs"],
    [planOf(16, 1000), { ...chat, logprobs: 20, compare: false, sources: false }, 16 * 1000 * 21, "top_logprobs"],
    [planOf(128, 1021), { ...echoed, logprobs: 0, compare: false, sources: false }, 128 * 1024, "logprobs"],
    [planOf(128, 1024), { ...chat, logprobs: 0, compare: true, sources: false }, 128 * 2048, "logprobs"],
    [planOf(128, 1024), { ...chat, logprobs: null, compare: true, sources: false }, 128 * 1024, "chameleon.compare"],
  ];
  for (const [plan, options, most, param] of cases) {
    const message = expect.stringMatching(new RegExp(`${most} .*${limits.wholeLogprobs}`));
    expect(() => refuseManyLogprobs(plan, options)).toThrow(expect.objectContaining({ message, param }));
  }
});

test("allows common requests", () => {
  const plain = { form: "completion" as const, promptLogprobs: null, echo: false };
  const echoed = { ...plain, promptLogprobs: null, echo: true };
  expect(() =>
    refuseManyLogprobs(planOf(128, 1024), { ...plain, logprobs: null, compare: false, sources: false }),
  ).not.toThrow();
  // A chat's one choice that may fill a context of 1024, with all that can be asked for.
  expect(() =>
    refuseManyLogprobs(planOf(1, 1024), { ...plain, logprobs: 20, compare: true, sources: false }),
  ).not.toThrow();
  expect(() =>
    refuseManyLogprobs(planOf(32, 1021), { ...echoed, logprobs: 1, compare: false, sources: false }),
  ).not.toThrow();
  expect(() =>
    refuseManyLogprobs(planOf(32, 1022), { ...echoed, logprobs: 1, compare: false, sources: false }),
  ).toThrow();
});

test("a stream's bytes are bounded where it has no logprobs and no echo, and grow with its choices and tokens", () => {
  const plain = {
    form: "chat" as const,
    promptLogprobs: null,
    echo: false,
    logprobs: null,
    compare: false,
    sources: false,
  };
  expect(maxStreamBytes(planOf(3, 100), plain)).toBe(3 * maxStreamBytes(planOf(1, 100), plain)!);
  expect(maxStreamBytes(planOf(1, 101), plain)).toBeGreaterThan(maxStreamBytes(planOf(1, 100), plain)!);
  for (const more of [{ promptLogprobs: null, echo: true }, { logprobs: 0 }, { compare: true, sources: false }]) {
    expect(maxStreamBytes(planOf(3, 100), { ...plain, ...more })).toBeNull();
  }
});

test("passages count as prompt tokens, once a prompt: what was put in, or all that may be where that is not known", () => {
  const retrieval = {
    passages: 1,
    tokens: 20,
    query: [0, 3] as [number, number],
    at: 0,
    prefixIds: [],
    separatorIds: [],
  };
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
