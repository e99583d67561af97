/** Own-text evaluations as Markdown tables. Pure. */
import { estimateText, markdownTable, signed } from "../render.ts";
import type { OwnEvaluation } from "./data.ts";
import { memoryNames } from "./read-kind.ts";
import { bothOverBetter } from "./summary.ts";

const titles = { development: "development kinds", fresh: "fresh kinds" };

/** What each method gains on the kinds of each group. */
export function ownMeanTable({ means }: OwnEvaluation): string {
  return markdownTable(
    [
      ...["text", "method", "gain", "median kind", "worst kind", "1% / 5% of texts", "no white space"],
      ...["accuracy, points", "suggested tokens"],
    ],
    means.flatMap(({ group, kinds, methods }) =>
      Object.entries(methods).map(([name, one]) => [
        ...[`${titles[group]} (${kinds})`, name, estimateText(one.gain), signed(one.median)],
        `${signed(one.worstKind.gain)} (${one.worstKind.name})`,
        `${signed(one.lowTexts[0])} / ${signed(one.lowTexts[1])}`,
        estimateText(one.noWhiteSpace),
        (100 * one.accuracy.mean).toFixed(1).replace("-", "−"),
        one.suggested.toFixed(2),
      ]),
    ),
  );
}

/** Every kind. */
export function ownKindTable({ rows }: OwnEvaluation): string {
  const names = new Set(rows.flatMap(({ gains }) => Object.keys(gains)));
  const columns = [...names].filter((name) => !name.includes(" over ") || name === bothOverBetter);
  return markdownTable(
    ["kind", "documents / texts", "base, nats", ...columns],
    rows.map(({ name, group, documents, texts, base, gains }) => [
      ...[group === "fresh" ? `${name} (fresh)` : name, `${documents} / ${texts}`, base.nats.toFixed(2)],
      ...columns.map((column) => {
        if (!gains[column]) return "–";
        return column === bothOverBetter ? estimateText(gains[column]) : signed(gains[column].mean);
      }),
    ]),
  );
}

/** What was fitted. */
export function fitTable({ fits }: OwnEvaluation): string {
  const columns = Object.keys(fits[0].gains);
  return markdownTable(
    ["θ", "weights", ...columns.map((name) => (name === memoryNames.foreign ? name : `${name} tokens`))],
    fits.map(({ theta, weights, gains }) => [
      ...[String(theta), weights.map((weight) => weight.toFixed(2).replace("-", "−")).join(", ")],
      ...columns.map((name) => estimateText(gains[name])),
    ]),
  );
}
