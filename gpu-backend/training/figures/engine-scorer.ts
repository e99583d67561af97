/** Scores and continues texts on an engine in this process: the one that serves, without what surrounds it. */
import { setImmediate } from "node:timers/promises";
import { tensorOf, toFloat32 } from "../../../shared/artifacts/tensor-file.ts";
import type { Frame, SequenceRequest } from "../../../shared/contracts/inference.ts";
import type { SamplingChanges } from "../../../shared/contracts/sampling.ts";
import type { AdapterSource } from "../../adapters/adapter.ts";
import { AdapterCache } from "../../adapters/adapter-cache.ts";
import { generatedAdapters, servedBank, servedPool } from "../../adapters/generated.ts";
import { gatesOf, readHyperNetwork } from "../../adapters/hyper-network.ts";
import { chunkTokens } from "../../config.ts";
import { type Artifacts, readArtifacts } from "../../engine/artifacts.ts";
import { Engine } from "../../engine/engine.ts";
import type { WeightFormat } from "../../runtime/gpt2-graph.ts";
import { type HeadSession, openHeadSession } from "../../runtime/head-probabilities.ts";
import { createStepRunner } from "../../runtime/onnx-runner.ts";
import type { StepRunner } from "../../runtime/step.ts";
import type { Plan } from "./serving.ts";
import { scoredTokens } from "./texts.ts";

const limits = { maxSequences: 16, maxQueue: 1024, stepTokens: 1024, chunkTokens };
/** Texts that are under way at once. */
const textsAtOnce = 16;
const kvBytes = 2 ** 28;
const cacheBytes = 2 ** 26;
/** Enough for sixteen centroids of either kind. */
const poolSlots = 48;

export interface PlannedText {
  ids: number[];
  /** Of the last ids; absent: `scoredTokens`. */
  scored?: number;
  plan: Plan;
}

export interface Continuation {
  seed: number;
  temperature: number;
  tokens: number;
}

export class EngineScorer {
  readonly artifacts: Artifacts;
  readonly #runner: StepRunner;
  readonly #engine: Engine;
  readonly #threads: number;
  #frames = new Map<string, Frame[]>();
  #requests = 0;
  #head: HeadSession | null = null;

  static async open(
    model: string,
    options: { artifacts?: string; threads: number; format: WeightFormat; fullStrength?: boolean },
  ): Promise<EngineScorer> {
    const artifacts = await readArtifacts(model, options.artifacts);
    const { manifest, hyperNetwork } = artifacts;
    const runner = await createStepRunner({
      ...artifacts.model,
      bank: servedBank(manifest, hyperNetwork),
      pool: manifest.hyperNetwork.kind === "full" ? servedPool(manifest, poolSlots) : null,
      threads: options.threads,
      format: options.format,
    });
    const served = generatedAdapters(manifest, hyperNetwork, setImmediate);
    const source = options.fullStrength ? withoutScales(artifacts, served) : served;
    return new EngineScorer(artifacts, runner, source, options.threads);
  }

