/** A short prompt beside long ones: it has its first token in the step in which it arrives, and no padding is computed. */
import { expect, test } from "vitest";
import { createEngineHarness, sequenceRequest } from "../../../support/engine-harness.ts";
import { createFakeRunner, fakeConfig } from "../../../support/fake-runner.ts";

const neverEnds = { logit_bias: [[fakeConfig.stopIds[0], -100]] as [number, number][] };
const prompt = (length: number, salt: number) => Array.from({ length }, (_, i) => (i * 7 + salt * 13 + 1) % 90);

test.each([
  ["of one tenant", "tenant"],
  ["of another tenant", "other"],
])(
  "ten tokens behind two prompts of 1,000 tokens %s are done in one step, and only real tokens are computed",
  async (_, tenant) => {
    const runner = createFakeRunner({ config: { contextTokens: 1024 } });
    const harness = createEngineHarness({ runner, limits: { stepTokens: 256, chunkTokens: 128 }, prefixBytes: 0 });
    const request = (id: string, length: number, rest: object) =>
      sequenceRequest(id, prompt(length, id.length), { maxTokens: 3, sampling: neverEnds, ...rest });
    await harness.engine.submit(null, [request("l1", 1000, { tenant }), request("l22", 1000, { tenant })]);
    await harness.engine.submit(null, [request("short", 10, {})]);
    let steps = 0;
    while (harness.tokensOf("short").length === 0) {
      await harness.engine.step();
      steps++;
    }
    await harness.finish();
    const prefills = runner.steps.filter(({ tokens }) => tokens > 1);
    const slots = prefills.reduce((sum, { sequences, tokens }) => sum + sequences * tokens, 0);
    expect(steps).toBe(1);
    expect(slots).toBe(2010);
  },
);
