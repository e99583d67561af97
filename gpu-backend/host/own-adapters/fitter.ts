import { setImmediate } from "node:timers/promises";
import { bankOf, readHyperNetwork } from "../../adapters/generated/hyper-network.ts";
import { packOwnAdapter } from "../../adapters/own/artifact.ts";
import { type Example, fitOwnAdapter, type OwnAdapterFit } from "../../adapters/own/fit.ts";
import type { Artifacts } from "../../engine/artifacts.ts";
import { openFitSession } from "../../runtime/fit-session.ts";
import { floatsOf, weightOf } from "../../runtime/model-weights.ts";

export interface FitRequest {
  examples: Example[];
  /** null: some examples are held out instead. */
  validation: Example[] | null;
}

export interface FitResult extends Pick<OwnAdapterFit, "gain" | "losses"> {
  file: Uint8Array<ArrayBuffer>;
  kept: boolean;
}

type RunStep = <T>(positions: number, work: () => Promise<T>) => Promise<T>;

/** Returns the function that fits an adapter. The model may be closed afterwards. */
export async function openFitter({ manifest, manifestHash, model, hyperNetwork }: Artifacts) {
  const embedding = floatsOf(weightOf(model.weights, "model.embed_tokens.weight"));
  const gates = manifest.static ? readHyperNetwork(hyperNetwork).staticGates : null;
  const fixed = { bank: bankOf(hyperNetwork), gates };
  // One thread, because the engine needs the other cores.
  const session = await openFitSession(embedding, model.config.hiddenSize, fixed, 1);
  return async ({ examples, validation }: FitRequest, run: RunStep): Promise<FitResult> => {
    const { delta, gain, losses } = await fitOwnAdapter(examples, validation, {
      ...session,
      survey: (hidden, change, targets) => run(targets.length, () => session.survey(hidden, change, targets)),
      logits: (states, rows) => run(states.length / session.hiddenSize, () => session.logits(states, rows)),
      step: (input) => run(input.targets.length, () => session.step(input)),
    });
    return { kept: delta !== null, gain, losses, file: packOwnAdapter(delta, manifestHash) };
  };
}

interface Step {
  id: number;
  positions: number;
  run(): Promise<void>;
  reject(error: Error): void;
}

/** Runs the steps of all fits in turn. The fit with the lowest count of computed positions is next. */
export class FitTurns {
  /** Positions that each open fit has computed, plus its count at the beginning. */
  readonly #computed = new Map<number, number>();
  #waiting: Step[] = [];
  #isRunning = false;

  /** A fit begins at the lowest count, so that a series of small fits does not delay a long one. */
  open(id: number): void {
    const others = [...this.#computed.values()];
    this.#computed.set(id, others.length === 0 ? 0 : Math.min(...others));
  }

  cancel(id: number): void {
    this.#computed.delete(id);
  }

  run<T>(id: number, positions: number, work: () => Promise<T>): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    this.#waiting.push({ id, positions, reject, run: () => work().then(resolve, reject) });
    if (!this.#isRunning) void this.#runAll();
    return promise;
  }

  async #runAll(): Promise<void> {
    this.#isRunning = true;
    while (this.#waiting.length > 0) {
      // Lets messages be handled: new fits and cancellations.
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

  /** A cancelled fit counts 0, so that its step is next and is rejected. */
  #of({ id }: Step): number {
    return this.#computed.get(id) ?? 0;
  }
}
