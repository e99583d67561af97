/** The benchmark's ratios: above 1 ours is better, and a measurement that failed is reported. */
import { expect, test } from "vitest";
import type { Row } from "../../bench/contest.ts";
import { median } from "../../bench/quantile.ts";
import { agreementLines, ratioLines } from "../../bench/report.ts";

const row = (system: Row["system"], format: string, batch: number, figures: Partial<Row> = {}): Row => ({
  ...{ system, format, batch, context: 128, msPerStep: 10, tokensPerSecond: 100 * batch },
  ...{ prefillTokensPerSecond: 1000, timeToFirstTokenMs: 100, rssBytes: 1e9, ...figures },
});
const ours = { system: "chameleon", format: "int8" } as const;
const peer = { system: "node-llama-cpp", format: "gguf" } as const;

test("a ratio is the peer's time ÷ ours for each cell, and lost cells are marked", () => {
  const lines = ratioLines(
    [ours, peer],
    [
      row("chameleon", "int8", 1),
      row("chameleon", "int8", 8),
      row("node-llama-cpp", "gguf", 1, { msPerStep: 15, timeToFirstTokenMs: 50 }),
      row("node-llama-cpp", "gguf", 8, { msPerStep: 30, timeToFirstTokenMs: 200 }),
    ],
  );
  expect(lines).toHaveLength(2);
  expect(lines[0]).toContain("batch 1");
  expect(lines[0]).toContain("decode 1.50x  first token 0.50x  memory 1.00x  loses first token");
  expect(lines[1]).toContain("decode 3.00x  first token 2.00x");
  expect(lines[1]).not.toContain("loses");
  // A batch size that the peer did not finish has no ratio.
  expect(ratioLines([ours, peer], [row("chameleon", "int8", 1), row("node-llama-cpp", "gguf", 8)])).toEqual([]);
});

test("agreement counts first tokens that equal those of the group's first contestant", () => {
  const firstIds = [
    { entry: ours, ids: [1, 2, 3] },
    { entry: peer, ids: [1, 9, 3] },
  ];
  expect(agreementLines({ rows: [], skipped: [], firstIds })).toEqual([expect.stringContaining("2 of 3")]);
});

test("the median of an even count is between the two in the middle", () => {
  expect([median([4, 1, 100, 2]), median([3, 1, 2])]).toEqual([3, 2]);
});
