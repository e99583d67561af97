/**
 * `chameleon eval:tasks`: what an own adapter learns of a labelled set: accuracy among the labels beside the model as it is and examples
 * in the prompt, calibration, and the time of its fit.
 */
import { join } from "node:path";
import { joinArrays } from "../../../shared/bytes.ts";
import { changeOf, type Example, fitOwnAdapter } from "../../adapters/own/fit.ts";
import { openModel } from "../../engine/open-model.ts";
import type { Delta, FitSession } from "../../runtime/fit-session.ts";
import { readServedBank } from "../../training/bank/served-bank.ts";
import { readBase, type TrainingBase } from "../../training/base.ts";
import { openFits } from "../own/read-kind.ts";
import { type Run, resultsOf } from "../run.ts";
import { averageOf, bootstrap, type Estimate } from "../statistics.ts";
import { estimateText, markdownTable } from "../tables.ts";
import { Prefill } from "./prefill.ts";
import { type Item, type LabelledSet, labelledSets, placeOf, readItems } from "./sets.ts";

export interface TaskOptions {
  model: string;
  corpusFolder: string;
  seeds: number;
  /** Texts that are tested; of examples in the prompt, which are slow, `promptTests`. */
  tests: number;
  promptTests: number;
  /** In milliseconds. */
  now(): number;
}

export interface Score {
  /** 1 of each text whose label is found. */
  right: number[];
  /** Expected calibration error, over ten bins of confidence. */
  calibrationError: number;
}

export interface TaskRow {
  set: string;
  examples: number;
  seed: number;
  zeroShot: Score;
  /** As many of the examples in the prompt as its context holds; on fewer texts. */
  fewShot: Score & { shown: number };
  own: Score & { kept: boolean; steps: number; gain: number | null };
  milliseconds: { prefillTwice: number; fit: number };
}

const sizes = [8, 32, 128];

