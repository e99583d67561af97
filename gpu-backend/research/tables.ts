/** Markdown tables of measurements. Pure. */
import type { Estimate } from "./statistics.ts";

export function signed(value: number): string {
  return value.toFixed(3).replace("-", "−");
}

export function estimateText({ mean, ci95: [low, high] }: Estimate): string {
  return `${signed(mean)} [${signed(low)}, ${signed(high)}]`;
}

export function markdownTable(columns: readonly string[], rows: readonly (readonly string[])[]): string {
  return [columns, columns.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");
}
