/** From corpora to trained artifacts to an evaluation, on a tiny model and made-up text of three domains. */
import { join } from "node:path";
import { expect, test } from "vitest";
import { type EvalOptions, evaluate } from "../../gpu-backend/research/evaluate.ts";
import { paperProtocol } from "../../gpu-backend/research/paper/protocol.ts";
import { rounded } from "../../gpu-backend/research/statistics.ts";
import { readServedBank } from "../../gpu-backend/training/bank/served-bank.ts";
import { readBase } from "../../gpu-backend/training/base.ts";
import { prepare } from "../../gpu-backend/training/prepare.ts";
import type { Progress } from "../../gpu-backend/training/progress.ts";
import type { Run } from "../../gpu-backend/training/run.ts";
import { train } from "../../gpu-backend/training/train.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { tinyTraining } from "../support/tiny-training.ts";

const seed = 3;
const silent: Progress = { stage() {}, advance() {}, note() {}, end() {} };
const folder = temporaryFolder();
const training = await tinyTraining(folder, seed, ["sea", "tables", "stars"]);
const artifacts = join(folder, "artifacts");
await train({ ...training, outDirectory: artifacts }, silent);
const { modelDirectory: model, corpora } = training;
const options: EvalOptions = { model, artifacts, corpora, corpusFolder: folder, texts: 3 };
const run: Run = { threads: 1, folder: join(folder, "figures"), progress: silent };
const evaluation = await evaluate(options, run);

test("artifacts are scored on the documents that their training held out, by every method", () => {
  const { rows, groups } = evaluation.prompts.find(({ prompt }) => prompt === 64)!;
  expect(rows.map(({ name }) => name)).toEqual(["sea", "tables", "stars"]);
  const meanOf = (comparison: string) => groups[0].gains[comparison].gain.mean;
  // Each domain has its own words. The static adapter cannot know which domain a text is of; a centroid can.
  expect(meanOf("static")).toBeGreaterThan(0);
  expect(meanOf("nearest")).toBeGreaterThan(meanOf("static") + 0.1);
  expect(meanOf("mixture over static")).toBeGreaterThan(0);
  expect(meanOf("memory over mixture")).toBeGreaterThan(0.1);
  expect(meanOf("mixture") - meanOf("nearest")).toBeCloseTo(meanOf("mixture over nearest"), 2);
});

test("the numbers of an evaluation have three decimals", () => {
  expect(rounded(evaluation)).toEqual(evaluation);
  expect(JSON.parse(JSON.stringify(evaluation))).toEqual(evaluation);
});

test("an interrupted evaluation continues, and gives the same figures", async () => {
  const again = { ...run, folder: join(folder, "interrupted") };
  const controller = new AbortController();
  const interrupting: Progress = {
    ...silent,
    advance: (done) => {
      if (done === 2) controller.abort(new Error("interrupted"));
    },
  };
  const interrupted = { ...again, progress: interrupting, signal: controller.signal };
  await expect(evaluate(options, interrupted)).rejects.toThrow("interrupted");
  expect(await evaluate(options, again)).toEqual(evaluation);
});

test("the paper's protocol trains and scores its regimes and ours", async () => {
  const served = await readServedBank(options.artifacts);
  const prepared = await prepare(await readBase(training.modelDirectory), { ...training, windowSeed: seed }, run);
  const paper = { lines: 40, steps: 20, learningRate: 3e-3, seed, threads: 1 };
  const { rows, paddedShare } = await paperProtocol(prepared, served, paper, silent);
  expect(rows.map(({ published }) => published?.perplexity ?? null)).toEqual([28_319, 3.8683, 1.4554, null]);
  for (const { paperLoss, honestLoss } of rows) expect(paperLoss * honestLoss).toBeGreaterThan(0);
  const [unadapted, lora, , ours] = rows;
  expect(paddedShare).toBeGreaterThan(0);
  expect(lora.paperLoss).toBeLessThan(unadapted.paperLoss);
  expect(ours.honestLoss).toBeLessThan(unadapted.honestLoss);
});
