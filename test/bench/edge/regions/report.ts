/** The figures of measure.ts as lines, and which of them break the bound. Pure. */
import type { Region } from "../../../../edge/platform/region.ts";

/** Milliseconds that a first token may take beyond the way to the nearest backend and what the same edge takes at 0 ms. */
export const mostAddedMs = 10;

export interface RegionRow {
  kind: "region";
  system: string;
  /** Between any two regions. */
  roundTripMs: number;
  region: Region;
  /** Round trip to the nearest backend. */
  toBackendMs: number;
  requests: number;
  p50Ms: number;
  /** 95% confidence interval of the median. */
  p50LowMs: number;
  p50HighMs: number;
  p99Ms: number;
}

/** The first request of a region: calls that leave it before the first token, in order. */
export interface ColdRow {
  kind: "cold";
  system: string;
  region: Region;
  farCalls: string[];
}

/** Calls for each request, within a region and to another, also those after the answer. */
export interface CallRow {
  kind: "calls";
  system: string;
  what: string;
  near: number;
  far: number;
}

/** What the round trips between regions add to the median first token, beyond the one to the nearest backend. */
export function addedMs(row: RegionRow, rows: readonly RegionRow[]): number {
  const without = rows.find((one) => one.system === row.system && one.region === row.region && one.roundTripMs === 0)!;
  return row.p50Ms - row.toBackendMs - without.p50Ms;
}

export function rowsOverBound(rows: readonly RegionRow[], system: string): RegionRow[] {
  return rows.filter((row) => row.system === system && addedMs(row, rows) > mostAddedMs);
}

/** One table for each round trip; a system's columns are side by side. */
export function regionLines(rows: readonly RegionRow[]): string[] {
  return [...Map.groupBy(rows, ({ roundTripMs }) => roundTripMs)].flatMap(([roundTripMs, ofTrip]) => {
    const systems = [...new Set(ofTrip.map(({ system }) => system))];
    const head = systems.map((system) => ` | ${system}: p50 (95%), p99, added`.padEnd(cellWidth + 3)).join("");
    const byRegion = [...Map.groupBy(ofTrip, ({ region }) => region)].map(([region, ofRegion]) => {
      const cells = ofRegion.map((row) => ` | ${cellOf(row, rows).padEnd(cellWidth)}`).join("");
      return `${region.padEnd(6)} ${String(ofRegion[0].toBackendMs).padStart(10)}${cells}`.trimEnd();
    });
    return [`first tokens in ms, ${roundTripMs} ms between regions`, `region to backend${head}`.trimEnd(), ...byRegion];
  });
}

const cellWidth = 44;

function cellOf(row: RegionRow, rows: readonly RegionRow[]): string {
  const { p50Ms, p50LowMs, p50HighMs, p99Ms } = row;
  const ms = (value: number) => value.toFixed(1);
  return `${ms(p50Ms)} (${ms(p50LowMs)}-${ms(p50HighMs)}), ${ms(p99Ms)}, ${ms(addedMs(row, rows))}`;
}

export function callLine({ system, what, near, far }: CallRow): string {
  return `calls  ${system}: ${what}: ${near.toFixed(2)} a request within the region, ${far.toFixed(2)} to another`;
}

/** Regions with the same calls on one line. */
export function coldLines(rows: readonly ColdRow[]): string[] {
  const alike = Map.groupBy(rows, ({ system, farCalls }) => JSON.stringify([system, farCalls]));
  return [...alike.values()].map((same) => {
    const { system, farCalls } = same[0];
    const where = same.map(({ region }) => region).join(" ");
    const waits = farCalls.length > 0 ? farCalls.join(", ") : "nothing";
    return `cold   ${system}: in other regions, the first request of ${where} waits for ${waits}`;
  });
}

export function overBoundLine(row: RegionRow, rows: readonly RegionRow[]): string {
  const { region, roundTripMs } = row;
  return `LOSES  ${region} at ${roundTripMs} ms: ${addedMs(row, rows).toFixed(1)} ms added, over ${mostAddedMs} ms`;
}