  private constructor(artifacts: Artifacts, runner: StepRunner, source: AdapterSource, threads: number) {
    const { tokenizer } = artifacts;
    // No score depends on time.
    const now = () => 0;
    this.artifacts = artifacts;
    this.#runner = runner;
    this.#threads = threads;
    this.#engine = new Engine({
      ...{ runner, limits, kvBytes, now, prefixCache: null },
      adapters: new AdapterCache(source, cacheBytes, now),
      pieceOf: (id) => tokenizer.pieceOf(id),
      emit: (frames) => {
        for (const frame of frames) {
          const own = this.#frames.get(frame.id);
          if (own) own.push(frame);
          else this.#frames.set(frame.id, [frame]);
        }
      },
    });
  }

  /** Nats of the scored tokens of each text together. */
  async score(texts: readonly PlannedText[], onText: (done: number) => void = () => {}): Promise<number[]> {
    const rest = { maxTokens: 0, promptLogprobs: true, sampling: { temperature: 0, logprobs: 0 } };
    const requests = texts.map(({ ids, plan }) => ({ ids, plan, ...rest }));
    const frames = await this.#run(requests, onText);
    return frames.map((own, i) => {
      const [prompt] = own;
      if (prompt.type !== "prompt") throw new Error(`expected the prompt's frame, got ${prompt.type}`);
      return sum(prompt.logprobs.slice(-(texts[i].scored ?? scoredTokens)).map((logprob) => logprob!));
    });
  }

  /** Token ids of a continuation of each text, never the end of the text. */
  async continue(texts: readonly (PlannedText & Continuation)[]): Promise<number[][]> {
    const never: [number, number][] = [[this.artifacts.model.config.endOfTextId, -100]];
    const requests = texts.map(({ ids, plan, seed, temperature, tokens }) => ({
      ...{ ids, plan, maxTokens: tokens, promptLogprobs: false },
      sampling: { seed, temperature, logit_bias: never },
    }));
    const frames = await this.#run(requests, () => {});
    return frames.map((own) => own.flatMap((frame) => (frame.type === "token" ? [frame.tokenId] : [])));
  }

  /** Nats of the last `scoredTokens` under the base at each of the temperatures: [temperature][text]. */
  async scoreAtTemperatures(texts: readonly number[][], temperatures: readonly number[]): Promise<number[][]> {
    const { gates } = this.#runner;
    const scores: number[][] = temperatures.map(() => []);
    for (const ids of texts) {
      const { hidden, targets } = await this.#scoredStates(ids, scoredTokens);
      for (const [i, temperature] of temperatures.entries()) {
        const scaled = hidden.map((value) => value / temperature);
        const input = { hidden: scaled, targets, gates: new Float32Array(gates), chosen: Int32Array.of(0) };
        scores[i].push(sum((await (await this.#openHead()).run(input)).logprobs));
      }
    }
    return scores;
  }

  /** Nats of the last `scored` tokens under the base and under every centroid's adapter as it is shipped. */
  async scoreUnderEach(ids: number[], scored: number): Promise<number[]> {
    const { manifest, hyperNetwork } = this.artifacts;
    if (manifest.hyperNetwork.kind !== "gated-bank") throw new Error("only a gated bank has gates for every centroid");
    const head = await this.#openHead();
    const { hidden, targets } = await this.#scoredStates(ids, scored);
    const network = readHyperNetwork(hyperNetwork);
    const vectors = toFloat32(tensorOf(hyperNetwork, "centroids")); // [K, P]
    const P = manifest.embedding.dimensions;
    const gates = [
      new Float32Array(this.#runner.gates),
      ...manifest.centroids.map(({ scale }, k) => gatesOf(network, vectors.subarray(k * P, (k + 1) * P), scale)),
    ];
    const scores: number[] = [];
    for (const own of gates) {
      scores.push(sum((await head.run({ hidden, targets, gates: own, chosen: Int32Array.of(0) })).logprobs));
    }
    return scores;
  }

  async release(): Promise<void> {
    await this.#head?.release();
    await this.#runner.release();
  }

  async #openHead(): Promise<HeadSession> {
    if (this.#head) return this.#head;
    const { model, manifest, hyperNetwork } = this.artifacts;
    const embedding = toFloat32(tensorOf(model.weights, "wte.weight"));
    const bank = servedBank(manifest, hyperNetwork);
    this.#head = await openHeadSession(embedding, model.config.hiddenSize, bank, this.#threads);
    return this.#head;
  }

  /** The scored tokens, and the states [scored, D] that predict them. */
  async #scoredStates(ids: number[], scored: number): Promise<{ hidden: Float32Array; targets: Int32Array }> {
    let traced = new Float32Array(0);
    const rest = { maxTokens: 0, promptLogprobs: true, sampling: { temperature: 0 } };
    await this.#engine.submit(null, [this.#request({ ids, plan: { adapterId: null }, ...rest })], (_, hidden) => {
      traced = hidden;
    });
    while (this.#engine.busy) await this.#engine.step();
    this.#frames.clear();
    const D = this.artifacts.model.config.hiddenSize;
    return { hidden: traced.slice(-scored * D), targets: Int32Array.from(ids.slice(-scored)) };
  }

  async #run(asked: readonly Asked[], onText: (done: number) => void): Promise<Frame[][]> {
    const results: Frame[][] = [];
    for (let at = 0; at < asked.length; at += textsAtOnce) {
      const group = asked.slice(at, at + textsAtOnce).map((one) => ({ plan: one.plan, request: this.#request(one) }));
      for (const adapterId of new Set(group.map(({ plan }) => plan.adapterId))) {
        const own = group.filter(({ plan }) => plan.adapterId === adapterId);
        await this.#engine.submit(
          adapterId,
          own.map(({ request }) => request),
        );
      }
      while (this.#engine.busy) await this.#engine.step();
      for (const { request } of group) {
        const frames = this.#frames.get(request.id)!;
        const failure = frames.find((frame) => frame.type === "error");
        if (failure) throw new Error(failure.message);
        results.push(frames);
      }
      this.#frames.clear();
      onText(results.length);
    }
    return results;
  }

  #request({ ids, plan, ...rest }: Asked): SequenceRequest {
    const id = `t${this.#requests++}`;
    return {
      id,
      tenant: "measurement",
      promptIds: ids,
      continuedIds: [],
      compare: false,
      mixture: plan.mixture,
      ...rest,
    };
  }
}

/** The adapters of a gated bank at full strength, whatever scale they are shipped with. */
function withoutScales({ manifest, hyperNetwork }: Artifacts, source: AdapterSource): AdapterSource {
  const network = readHyperNetwork(hyperNetwork);
  const vectors = toFloat32(tensorOf(hyperNetwork, "centroids")); // [K, P]
  const P = manifest.embedding.dimensions;
  return {
    hashOf: (id) => source.hashOf(id),
    async generate(id) {
      const index = manifest.centroids.findIndex((centroid) => centroid.id === id);
      const gates = gatesOf(network, vectors.subarray(index * P, (index + 1) * P), 1);
      return { ...(await source.generate(id)), gates, scale: 1 };
    },
  };
}

interface Asked extends Omit<PlannedText, "scored"> {
  maxTokens: number;
  promptLogprobs: boolean;
  sampling: SamplingChanges;
}

function sum(values: Iterable<number>): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}
