/**
 * `npm run eval:evidence`: what the mixture gains over the base, beside the nearest adapter and beside controls, on the same
 * tokens of text that neither base nor adapters have seen, and on what is held out of the domains that were trained on.
 * Prints every figure, losing ones too. Not here: what serving costs (npm run bench).
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { InvalidArgumentError, Option } from "commander";
import { collected, count, createCommand, httpUrl, parsedOptions } from "../../../gpu-backend/command-line.ts";
import { weightFormats } from "../../../gpu-backend/runtime/gpt2-graph.ts";
import { writeAtomically } from "../../../gpu-backend/training/atomic-file.ts";
import { defaultCorpusFolder, lockedCorpora, shownCorpusFolder } from "../../../gpu-backend/training/corpus/lock.ts";
import { parseSource } from "../../../gpu-backend/training/corpus/read-corpus.ts";
import { EngineScorer } from "../../../gpu-backend/training/figures/engine-scorer.ts";
import {
  base,
  controls,
  mainMethods,
  type Placement,
  Prompt,
  planners,
  staticHead,
  staticHeadPlan,
  temperature,
} from "../../../gpu-backend/training/figures/serving.ts";
import { leastPrompt, type Source, type Text, withPrompt } from "../../../gpu-backend/training/figures/texts.ts";
import { createProgress } from "../../../gpu-backend/training/progress.ts";
import { edgeTableFile, isAutoOff } from "../../../shared/artifacts/manifest.ts";
import { readTensorFile } from "../../../shared/artifacts/tensor-file.ts";
import { readEdgeTable } from "../../../shared/math/assignment.ts";
import { defaultCalibration } from "../../../shared/math/evidence.ts";
import { type ApiOptions, requireEvidenceTokens, scoreByApi } from "./api-client.ts";
import { type GenerationRow, generationRows, measureGeneration, temperatures } from "./generation.ts";
import { checkTable, generationTable, type MeasuredSource, tables } from "./report.ts";
import { checksOf, type Kind, meansOf, rowsOf, type Scored } from "./result.ts";
import { ScoreStore } from "./score-store.ts";
import { newSource, readSources, type TrainedDomain, trainedDomain } from "./sources.ts";

const embedded = fileURLToPath(new URL("../../../gpu-backend/models/chameleon-mini", import.meta.url));
const program = createCommand(
  "eval:evidence",
  "Measure what the mixture gains on new text, beside the nearest adapter and controls",
  ["chameleon eval:evidence --texts 20 --source notes=./my-texts"],
)
  .option(
    "--source <name=path>",
    "new text (text file, folder, glob or JSONL) instead of the ten sources of the corpus lock, which chameleon corpora " +
      "fetches; repeatable",
    collected,
    [],
  )
  .option(
    "--domain <name=path>",
    "domain that the adapters were trained on, by the name in the manifest; measured on the documents that training held " +
      "out; repeatable",
    collected,
    [],
  )
  .option("--texts <n>", "of each source at most; 300 for figures to be published", count, 60)
  .option("--domain-texts <n>", "of each domain at most (default: as --texts)", count)
  .option("--prompt-tokens <list>", `lengths of prompts, each at most ${leastPrompt}`, lengthList, [8, 16, 32, 64])
  .option("--control-tokens <list>", "lengths at which controls are measured on new text, too; none", lengthList, [64])
  .option("--domain-controls", "measure them on the domains as well", false)
  .option("--static <folder>", "artifacts of one centroid, a static head, as a control (train --centroids 1)")
  .option("--samples <n>", "continuations of each method at each temperature; 0 for none", wholeNumber, 64)
  .addOption(new Option("--model <folder>", "the model").default(embedded, "the embedded model"))
  .option("--artifacts <folder>", "other artifacts than the model's")
  .addOption(new Option("--format <name>", "of the weights").choices(weightFormats).default("fp32" as const))
  .option("--api <url>", "score through the public API of this address: base, nearest and mixture alone", httpUrl)
  .option("--key <key>", "of the API")
  .option("--api-model <name>", "the model's name there")
  .addOption(
    new Option("--corpora <folder>", "where chameleon corpora put the text").default(
      defaultCorpusFolder,
      shownCorpusFolder,
    ),
  )
  .option("--resume", "go on from what an earlier run of the same code scored", false)
  .option("--json <file>", "where the figures go", ".cache/evaluation/evidence.json");
const values = parsedOptions<{
  source: string[];
  domain: string[];
  texts: number;
  domainTexts?: number;
  promptTokens: number[];
  controlTokens: number[];
  domainControls: boolean;
  static?: string;
  samples: number;
  model: string;
  artifacts?: string;
  format: (typeof weightFormats)[number];
  api?: string;
  key?: string;
  apiModel?: string;
  corpora: string;
  resume: boolean;
  json: string;
}>(program);

const threads = 1;
/** Of which the control takes the one that predicts validation text best. */
const temperatureChoices = Array.from({ length: 13 }, (_, i) => 0.7 + 0.05 * i);

