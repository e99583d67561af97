import { expect, test } from "vitest";
import { maxStreamBytes, refuseManyLogprobs } from "../../../edge/answer/token-count.ts";
import type { Plan } from "../../../edge/plan/plan.ts";
import { limits } from "../../../shared/contracts/limits.ts";
import { sequenceRequest } from "../../support/frames.ts";

/** A plan of `count` choices with prompts of three tokens. */
function planOf(count: number, maxTokens: number): Plan {
  const sequence = { ...sequenceRequest("a"), maxTokens };
  return { choices: Array.from({ length: count }, () => ({ sequence })) } as unknown as Plan;
}

type Options = Parameters<typeof refuseManyLogprobs>[1];

test("counts each choice's tokens with their alternatives and an echoed prompt, and names the field that was set", () => {
  const chat = { form: "chat" as const, echo: false };
  const echoed = { form: "completion" as const, echo: true };
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
  const plain = { form: "completion" as const, echo: false };
  const echoed = { ...plain, echo: true };
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
  const plain = { echo: false, logprobs: null, compare: false, sources: false };
  expect(maxStreamBytes(planOf(3, 100), plain)).toBe(3 * maxStreamBytes(planOf(1, 100), plain)!);
  expect(maxStreamBytes(planOf(1, 101), plain)).toBeGreaterThan(maxStreamBytes(planOf(1, 100), plain)!);
  for (const more of [{ echo: true }, { logprobs: 0 }, { compare: true, sources: false }]) {
    expect(maxStreamBytes(planOf(3, 100), { ...plain, ...more })).toBeNull();
  }
});
