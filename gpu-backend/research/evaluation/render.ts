/**
 * Evaluations as Markdown tables, and the documents that show them: the text between `<!-- figures: NAME -->` and
 * `<!-- end of figures -->` is the section of that name. Pure.
 */
import { markdownTable } from "../../training/report/tables.ts";
import type { Estimate, Evaluation, EvaluationMean, Kind, PromptLength } from "./data.ts";

const kinds: [Kind, string][] = [
  ["trained", "held-out documents of trained domains"],
  ["new", "text of no trained domain"],
];

const sections: Record<string, (evaluation: Evaluation) => string> = {
  summary: summaryTable,
  "new-text": (evaluation) => gainTable(evaluation, "new"),
  "trained-text": (evaluation) => gainTable(evaluation, "trained"),
  questions: questionTable,
  methods: methodTable,
  provenance: ({ artifacts, lock }) => `Artifacts \`${artifacts.slice(0, 12)}\`, corpus lock \`${lock.slice(0, 12)}\`.`,
};

const marked = /<!-- figures: ([\w-]+) -->\n[\s\S]*?<!-- end of figures -->/g;

/** The document with every marked section rendered anew. Throws an Error for a section that does not exist. */
export function withFigures(text: string, evaluation: Evaluation): string {
  return text.replaceAll(marked, (_, name: string) => {
    const section = sections[name];
    if (!section) throw new Error(`no figures are called ${name}; there are ${Object.keys(sections).join(", ")}`);
    return `<!-- figures: ${name} -->\n\n${section(evaluation)}\n\n<!-- end of figures -->`;
  });
}

export function signed(value: number): string {
  return `${value < 0 ? "−" : ""}${Math.abs(value).toFixed(3)}`;
}

export function estimateText({ mean, ci95: [low, high] }: Estimate): string {
  return `${signed(mean)} [${signed(low)}, ${signed(high)}]`;
}

function summaryTable({ means }: Evaluation): string {
  const lengths: PromptLength[] = [8, 64, 256];
  const rows = kinds.flatMap(([kind, text]) =>
    ["mixture", "nearest"].map((method) => [
      `${method === "mixture" ? "mixture (`auto`)" : "nearest adapter alone"}, ${text}`,
      ...lengths.map((length) => {
        const mean = means.find((one) => one.kind === kind && one.prompt === length);
        return mean ? estimateText(mean.gains[method]) : "–";
      }),
    ]),
  );
  return markdownTable(["gain over the base, nats a token", "after 8 tokens", "64", "256"], rows);
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
