/** From corpora to trained artifacts to evaluations, on a tiny model and text of three made-up domains. */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Evaluation, evaluationSchema, rounded } from "../../gpu-backend/research/evaluation/data.ts";
import { type EvalOptions, evaluate } from "../../gpu-backend/research/evaluation/eval-command.ts";
import { paperProtocol } from "../../gpu-backend/research/paper-protocol.ts";
import { readServedBank } from "../../gpu-backend/training/bank/served-bank.ts";
import { prepare } from "../../gpu-backend/training/prepare.ts";
import type { Progress } from "../../gpu-backend/training/progress.ts";
import { type TrainOptions, train } from "../../gpu-backend/training/train.ts";
import { parseManifest } from "../../shared/artifacts/manifest.ts";
import { tinyTraining } from "../support/tiny-training.ts";

const seed = 3;
const silent: Progress = { stage() {}, advance() {}, note() {}, end() {} };
let folder: string;
let training: Omit<TrainOptions, "outDirectory">;
let options: EvalOptions;
let evaluation: Evaluation;
let notes: string[];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "figures-"));
  training = await tinyTraining(folder, seed, ["sea", "tables", "stars"]);
  const artifacts = join(folder, "artifacts");
  // A corpus is recognised by its content, whatever it was called in training.
  const renamed = training.corpora.map((corpus) => ({ ...corpus, name: `old-${corpus.name}` }));
  await train({ ...training, corpora: renamed, outDirectory: artifacts }, silent);
  const staticArtifacts = join(folder, "static");
  await train({ ...training, clusters: 1, steps: 20, outDirectory: staticArtifacts }, silent);
  options = {
    ...{ model: training.modelDirectory, artifacts, corpora: training.corpora, corpusFolder: folder },
    ...{
      texts: 3,
      controls: true,
      ownExamples: 8,
      staticArtifacts,
      format: "fp32",
      threads: 1,
      cacheDirectory: join(folder, "cache"),
    },
  };
  notes = [];
  evaluation = await evaluate(options, { ...silent, note: (line) => notes.push(line) });
});
afterAll(() => rm(folder, { recursive: true }));

test("artifacts are scored on the documents that their training held out, by every method", () => {
  const { rows, means } = evaluation;
  expect(new Set(rows.map(({ name }) => name))).toEqual(new Set(["sea", "tables", "stars"]));
  expect(rows.every(({ heldOut, known }) => heldOut && !known)).toBe(true);
  expect(notes.filter((line) => line.includes("may have been trained"))).toEqual([]);
  const { gains, mixtureOver } = means.find(({ prompt }) => prompt === 64)!;
  expect(Object.keys(gains)).toEqual([
    "nearest",
    "mixture",
    "equal weights",
    "random centroids",
    "static head",
    "own adapter",
  ]);
  expect(Object.keys(mixtureOver)).toEqual(Object.keys(gains).filter((method) => method !== "mixture"));
  expect(gains.nearest.mean).toBeGreaterThan(0.2);
  expect(gains["static head"].mean).not.toBe(gains.mixture.mean);
  expect(gains["own adapter"].mean).toBeGreaterThan(0.2);
  expect(gains.mixture.mean - gains.nearest.mean).toBeCloseTo(mixtureOver.nearest.mean, 2);
});

test("an evaluation is data of three decimals that report and figures can read", () => {
  expect(rounded(evaluation)).toEqual(evaluation);
  expect(evaluationSchema.parse(JSON.parse(JSON.stringify(evaluation)))).toEqual(evaluation);
});

test("an interrupted evaluation continues, and gives the same figures", async () => {
  const again = {
    ...options,
    staticArtifacts: null,
    controls: false,
    ownExamples: 0,
    cacheDirectory: join(folder, "interrupted"),
  };
  const controller = new AbortController();
  const interrupting: Progress = {
    ...silent,
    advance: (done) => {
      if (done === 2) controller.abort(new Error("interrupted"));
    },
  };
  await expect(evaluate(again, interrupting, controller.signal)).rejects.toThrow("interrupted");
  const continued = await evaluate(again, silent);
  expect(continued).toEqual(await evaluate({ ...again, cacheDirectory: join(folder, "whole") }, silent));
  expect(continued.means.map(({ gains }) => gains.mixture)).toEqual(evaluation.means.map(({ gains }) => gains.mixture));
});

test("artifacts that were trained on other text are said to have perhaps seen test documents", async () => {
  const path = join(folder, "changed.jsonl");
  await writeFile(path, `${await readFile(training.corpora[0].path, "utf8")}\n{"text": "one more"}`);
  const corpora = [{ ...training.corpora[0], path }];
  const said: string[] = [];
  const progress = { ...silent, note: (line: string) => said.push(line) };
  const { rows } = await evaluate({ ...options, corpora, ownExamples: 0, staticArtifacts: null }, progress);
  expect(said.join()).toContain("may have been trained on test documents of sea");
  expect(rows.some(({ heldOut }) => heldOut)).toBe(false);
});

test("the paper's protocol has its regimes and ours; a bias on the padding's logit costs something on real text", async () => {
  const served = await readServedBank(
    options.artifacts,
    parseManifest(await readFile(join(options.artifacts, "manifest.json"), "utf8")),
  );
  const cacheDirectory = join(folder, "paper");
  const prepared = await prepare({ ...training, cacheDirectory, windowSeed: seed }, silent);
  try {
    const paper = { lines: 40, steps: 20, learningRate: 3e-3, seed, threads: 1 };
    const { rows, padBias, paddedShare } = await paperProtocol(prepared, served, paper, silent);
    expect(rows.map(({ published }) => published?.perplexity ?? null)).toEqual([28_319, 3.8683, 1.4554, null, null]);
    for (const { paperLoss, honestLoss } of rows) expect(paperLoss * honestLoss).toBeGreaterThan(0);
    const [unadapted, lora, , biased, ours] = rows;
    expect(paddedShare).toBeGreaterThan(0);
    expect(padBias).toBeGreaterThan(0);
    expect(biased.paperLoss).toBeLessThan(unadapted.paperLoss);
    expect(biased.honestLoss).toBeGreaterThan(unadapted.honestLoss);
    expect(lora.paperLoss).toBeLessThan(unadapted.paperLoss);
    expect(ours.honestLoss).toBeLessThan(unadapted.honestLoss);
  } finally {
    await prepared.close();
  }
});
