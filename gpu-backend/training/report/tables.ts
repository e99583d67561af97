/** Tables of a result, in Markdown: for a terminal, a model card and the report. */
import { isDeepStrictEqual } from "node:util";
import type { Gain } from "../bank/gain.ts";
import { type Method, methods } from "../evaluation/methods.ts";
import type { EvaluationResult, PaperResult } from "../evaluation/result.ts";

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

/** A row a method: perplexity with its interval, and apart by the kinds of domains that there are. */
export function summaryTable({ summary }: EvaluationResult): string {
  const kinds = (["pplKnown", "pplNew", "pplUnseen"] as const).filter((kind) => summary.base?.[kind] != null);
  const kindNames = { pplKnown: "known", pplNew: "new", pplUnseen: "unseen" };
  const columns = ["method", "trainable", "perplexity (95% CI)", ...kinds.map((kind) => kindNames[kind])];
  columns.push("gain over base, nats");
  const rows = methods.flatMap((method) => {
    const row = summary[method];
    if (!row) return [];
    const { ppl, ci95, trainable, gain } = row;
    return [
      [
        methodNames[method],
        trainable.toLocaleString("en"),
        `${ppl.toFixed(2)} [${ci95.map((x) => x.toFixed(2)).join(", ")}]`,
        ...kinds.map((kind) => row[kind]?.toFixed(2) ?? "–"),
        gain ? gainText(gain) : "–",
      ],
    ];
  });
  return markdownTable(columns, rows);
}

/** Of a method on a domain, seeds averaged. */
export function perplexityOn({ results }: EvaluationResult, domain: string, method: Method): number {
  const rows = results.filter((row) => row.domain === domain && row.method === method);
  return Math.exp(rows.reduce((sum, { nll }) => sum + nll, 0) / rows.length);
}

/** A row a domain: perplexities, and gains of the gated bank with their intervals. */
export function domainTable(result: EvaluationResult): string {
  const shown: Method[] = ["base", "static", "gated-bank", "gated-bank-shipped"];
  return markdownTable(
    ["domain", ...shown.map((method) => methodNames[method]), "bank over static, nats", "shipped over base, nats"],
    result.gains.map(({ domain, overStatic, shippedOverBase }) => [
      domain,
      ...shown.map((method) => perplexityOn(result, domain, method).toFixed(2)),
      gainText(overStatic),
      gainText(shippedOverBase),
    ]),
  );
}

export function controlsTable({ controls, overStatic, summary }: EvaluationResult): string {
  if (!controls || !overStatic) return "";
  const { wrongCentroid, constantInput, withoutLargestCluster, withoutBestCluster } = controls;
  return markdownTable(
    ["nats a token", "over the base", "over static LoRA"],
    [
      ["gated bank", gainText(summary["gated-bank"]!.gain!), gainText(overStatic)],
      ["the adapter of another centroid", gainText(wrongCentroid.gain), "–"],
      ["the same input for all text", gainText(summary["constant-input"]!.gain!), gainText(constantInput.overStatic)],
      [
        "without the largest cluster",
        ...[withoutLargestCluster.overBase, withoutLargestCluster.overStatic].map(gainText),
      ],
      // Where the same cluster is both, one row says it.
      ...(isDeepStrictEqual(withoutLargestCluster, withoutBestCluster)
        ? []
        : [
            ["without the best cluster", ...[withoutBestCluster.overBase, withoutBestCluster.overStatic].map(gainText)],
          ]),
    ],
  );
}

export function textTable({ domains }: EvaluationResult): string {
  return markdownTable(
    ["domain", "documents", "tokens", "test documents", "the base knows it", "adapters are trained on it"],
    domains.map(({ name, documents, tokens, testDocuments, known, unseen }) => [
      name,
      ...[documents, tokens, testDocuments].map((count) => count.toLocaleString("en")),
      known ? "yes" : "no",
      unseen ? "no" : "yes",
    ]),
  );
}

/** The paper's rows by its own measure and by the honest one, nats and perplexities. */
export function paperTable({ rows, padBias }: PaperResult): string {
  const loss = (nats: number) => `${nats.toFixed(4)} (${perplexityText(nats)})`;
  return markdownTable(
    ["the paper's table", "trainable", "published, GPT-2", "here, by its measure", "here, honest"],
    rows.map(({ row, trainable, published, paperLoss, honestLoss }) => [
      published === null ? `${row} by ${padBias}` : row,
      trainable.toLocaleString("en"),
      published === null ? "–" : loss(published),
      loss(paperLoss),
      loss(honestLoss),
    ]),
  );
}

function perplexityText(nats: number): string {
  const perplexity = Math.exp(nats);
  return perplexity >= 1000 ? Math.round(perplexity).toLocaleString("en") : perplexity.toFixed(2);
}

/** A row a weight format: what serving in it costs. */
export function formatTable({ formats }: EvaluationResult): string {
  const [reference] = formats;
  const rows = formats.map(({ format, ppl, tokens }) => [
    format,
    ppl.toFixed(3),
    `${(100 * (ppl / reference.ppl - 1)).toFixed(2)}%`,
    String(tokens),
  ]);
  return markdownTable(["weight format", "perplexity of the base", `over ${reference?.format}`, "tokens"], rows);
}

export function markdownTable(columns: readonly string[], rows: readonly (readonly string[])[]): string {
  return [columns, columns.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");
}

export function gainText({ nats, ci95: [low, high] }: Gain): string {
  return `${nats.toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}]`;
}
