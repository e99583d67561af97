/** Evaluations as Markdown tables. Pure. */
import {
  type Comparison,
  comparisons,
  type Estimate,
  type Evaluation,
  type EvaluationMean,
  kinds,
  tokenClasses,
} from "./data.ts";

const titles = {
  trained: "held-out documents of trained kinds",
  "left-out": "families that were left out",
  new: "unknown sources",
};

export function signed(value: number): string {
  return value.toFixed(3).replace("-", "−");
}

export function estimateText({ mean, ci95: [low, high] }: Estimate): string {
  return `${signed(mean)} [${signed(low)}, ${signed(high)}]`;
}

/** Means over the sources of each kind after prompts of each length, and what sources lose at most. */
export function meanTable({ means, rows }: Evaluation): string {
  return markdownTable(
    ["text", "prompt", "base, bits a byte", ...comparisons, "mixture: worst source", "mixture: worst 5%"],
    means.map(({ kind, prompt, sources, base, gains, worst }) => {
      const own = rows.filter((row) => row.kind === kind && row.prompt === prompt);
      const lowest = own.reduce((least, row) => (row.gains.mixture.mean < least.gains.mixture.mean ? row : least));
      return [
        ...[`${titles[kind]} (${sources})`, String(prompt), base.bitsPerByte.toFixed(3)],
        ...comparisons.map((of) => estimateText(gains[of])),
        `${signed(lowest.gains.mixture.mean)} (${lowest.name})`,
        signed(worst.mixture),
      ];
    }),
  );
}

/** Gains of the mixture by class of token. */
export function classTable({ means }: Evaluation): string {
  const typical = means.filter(({ prompt }) => prompt === comparedPrompt(means));
  return markdownTable(
    [`mixture over the base, after ${comparedPrompt(means)} tokens`, ...tokenClasses],
    typical.map(({ kind, parts }) => {
      const cells = tokenClasses.map((name) => (parts[name] ? estimateText(parts[name].mixture) : "–"));
      return [titles[kind], ...cells];
    }),
  );
}

/** Every source, after prompts of the length that sources are compared at. */
export function sourceTable({ rows }: Evaluation): string {
  const prompt = comparedPrompt(rows);
  const columns: Comparison[] = ["static", "nearest", "mixture"];
  return markdownTable(
    ["text", "documents / texts", "base, bits a byte", ...columns, "mixture: worst 5%"],
    kinds.flatMap((kind) =>
      rows
        .filter((row) => row.kind === kind && row.prompt === prompt)
        .map(({ name, documents, texts, base, gains, worst }) => [
          ...[kind === "trained" ? name : `${name} (${kind})`, `${documents} / ${texts}`, base.bitsPerByte.toFixed(3)],
          ...columns.map((of) => estimateText(gains[of])),
          signed(worst.mixture),
        ]),
    ),
  );
}

function comparedPrompt(rows: readonly Pick<EvaluationMean, "prompt">[]): number {
  return Math.max(...rows.map(({ prompt }) => prompt).filter((prompt) => prompt <= 64));
}

export function markdownTable(columns: readonly string[], rows: readonly (readonly string[])[]): string {
  return [columns, columns.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");
}
