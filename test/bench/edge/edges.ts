/**
 * Compares this checkout's edge with another's, each in several fresh processes. Two processes of the same edge may differ by more than two
 * edges do. Pure.
 */
import { studentReach } from "../../../gpu-backend/adapters/own/held-out-gain.ts";
import { mean } from "../quantile.ts";
import type { FirstTokenRow } from "./first-token.ts";
import { isSameCell, shown } from "./report.ts";

const statistics = ["p50Ms", "meanMs", "p99Ms"] as const;
type Statistic = (typeof statistics)[number];

interface Estimate {
  ms: number;
  standardErrorMs: number;
  ci95Ms: [number, number];
}

export type EdgesRow = ReturnType<typeof compareEdges>[number];

/** Returns a row for each measured case. `runs`: for each process of both edges, a row for each case. */
export function compareEdges(runs: readonly (readonly FirstTokenRow[])[], ours: string, theirs: string) {
  const cells = runs[0].filter(({ system }) => system === ours);
  return cells.map((cell) => {
    const of = (edge: string) => runs.map((rows) => rows.find((row) => row.system === edge && isSameCell(row, cell))!);
    const { backend, concurrency, arrivals, requests } = cell;
    const [mine, others] = [of(ours), of(theirs)];
    const each = <T>(value: (statistic: Statistic) => T) =>
      Object.fromEntries(statistics.map((statistic) => [statistic, value(statistic)])) as Record<Statistic, T>;
    return {
      kind: "edges",
      ...{ backend, concurrency, arrivals, requests, processes: runs.length },
      ours: each((statistic) => mean(mine.map((row) => row[statistic]))),
      theirs: each((statistic) => mean(others.map((row) => row[statistic]))),
      /** Milliseconds by which our edge is later. */
      later: each((statistic) => estimate(mine.map((row, run) => row[statistic] - others[run][statistic]))),
    };
  });
}

export function edgesLine(row: EdgesRow): string {
  const { processes, requests, ours, theirs, later } = row;
  const figures = statistics.map((statistic) => {
    const [difference, low, high] = [later[statistic].ms, ...later[statistic].ci95Ms].map(signed);
    return `${statistic.replace("Ms", "")} ${ours[statistic].toFixed(2)} and ${theirs[statistic].toFixed(2)} (${difference}, 95% interval ${low} to ${high})`;
  });
  return `edges  ${shown(row)}, this edge and the other: ${figures.join(", ")} ms (${processes} processes of each, ${requests} requests in each)`;
}

/**
 * Our edge counts as later if a difference exceeds this many standard errors. Two equal edges have such a difference in one of their nine
 * figures once in twenty runs (six processes, Student's t).
 */
const leastStandardErrors = 4;

export function laterLines(rows: readonly EdgesRow[]): string[] {
  return rows.flatMap((row) => {
    const late = statistics.filter(
      (statistic) => row.later[statistic].ms > leastStandardErrors * row.later[statistic].standardErrorMs,
    );
    return late.length === 0 ? [] : [`LOSES  ${edgesLine(row)}: the other is earlier`];
  });
}

function estimate(values: readonly number[]): Estimate {
  const ms = mean(values);
  const squares = values.reduce((sum, value) => sum + (value - ms) ** 2, 0);
  const standardErrorMs = Math.sqrt(squares / (values.length - 1) / values.length);
  const reachMs = studentReach(values.length) * standardErrorMs;
  return { ms, standardErrorMs, ci95Ms: [ms - reachMs, ms + reachMs] };
}

function signed(ms: number): string {
  return `${ms < 0 ? "" : "+"}${ms.toFixed(2)}`;
}