const lengths = values.promptTokens;
const controlLengths = values.api ? [] : values.controlTokens;
const { texts: textCount, format } = values;

const progress = createProgress(process.stderr, () => performance.now());
const scorer = await EngineScorer.open(values.model, { artifacts: values.artifacts, threads, format });
const { manifest, manifestHash, tokenizer } = scorer.artifacts;
const edgeTable = await readFile(join(values.artifacts ?? join(values.model, "artifacts"), edgeTableFile));
const calibration = manifest.evidence ?? defaultCalibration;
const placement: Placement = {
  ...readEdgeTable(readTensorFile(edgeTable)),
  ids: manifest.centroids.map(({ id }) => id),
  isOff: manifest.centroids.map(isAutoOff),
  prefixTokens: manifest.embedding.prefixTokens,
  calibration,
};
// The evidence decides how much of it is served, as it does with the centroids' adapters.
const staticScorer = values.static
  ? await EngineScorer.open(values.model, { artifacts: values.static, threads, format, fullStrength: true })
  : null;
const api: ApiOptions | null = values.api ? { url: values.api, key: values.key ?? null, model: values.apiModel } : null;
if (api) await requireEvidenceTokens(api);
const store = await ScoreStore.open(`${values.json}.scores`, values.resume);

const corpora =
  values.source.length > 0 ? await readSources(values.source) : await lockedCorpora("new", values.corpora);
const fresh = corpora.map((corpus) => newSource(corpus, tokenizer, textCount));
const domainTexts = values.domainTexts ?? values.texts;
const domains: TrainedDomain[] = [];
for (const argument of values.domain) {
  domains.push(await trainedDomain(parseSource(argument), manifest, tokenizer, domainTexts));
}

const fitted: Record<number, number> = {};
if (domains.length > 0)
  for (const promptTokens of controlLengths) fitted[promptTokens] = await fitTemperature(promptTokens);

const scored: Scored[] = [];
for (const [kind, sources] of [["new", fresh] as const, ["trained", domains] as const]) {
  for (const promptTokens of lengths) {
    if (sources.length === 0) continue;
    const methods = methodsAt(kind, promptTokens);
    progress.stage(`${kind} text, ${promptTokens} prompt tokens`, sources.length * methods.length);
    let done = 0;
    for (const source of sources) {
      for (const method of methods) {
        scored.push(await scoreSource(kind, source, promptTokens, method));
        progress.advance(++done, `${source.name}, ${method}`);
      }
    }
  }
}

let generation: GenerationRow[] = [];
const { samples } = values;
if (samples > 0 && !api) {
  progress.stage("continuations", generationRows);
  generation = await measureGeneration(fresh, samples, placement, scorer, (done) => progress.advance(done));
}
progress.end();
await staticScorer?.release();
await scorer.release();

