/** The benchmark's lines: the floor, the table, who computes the same, and the ratios. Pure: results in, lines out. */

import { bytesPerWeight, type WeightFormat } from "../../gpu-backend/runtime/products.ts";
import { gpt2Shapes } from "../support/gpt2-file.ts";
import type { GroupResult, Row } from "./contest.ts";
import type { Entry } from "./contestant.ts";
import { gpt2Config } from "./model.ts";

/** What a step of one row costs at least: every weight is read once. */
export interface Floor {
  format: WeightFormat;
  weightBytes: number;
  bandwidthBytesPerSecond: number;
  msPerStep: number;
}

/** Bytes of the matrices that one decode step reads: the linear layers and the head. */
export function weightBytesOf(format: WeightFormat): number {
  const matrices = [...gpt2Shapes(gpt2Config)].filter(([name, shape]) => shape.length === 2 && name !== "wpe.weight");
  return bytesPerWeight[format] * matrices.reduce((sum, [, [rows, columns]]) => sum + rows * columns, 0);
}

export function floorLine({ format, weightBytes, bandwidthBytesPerSecond, msPerStep }: Floor): string {
  const weights = `${(weightBytes / 1e6).toFixed(0)} MB`;
  return `floor ${format.padEnd(6)} ${weights} of weights ÷ ${(bandwidthBytesPerSecond / 1e9).toFixed(1)} GB/s = ${msPerStep.toFixed(1)} ms/step`;
}

/** What the peers run, in words. */
export const peerLines = [
  "transformers.js: its generate() on the CPU, an export of the same weights, logits at every position, as GPT-2's published exports;",
  "  q8: int8 weights and dynamic activations, a scale per tensor, head included; q4: blocks of 32, head included",
  "node-llama-cpp: its prebuilt CPU binary, a sequence per row in one context, KV in fp16; every matrix in the format",
];

export function tableLines(rows: readonly Row[]): string[] {
  const columns = ["batch", "context", "ms/step", "tokens/s", "prefill t/s", "first token ms", "memory MB"];
  const line = (system: string, format: string, cells: (string | number)[]) =>
    `${system.padEnd(16)}${format.padEnd(8)}${cells.map((cell) => `${cell}`.padStart(15)).join("")}`;
  return [
    line("system", "format", columns),
    ...rows.map((row) =>
      line(row.system, row.format, [
        row.batch,
        row.context,
        row.msPerStep.toFixed(2),
        row.tokensPerSecond.toFixed(1),
        row.prefillTokensPerSecond.toFixed(0),
        row.timeToFirstTokenMs.toFixed(0),
        (row.rssBytes / 1e6).toFixed(0),
      ]),
    ),
  ];
}

/** How many first tokens of the check prompts each contestant shares with the first of its group. */
export function agreementLines({ firstIds }: GroupResult): string[] {
  const [reference, ...others] = firstIds;
  return others.map(({ entry, ids }) => {
    const same = ids.filter((id, i) => id === reference.ids[i]).length;
    return `${nameOf(entry)} and ${nameOf(reference.entry)}: ${same} of ${ids.length} first tokens are the same`;
  });
}

/** Batch 1 against the floor of its format. */
export function floorRatioLines(rows: readonly Row[], floors: readonly Floor[]): string[] {
  return rows
    .filter((row) => row.system === "chameleon" && row.batch === 1)
    .flatMap((row) => {
      const floor = floors.find(({ format }) => format === row.format);
      return floor
        ? [`${nameOf(row)}, batch 1, context ${row.context}: ${times(row.msPerStep / floor.msPerStep)} the floor`]
        : [];
    });
}

/** Of each cell, the other's time (and memory) ÷ that of the group's first: above 1 we win. */
export function ratioLines(group: readonly Entry[], rows: readonly Row[]): string[] {
  const [ours, ...others] = group;
  const rowOf = (entry: Entry, { batch, context }: Row) =>
    rows.find(
      (row) =>
        row.system === entry.system && row.format === entry.format && row.batch === batch && row.context === context,
    );
  return others.flatMap((other) =>
    rows
      .filter((row) => row.system === ours.system && row.format === ours.format)
      .flatMap((row) => {
        const peer = rowOf(other, row);
        if (!peer) return [];
        const ratios = {
          decode: peer.msPerStep / row.msPerStep,
          "first token": peer.timeToFirstTokenMs / row.timeToFirstTokenMs,
          memory: peer.rssBytes / row.rssBytes,
        };
        const lost = Object.keys(ratios).filter((name) => ratios[name as keyof typeof ratios] < 1);
        const figures = Object.entries(ratios).map(([name, ratio]) => `${name} ${times(ratio)}`);
        const verdict = lost.length > 0 ? `  loses ${lost.join(", ")}` : "";
        return [
          `${nameOf(other)} ÷ ${nameOf(ours)}, batch ${row.batch}, context ${row.context}: ${figures.join("  ")}${verdict}`,
        ];
      }),
  );
}

function nameOf({ system, format }: Entry): string {
  return `${system} ${format}`;
}

function times(ratio: number): string {
  return `${ratio.toFixed(2)}x`;
}
