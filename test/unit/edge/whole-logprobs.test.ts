import { expect, test } from "vitest";
import type { Plan } from "../../../edge/completions/plan.ts";
import { refuseManyLogprobs } from "../../../edge/completions/whole-logprobs.ts";
import { limits } from "../../../shared/contracts/limits.ts";
import { sequenceRequest } from "../../support/frames.ts";

/** A plan of `count` choices with prompts of three tokens. */
function planOf(count: number, maxTokens: number, promptLogprobs = false): Plan {
  const sequence = { ...sequenceRequest("a"), maxTokens, promptLogprobs };
  return { choices: Array.from({ length: count }, () => ({ sequence })) } as unknown as Plan;
}

test("counts each choice's tokens with their alternatives and an echoed prompt, and names the field that was set", () => {
  const cases: [Plan, { form: "chat" | "completion"; logprobs: number | null; compare: boolean }, number, string][] = [
    [planOf(16, 1000), { form: "chat", logprobs: 20, compare: true }, 16 * 1000 * 22, "top_logprobs"],
    [planOf(16, 1000), { form: "chat", logprobs: 20, compare: false }, 16 * 1000 * 21, "top_logprobs"],
    [planOf(128, 1021, true), { form: "completion", logprobs: 0, compare: false }, 128 * 1024, "logprobs"],
    [planOf(128, 1024), { form: "chat", logprobs: 0, compare: true }, 128 * 2048, "logprobs"],
    [planOf(128, 1024), { form: "chat", logprobs: null, compare: true }, 128 * 1024, "chameleon.compare"],
  ];
  for (const [plan, options, most, param] of cases) {
    const message = expect.stringMatching(new RegExp(`${most} .*${limits.wholeLogprobs}`));
    expect(() => refuseManyLogprobs(plan, options)).toThrow(expect.objectContaining({ message, param }));
  }
});

test("allows common requests", () => {
  expect(() =>
    refuseManyLogprobs(planOf(128, 1024), { form: "completion", logprobs: null, compare: false }),
  ).not.toThrow();
  // A chat's one choice that may fill a context of 1024, with all that can be asked for.
  expect(() => refuseManyLogprobs(planOf(1, 1024), { form: "completion", logprobs: 20, compare: true })).not.toThrow();
  expect(() =>
    refuseManyLogprobs(planOf(32, 1021, true), { form: "completion", logprobs: 1, compare: false }),
  ).not.toThrow();
  expect(() =>
    refuseManyLogprobs(planOf(32, 1022, true), { form: "completion", logprobs: 1, compare: false }),
  ).toThrow();
});
