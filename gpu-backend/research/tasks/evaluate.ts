/** `chameleon eval:tasks`: labels texts by an own adapter, without examples ("zero-shot"), and by examples in the prompt ("few-shot"). */
import { join } from "node:path";
import { joinArrays } from "../../../shared/bytes.ts";
import { changeOf, fitOwnAdapter } from "../../adapters/own/fit.ts";
import { openModel } from "../../engine/open-model.ts";
import type { Delta, FitSession } from "../../runtime/fit-session.ts";
import { readServedBank } from "../../training/bank/served-bank.ts";
import { readBase, type TrainingBase } from "../../training/base.ts";
import { type Run, resultsOf } from "../../training/run.ts";
import { openFits } from "../own/read-kind.ts";
import { averageOf, type Estimate, estimateText, markdownTable, resampled } from "../statistics.ts";
import { Prefill } from "./prefill.ts";
import { type Item, type LabelledSet, labelledSets, placeOf, readItems } from "./sets.ts";

interface TaskOptions {
  model: string;
  corpusFolder: string;
  seeds: number;
  tests: number;
  /** Number of texts that are labelled few-shot, which is slow. */
  promptTests: number;
  /** A clock in milliseconds. */
  now(): number;
}

interface Score {
  /** 1 for each text whose label is right, else 0. */
  right: number[];
  /** Expected calibration error, over ten bins of confidence. */
  calibrationError: number;
}

interface TaskRow {
  set: string;
  examples: number;
  seed: number;
  zeroShot: Score;
  /** Score on the first `promptTests` texts. The prompt has `shown` examples. */
  fewShot: Score & { shown: number };
  own: Score & { kept: boolean };
}

const sizes = [8, 32, 128];

/** A new version measures everything again. */
const partVersion = 3;

export async function evaluateTasks(options: TaskOptions, run: Run): Promise<TaskRow[]> {
  const { model, corpusFolder, seeds, tests, promptTests, now } = options;
  const base = await readBase(model);
  const artifacts = join(model, "artifacts");
  const served = await readServedBank(artifacts);
  const session = await openFits(base, served, 1);
  const folders = { modelDirectory: model, artifactsDirectory: artifacts };
  const { runner } = await openModel({ ...folders, threads: run.threads, weightFormat: "int8" }, now);
  const models: Models = { base, session, prefill: new Prefill(runner) };
  const parts = labelledSets.flatMap((set) =>
    sizes.flatMap((examples) =>
      Array.from({ length: seeds }, (_, i) => ({
        ...{ set, examples, seed: i + 1, name: set.name },
        key: [partVersion, base.weightsHash, served.manifestHash, tests, promptTests, set.name, examples, i + 1],
      })),
    ),
  );
  const taskOf = memoised(async (set: LabelledSet) =>
    openTask(set, await readItems(set, corpusFolder), models, options),
  );
  try {
    return await resultsOf("tasks", parts, async ({ set, examples, seed }) => (await taskOf(set))(examples, seed), run);
  } finally {
    await session.release();
    await runner.release();
  }
}

interface Models {
  base: TrainingBase;
  session: FitSession;
  prefill: Prefill;
}

function memoised<K, V>(compute: (argument: K) => Promise<V>): (argument: K) => Promise<V> {
  const known = new Map<K, Promise<V>>();
  return (argument) => {
    const result = known.get(argument) ?? compute(argument);
    known.set(argument, result);
    return result;
  };
}

