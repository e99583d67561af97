/**
 * What an own adapter learns of a labelled set: accuracy among the labels beside the model as it is and examples in the prompt, calibration,
 * and the time of its fit.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { hyperNetworkFile, manifestFile, parseManifest } from "../../../../shared/artifacts/manifest.ts";
import { readTensorFile } from "../../../../shared/artifacts/tensor-file.ts";
import { bankOf, readHyperNetwork } from "../../../adapters/generated/hyper-network.ts";
import { changeOf, type Example, fitOwnAdapter } from "../../../adapters/own/fit.ts";
import { type Delta, type FitSession, openFitSession } from "../../../runtime/fit-session.ts";
import type { TrunkRunner } from "../../../runtime/trunk-runner.ts";
import { readBase, type TrainingBase } from "../../../training/base.ts";
import type { Progress } from "../../../training/progress.ts";
import { type Item, type LabelledSet, labelledSets, placeOf, readItems } from "./sets.ts";

export interface TaskOptions {
  model: string;
  corpusFolder: string;
  seeds: number;
  /** Texts that are tested; of examples in the prompt, which are slow, `promptTests`. */
  tests: number;
  promptTests: number;
  threads: number;
  now(): number;
}

interface Score {
  accuracy: number;
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
/** Of the context, beside the examples in the prompt. */
const promptRoom = 300;

export async function evaluateTasks(options: TaskOptions, progress: Progress, signal: AbortSignal): Promise<TaskRow[]> {
  const base = await readBase(options.model);
  const artifacts = join(options.model, "artifacts");
  const manifest = parseManifest(await readFile(join(artifacts, manifestFile), "utf8"));
  const file = readTensorFile(await readFile(join(artifacts, hyperNetworkFile)));
  const fixed = { bank: bankOf(file), gates: manifest.static ? readHyperNetwork(file).staticGates : null };
  const session = await openFitSession(base.tokenEmbedding, base.config.hiddenSize, fixed, 1);
  const trunk = await base.openTrunk(options.threads, "int8");
  const rows: TaskRow[] = [];
  progress.stage("tasks", labelledSets.length * sizes.length * options.seeds);
  try {
    for (const set of labelledSets) {
      const task = new Task(set, await readItems(set, options.corpusFolder), { base, session, trunk });
      for (const examples of sizes) {
        for (let seed = 1; seed <= options.seeds; seed++) {
          signal.throwIfAborted();
          rows.push(await task.row(examples, seed, options));
          progress.advance(rows.length, set.name);
        }
      }
    }
  } finally {
    await session.release();
    await trunk.release();
  }
  return rows;
}

interface Models {
  base: TrainingBase;
  session: FitSession;
  trunk: TrunkRunner;
}

class Task {
  readonly #set: LabelledSet;
  readonly #items: Item[];
  readonly #models: Models;
  /** First token of each label, [L], and its rows of the head, [L, D]. */
  readonly #labelRows: Float32Array;
  readonly #zeroShot = new Map<Item, Float32Array>();
  /** By the examples in the prompt: more than fit are the same prompt. */
  readonly #fewShots = new Map<string, Score>();

