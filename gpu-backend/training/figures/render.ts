/** Figures as Markdown: every quality table of the documents, by the name in its markers. Pure. */
import { bankMethod, expertMethod, staticMethod, tableMethod } from "../evaluation/methods.ts";
import { markdownTable } from "../report/tables.ts";
import type { Figures, Kind, Prompt, Shipped, ShippedRow } from "./data.ts";
import { shippedName } from "./method-rows.ts";

type Estimate = ShippedRow["mixture"];

/** The sections that documents may ask for. */
export const sections: Record<string, (figures: Figures) => string> = {
  summary: summaryTable,
  "new-text": ({ shipped, settings }) => `${shippedPreface(settings)}\n\n${shippedTable(shipped, "new")}`,
  "trained-text": ({ shipped, settings }) => `${shippedPreface(settings)}\n\n${shippedTable(shipped, "trained")}`,
  questions: ({ shipped }) => questionTable(shipped),
  oracle: ({ shipped }) => oracleTable(shipped),
  methods: methodTable,
  domains: domainTable,
  "left-out": (figures) => familyTable(figures, true),
  "known-text": (figures) => familyTable(figures, false),
  paper: paperTable,
  provenance: provenance,
};

export function signed(value: number): string {
  return `${value < 0 ? "−" : ""}${Math.abs(value).toFixed(3)}`;
}

export function estimateText({ mean, ci95: [low, high] }: Estimate): string {
  return `${signed(mean)} [${signed(low)}, ${signed(high)}]`;
}

/** For the README: the mixture and the nearest adapter. */
function summaryTable({ shipped }: Figures): string {
  const lengths: Prompt[] = [8, 64, 256];
  const kinds: [Kind, string][] = [
    ["trained", "held-out documents of trained domains"],
    ["new", "text of no trained domain"],
  ];
  const rows = kinds.flatMap(([kind, text]) =>
    (["mixture", "nearest"] as const).map((method) => [
      `${method === "mixture" ? "mixture (`auto`)" : "nearest adapter alone"}, ${text}`,
      ...lengths.map((length) => {
        const mean = shipped.means.find((one) => one.kind === kind && one.prompt === length);
        return mean ? estimateText(mean[method]) : "–";
      }),
    ]),
  );
  return markdownTable(["gain over the base, nats a token", "after 8 tokens", "64", "256"], rows);
}

function shippedPreface({ texts }: Figures["settings"]): string {
  return `Gain over the base in nats a token [95% interval over documents; the means' over domains and documents], in brackets that of the nearest adapter alone: the same 64 tokens after prompts of each length, up to ${texts} texts of a source, and the mean of the worst twentieth of the texts after 64 tokens. A cell without a figure has fewer than two documents that are long enough.`;
}

function promptsOf(rows: readonly { prompt: Prompt }[]): number[] {
  return [...new Set(rows.map(({ prompt }) => prompt))].filter((prompt) => prompt !== "question");
}

/** Mixture over the base by prompt length; in brackets the nearest adapter alone. */
export function shippedTable({ rows, means }: Shipped, kind: Kind): string {
  const own = rows.filter((row) => row.kind === kind);
  const lengths = promptsOf(own);
  const cell = (one: Pick<ShippedRow, "mixture" | "nearest"> | undefined) =>
    one ? `${estimateText(one.mixture)} (${signed(one.nearest.mean)})` : "–";
  const names = [...new Set(own.map(({ name }) => name))];
  const body = names.map((name) => {
    const ofName = own.filter((row) => row.name === name);
    const [{ known, heldOut }] = ofName;
    const longest = ofName.find(({ prompt }) => prompt === 64) ?? ofName[0];
    const remarks = [...(known ? ["in the base"] : []), ...(heldOut ? [] : ["perhaps trained on"])];
    return [
      remarks.length > 0 ? `${name} (${remarks.join(", ")})` : name,
      `${longest.documents} / ${longest.texts}`,
      longest.base.bitsPerByte.toFixed(3),
      ...lengths.map((length) => cell(ofName.find(({ prompt }) => prompt === length))),
      signed(longest.worst),
    ];
  });
  const mean = (length: number) => means.find((one) => one.kind === kind && one.prompt === length);
  const last = ["**mean**", "", "", ...lengths.map((length) => cell(mean(length))), ""];
  const paired = ["mixture − nearest", "", "", ...lengths.map((length) => pairedText(mean(length))), ""];
  const columns = ["text", "documents / texts", "base, bits a byte"];
  const after = lengths.map((length, i) => (i === 0 ? `after ${length} tokens` : String(length)));
  return markdownTable([...columns, ...after, "worst 5%, 64"], [...body, last, paired]);
}

function pairedText(mean: Shipped["means"][number] | undefined): string {
  return mean ? estimateText(mean.mixtureOverNearest) : "–";
}

/** Questions as prompts, their answers scored. */
export function questionTable({ rows }: Shipped): string {
  return markdownTable(
    ["question → answer", "texts", "base, nats a token", "nearest", "mixture", "mixture − nearest"],
    rows
      .filter(({ prompt }) => prompt === "question")
      .map(({ name, texts, base, nearest, mixture, mixtureOverNearest }) => [
        name,
        String(texts),
        base.nats.toFixed(3),
        ...[nearest, mixture, mixtureOverNearest].map(estimateText),
      ]),
  );
}

