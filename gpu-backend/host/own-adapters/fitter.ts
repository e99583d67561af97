/** Fits instant adapters over the model's head: the pure fit, its probabilities, its gates. Runs where it is called. */
import { tensorOf, toFloat32 } from "../../../shared/artifacts/tensor-file.ts";
import { bankOf, gatesOf, readHyperNetwork } from "../../adapters/generated/hyper-network.ts";
import { packInstant } from "../../adapters/own/artifact.ts";
import { type Example, fitInstant, type Head, type InstantFit } from "../../adapters/own/fit.ts";
import type { Artifacts } from "../../engine/artifacts.ts";
import { type HeadSession, openHeadSession } from "../../runtime/head-probabilities.ts";

export interface FitRequest {
  /** [P] */
  centroid: Float32Array;
  examples: Example[];
}

export interface FitResult extends Pick<InstantFit, "parts" | "gain"> {
  file: Uint8Array<ArrayBuffer>;
}

/** Runs one expensive step of a fit, over so many positions, at its turn among those of other fits. */
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
    const embedding = toFloat32(tensorOf(model.weights, "wte.weight"));
    const session = await openHeadSession(embedding, model.config.hiddenSize, bank, threads);
    return new Fitter({ manifest, manifestHash, hyperNetwork }, session, bank.gates);
  }

  /** `step` runs each of the fit's expensive steps. */
  async fit(request: FitRequest, step: RunStep = (_, work) => work()): Promise<FitResult & { fit: InstantFit }> {
    const fit = await fitInstant(request.examples, this.gatesAt(request.centroid), this.#head(step));
    return { parts: fit.parts, gain: fit.gain, file: packInstant(fit, this.#artifacts.manifestHash), fit };
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
