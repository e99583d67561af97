/** Backends fail under streams, and no client notices. */
import { expect, test } from "vitest";
import { stopAtEnd } from "../support/at-end.ts";
import { startCluster } from "./cluster.ts";
import { runScenario, scenarios, undisturbed } from "./scenarios.ts";
import { requestsOf } from "./traffic.ts";

const streams = 42;
const cluster = stopAtEnd(await startCluster());
const bodies = requestsOf(streams, 16);
const expected = await undisturbed(cluster, bodies);

test("the streams are of many kinds, and not all alike", () => {
  const texts = expected.flatMap(({ seen }) => seen.texts);
  expect(new Set(texts).size).toBeGreaterThan(streams / 2);
  const mixed = expected.flatMap(({ seen }) => seen.experts as [unknown[], object | null][]);
  expect(mixed.filter(([experts, evidence]) => evidence && experts.length > 3).length).toBeGreaterThan(streams / 4);
  expect(expected.filter(({ seen }) => seen.logprobs.length > 0).length).toBeGreaterThan(3);
  expect(expected.filter(({ seen }) => seen.compared.length > 0).length).toBeGreaterThan(3);
});

test.each(scenarios)("$name: no stream fails, and each is what it would have been", async (scenario) => {
  const result = await runScenario(cluster, scenario, bodies, expected);
  expect(result.examples).toEqual([]);
  expect([result.failed, result.different]).toEqual([0, 0]);
  // Without a resumed or retried sequence the fault had no effect.
  const { resumed = 0, retried = 0 } = result.events;
  if (scenario.name !== "slow") expect(resumed + retried).toBeGreaterThan(0);
});
