/** Prints an evaluation as a Markdown table, for a terminal or a model card. */
import type { Gain } from "./bank/gain.ts";
import { methods, type Report } from "./evaluate.ts";

export function reportTable(report: Report): string {
  const seeds = report.perplexity.base.length;
  const columns = ["corpus", ...methods, "bank over static (nats, 95% CI)", "shipped over base"];
  const rows = report.corpora.map(
    ({ name, seenInTraining, documents, perplexity, bankOverStatic, shippedOverBase }) => [
      `${name} (${documents} documents${seenInTraining ? "" : ", domain not in training"})`,
      ...methods.map((method) => perplexity[method].toFixed(2)),
      gainText(bankOverStatic),
      gainText(shippedOverBase),
    ],
  );
  const { bankOverStatic, shippedOverBase } = report.gains;
  rows.push([
    `all domains in training, ${seeds} seeds`,
    ...methods.map((method) => meanAndSpread(report.perplexity[method])),
    gainText(bankOverStatic),
    gainText(shippedOverBase),
  ]);
  rows.push(["trainable", ...methods.map((method) => String(report.trainable[method])), "", ""]);
  return [columns, columns.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");
}

export function gainText({ nats, ci95: [low, high] }: Gain): string {
  return `${nats.toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}]`;
}

function meanAndSpread(values: readonly number[]): string {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const spread = (Math.max(...values) - Math.min(...values)) / 2;
  return spread > 0 ? `${mean.toFixed(2)} ± ${spread.toFixed(2)}` : mean.toFixed(2);
}