/** The mixture beside the single expert that turns out best for each text. */
export function oracleTable({ rows, means }: Shipped): string {
  const measured = rows.filter(({ oracle }) => oracle);
  const kinds: Record<Kind, string> = { trained: "mean, trained domains", new: "mean, new text" };
  const line = (name: string, one: Pick<ShippedRow, "nearest" | "mixture" | "oracle">) => [
    name,
    ...[one.nearest, one.mixture, one.oracle!].map(estimateText),
  ];
  return markdownTable(
    ["after 64 tokens, over the base", "nearest", "mixture", "best single expert in hindsight"],
    [
      ...measured.map((row) => line(row.name, row)),
      ...means.filter(({ oracle }) => oracle).map((mean) => line(`**${kinds[mean.kind]}**`, mean)),
    ],
  );
}

function methodTable({ methods: { rows, wrongCentroidKeeps }, settings }: Figures): string {
  const { steps, trainWindows, validationWindows } = settings;
  const preface = `Next-token perplexity on held-out documents: the first 64 tokens of a window assign it, the (at most 192) tokens after them are scored. Every method sees the same ${Number(trainWindows).toLocaleString("en")} windows at most; the bank trains ${steps} steps, the others as many unless validation (${validationWindows} windows) chose otherwise. Gains are nats a token, the mean of the domains [95% interval over domains and documents].`;
  const table = markdownTable(
    [
      ...["method", "trainable", "chosen on validation", "perplexity", "by seed", "bits a byte"],
      ...["over the base", "shipped bank ahead by", "the same, tokens pooled"],
    ],
    rows.map((row) => [
      ...[row.method, row.trainable.toLocaleString("en"), row.chosen || "–", row.perplexity.toFixed(2)],
      row.perplexityBySeed.map((one) => one.toFixed(2)).join(", "),
      row.bitsPerByte.toFixed(3),
      ...[row.overBase, row.bankOver, row.bankOverPooled].map((one) => (one ? estimateText(one) : "–")),
    ]),
  );
  return `${preface}\n\n${table}\n\nUnder the adapter of another centroid ${(100 * wrongCentroidKeeps).toFixed(0)}% of the gain over the base is left.`;
}

/** The methods that matter most by domain; the others are in the table of methods. */
const shownByDomain = ["base", shippedName, bankMethod, tableMethod, staticMethod, expertMethod];

function domainTable({ methods: { rows, domains } }: Figures): string {
  const shown = shownByDomain.filter((name) => rows.some(({ method }) => method === name));
  return markdownTable(
    ["domain", "test documents", ...shown, "shipped bank over base, nats", "over the static head"],
    domains.map(({ name, known, testDocuments, perplexity, bankOverBase, bankOverStatic }) => [
      known ? `${name} (in the base)` : name,
      String(testDocuments),
      ...shown.map((method) => perplexity[method].toFixed(2)),
      ...[bankOverBase, bankOverStatic].map(estimateText),
    ]),
  );
}

function familyTable({ leaveOneOut }: Figures, leftOut: boolean): string {
  const own = leaveOneOut.filter((row) => row.leftOut === leftOut);
  const lengths = [...new Set(own.map(({ promptTokens }) => promptTokens))];
  return markdownTable(
    ["text", ...lengths.map((length, i) => (i === 0 ? `after ${length} tokens` : String(length)))],
    [
      ...[...new Set(own.map(({ text }) => text))].map((text) => [
        text,
        ...lengths.map((length) => {
          const row = own.find((one) => one.text === text && one.promptTokens === length);
          return row ? `${estimateText(row.mixture)} (${signed(row.nearest.mean)})` : "–";
        }),
      ]),
      ["**mean**", ...lengths.map((length) => familyMean(own.filter((row) => row.promptTokens === length)))],
    ],
  );
}

function familyMean(rows: Figures["leaveOneOut"]): string {
  const mean = (of: "mixture" | "nearest") => rows.reduce((sum, row) => sum + row[of].mean, 0) / rows.length;
  return `**${signed(mean("mixture"))}** (${signed(mean("nearest"))})`;
}

/** The paper's rows by its own measure and by the honest one. */
function paperTable({ paper: { rows, padBias, lines, paddedShare, steps } }: Figures): string {
  const table = markdownTable(
    ["the paper's table", "trainable", "published, GPT-2", "here, by its measure", "here, honest"],
    rows.map(({ row, trainable, published, paperLoss, honestLoss }) => [
      published === null ? `${row} by ${padBias}` : row,
      trainable.toLocaleString("en"),
      published === null ? "–" : published.toFixed(3),
      paperLoss.toFixed(3),
      honestLoss.toFixed(3),
    ]),
  );
  const padded = (100 * paddedShare).toFixed(0);
  return `${table}\n\nNats; ${lines} lines, ${padded}% of which end in padding. The ${steps.toLocaleString("en")} steps were not chosen blindly: the number was raised until the published order appeared.`;
}

function provenance({ artifacts, lock, settings }: Figures): string {
  const said = Object.entries(settings).map(
    ([name, value]) => `${name} ${Array.isArray(value) ? value.join(", ") : value}`,
  );
  return `Artifacts \`${artifacts.slice(0, 12)}\`, corpus lock \`${lock.slice(0, 12)}\`; ${said.join("; ")}.`;
}
