/**
 * `npm run eval:instant`: what adapters made of 20 examples gain on other text of their kind, on domains that base and
 * bank do not know, and that they harm none that they know. Prints every draw's figures, losing ones too.
 */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Option } from "commander";
import { servedBank } from "../../../gpu-backend/adapters/generated.ts";
import { gainOver } from "../../../gpu-backend/adapters/instant/held-out-gain.ts";
import { collected, count, createCommand, parsedOptions } from "../../../gpu-backend/command-line.ts";
import { readArtifacts } from "../../../gpu-backend/engine/artifacts.ts";
import { Fitter } from "../../../gpu-backend/engine/instant/fitter.ts";
import { openHeadSession } from "../../../gpu-backend/runtime/head-probabilities.ts";
import { createTrunkRunner } from "../../../gpu-backend/runtime/trunk-runner.ts";
import { createProgress } from "../../../gpu-backend/training/progress.ts";
import { Random } from "../../../gpu-backend/training/random.ts";
import { edgeTableFile } from "../../../shared/artifacts/manifest.ts";
import { readTensorFile, tensorOf, toFloat32 } from "../../../shared/artifacts/tensor-file.ts";
import { promptEmbedding, readEdgeTable } from "../../../shared/math/assignment.ts";
import { type Domain, drawWindows, readDomains, splitInTwo } from "./domains.ts";
import { gainsOf, traced } from "./served-loss.ts";

const exampleTokens = 200;
const testWindows = 40;
const testTokens = 256;
/** What must be gained on an unknown domain, and may be lost on a known one. */
const wanted = 0.03;
const tolerated = 0.005;

const embedded = fileURLToPath(new URL("../../../gpu-backend/models/chameleon-mini", import.meta.url));
const program = createCommand("eval:instant", "Measure adapters made of examples, on known and unknown text", [
  "chameleon eval:instant --draws 1 --known-draws 4",
])
  .addOption(new Option("--model <folder>", "the model").default(embedded, "the embedded model"))
  .option("--domain <name=path>", "text to make adapters of, instead of that of packages; repeatable", collected, [])
  .option(
    "--known <name=path>",
    "text that base or bank were trained on, besides the corpora that the manifest names; repeatable",
    collected,
    [],
  )
  .option("--examples <n>", `example texts of an adapter, ${exampleTokens} tokens each`, count, 20)
  .option("--draws <n>", "of each unknown domain", count, 3)
  .option("--known-draws <n>", "over all known domains", count, 50)
  .option("--json <file>", "where the figures go", ".cache/evaluation/instant.json");
const values = parsedOptions<{
  model: string;
  domain: string[];
  known: string[];
  examples: number;
  draws: number;
  knownDraws: number;
  json: string;
}>(program);

const progress = createProgress(process.stderr, () => performance.now());
const artifacts = await readArtifacts(values.model);
const { model, manifest, tokenizer } = artifacts;
const sources = { domains: values.domain, known: values.known };
const domains = await readDomains(sources, manifest, tokenizer, progress);
const { table } = readEdgeTable(readTensorFile(await readFile(join(values.model, "artifacts", edgeTableFile))));
const bank = servedBank(manifest, artifacts.hyperNetwork);
const embedding = toFloat32(tensorOf(model.weights, "wte.weight"));
const fitter = await Fitter.open(artifacts, 1);
const session = await openHeadSession(embedding, model.config.hiddenSize, bank, 1);
const trunk = await createTrunkRunner({ ...model, threads: 1 });

interface Draw {
  domain: string;
  known: boolean;
  seed: number;
  examples: number;
  tokens: number;
  kept: string[];
  /** By the examples themselves; null where nothing was kept. */
  claimed: { nats: number; ci95: [number, number] } | null;
  /** On other documents of the domain; 0 where the base is served. */
  found: { nats: number; ci95: [number, number]; tokens: number };
  fitMs: number;
}