  constructor(set: LabelledSet, items: Item[], models: Models) {
    this.#set = set;
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
    const { name } = this.#set;
    const order = (of: Item[], ...by: string[]) =>
      of.toSorted((a, b) => placeOf(a.text, ...by) - placeOf(b.text, ...by));
    const isTested = ({ document }: Item) => placeOf(document, "split") < 0.5;
    const tested = order(this.#items.filter(isTested), "tests").slice(0, tests);
    const learnt = order(
      this.#items.filter((item) => !isTested(item)),
      `${seed}`,
    ).slice(0, count);

    const startedMs = now();
    const examples: Example[] = [];
    for (const item of learnt) examples.push(await this.#exampleOf(item));
    const hiddenMs = now() - startedMs;
    const fit = await fitOwnAdapter(examples, null, this.#models.session, (_, work) => work());
    const fitMs = now() - startedMs - hiddenMs;

    const states = await this.#statesOf(tested);
    const { shown, prompt } = this.#fewShotPrompt(learnt);
    const best = fit.losses.reduce((least, one) => (one.heldOut < least.heldOut ? one : least));
    return {
      ...{ set: name, examples: count, seed },
      zeroShot: await this.#score(tested, states, "base"),
      fewShot: { ...(await this.#fewShot(prompt, tested.slice(0, promptTests))), shown },
      own: {
        ...(await this.#score(tested, states, fit.delta)),
        ...{ kept: fit.delta !== null, steps: best.step, gain: fit.gain?.nats ?? null },
      },
      milliseconds: { prefillTwice: 2 * hiddenMs, fit: fitMs },
    };
  }

  #encode(text: string): number[] {
    return [...this.#models.base.tokenizer.encode(text, this.#models.base.config.contextTokens)];
  }

  #promptOf({ text }: Item): string {
    return text + this.#set.question;
  }

  /** Of a prompt and its label, with the end after it, as the edge encodes them. */
  async #exampleOf(item: Item): Promise<Example> {
    const { config } = this.#models.base;
    const prompt = this.#encode(this.#promptOf(item));
    const answer = [...this.#encode(` ${item.label}`), config.stopIds[0]];
    const ids = [...prompt, ...answer];
    const hidden = await this.#models.trunk.hidden(Int32Array.from(ids), 1, ids.length);
    const D = config.hiddenSize;
    const learnt = hidden.slice((prompt.length - 1) * D, (ids.length - 1) * D);
    return { hidden: learnt, targets: Int32Array.from(answer) };
  }

  async #lastState(text: string): Promise<Float32Array> {
    const ids = this.#encode(text);
    const hidden = await this.#models.trunk.hidden(Int32Array.from(ids), 1, ids.length);
    return hidden.slice(-this.#models.base.config.hiddenSize);
  }

  async #statesOf(items: readonly Item[]): Promise<Float32Array> {
    for (const item of items) {
      if (!this.#zeroShot.has(item)) this.#zeroShot.set(item, await this.#lastState(this.#promptOf(item)));
    }
    return joined(items.map((item) => this.#zeroShot.get(item)!));
  }

  async #fewShot(prompt: string, items: readonly Item[]): Promise<Score> {
    const known = this.#fewShots.get(prompt);
    if (known) return known;
    const states: Float32Array[] = [];
    for (const item of items) states.push(await this.#lastState(prompt + this.#promptOf(item)));
    const score = await this.#score(items, joined(states), "base");
    this.#fewShots.set(prompt, score);
    return score;
  }

  #fewShotPrompt(learnt: readonly Item[]): { shown: number; prompt: string } {
    const room = this.#models.base.served.contextTokens - promptRoom;
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
    const labels = this.#set.labels;
    const change = model && model !== "base" ? changeOf(model, states) : null;
    const read =
      model === "base" ? states : (await session.survey(states, change, new Int32Array(items.length))).adapted;
    const logits = await session.logits(read, this.#labelRows);
    const bins = Array.from({ length: 10 }, () => ({ confidence: 0, right: 0 }));
    items.forEach(({ label }, n) => {
      const masses = logits.subarray(n * labels.length, (n + 1) * labels.length).map(Math.exp);
      const most = Math.max(...masses);
      const confidence = most / masses.reduce((sum, mass) => sum + mass, 0);
      const bin = bins[Math.min(9, Math.floor(confidence * 10))];
      bin.confidence += confidence;
      bin.right += Number(labels[masses.indexOf(most)] === label);
    });
    const total = (of: (bin: (typeof bins)[number]) => number) => bins.reduce((sum, bin) => sum + of(bin), 0);
    return {
      accuracy: total(({ right }) => right) / items.length,
      calibrationError: total(({ confidence, right }) => Math.abs(confidence - right)) / items.length,
    };
  }
}

function joined(states: readonly Float32Array[]): Float32Array {
  const D = states[0].length;
  const all = new Float32Array(states.length * D);
  states.forEach((state, n) => {
    all.set(state, n * D);
  });
  return all;
}
