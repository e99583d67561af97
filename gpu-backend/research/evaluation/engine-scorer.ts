/** Scores texts with the serving engine, running in this process. */
import { tensorOf, toFloat32 } from "../../../shared/artifacts/tensor-file.ts";
import type { Frame, SequenceRequest } from "../../../shared/contracts/inference.ts";
import type { Adapter, AdapterSource } from "../../adapters/adapter.ts";
import { AdapterCache } from "../../adapters/generated/adapter-cache.ts";
import { generatedAdapters } from "../../adapters/generated/generated.ts";
import { bankOf, gatesOf, readHyperNetwork } from "../../adapters/generated/hyper-network.ts";
import { chunkTokens } from "../../config.ts";
import { type Artifacts, readArtifacts } from "../../engine/artifacts.ts";
import { Engine } from "../../engine/engine.ts";
import { HostRunner } from "../../kv/host-runner.ts";
import type { ModelRunner } from "../../runtime/model-runner.ts";
import { createStepRunner } from "../../runtime/onnx-runner.ts";
import type { WeightFormat } from "../../runtime/products.ts";
import type { Plan } from "./serving.ts";

const limits = { maxSequences: 16, maxQueue: 1024, stepTokens: 1024, chunkTokens };
/** Texts in one batch. */
const textsAtOnce = 16;
const kvBytes = 2 ** 28;

export interface PlannedText {
  ids: number[];
  /** How many of the last ids are scored. */
  scored: number;
  plan: Plan;
}

export class EngineScorer {
  readonly artifacts: Artifacts;
  readonly #runner: ModelRunner;
  readonly #engine: Engine;
  /** Adapters that were added, by hash. */
  readonly #added = new Map<string, Adapter>();
  #frames = new Map<string, Frame[]>();
  #requests = 0;

  static async open(
    model: string,
    options: { artifacts?: string; threads: number; format: WeightFormat; fullStrength?: boolean },
  ): Promise<EngineScorer> {
    const artifacts = await readArtifacts(model, options.artifacts);
    const { manifest, hyperNetwork } = artifacts;
    const steps = await createStepRunner({
      ...artifacts.model,
      bank: bankOf(hyperNetwork),
      threads: options.threads,
      format: options.format,
    });
    const served = generatedAdapters(manifest, hyperNetwork);
    const source = options.fullStrength ? withoutScales(artifacts, served) : served;
    return new EngineScorer(artifacts, new HostRunner(steps, { ...limits, kvBytes }), source);
  }

  private constructor(artifacts: Artifacts, runner: ModelRunner, source: AdapterSource) {
    const { tokenizer } = artifacts;
    // Scores do not depend on time.
    const now = () => 0;
    this.artifacts = artifacts;
    this.#runner = runner;
    this.#engine = new Engine({
      ...{ runner, limits, now, prefixCache: null },
      adapters: new AdapterCache(
        {
          hashOf: (id) => (this.#added.has(id) ? id : source.hashOf(id)),
          generate: async (id) => this.#added.get(id) ?? source.generate(id),
        },
        now,
      ),
      textPieceOf: (id) => tokenizer.textPieceOf(id),
      emit: (frames) => {
        for (const frame of frames) {
          const own = this.#frames.get(frame.id);
          if (own) own.push(frame);
          else this.#frames.set(frame.id, [frame]);
        }
      },
    });
  }

  /** Makes an adapter available to plans, by its hash. */
  add(adapter: Adapter): void {
    this.#added.set(adapter.hash, adapter);
  }

  /** Log-likelihood of each text's scored tokens, in nats, [texts]. */
  async score(texts: readonly PlannedText[]): Promise<number[]> {
    const results: number[] = [];
    for (let at = 0; at < texts.length; at += textsAtOnce) {
      const group = texts.slice(at, at + textsAtOnce).map((text) => ({ ...text, request: this.#request(text) }));
      for (const adapterId of new Set(group.map(({ plan }) => plan.adapterId))) {
        const own = group.filter(({ plan }) => plan.adapterId === adapterId);
        await this.#engine.submit(
          adapterId,
          own.map(({ request }) => request),
        );
      }
      while (this.#engine.busy) await this.#engine.step();
      for (const { request, scored } of group) {
        const frames = this.#frames.get(request.id)!;
        const failure = frames.find((frame) => frame.type === "error");
        if (failure) throw new Error(failure.message);
        const [prompt] = frames;
        if (prompt.type !== "prompt") throw new Error(`expected the prompt's frame, got ${prompt.type}`);
        results.push(prompt.logprobs.slice(-scored).reduce<number>((sum, logprob) => sum + logprob!, 0));
      }
      this.#frames.clear();
    }
    return results;
  }

  async release(): Promise<void> {
    await this.#runner.release();
  }

  #request({ ids, plan }: PlannedText): SequenceRequest {
    return {
      ...{ id: `t${this.#requests++}`, tenant: "measurement", promptIds: ids, continuedIds: [], compare: false },
      ...{ mixture: plan.mixture, maxTokens: 0, promptLogprobs: true, sampling: { temperature: 0, logprobs: 0 } },
    };
  }
}

/** The same adapters with a scale of 1 instead of the one in the manifest. */
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
