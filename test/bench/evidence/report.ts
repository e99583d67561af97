/** The figures as Markdown tables. */
import { mainMethods, mixture, nearest } from "../../../gpu-backend/training/figures/serving.ts";
import type { GenerationRow } from "./generation.ts";
import { type Check, type Group, groupNames, interval, type Kind, type Mean, type Row, signed } from "./result.ts";
import { fewDocuments } from "./sources.ts";

export interface MeasuredSource {
  kind: Kind;
  name: string;
  sha256: string;
  documents: number;
  texts: number;
  /** Of a trained domain: whether the corpus is the training's own, byte for byte. */
  isAsTrained?: boolean;
}

const titles: Record<Kind, string> = { new: "New text", trained: "Domains of the training, held-out documents" };

export function tables(
  sources: readonly MeasuredSource[],
  rows: readonly Row[],
  means: readonly Mean[],
  controls: readonly string[],
): string {
  const ofKinds = groupsOf(rows).map(({ kind, promptTokens }) => {
    const own = rows.filter((row) => row.kind === kind && row.promptTokens === promptTokens);
    const title = `### ${titles[kind]}, prompts of ${promptTokens} tokens: gain over the base on the 64 tokens after them`;
    const table = mainTable(
      sources.filter((source) => source.kind === kind),
      own,
      means.filter((mean) => mean.group === kind && mean.promptTokens === promptTokens),
    );
    return `${title}\n\n${table}`;
  });
  const controlled = new Set(
    means.flatMap(({ method, promptTokens }) => (controls.includes(method) ? [promptTokens] : [])),
  );
  const ofControls = [...controlled].map((promptTokens) => {
    const title = `### Beside controls, prompts of ${promptTokens} tokens`;
    return `${title}\n\n${controlTable(means.filter((mean) => mean.promptTokens === promptTokens))}`;
  });
  return [...ofKinds, ...ofControls].join("\n\n");
}

function groupsOf(rows: readonly Row[]): { kind: Kind; promptTokens: number }[] {
  const groups = Map.groupBy(rows, ({ kind, promptTokens }) => `${kind} ${promptTokens}`);
  return [...groups.values()].map(([{ kind, promptTokens }]) => ({ kind, promptTokens }));
}

function mainTable(sources: readonly MeasuredSource[], rows: readonly Row[], means: readonly Mean[]): string {
  const lines = [
    "| source | documents / texts | nearest, nats a token [95%] | mixture, nats a token [95%] | mixture, bits a byte [95%] | mixture − nearest, nats [95%] | 5% worst texts: nearest / mixture | worst text: nearest / mixture |",
    "|---|---|---|---|---|---|---|---|",
  ];
  for (const { name, documents, texts, isAsTrained } of sources) {
    const ofNearest = rows.find((row) => row.source === name && row.method === nearest)!;
    const ofMixture = rows.find((row) => row.source === name && row.method === mixture)!;
    const marks = [
      documents < fewDocuments ? "few documents" : "",
      isAsTrained === false ? "other bytes than trained" : "",
    ];
    const remark = marks.filter(Boolean).join(", ");
    lines.push(
      `| ${[
        remark ? `${name} (${remark})` : name,
        `${documents} / ${texts}`,
        interval(ofNearest.overBase.nats),
        interval(ofMixture.overBase.nats),
        interval(ofMixture.overBase.bits),
        interval(ofNearest.mixtureOver!.nats),
        `${signed(ofNearest.overBase.worst.mean)} / ${signed(ofMixture.overBase.worst.mean)}`,
        `${signed(ofNearest.overBase.worst.single)} / ${signed(ofMixture.overBase.worst.single)}`,
      ].join(" | ")} |`,
    );
  }
  const [ofNearest, ofMixture] = [nearest, mixture].map((method) => means.find((mean) => mean.method === method)!);
  lines.push(
    `| ${[
      "**mean over sources** [95% over sources]",
      `${sources.length} sources`,
      interval(ofNearest.overBase),
      interval(ofMixture.overBase),
      interval(ofMixture.bits),
      interval(ofNearest.mixtureOver!),
      `${signed(ofNearest.worst.mean)} / ${signed(ofMixture.worst.mean)}`,
      `${signed(ofNearest.worst.single)} / ${signed(ofMixture.worst.single)}`,
    ].join(" | ")} |`,
  );
  return lines.join("\n");
}

/** A row for each method, the best over all sources first; a column for each group that was measured. */
function controlTable(means: readonly Mean[]): string {
  const groups = (["new", "trained", "all"] as const).filter((group) => means.some((mean) => mean.group === group));
  const of = (method: string, group: Group) => means.find((mean) => mean.method === method && mean.group === group);
  const widest = (method: string) => of(method, groups.at(-1)!)?.overBase.mean ?? Number.NEGATIVE_INFINITY;
  const methods = [...new Set(means.map(({ method }) => method))].sort((a, b) => widest(b) - widest(a));
  const lines = methods.map((method) => {
    const cells = groups.map((group) => controlCell(of(method, group)));
    return `| ${[mainMethods.includes(method) ? `**${method}**` : method, ...cells].join(" | ")} |`;
  });
  return [
    "Gain over the base, nats a token; how far the mixture is ahead [95% over sources and documents], and on how many sources the method is ahead of it for certain; mean of the 5% worst of all texts.",
    "",
    `| method | ${groups.map((group) => groupNames[group]).join(" | ")} |`,
    `|${"---|".repeat(groups.length + 1)}`,
    ...lines,
  ].join("\n");
}

function controlCell(mean: Mean | undefined): string {
  if (!mean) return "";
  const { overBase, mixtureOver, aheadOfMixture, sources, worst } = mean;
  const ahead = mixtureOver ? `; ${interval(mixtureOver)}, ${aheadOfMixture} of ${sources}` : "";
  return `${signed(overBase.mean)}${ahead}; worst ${signed(worst.mean)}`;
}

export function checkTable(checks: readonly Check[]): string {
  const lines = checks.map(
    ({ what, wanted, found, holds }) => `| ${what} | ${wanted} | ${found} | ${holds ? "yes" : "**no**"} |`,
  );
  return ["| what | wanted | found | holds |", "|---|---|---|---|", ...lines].join("\n");
}

export function generationTable(rows: readonly GenerationRow[]): string {
  const percent = (share: number) => `${(100 * share).toFixed(0)}%`;
  const lines = rows.map(
    ({ method, temperature, samples, distinctBigrams, loops, promptWords }) =>
      `| ${[method, temperature ?? "", samples, distinctBigrams.toFixed(3), percent(loops), percent(promptWords)].join(
        " | ",
      )} |`,
  );
  return [
    "| continuation | temperature | samples | distinct bigrams | end in a loop | words that the prompt has |",
    "|---|---|---|---|---|---|",
    ...lines,
  ].join("\n");
}
