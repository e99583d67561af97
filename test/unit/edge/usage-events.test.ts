import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { Consumption } from "../../../edge/tenants/consumption.ts";
import { UsageEvents } from "../../../edge/tenants/usage-events.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const used = (model: string, centroid: string | null, completionTokens: number): Consumption => ({
  ...{ model, centroid, requests: 1, promptTokens: 10, completionTokens },
});

function gathering() {
  const reported: [string, ...Consumption[]][] = [];
  const works: Promise<void>[] = [];
  const events = new UsageEvents(
    (tenant, consumed) => {
      if (tenant === "refused") throw new Error("too many events");
      reported.push([tenant, ...consumed]);
    },
    (work) => void works.push(work),
  );
  return { events, reported, works };
}

test("what is of one tenant, model and centroid is one event; nothing is lost and no timer left", async () => {
  const { events, reported, works } = gathering();
  events.add("a", [used("gpt2:auto", "c0", 1), used("gpt2:auto", "c1", 2)]);
  events.add("b", [used("gpt2:auto", "c0", 3)]);
  events.add("a", [used("gpt2:auto", "c0", 4)]);
  events.add("a", [used("gpt2", null, 5)]);
  expect(reported).toEqual([]);
  await vi.runAllTimersAsync();
  const twice = { requests: 2, promptTokens: 20, completionTokens: 5 };
  expect(reported).toEqual([
    ["a", { ...used("gpt2:auto", "c0", 0), ...twice }, used("gpt2:auto", "c1", 2), used("gpt2", null, 5)],
    ["b", used("gpt2:auto", "c0", 3)],
  ]);
  events.add("a", [used("gpt2", null, 6)]);
  await vi.runAllTimersAsync();
  expect(reported.slice(2)).toEqual([["a", used("gpt2", null, 6)]]);
  expect(works).toHaveLength(2);
  await Promise.all(works);
});

test("an event that is refused does not keep those that come after", async () => {
  const { events, reported, works } = gathering();
  events.add("refused", [used("gpt2", null, 1)]);
  const refused = expect(works[0]).rejects.toThrow();
  await vi.runAllTimersAsync();
  await refused;
  events.add("a", [used("gpt2", null, 2)]);
  await vi.runAllTimersAsync();
  expect(reported).toEqual([["a", used("gpt2", null, 2)]]);
});
