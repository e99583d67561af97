/** Tables of a result, in Markdown: for a terminal, a model card and the report. */
import type { Gain } from "../bank/gain.ts";
import { type Method, methods } from "../evaluation/methods.ts";
import type { EvaluationResult } from "../evaluation/result.ts";

export const methodNames: Record<Method, string> = {
  base: "base",
  static: "static LoRA, equal size",
  "static-full": "static LoRA, full size",
  paper: "paper's network, batch mean",
  "paper-centroid": "paper's network, centroid",
  experts: "expert per cluster",
  "gated-bank": "gated bank",
  "constant-input": "gated bank, constant input",
  "static-shipped": "static LoRA as shipped",
  "gated-bank-shipped": "gated bank as shipped",
};

/** A row a method: perplexity with its interval, on the base's own domains, on others, on domains not trained on. */
export function summaryTable({ summary }: EvaluationResult): string {
  const columns = ["method", "trainable", "perplexity (95% CI)", "known", "new", "unseen", "gain over base, nats"];
  const rows = methods.flatMap((method) => {
    const row = summary[method];
    if (!row) return [];
    const { ppl, ci95, pplKnown, pplNew, pplUnseen, trainable, gain } = row;
    return [
      [
        methodNames[method],
        trainable.toLocaleString("en"),
        `${ppl.toFixed(2)} [${ci95.map((x) => x.toFixed(2)).join(", ")}]`,
        ...[pplKnown, pplNew, pplUnseen].map((x) => x?.toFixed(2) ?? "–"),
        gain ? gainText(gain) : "–",
      ],
    ];
  });
  return markdownTable(columns, rows);
}

export function markdownTable(columns: readonly string[], rows: readonly (readonly string[])[]): string {
  return [columns, columns.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");
}

export function gainText({ nats, ci95: [low, high] }: Gain): string {
  return `${nats.toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}]`;
}
