/** Calibration of evidence from corpora to manifest, on a tiny model and made-up words. */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { familiesOf } from "../../gpu-backend/training/calibration/families.ts";
import { calibrationTable } from "../../gpu-backend/training/calibration/table.ts";
import { promptLengths } from "../../gpu-backend/training/calibration/trials.ts";
import type { Progress } from "../../gpu-backend/training/progress.ts";
import { recalibrate, type Trained, type TrainOptions, train } from "../../gpu-backend/training/train.ts";
import { manifestSchema, parseManifest } from "../../shared/artifacts/manifest.ts";
import { defaultCalibration } from "../../shared/math/evidence.ts";
import { tinyTraining } from "../support/tiny-training.ts";

const seed = 4;
const names = ["sea", "tables-old", "tables-new", "hills"];
const silent: Progress = { stage() {}, advance() {}, note() {}, end() {} };
let folder: string;
let options: Omit<TrainOptions, "outDirectory" | "calibration">;
const calibration = { families: familiesOf(names, []), steps: 50, textsPerCorpus: 3 };
let trained: Trained;

beforeAll(async () => {
  console.log(`seed ${seed}`);
  folder = await mkdtemp(join(tmpdir(), "calibration-"));
  options = { ...(await tinyTraining(folder, seed, names)), steps: 30 };
  trained = await train({ ...options, calibration, outDirectory: join(folder, "whole") }, silent);
});
afterAll(() => rm(folder, { recursive: true }));

const manifestOf = (name: string) => readFile(join(folder, name, "manifest.json"), "utf8");

test("is stored in the manifest, a row for each prompt length", async () => {
  const { evidence } = parseManifest(await manifestOf("whole"));
  expect(evidence).toEqual(trained.calibrated!.calibration);
  expect(evidence!.byLength.map(({ promptTokens }) => promptTokens)).toEqual([...promptLengths]);
});

test("the default is a record that a manifest could bring", () => {
  expect(manifestSchema.shape.evidence.parse(defaultCalibration)).toEqual(defaultCalibration);
});

test("tells of every corpus what is gained with its family in training, and without it", () => {
  const { rows } = trained.calibrated!;
  for (const group of names.flatMap((name) => [name, `${name}, left out`])) {
    const ofGroup = rows.filter((row) => row.group === group);
    expect(ofGroup.map(({ promptTokens }) => promptTokens)).toEqual([...promptLengths]);
    for (const { mixture, nearest } of ofGroup) expect(mixture.tokens).toBe(nearest.tokens);
  }
  expect(rows).toHaveLength(2 * names.length * promptLengths.length);
  const table = calibrationTable(trained.calibrated!);
  for (const group of names) expect(table).toContain(`| ${group}, left out |`);
  // Words that the bank was trained on are worth more than words that it was not.
  const gainOf = (group: string) => rows.findLast((row) => row.group === group)!.nearest.nats;
  for (const name of names) {
    console.log(`${name}: ${gainOf(name).toFixed(2)}, left out ${gainOf(`${name}, left out`).toFixed(2)}`);
    expect(gainOf(name)).toBeGreaterThan(gainOf(`${name}, left out`) + 0.3);
  }
});

test("goes on after an interruption with the fold that was not finished, to the same bytes", async () => {
  const controller = new AbortController();
  let stage = "";
  const progress: Progress = {
    ...silent,
    stage: (name) => {
      stage = name;
    },
    advance: (done) => {
      if (stage === "without tables" && done === 7) controller.abort(new Error("interrupted"));
    },
  };
  const again = { ...options, calibration, outDirectory: join(folder, "resumed") };
  await expect(train(again, progress, controller.signal)).rejects.toThrow("interrupted");
  const stages: string[] = [];
  await train(again, { ...silent, stage: (name) => stages.push(name) });
  expect(stages.filter((name) => name.startsWith("without") || name === "calibration")).toEqual([
    "without tables",
    "without hills",
  ]);
  expect(await manifestOf("resumed")).toBe(await manifestOf("whole"));
});

test("of artifacts that are there changes nothing but their evidence", async () => {
  const outDirectory = join(folder, "default");
  await train({ ...options, calibration: null, outDirectory }, silent);
  const before = parseManifest(await manifestOf("default"));
  expect(before.evidence).toBeUndefined();
  await recalibrate(outDirectory, { ...options, calibration, outDirectory }, silent);
  const after = parseManifest(await manifestOf("default"));
  expect(after).toEqual({ ...before, evidence: trained.calibrated!.calibration });
});
