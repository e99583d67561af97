/** The benchmark's lines: the table, whether contestants compute the same, and the ratios. Pure: results in, lines out. */

import type { GroupResult, Row, TextRow } from "./contest.ts";
import type { Entry } from "./contestant.ts";

export function tableLines(rows: readonly Row[]): string[] {
  const columns = [
    "batch",
    "context",
    "ms/step",
    "least",
    "tokens/s",
    "prefill t/s",
    "first token ms",
    "least",
    "memory MB",
  ];
  const line = (system: string, format: string, cells: (string | number)[]) =>
    `${system.padEnd(16)}${format.padEnd(8)}${cells.map((cell) => `${cell}`.padStart(15)).join("")}`;
  return [
    line("system", "format", columns),
    ...rows.map((row) =>
      line(row.system, row.format, [
        row.batch,
        row.context,
        row.msPerStep.toFixed(2),
        row.leastMsPerStep.toFixed(2),
        row.tokensPerSecond.toFixed(1),
        row.prefillTokensPerSecond.toFixed(0),
        row.timeToFirstTokenMs.toFixed(0),
        row.leastTimeToFirstTokenMs.toFixed(0),
        (row.rssBytes / 1e6).toFixed(0),
      ]),
    ),
  ];
}

/** A line for each text of batch 1: what guesses of the next tokens gain, and the others' times divided by ours. */
export function textLines(texts: readonly TextRow[]): string[] {
  return texts.map(({ name, ms, unguessedMs, sameText, passes, guesses: { checked, accepted }, peers }) => {
    const ratios = peers.map(({ entry, ms: theirs }) => `${nameOf(entry)} ÷ ours ${times(theirs / ms)}`);
    const counts = `${passes[0]} passes instead of ${passes[1]}, ${accepted} of ${checked} guesses right`;
    const gain = `without guesses ÷ with ${times(unguessedMs / ms)}, text ${sameText ? "the same" : "DIFFERENT"}`;
    return `${name}: ${counts}; ${gain}; ${ratios.join(", ")}`;
  });
}

/** A line for each contestant: how often its first token is that of the group's first contestant, and both loading times. */
export function loadedLines({ loaded }: GroupResult): string[] {
  const [reference, ...others] = loaded;
  return others.map(({ entry, ids, loadMs }) => {
    const same = ids.filter((id, i) => id === reference.ids[i]).length;
    const loading = `loading ${loadMs.toFixed(0)} and ${reference.loadMs.toFixed(0)} ms`;
    return `${nameOf(entry)} and ${nameOf(reference.entry)}: ${same} of ${ids.length} first tokens are the same, ${loading}`;
  });
}

/** Other contestants' times and memory divided by ours, the group's first. Above 1 ours is better. */
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
