/** What `npm run drift` says. */
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import { type DriftResult, isMajor, majorIndex, type Shift, watchedIndex } from "./drift.ts";

/** Centroids that the shift is shown by. */
const shownCentroids = 5;
const percent = (share: number) => `${(100 * share).toFixed(1)}%`;

export function verdictText(
  { verdict, prompts, fewestPrompts, centroids, similarities, similarity }: DriftResult,
  manifest: Manifest,
): string {
  if (!centroids || !similarities || !similarity) return `too few requests (${prompts} of ${fewestPrompts})`;
  const lines = [
    `${verdict}: ${prompts} prompts`,
    `  centroids     ${indexText(centroids)}`,
    `  similarities  ${indexText(similarities)}, mean ${similarity.live.toFixed(2)}, in training ${similarity.expected.toFixed(2)}`,
  ];
  const moved = manifest.centroids
    .map(({ id, label }, k) => ({ id, label, live: centroids.live[k], expected: centroids.expected[k] }))
    .sort((a, b) => Math.abs(b.live - b.expected) - Math.abs(a.live - a.expected));
  for (const { id, label, live, expected } of moved.slice(0, shownCentroids)) {
    lines.push(
      `  ${id.padEnd(5)} ${percent(live).padStart(6)}, in training ${percent(expected).padStart(6)}  ${label.join(" ")}`,
    );
  }
  return lines.join("\n");
}

function indexText(shift: Shift): string {
  const { psi, chance } = shift;
  const what = isMajor(shift) ? "moved" : psi >= watchedIndex && psi > chance ? "moved a little" : "as in training";
  return `${what} (index ${psi.toFixed(3)}; ${majorIndex} is much, chance alone stays below ${chance.toFixed(3)})`;
}
