/** Fits own adapters over the model's head, several at a time by turns. */

import { setImmediate } from "node:timers/promises";
import { bankOf, gatesOf, readHyperNetwork } from "../../adapters/generated/hyper-network.ts";
import { packOwnAdapter } from "../../adapters/own/artifact.ts";
import { type Example, fitOwnAdapter, type Head, type OwnAdapterFit } from "../../adapters/own/fit.ts";
import type { Artifacts } from "../../engine/artifacts.ts";
import { type HeadSession, openHeadSession } from "../../runtime/head-probabilities.ts";
import { floatsOf, weightOf } from "../../runtime/model-weights.ts";

export interface FitRequest {
  /** [P] */
  centroid: Float32Array;
  examples: Example[];
}

export interface FitResult extends Pick<OwnAdapterFit, "parts" | "gain"> {
  file: Uint8Array<ArrayBuffer>;
}

/** Runs one expensive step of a fit, over `positions` positions, at its turn among those of other fits. */
export type RunStep = <T>(positions: number, work: () => Promise<T>) => Promise<T>;

export class Fitter {
  /** Without the model: its weights are in the session. */
  readonly #artifacts: Omit<Artifacts, "model" | "tokenizer">;
  readonly #session: HeadSession;
  readonly #gates: number;

  private constructor(artifacts: Omit<Artifacts, "model" | "tokenizer">, session: HeadSession, gates: number) {
    this.#artifacts = artifacts;
    this.#session = session;
    this.#gates = gates;
  }

  static async open(artifacts: Artifacts, threads: number): Promise<Fitter> {
    const { manifest, manifestHash, model, hyperNetwork } = artifacts;
    const bank = bankOf(hyperNetwork);
    const embedding = floatsOf(weightOf(model.weights, "model.embed_tokens.weight"));
    const session = await openHeadSession(embedding, model.config.hiddenSize, bank, threads);
    return new Fitter({ manifest, manifestHash, hyperNetwork }, session, bank.gates);
  }

  /** `step` runs each of the fit's expensive steps. */
  async fit(request: FitRequest, step: RunStep = (_, work) => work()): Promise<FitResult & { fit: OwnAdapterFit }> {
    const fit = await fitOwnAdapter(request.examples, this.gatesAt(request.centroid), this.#head(step));
    return { parts: fit.parts, gain: fit.gain, file: packOwnAdapter(fit, this.#artifacts.manifestHash), fit };
  }

  /** Gates of a centroid [P]; null where the hyper-network was never trained. */
  gatesAt(centroid: Float32Array): Float32Array | null {
    const { manifest, hyperNetwork } = this.#artifacts;
    if (manifest.training === null) return null;
    return gatesOf(readHyperNetwork(hyperNetwork), centroid, 1);
  }

  release(): Promise<void> {
    return this.#session.release();
  }

  #head(step: RunStep): Head {
    const run = ({ hidden, targets }: Example, gates: Float32Array | null, chosen: Int32Array) =>
      step(targets.length, () =>
        this.#session.run({ hidden, targets, gates: gates ?? new Float32Array(this.#gates), chosen }),
      );
    return {
      vocabularySize: this.#artifacts.manifest.model.vocabularySize,
      survey: (example, gates) => run(example, gates, Int32Array.of(0)),
      probabilities: async (example, gates, support) => (await run(example, gates, support)).probabilities,
    };
  }
}

interface Step {
  id: number;
  positions: number;
  run(): Promise<void>;
  reject(error: Error): void;
}

export class FitTurns {
  /** Positions that each open fit has computed, and the count at which it began. */
  readonly #computed = new Map<number, number>();
  #waiting: Step[] = [];
  #isRunning = false;

  /** Begins a fit. It starts level with the open fit that computed least, so that a series of small fits delays no long one. */
  open(id: number): void {
    const others = [...this.#computed.values()];
    this.#computed.set(id, others.length === 0 ? 0 : Math.min(...others));
  }

  /** Ends a fit: its next step is rejected. */
  cancel(id: number): void {
    this.#computed.delete(id);
  }

  /** Runs one step of an open fit, over `positions` positions, at its turn. */
  run<T>(id: number, positions: number, work: () => Promise<T>): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    this.#waiting.push({ id, positions, reject, run: () => work().then(resolve, reject) });
    if (!this.#isRunning) void this.#runAll();
    return promise;
  }

  async #runAll(): Promise<void> {
    this.#isRunning = true;
    while (this.#waiting.length > 0) {
      // Messages are read here: new fits, and cancellations.
      await setImmediate();
      const next = this.#waiting.reduce((least, step) => (this.#of(step) < this.#of(least) ? step : least));
      this.#waiting = this.#waiting.filter((step) => step !== next);
      if (this.#computed.has(next.id)) {
        this.#computed.set(next.id, this.#of(next) + next.positions);
        await next.run();
      } else next.reject(new Error("the fit was cancelled"));
    }
    this.#isRunning = false;
  }

  /** 0 for a cancelled fit, which ends at once. */
  #of({ id }: Step): number {
    return this.#computed.get(id) ?? 0;
  }
}
