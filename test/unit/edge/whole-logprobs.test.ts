import { expect, test } from "vitest";
import type { Plan } from "../../../edge/completions/plan.ts";
import { refuseManyLogprobs } from "../../../edge/completions/whole-logprobs.ts";
import { limits } from "../../../shared/contracts/limits.ts";
import { sequenceRequest } from "../../support/frames.ts";

/** A plan of `count` choices with prompts of three tokens. */
function planOf(count: number, maxTokens: number): Plan {
  const sequence = { ...sequenceRequest("a"), maxTokens };
  return { choices: Array.from({ length: count }, () => ({ sequence })) } as unknown as Plan;
}

test("every choice's tokens count with their alternatives, and those of an echoed prompt", () => {
  const cases: [Plan, { echo: boolean; logprobs: number | null; compare: boolean }, number][] = [
    [planOf(16, 1000), { echo: false, logprobs: 20, compare: true }, 16 * 1000 * 22],
    [planOf(16, 1000), { echo: false, logprobs: 20, compare: false }, 16 * 1000 * 21],
    [planOf(128, 1021), { echo: true, logprobs: 0, compare: false }, 128 * 1024],
    [planOf(128, 1024), { echo: true, logprobs: null, compare: true }, 128 * 1024],
  ];
  for (const [plan, options, most] of cases) {
    expect(() => refuseManyLogprobs(plan, options)).toThrow(new RegExp(`${most} .*${limits.wholeLogprobs}`));
  }
});

test("what is common is no business of it", () => {
  expect(() => refuseManyLogprobs(planOf(128, 1024), { echo: false, logprobs: null, compare: false })).not.toThrow();
  // A chat's one choice that may fill a context of 1024, with all that can be asked for.
  expect(() => refuseManyLogprobs(planOf(1, 1024), { echo: false, logprobs: 20, compare: true })).not.toThrow();
  expect(() => refuseManyLogprobs(planOf(32, 1021), { echo: true, logprobs: 1, compare: false })).not.toThrow();
  expect(() => refuseManyLogprobs(planOf(32, 1022), { echo: true, logprobs: 1, compare: false })).toThrow();
});