const rows = rowsOf(scored, base);
const means = meansOf(rows, scored, base);
const checks = checksOf(rows, means);
const sources: MeasuredSource[] = [
  ...fresh.map((source) => ({ kind: "new" as const, ...countsOf(source) })),
  ...domains.map((domain) => ({ kind: "trained" as const, ...countsOf(domain), isAsTrained: domain.isAsTrained })),
];
const missing = [
  ...(controlLengths.length > 0 && domains.length === 0 ? [`${temperature} (needs --domain)`] : []),
  ...(controlLengths.length > 0 && !staticScorer ? [`${staticHead} (needs --static)`] : []),
];
await writeAtomically(
  values.json,
  `${JSON.stringify(
    {
      ...{ model: manifest.model.name, manifestHash, format, scoredBy: api ? "api" : "engine" },
      ...{ calibration, calibrated: manifest.evidence !== undefined, fittedTemperatures: fitted, missing },
      ...{ sources, rows, means, checks, generation },
    },
    null,
    2,
  )}\n`,
);
console.log(tables(sources, rows, means, [...controls, temperature, staticHead]));
if (Object.keys(fitted).length > 0) console.log(`\nfitted temperatures: ${JSON.stringify(fitted)}`);
for (const control of missing) console.log(`\nnot measured: ${control}`);
console.log(`\n### What is wanted\n\n${checkTable(checks)}`);
if (generation.length > 0) {
  const title = `### 64 tokens after prompts of ${leastPrompt} of the new text, at temperatures ${temperatures.join(", ")}`;
  console.log(`\n${title}\n\n${generationTable(generation)}`);
}
console.log(`\n${values.json}`);

function methodsAt(kind: Kind, promptTokens: number): string[] {
  const withControls = controlLengths.includes(promptTokens) && (kind === "new" || values.domainControls);
  if (!withControls) return [...mainMethods];
  const more = [...(fitted[promptTokens] ? [temperature] : []), ...(staticScorer ? [staticHead] : [])];
  return [...Object.keys(planners), ...more];
}

async function scoreSource(kind: Kind, source: Source, promptTokens: number, method: string): Promise<Scored> {
  const { texts } = source;
  const scores = await scoresOf(texts, promptTokens, method);
  return { kind, source: source.name, promptTokens, method, texts, scores };
}

function scoresOf(texts: readonly Text[], promptTokens: number, method: string): Promise<number[]> {
  const all = texts.map((text) => withPrompt(text, promptTokens));
  if (api) {
    return store.scores([api.url, manifestHash, method, all], async () => {
      const scores: number[] = [];
      for (const ids of all) scores.push(await scoreByApi(ids, method, api));
      return scores;
    });
  }
  if (method === temperature) {
    const chosen = fitted[promptTokens];
    return store.scores([manifestHash, format, method, chosen, all], async () => {
      const [scores] = await scorer.scoreAtTemperatures(all, [chosen]);
      return scores;
    });
  }
  const own = method === staticHead ? staticScorer! : scorer;
  const planned = all.map((ids, i) => {
    if (own === scorer) return { ids, plan: planners[method](new Prompt(ids.slice(0, promptTokens), placement), i) };
    const [{ id }] = own.artifacts.manifest.centroids;
    return { ids, plan: staticHeadPlan(promptTokens, id, calibration) };
  });
  return store.scores([own.artifacts.manifestHash, format, planned], () => own.score(planned));
}

/** The temperature at which the base predicts the domains' validation texts best. */
async function fitTemperature(promptTokens: number): Promise<number> {
  const texts = domains.flatMap(({ validation }) => validation.map((text) => withPrompt(text, promptTokens)));
  const scores = await scorer.scoreAtTemperatures(texts, temperatureChoices);
  const sums = scores.map((own) => own.reduce((sum, nats) => sum + nats, 0));
  return temperatureChoices[sums.indexOf(Math.max(...sums))];
}

function countsOf({ name, sha256, documents, texts }: Source) {
  return { name, sha256, documents, texts: texts.length };
}

function lengthList(text: string): number[] {
  const lengths = text === "none" ? [] : text.split(",").map(count);
  if (lengths.every((tokens) => tokens <= leastPrompt)) return lengths;
  throw new InvalidArgumentError(`1 to ${leastPrompt} tokens are possible`);
}

function wholeNumber(text: string): number {
  return text === "0" ? 0 : count(text);
}
