import { expect, test } from "vitest";
import { createEngineHarness, sequenceRequest } from "../../../support/engine-harness.ts";
import { createFakeRunner, neverEnds, promptOf } from "../../../support/fake-runner.ts";

test.each([
  ["of one tenant", "tenant"],
  ["of another tenant", "other"],
])("ten tokens behind two prompts of 1,000 tokens %s take one step, and no padding is computed", async (_, tenant) => {
  const runner = createFakeRunner({ config: { contextTokens: 1024 } });
  const harness = createEngineHarness({ runner, limits: { stepTokens: 256, chunkTokens: 128 }, prefixBytes: 0 });
  const request = (id: string, length: number, rest: object) =>
    sequenceRequest(id, promptOf(length, id.length), { maxTokens: 3, sampling: neverEnds, ...rest });
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
});
