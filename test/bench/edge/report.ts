/** The edge's figures as lines, and which of them miss their targets. Pure. */
import type { CpuRow } from "./cpu.ts";
import type { FirstTokenRow } from "./first-token.ts";

export const targets = { cpuMs: 1, cpuTokens: 100, addedP50Ms: 2, addedP99Ms: 8 } as const;

/** What `system` adds to the way `to`: differences of their means and percentiles. */
export interface AddedRow extends Cell, Span {
  kind: "added";
  system: string;
  to: string;
}

export function added(rows: readonly FirstTokenRow[], system: string, to: string): AddedRow[] {
  return rows
    .filter((row) => row.system === system)
    .flatMap((row) => {
      const { backend, concurrency, arrivals } = row;
      const base = rows.find((other) => other.system === to && isSameCell(other, row));
      if (!base) return [];
      const cell = { backend, system, to, concurrency, arrivals };
      const less = (key: keyof Span) => row[key] - base[key];
      return [{ kind: "added", ...cell, meanMs: less("meanMs"), p50Ms: less("p50Ms"), p99Ms: less("p99Ms") }];
    });
}

export type Cell = Pick<FirstTokenRow, "backend" | "concurrency" | "arrivals">;
export const isSameCell = (a: Cell, b: Cell) =>
  a.backend === b.backend && a.concurrency === b.concurrency && a.arrivals === b.arrivals;
export const shown = ({ backend, concurrency, arrivals }: Cell) =>
  `${backend} backend, concurrency ${concurrency}${concurrency > 1 ? ` ${arrivals}` : ""}`;

export function cpuLine({ vocabulary, centroids, tokens, tokenizeMs, assignMs, bothMs }: CpuRow): string {
  const us = (ms: number) => `${(1000 * ms).toFixed(0)} µs`;
  return `cpu    ${tokens} tokens, vocabulary ${vocabulary}, ${centroids} centroids: ${us(bothMs)} (tokenize ${us(tokenizeMs)}, embed and assign ${us(assignMs)})`;
}

export function firstTokenLine(row: FirstTokenRow): string {
  const { system, requests, requestsPerSecond } = row;
  return `first  ${shown(row)}, ${system}: ${span(row)}, ${requestsPerSecond.toFixed(0)} requests/s (${requests} requests)`;
}

export function addedLine(row: AddedRow): string {
  return `added  ${shown(row)}, ${row.system} over ${row.to}: ${span(row)}`;
}

export function losingLines(
  cpu: readonly CpuRow[],
  addedRows: readonly AddedRow[],
  ours: string,
  peer: string,
): string[] {
  const lines = cpu
    .filter(({ tokens, bothMs }) => tokens === targets.cpuTokens && bothMs > targets.cpuMs)
    .map((row) => `${cpuLine(row)}: over ${targets.cpuMs} ms`);
  for (const row of addedRows.filter(({ system }) => system === ours)) {
    if (row.p50Ms > targets.addedP50Ms) lines.push(`${addedLine(row)}: p50 over ${targets.addedP50Ms} ms`);
    if (row.p99Ms > targets.addedP99Ms) lines.push(`${addedLine(row)}: p99 over ${targets.addedP99Ms} ms`);
    const other = addedRows.find((one) => one.system === peer && isSameCell(one, row));
    if (!other) continue;
    for (const key of ["p50Ms", "p99Ms"] as const) {
      if (row[key] > other[key])
        lines.push(`${addedLine(row)}: ${peer} adds less at ${key.slice(0, 3)}, ${other[key].toFixed(1)} ms`);
    }
  }
  return lines.map((line) => `LOSES  ${line}`);
}

type Span = Pick<FirstTokenRow, "meanMs" | "p50Ms" | "p99Ms">;

function span({ meanMs, p50Ms, p99Ms }: Span): string {
  return `p50 ${p50Ms.toFixed(2)} mean ${meanMs.toFixed(2)} p99 ${p99Ms.toFixed(2)} ms`;
}
