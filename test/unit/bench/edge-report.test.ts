/** The edge's benchmark reports each figure in which our edge loses to the other. */
import { expect, test } from "vitest";
import { compareEdges, laterLines } from "../../bench/edge/edges.ts";
import type { FirstTokenRow } from "../../bench/edge/first-token.ts";
import { added, losingLines } from "../../bench/edge/report.ts";

const cell = { backend: "fake", concurrency: 1, arrivals: "in step", requests: 10, requestsPerSecond: 1 } as const;
const row = (system: string, p50Ms: number, p99Ms: number): FirstTokenRow => {
  return { kind: "first-token", ...cell, system, meanMs: 2 * p50Ms, p50Ms, p99Ms };
};
const cpu = (tokens: number, bothMs: number) =>
  ({ kind: "cpu", vocabulary: 1, centroids: 1, tokens, tokenizeMs: 0, assignMs: 0, bothMs }) as const;

test("a missed target and a faster peer are both losses; a target that is met is none", () => {
  const edge = added([row("direct", 5, 7), row("edge", 6.5, 16), row("other", 1, 1)], "edge", "direct");
  expect(edge).toMatchObject([{ system: "edge", to: "direct", meanMs: 3, p50Ms: 1.5, p99Ms: 9 }]);
  const peer = added([row("direct", 5, 7), row("peer", 6, 30)], "peer", "direct");
  const lines = losingLines([cpu(100, 1.2), cpu(1000, 5)], [...edge, ...peer], "edge", "peer");
  expect(lines).toHaveLength(3);
  expect(lines[0]).toMatch(/^LOSES .*100 tokens.*over 1 ms$/);
  expect(lines[1]).toMatch(/p99 over 8 ms$/);
  expect(lines[2]).toMatch(/peer adds less at p50, 1\.0 ms$/);
});

test("edges are compared process by process, and only what is later by many standard errors is a loss", () => {
  const runs = [
    [row("ours", 10, 30), row("theirs", 7, 20)],
    // Here the two edges of a run come in another order.
    [row("theirs", 16, 31), row("ours", 20, 30)],
    [row("ours", 12, 30), row("theirs", 10, 30)],
  ];
  const [compared, ...more] = compareEdges(runs, "ours", "theirs");
  expect(more).toEqual([]);
  expect(compared).toMatchObject({
    ...{ processes: 3, requests: 10 },
    ours: { p50Ms: 14, meanMs: 28, p99Ms: 30 },
    theirs: { p50Ms: 11, meanMs: 22, p99Ms: 27 },
    // p50 is later by 3, 4 and 2 ms, p99 by 10, -1 and 0.
    later: { p50Ms: { ms: 3 }, meanMs: { ms: 6 }, p99Ms: { ms: 3 } },
  });
  expect(compared.later.p50Ms.standardErrorMs).toBeCloseTo(1 / Math.sqrt(3), 12);
  // Student's t with two degrees of freedom: the interval reaches 4.303 standard errors to each side.
  expect(laterLines([compared])).toMatchObject([
    expect.stringMatching(/^LOSES .*p50 14\.00 and 11\.00 \(\+3\.00, 95% interval \+0\.52 to \+5\.48\)/),
  ]);
  const alike = [
    [row("ours", 10, 30), row("theirs", 9, 20)],
    [row("ours", 9, 20), row("theirs", 10, 21)],
  ];
  expect(laterLines(compareEdges(alike, "ours", "theirs"))).toEqual([]);
});