/** Measures with `count` examples, drawn by `seed`. */
async function openTask(
  set: LabelledSet,
  items: readonly Item[],
  { base, session, prefill }: Models,
  { tests, promptTests }: TaskOptions,
): Promise<(count: number, seed: number) => Promise<TaskRow>> {
  const { hiddenSize: D, contextTokens, stopIds } = base.config;
  const encode = (text: string) => [...base.tokenizer.encode(text, contextTokens)];
  const promptOf = ({ text }: Item) => text + set.question;
  const order = (of: readonly Item[], ...by: string[]) =>
    of.toSorted((a, b) => placeOf(a.text, ...by) - placeOf(b.text, ...by));
  const isTested = ({ document }: Item) => placeOf(document, "split") < 0.5;
  const tested = order(items.filter(isTested), "tests").slice(0, tests);
  const asked = tested.slice(0, promptTests);

  const labelIds = set.labels.map((label) => encode(` ${label}`)[0]);
  if (new Set(labelIds).size < labelIds.length) throw new Error(`${set.name}: two labels begin with the same token`);
  const rowOfHead = (id: number) => base.tokenEmbedding.subarray(id * D, (id + 1) * D);
  const labelRows = joinArrays(Float32Array, labelIds.map(rowOfHead)); // [L, D]

  /** Encodes an example as the edge does: prompt, label and end token. The adapter learns the label and the end token. */
  const exampleOf = memoised(async (item: Item) => {
    const answer = [...encode(` ${item.label}`), stopIds[0]];
    const hidden = await prefill.states([...encode(promptOf(item)), ...answer].slice(0, -1), answer.length);
    return { hidden, targets: Int32Array.from(answer) };
  });
  const testedStates: Float32Array[] = [];
  for (const item of tested) testedStates.push(await prefill.states(encode(promptOf(item)), 1));
  const states = joinArrays(Float32Array, testedStates);
  // More examples give the same prompt if the context has no room for the added ones.
  const fewShotScore = memoised(async (prompt: string) => {
    const texts = asked.map((item) => encode(prompt + promptOf(item)));
    return score(asked, await prefill.lastStates(texts), "base");
  });

  /** The prompt has as many examples as leave room for the longest text. */
  function fewShotPrompt(learnt: readonly Item[]): { shown: number; prompt: string } {
    const longest = Math.max(...asked.map((item) => encode(promptOf(item)).length));
    const room = base.served.contextTokens - longest - 1;
    let prompt = "";
    let shown = 0;
    for (const item of learnt) {
      const longer = `${prompt}${promptOf(item)} ${item.label}\n\n`;
      if (encode(longer).length > room) break;
      prompt = longer;
      shown++;
    }
    return { shown, prompt };
  }

  /** `states` is [N, D]. `model`: the base, or the static adapter with an own adapter or (null) none. */
  async function score(of: readonly Item[], states: Float32Array, model: Delta | null | "base"): Promise<Score> {
    const change = model && model !== "base" ? changeOf(model, states) : null;
    const read = model === "base" ? states : (await session.survey(states, change, new Int32Array(of.length))).adapted;
    const logits = await session.logits(read, labelRows);
    const bins = new Float64Array(10);
    const right = of.map(({ label }, n) => {
      const masses = logits.subarray(n * labelIds.length, (n + 1) * labelIds.length).map(Math.exp);
      const most = Math.max(...masses);
      const confidence = most / masses.reduce((sum, mass) => sum + mass, 0);
      const isRight = Number(set.labels[masses.indexOf(most)] === label);
      bins[Math.min(9, Math.floor(confidence * 10))] += confidence - isRight;
      return isRight;
    });
    return { right, calibrationError: bins.reduce((sum, excess) => sum + Math.abs(excess), 0) / of.length };
  }

  return async (count, seed) => {
    const untested = items.filter((item) => !isTested(item));
    const learnt = order(untested, `${seed}`).slice(0, count);
    const examples: Awaited<ReturnType<typeof exampleOf>>[] = [];
    for (const item of learnt) examples.push(await exampleOf(item));
    const { delta } = await fitOwnAdapter(examples, null, session);
    const { shown, prompt } = fewShotPrompt(learnt);
    return {
      ...{ set: set.name, examples: count, seed },
      zeroShot: await score(tested, states, "base"),
      fewShot: { ...(await fewShotScore(prompt)), shown },
      own: { ...(await score(tested, states, delta)), kept: delta !== null },
    };
  };
}

/**
 * Intervals are over draws and texts. "Removed": share of the zero-shot errors that the adapter removes. "Over the prompt": points of
 * accuracy above few-shot. "ECE": expected calibration error zero-shot, few-shot and of the adapter. "Kept": share of draws in which an
 * adapter was kept.
 */
export function taskTable(rows: readonly TaskRow[]): string {
  const sets = Map.groupBy(rows, ({ set, examples }) => `${set}, ${examples}`);
  return markdownTable(
    ["set, examples", "without", "prompt (shown)", "adapter", "removed", "over the prompt", "ECE", "kept"],
    [...sets].map(([name, of]) => {
      const mean = (value: (row: TaskRow) => number) => averageOf(of.map(value));
      const accuracy = (way: Way) => mean((row) => averageOf(row[way].right)).toFixed(3);
      const errors = (way: Way) => mean((row) => row[way].calibrationError).toFixed(2);
      const rate = (way: Way, draw: Draw) =>
        averageOf(draw.flatMap(({ row, texts }) => texts.map((n) => row[way].right[n])));
      const removed = (draw: Draw) => 1 - (1 - rate("own", draw)) / (1 - rate("zeroShot", draw));
      const ahead = (draw: Draw) => 100 * (rate("own", draw) - rate("fewShot", draw));
      return [
        ...[name, accuracy("zeroShot"), `${accuracy("fewShot")} (${mean(({ fewShot }) => fewShot.shown).toFixed(0)})`],
        ...[
          accuracy("own"),
          estimateText(overDraws(of, "zeroShot", removed)),
          estimateText(overDraws(of, "fewShot", ahead)),
        ],
        `${errors("zeroShot")} / ${errors("fewShot")} / ${errors("own")}`,
        mean(({ own }) => Number(own.kept)).toFixed(1),
      ];
    }),
  );
}

type Way = "zeroShot" | "fewShot" | "own";
/** Rows of one set and one number of examples, each with indexes of texts. */
type Draw = { row: TaskRow; texts: readonly number[] }[];

/** The interval resamples the draws of examples and the texts. All draws have the same texts. */
function overDraws(rows: readonly TaskRow[], way: Way, value: (draw: Draw) => number): Estimate {
  const texts = [...rows[0][way].right.keys()];
  const draw = (of: readonly TaskRow[], places: readonly number[]) => value(of.map((row) => ({ row, texts: places })));
  return resampled((drawn) => draw(drawn(rows), drawn(texts)), draw(rows, texts));
}
