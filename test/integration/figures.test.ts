/** The whole way from artifacts and corpora to figures in documents, on a tiny model and text of three made-up domains. */
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Figures, rounded } from "../../gpu-backend/training/figures/data.ts";
import { withFigures, writeFigures } from "../../gpu-backend/training/figures/documents.ts";
import { type FiguresOptions, makeFigures } from "../../gpu-backend/training/figures/figures.ts";
import type { Progress } from "../../gpu-backend/training/progress.ts";
import { train } from "../../gpu-backend/training/train.ts";
import { tinyTraining } from "../support/tiny-training.ts";

const seed = 3;
const silent: Progress = { stage() {}, advance() {}, note() {}, end() {} };
let folder: string;
let options: FiguresOptions;
let figures: Figures;
let notes: string[];

beforeAll(async () => {
  console.log(`seed ${seed}`);
  folder = await mkdtemp(join(tmpdir(), "figures-"));
  const training = await tinyTraining(folder, seed, ["sea", "tables", "stars"]);
  const artifacts = join(folder, "artifacts");
  // A corpus is recognised by its content, whatever it was called in training.
  const renamed = training.corpora.map((corpus) => ({ ...corpus, name: `old-${corpus.name}` }));
  await train({ ...training, corpora: renamed, outDirectory: artifacts }, silent);
  options = {
    ...training,
    ...{ model: training.modelDirectory, artifacts, corpusFolder: folder, cacheDirectory: join(folder, "cache") },
    ...{ steps: 12, validationWindows: 30, testWindows: 30, seeds: [3, 4], texts: 3 },
    ...{ familySteps: 8, familyWindows: 60, familyTexts: 3, paperLines: 40, paperSteps: 20 },
  };
  notes = [];
  figures = await makeFigures(options, { ...silent, note: (line) => notes.push(line) });
});
afterAll(() => rm(folder, { recursive: true }));

test("shipped bytes are scored on the documents that their training held out, by base, nearest adapter and mixture", () => {
  const { rows, means } = figures.shipped;
  expect(new Set(rows.map(({ name }) => name))).toEqual(new Set(["sea", "tables", "stars"]));
  expect(rows.every(({ heldOut, known }) => heldOut && !known)).toBe(true);
  expect(notes.filter((line) => line.includes("may have been trained"))).toEqual([]);
  for (const { nearest, oracle } of rows.filter(({ prompt }) => prompt === 64)) {
    // The choice in hindsight has the nearest adapter among its choices.
    expect(oracle!.mean).toBeGreaterThanOrEqual(nearest.mean - 1e-3);
  }
  expect(means.find(({ prompt }) => prompt === 64)!.nearest.mean).toBeGreaterThan(0.2);
});

test("every method has a row with each of its seeds, and what it chose", () => {
  const rows = new Map(figures.methods.rows.map((row) => [row.method, row]));
  expect([...rows.keys()]).toEqual([
    ...["base", "shipped bank, nearest", "gated bank, retrained", "table of gates", "bank, constant input"],
    ...["static head", "static head, scale by domain", "static head and a bias per centroid"],
    ...["static head and experts", "an expert per centroid", "paper's network, batch mean"],
    "paper's network, our start, centroid",
  ]);
  for (const { method, perplexityBySeed, bankOver, perplexity } of rows.values()) {
    expect(perplexityBySeed.length, method).toBeGreaterThanOrEqual(1);
    expect(bankOver === null, method).toBe(method === "shipped bank, nearest");
    expect(Number.isFinite(perplexity), method).toBe(true);
  }
  expect(rows.get("static head")!.perplexityBySeed).toHaveLength(2);
  expect(rows.get("static head")!.chosen).toMatch(/^rate 0\.\d+, \d+ steps/);
  // The shipped bank was trained for longer.
  expect(rows.get("gated bank, retrained")!.bankOver!.mean).toBeGreaterThan(0);
});

test("each family has rows of the bank that was trained without it", () => {
  const leftOut = figures.leaveOneOut.filter((row) => row.leftOut);
  expect(new Set(leftOut.map(({ text }) => text))).toEqual(new Set(["sea", "tables", "stars"]));
  expect(figures.leaveOneOut.some((row) => !row.leftOut)).toBe(true);
});

test("a bias on the padding's logit costs something on text that has no padding", () => {
  const { rows, padBias } = figures.paper;
  const [unadapted, , , biased] = rows;
  console.log(`bias ${padBias}: honest ${unadapted.honestLoss} → ${biased.honestLoss}`);
  expect(padBias).toBeGreaterThan(0);
  expect(biased.honestLoss).toBeGreaterThan(unadapted.honestLoss);
});

test("an interrupted measurement goes on, and gives the same figures", async () => {
  const cacheDirectory = join(folder, "interrupted");
  const controller = new AbortController();
  const stages: string[] = [];
  const interrupting: Progress = {
    ...silent,
    stage: (name) => {
      stages.push(name);
      if (name.startsWith("table of gates")) controller.abort(new Error("interrupted"));
    },
  };
  const again = { ...options, cacheDirectory };
  await expect(makeFigures(again, interrupting, controller.signal)).rejects.toThrow("interrupted");
  const before = stages.length;
  expect(await makeFigures(again, { ...silent, stage: (name) => stages.push(name) })).toEqual(figures);
  expect(stages.slice(before).filter((name) => name.startsWith("gated bank"))).toEqual([]);
});

test("figures are written as data of three digits and into documents", async () => {
  expect(rounded(figures)).toEqual(figures);
  const [data, document] = [join(folder, "figures.json"), join(folder, "README.md")];
  await writeFile(document, "# A\n\n<!-- figures: methods -->\n<!-- end of figures -->\n\nB\n");
  await writeFigures(figures, data, [document]);
  const written = await readFile(document, "utf8");
  expect(JSON.parse(await readFile(data, "utf8"))).toEqual(figures);
  expect(written).toContain("| static head |");
  expect(
    withFigures(
      written.replace(/(\d)(?= \|)/, (digit) => String((Number(digit) + 1) % 10)),
      figures,
    ),
  ).toBe(written);
});

test("artifacts of a shuffled split are said to have seen test documents", async () => {
  const older = join(folder, "older");
  await cp(options.artifacts, older, { recursive: true });
  const manifest = JSON.parse(await readFile(join(older, "manifest.json"), "utf8"));
  delete manifest.training.split;
  await writeFile(join(older, "manifest.json"), JSON.stringify(manifest));
  const said: string[] = [];
  const progress = { ...silent, note: (line: string) => said.push(line) };
  const other = await makeFigures({ ...options, artifacts: older }, progress);
  expect(said.join()).toContain("may have been trained on test documents of sea, tables, stars");
  expect(other.shipped.rows.some(({ heldOut }) => heldOut)).toBe(false);
});
