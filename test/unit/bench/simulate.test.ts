/** The simulation's own parts, and a small world. `npm run simulate -- --check` holds it against the real edge and backend. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { regions } from "../../../edge/platform/region.ts";
import { queueFreePrefillMs, SimulatedBackend } from "../../bench/simulate/backend.ts";
import { EventQueue } from "../../bench/simulate/events.ts";
import { Machine } from "../../bench/simulate/machine.ts";
import { bottlenecks, simulationPage } from "../../bench/simulate/report.ts";
import { readCities } from "../../bench/simulate/traffic.ts";
import { placeBackends, simulate, type WorldOptions } from "../../bench/simulate/world.ts";
import { seededRandom } from "../../support/steps.ts";

const cities = readCities();
const world: WorldOptions = {
  requestsPerSecond: 100,
  seconds: 3,
  warmUpSeconds: 1,
  backends: 9,
  cellsPerRegion: 2,
  traffic: { tenants: 50, centroids: 100, contextTokens: 256 },
  stepTimes: { fixed: 3, prompt: 0.5, promptToken: 0.01, decodedRow: 0.1 },
  cellTimes: { request: 0.3, frame: 0.01 },
  workerMs: 1,
  limits: {
    maxSequences: 16,
    maxQueue: 64,
    stepTokens: 256,
    chunkTokens: 128,
    kvBytes: 2 ** 30,
    kvShape: { layers: 2, heads: 2, headWidth: 16, contextTokens: 256 },
  },
  lostRegion: null,
};

test("events run in the order of their times, those of one time as they were added", () => {
  const property = fc.property(fc.array(fc.nat(20), { maxLength: 200 }), (delays) => {
    const events = new EventQueue();
    const ran: number[] = [];
    for (const [i, delay] of delays.entries()) events.after(delay, () => ran.push(i));
    expect(events.runUntil(10)).toBe(delays.filter((delay) => delay <= 10).length);
    events.runUntil(20);
    expect(ran).toEqual([...delays.keys()].sort((a, b) => delays[a] - delays[b] || a - b));
  });
  fc.assert(property, { numRuns: 200 });
});

test("jobs share a machine's cores, and each ends when its time of a core has passed", () => {
  const endsOf = (cores: number, jobs: [atMs: number, ms: number][]) => {
    const events = new EventQueue();
    const machine = new Machine(events, cores);
    const ends = jobs.map(() => Number.NaN);
    for (const [i, [atMs, ms]] of jobs.entries())
      events.after(atMs, () =>
        machine.run(ms, () => {
          ends[i] = events.nowMs;
        }),
      );
    events.runUntil(1000);
    return ends;
  };
  expect(
    endsOf(2, [
      [0, 10],
      [0, 20],
      [100, 5],
    ]),
  ).toEqual([10, 20, 105]);
  expect(
    endsOf(1, [
      [0, 10],
      [0, 20],
      [100, 5],
    ]),
  ).toEqual([20, 30, 105]);
  // The third comes when both have 6 ms left, and has a third of the two cores for 9 ms.
  expect(
    endsOf(2, [
      [0, 10],
      [0, 10],
      [4, 8],
    ]),
  ).toEqual([13, 13, 15]);
});

test("an empty backend takes for a prompt's first token what counts as free of queues", () => {
  const { stepTimes, limits } = world;
  for (const promptTokens of [1, 127, 128, 129, 250]) {
    const events = new EventQueue();
    const backend = new SimulatedBackend(events, stepTimes, limits);
    let firstMs = Number.NaN;
    backend.enqueue({
      ...{ tenant: "a", dueMs: 0, pendingPromptTokens: promptTokens, cachedTokens: 0, mostTokens: promptTokens + 1 },
      ...{ poolAdapters: [], isMixed: true, remainingTokens: 1 },
      onToken: () => {
        firstMs = events.nowMs;
      },
    });
    events.runUntil(1000);
    expect(firstMs).toBeCloseTo(queueFreePrefillMs(promptTokens, stepTimes, limits));
  }
});

test("every region has cities and backends", () => {
  expect(new Set(cities.map(({ region }) => region))).toEqual(new Set(regions));
  expect(cities.reduce((sum, { share }) => sum + share, 0)).toBeCloseTo(1);
  const placed = placeBackends(cities, 200);
  expect(placed).toHaveLength(200);
  expect(new Set(placed.map(({ region }) => region))).toEqual(new Set(regions));
});

describe("a small world", () => {
  test("answers every request, no sooner than its way and its prompt take, and the same for the same seed", () => {
    const result = simulate(cities, world, seededRandom(7));
    expect(result.failed).toBe(0);
    expect(result.requests).toBeGreaterThan(100);
    for (const { requests, p50, freeP50 } of result.rows)
      if (requests > 20) expect(p50).toBeGreaterThanOrEqual(freeP50);
    expect(simulate(cities, world, seededRandom(7))).toEqual(result);
    expect(simulate(cities, world, seededRandom(8))).not.toEqual(result);
  });

  test("goes on without a region's backends: no error, at the cost of the way to the next", () => {
    const result = simulate(cities, { ...world, lostRegion: "apac" }, seededRandom(7));
    expect(result.failed).toBe(0);
    const [before, after] = [result.rows, result.afterLoss!].map(
      (rows) => rows.find(({ region }) => region === "apac")!,
    );
    expect(after.requests).toBeGreaterThan(10);
    console.log(`apac: median ${before.p50.toFixed(0)} ms, ${after.p50.toFixed(0)} ms without its backends`);
    expect(after.p50).toBeGreaterThan(before.p50);
  });

  test("has a report with every region and bound", () => {
    const result = simulate(cities, world, seededRandom(7));
    const lost = simulate(cities, { ...world, lostRegion: "apac" }, seededRandom(7));
    const page = simulationPage(world, result, { region: "apac", result: lost }, cities);
    for (const region of regions) expect(page).toContain(`<td>${region}</td>`);
    for (const { what } of bottlenecks(result)) expect(page).toContain(what);
    expect(page).not.toMatch(/NaN|undefined/);
  });
});
