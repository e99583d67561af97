/**
 * What traffic was counted on which day, over restarts of backends: a backend's counters begin at zero with each run, so
 * what a run had when it was last asked is remembered, and only what came since is added. Pure.
 */
import { z } from "zod";
import type { AssignmentReport } from "../../shared/contracts/inference.ts";
import { type AssignmentCounts, emptyProfile } from "../../shared/math/assignment-profile.ts";
import { added, since } from "./drift.ts";

const classes = z.array(z.object({ centroids: z.array(z.int()), similarities: z.array(z.int()) }));
const day = z.string().regex(/^\d{4}-\d\d-\d\d$/);

export const stateSchema = z.object({
  format: z.literal(1),
  /** Of another manifest the centroids are others: its counts are dropped. */
  manifestHash: z.string(),
  /** By run of a backend: its counts when it was last asked, and when that was. */
  runs: z.record(z.string(), z.object({ asked: day, classes })),
  /** What was added on each day. */
  days: z.record(day, classes),
});
export type DriftState = z.infer<typeof stateSchema>;

/** Takes in what backends report today; days and runs that are `keptDays` old go. */
export function folded(
  state: DriftState | null,
  reports: readonly AssignmentReport[],
  today: string,
  keptDays: number,
): DriftState {
  const { manifestHash } = reports[0];
  const before = state?.manifestHash === manifestHash ? state : null;
  const oldest = new Date(Date.parse(today) - (keptDays - 1) * 86_400_000).toISOString().slice(0, 10);
  const isKept = ([date]: [string, unknown]) => date >= oldest;
  const runs = Object.fromEntries(Object.entries(before?.runs ?? {}).filter(([, { asked }]) => asked >= oldest));
  const days = Object.fromEntries(Object.entries(before?.days ?? {}).filter(isKept));
  for (const { run, classes: now } of reports) {
    const nothing = emptyProfile(now[0].centroids.length);
    days[today] = added(days[today] ?? nothing, since(now, runs[run]?.classes ?? nothing));
    runs[run] = { asked: today, classes: now };
  }
  return { format: 1, manifestHash, runs, days };
}

/** All that is kept. */
export function totalOf({ days }: DriftState): AssignmentCounts[] {
  return Object.values(days).reduce(added);
}