export async function evaluateTasks(options: TaskOptions, run: Run): Promise<TaskRow[]> {
  const { model, corpusFolder, seeds, tests, promptTests, now } = options;
  const base = await readBase(model);
  const artifacts = join(model, "artifacts");
  const served = await readServedBank(artifacts);
  const session = await openFits(base, served, 1);
  const folders = { modelDirectory: model, artifactsDirectory: artifacts };
  const { runner } = await openModel({ ...folders, threads: run.threads, weightFormat: "int8", device: "cpu" }, now);
  const models: Models = { base, session, prefill: new Prefill(runner) };
  const parts = labelledSets.flatMap((set) =>
    sizes.flatMap((examples) =>
      Array.from({ length: seeds }, (_, i) => ({
        ...{ set, examples, seed: i + 1, name: set.name },
        key: [base.weightsHash, served.manifestHash, tests, promptTests, set.name, examples, i + 1],
      })),
    ),
  );
  let task: Task | null = null;
  try {
    return await resultsOf(
      "tasks",
      parts,
      async ({ set, examples, seed }) => {
        if (task?.set !== set) task = new Task(set, await readItems(set, corpusFolder), models);
        return task.row(examples, seed, options);
      },
      run,
    );
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

interface TimedExample extends Example {
  /** Of its prefill. */
  milliseconds: number;
}

class Task {
  readonly set: LabelledSet;
  readonly #items: Item[];
  readonly #models: Models;
  /** First token of each label, [L], and its rows of the head, [L, D]. */
  readonly #labelRows: Float32Array;
  readonly #examples = new Map<Item, TimedExample>();
  readonly #states = new Map<Item, Float32Array>();
  /** By the examples in the prompt: more than fit are the same prompt. */
  readonly #fewShots = new Map<string, Score>();

  constructor(set: LabelledSet, items: Item[], models: Models) {
    this.set = set;
    this.#items = items;
    this.#models = models;
    const D = models.base.config.hiddenSize;
    const first = set.labels.map((label) => this.#encode(` ${label}`)[0]);
    if (new Set(first).size < first.length) throw new Error(`${set.name}: two labels begin with the same token`);
    this.#labelRows = new Float32Array(first.length * D);
    first.forEach((id, l) => {
      this.#labelRows.set(models.base.tokenEmbedding.subarray(id * D, (id + 1) * D), l * D);
    });
  }

  async row(count: number, seed: number, { tests, promptTests, now }: TaskOptions): Promise<TaskRow> {
    const { name } = this.set;
    const order = (of: Item[], ...by: string[]) =>
      of.toSorted((a, b) => placeOf(a.text, ...by) - placeOf(b.text, ...by));
    const isTested = ({ document }: Item) => placeOf(document, "split") < 0.5;
    const tested = order(this.#items.filter(isTested), "tests").slice(0, tests);
    const learnt = order(
      this.#items.filter((item) => !isTested(item)),
      `${seed}`,
    ).slice(0, count);

    const examples: TimedExample[] = [];
    for (const item of learnt) examples.push(await this.#exampleOf(item, now));
    const prefillMs = examples.reduce((sum, { milliseconds }) => sum + milliseconds, 0);
    const startedMs = now();
    const fit = await fitOwnAdapter(examples, null, this.#models.session, (_, work) => work());
    const fitMs = now() - startedMs;

    const states = await this.#statesOf(tested);
    const asked = tested.slice(0, promptTests);
    const { shown, prompt } = this.#fewShotPrompt(learnt, asked);
    const best = fit.losses.reduce((least, one) => (one.heldOut < least.heldOut ? one : least));
    return {
      ...{ set: name, examples: count, seed },
      zeroShot: await this.#score(tested, states, "base"),
      fewShot: { ...(await this.#fewShot(prompt, asked)), shown },
      own: {
        ...(await this.#score(tested, states, fit.delta)),
        ...{ kept: fit.delta !== null, steps: best.step, gain: fit.gain?.nats ?? null },
      },
      milliseconds: { prefillTwice: 2 * prefillMs, fit: fitMs },
    };
  }

  #encode(text: string): number[] {
    return [...this.#models.base.tokenizer.encode(text, this.#models.base.config.contextTokens)];
  }

  #promptOf({ text }: Item): string {
    return text + this.set.question;
  }

  /** Of a prompt and its label, with the end after it, as the edge encodes them. */
  async #exampleOf(item: Item, now: () => number): Promise<TimedExample> {
    const known = this.#examples.get(item);
    if (known) return known;
    const { base, prefill } = this.#models;
    const startedMs = now();
    const answer = [...this.#encode(` ${item.label}`), base.config.stopIds[0]];
    const ids = [...this.#encode(this.#promptOf(item)), ...answer];
    const hidden = await prefill.states(ids.slice(0, -1), answer.length);
    const example = { hidden, targets: Int32Array.from(answer), milliseconds: now() - startedMs };
    this.#examples.set(item, example);
    return example;
  }

  async #statesOf(items: readonly Item[]): Promise<Float32Array> {
    const { prefill } = this.#models;
    for (const item of items) {
      if (!this.#states.has(item)) {
        this.#states.set(item, await prefill.states(this.#encode(this.#promptOf(item)), 1));
      }
    }
    return joinArrays(
      Float32Array,
      items.map((item) => this.#states.get(item)!),
    );
  }

  async #fewShot(prompt: string, items: readonly Item[]): Promise<Score> {
    const known = this.#fewShots.get(prompt);
    if (known) return known;
    const texts = items.map((item) => this.#encode(prompt + this.#promptOf(item)));
    const score = await this.#score(items, await this.#models.prefill.lastStates(texts), "base");
    this.#fewShots.set(prompt, score);
    return score;
  }

  /** As many of the examples as fit before the longest text that is asked about. */
  #fewShotPrompt(learnt: readonly Item[], asked: readonly Item[]): { shown: number; prompt: string } {
    const longest = Math.max(...asked.map((item) => this.#encode(this.#promptOf(item)).length));
    const room = this.#models.base.served.contextTokens - longest - 1;
    let prompt = "";
    let shown = 0;
    for (const item of learnt) {
      const longer = `${prompt}${this.#promptOf(item)} ${item.label}\n\n`;
      if (this.#encode(longer).length > room) break;
      prompt = longer;
      shown++;
    }
    return { shown, prompt };
  }

  /** Of states [N, D] before the label. `model`: the base, or the static adapter with or without a change. */
  async #score(items: readonly Item[], states: Float32Array, model: Delta | null | "base"): Promise<Score> {
    const { session } = this.#models;
    const labels = this.set.labels;
    const change = model && model !== "base" ? changeOf(model, states) : null;
    const read =
      model === "base" ? states : (await session.survey(states, change, new Int32Array(items.length))).adapted;
    const logits = await session.logits(read, this.#labelRows);
    const bins = new Float64Array(10);
    const right = items.map(({ label }, n) => {
      const masses = logits.subarray(n * labels.length, (n + 1) * labels.length).map(Math.exp);
      const most = Math.max(...masses);
      const confidence = most / masses.reduce((sum, mass) => sum + mass, 0);
      const isRight = Number(labels[masses.indexOf(most)] === label);
      bins[Math.min(9, Math.floor(confidence * 10))] += confidence - isRight;
      return isRight;
    });
    return { right, calibrationError: bins.reduce((sum, excess) => sum + Math.abs(excess), 0) / items.length };
  }
}

/**
 * Means over draws of examples, with 95% intervals over draws and texts. "Removed": share of the errors without examples that the
 * adapter does not make. "Over the prompt": points of accuracy that it is ahead of the examples in the prompt, on the same texts.
 * "Time": of the fit, in prefills of the examples twice. ECE: calibration error without examples, in the prompt, of the adapter.
 */
export function taskTable(rows: readonly TaskRow[]): string {
  const sets = Map.groupBy(rows, ({ set, examples }) => `${set}, ${examples}`);
  return markdownTable(
    ["set, examples", "without", "prompt (shown)", "adapter", "removed", "over the prompt", "ECE", "time", "kept"],
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
        mean(({ milliseconds }) => milliseconds.fit / milliseconds.prefillTwice).toFixed(1),
        mean(({ own }) => Number(own.kept)).toFixed(1),
      ];
    }),
  );
}

type Way = "zeroShot" | "fewShot" | "own";
/** Rows of one set and size, and places of the texts that count. */
type Draw = { row: TaskRow; texts: readonly number[] }[];

/** The interval resamples the draws of examples, and the texts, which are the same ones in all of them. */
export function overDraws(rows: readonly TaskRow[], way: Way, value: (draw: Draw) => number): Estimate {
  const texts = [...rows[0][way].right.keys()];
  const draw = (of: readonly TaskRow[], places: readonly number[]) => value(of.map((row) => ({ row, texts: places })));
  return bootstrap((drawn) => draw(drawn(rows), drawn(texts)), draw(rows, texts));
}