async function drawOnce({ name, known, documents }: Domain, seed: number): Promise<Draw> {
  const random = new Random(seed, 77);
  const [own, others] = splitInTwo(documents, values.examples, random);
  const texts = drawWindows(own, values.examples, exampleTokens, random).filter((ids) => ids.length >= 2);
  const examples = await eachOf(texts, (ids) => traced(trunk, ids));
  const sum = new Float32Array(table.dimensions);
  for (const ids of texts) {
    promptEmbedding(ids.slice(0, manifest.embedding.prefixTokens), table).forEach((value, p) => {
      sum[p] += value;
    });
  }
  const length = Math.hypot(...sum);
  const startedMs = performance.now();
  const { fit } = await fitter.fit({ examples, centroid: sum.map((value) => value / length), withDirections: true });
  const fitMs = performance.now() - startedMs;
  const tests = await eachOf(drawWindows(others, testWindows, testTokens, random), (ids) => traced(trunk, ids));
  const gains = await eachOf(tests, async (text) => {
    if (!fit.gain) return { tokens: text.targets.length, nats: 0 };
    const each = await gainsOf(session, text, fit, bank.gates);
    return { tokens: each.length, nats: each.reduce((total, nats) => total + nats, 0) };
  });
  return {
    ...{ domain: name, known, seed, examples: texts.length, fitMs },
    tokens: texts.reduce((total, ids) => total + ids.length, 0),
    kept: fit.parts.filter((part) => part.kept).map((part) => part.name),
    claimed: fit.gain && { nats: fit.gain.nats, ci95: fit.gain.ci95 },
    found: gainOver(gains),
  };
}

const known = domains.filter((domain) => domain.known);
const unknown = domains.filter((domain) => !domain.known);
const plan = [
  ...unknown.flatMap((domain) => Array.from({ length: values.draws }, (_, i) => ({ domain, seed: i + 1 }))),
  ...(known.length > 0
    ? Array.from({ length: values.knownDraws }, (_, i) => ({
        domain: known[i % known.length],
        seed: i + 1,
      }))
    : []),
];
const draws: Draw[] = [];
progress.stage("draws", plan.length);
for (const { domain, seed } of plan) {
  draws.push(await drawOnce(domain, seed));
  progress.advance(draws.length, domain.name);
}
progress.end();

const signed = (nats: number) => `${nats < 0 ? "−" : "+"}${Math.abs(nats).toFixed(3)}`;
const interval = ({ nats, ci95: [low, high] }: { nats: number; ci95: [number, number] }) =>
  `${signed(nats)} [${signed(low)}, ${signed(high)}]`;
console.log(
  `| domain | | draw | kept | claimed, nats [95%] | found on other text | fit, ms |\n|---|---|---|---|---|---|---|`,
);
for (const { domain, known: isKnown, seed, kept, claimed, found, fitMs } of draws) {
  const cells = [domain, isKnown ? "known" : "unknown", seed, kept.join(" + ") || "base"];
  console.log(`| ${[...cells, claimed ? interval(claimed) : "none", interval(found), fitMs.toFixed(0)].join(" | ")} |`);
}
const meanOf = (name: string) => {
  const own = draws.filter((draw) => draw.domain === name);
  return own.reduce((sum, { found }) => sum + found.nats, 0) / own.length;
};
const unknownGains = unknown.map(({ name }) => ({ domain: name, meanNats: meanOf(name) }));
const knownDraws = draws.filter((draw) => draw.known);
const worstKnown = knownDraws.length > 0 ? Math.min(...knownDraws.map(({ found }) => found.nats)) : null;
const overstated = draws.filter(({ claimed, found }) => claimed && found.ci95[1] < claimed.ci95[0]).length;
const summary = {
  unknownGains,
  unknownDomainsAbove: { nats: wanted, count: unknownGains.filter(({ meanNats }) => meanNats >= wanted).length },
  worstUnknown: Math.min(...draws.filter((draw) => !draw.known).map(({ found }) => found.nats)),
  knownDraws: knownDraws.length,
  worstKnown,
  knownLossesAbove: { nats: tolerated, count: knownDraws.filter(({ found }) => found.nats < -tolerated).length },
  /** Draws whose claim lies above all that was found. */
  overstated,
  draws: draws.length,
};
for (const { domain, meanNats } of unknownGains)
  console.log(`unknown: ${domain} ${signed(meanNats)} nats over the base`);
console.log(
  `${summary.unknownDomainsAbove.count} of ${unknown.length} unknown domains gain ${wanted} nats or more; worst draw ${signed(summary.worstUnknown)}`,
);
if (worstKnown !== null) {
  console.log(
    `${knownDraws.length} draws on ${known.length} known domains: worst ${signed(worstKnown)}, ${summary.knownLossesAbove.count} lose more than ${tolerated}`,
  );
}
console.log(`${overstated} of ${draws.length} claims lie above what was found`);
await mkdir(dirname(values.json), { recursive: true });
await writeFile(values.json, `${JSON.stringify({ model: manifest.model.name, summary, draws }, null, 2)}\n`);
console.log(values.json);

async function eachOf<T, R>(list: readonly T[], work: (one: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  for (const one of list) results.push(await work(one));
  return results;
}
