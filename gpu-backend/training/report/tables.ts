/** Markdown tables, and gains as text. */
import type { Gain } from "../bank/gain.ts";

export function markdownTable(columns: readonly string[], rows: readonly (readonly string[])[]): string {
  return [columns, columns.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");
}

export function gainText({ nats, ci95: [low, high] }: Gain): string {
  return `${nats.toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}]`;
}
