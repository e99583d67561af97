/** Evaluations as Markdown tables. Pure. */
import type { Estimate, Evaluation, EvaluationMean, Kind } from "./data.ts";

const kinds: [Kind, string][] = [
  ["trained", "held-out documents of trained domains"],
  ["new", "text of no trained domain"],
];

function signed(value: number): string {
  return `${value < 0 ? "−" : ""}${Math.abs(value).toFixed(3)}`;
}

export function estimateText({ mean, ci95: [low, high] }: Estimate): string {
  return `${signed(mean)} [${signed(low)}, ${signed(high)}]`;
}

/** Gain of the mixture by source and prompt length, with the gain of the nearest adapter in brackets. */
export function gainTable({ rows, means }: Evaluation, kind: Kind): string {
  const own = rows.filter((row) => row.kind === kind);
  const lengths = [...new Set(own.map(({ prompt }) => prompt))].filter((prompt) => prompt !== "question");
  const cell = (one: Pick<EvaluationMean, "gains"> | undefined) =>
    one ? `${estimateText(one.gains.mixture)} (${signed(one.gains.nearest.mean)})` : "–";
  const body = [...Map.groupBy(own, ({ name }) => name)].map(([name, ofName]) => {
    const [{ known, heldOut }] = ofName;
    const typical = ofName.find(({ prompt }) => prompt === 64) ?? ofName[0];
    const remarks = [...(known ? ["in the base"] : []), ...(heldOut ? [] : ["perhaps trained on"])];
    return [
      remarks.length > 0 ? `${name} (${remarks.join(", ")})` : name,
      `${typical.documents} / ${typical.texts}`,
      typical.base.bitsPerByte.toFixed(3),
      ...lengths.map((length) => cell(ofName.find(({ prompt }) => prompt === length))),
      signed(typical.worst.mixture),
    ];
  });
  const meanAt = (length: number) => means.find((one) => one.kind === kind && one.prompt === length);
  const lead = (mean: EvaluationMean | undefined) => (mean ? estimateText(mean.mixtureOver.nearest) : "–");
  return markdownTable(
    [
      ...["text", "documents / texts", "base, bits a byte"],
      ...lengths.map((length, i) => (i === 0 ? `after ${length} tokens` : String(length))),
      "worst 5%, 64",
    ],
    [
      ...body,
      ["**mean**", "", "", ...lengths.map((length) => cell(meanAt(length))), ""],
      ["mixture − nearest", "", "", ...lengths.map((length) => lead(meanAt(length))), ""],
    ],
  );
}

/** Questions as prompts, their answers scored. */
export function questionTable({ rows }: Evaluation): string {
  return markdownTable(
    ["question → answer", "texts", "base, nats a token", "nearest", "mixture", "mixture − nearest"],
    rows
      .filter(({ prompt }) => prompt === "question")
      .map(({ name, texts, base, gains, mixtureOver }) => [
        ...[name, String(texts), base.nats.toFixed(3)],
        ...[gains.nearest, gains.mixture, mixtureOver.nearest].map(estimateText),
      ]),
  );
}

/** Every method after prompts of 64 tokens: its gain, the mixture's lead over it, and its worst texts. */
export function methodTable({ rows, means }: Evaluation): string {
  const length = 64;
  const cell = (kind: Kind, method: string) => {
    const mean = means.find((one) => one.kind === kind && one.prompt === length);
    if (!mean) return "–";
    const own = rows.filter((row) => row.kind === kind && row.prompt === length);
    const worst = own.reduce((sum, row) => sum + row.worst[method], 0) / own.length;
    const lead = method === "mixture" ? "" : `; ${estimateText(mean.mixtureOver[method])}`;
    return `${signed(mean.gains[method].mean)}${lead}; ${signed(worst)}`;
  };
  const methods = Object.keys(means[0]?.gains ?? {});
  return markdownTable(
    ["gain over the base; the mixture's lead; worst 5%, after 64 tokens", ...kinds.map(([, text]) => text)],
    methods.map((method) => [method, ...kinds.map(([kind]) => cell(kind, method))]),
  );
}

export function markdownTable(columns: readonly string[], rows: readonly (readonly string[])[]): string {
  return [columns, columns.map(() => "---"), ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n");
}
