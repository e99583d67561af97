/** Makes own adapters of example texts for evaluation, by the code that makes a tenant's. */
import { createHash } from "node:crypto";
import { type EdgeTable, promptEmbedding } from "../../../shared/math/assignment.ts";
import type { Adapter } from "../../adapters/adapter.ts";
import type { Artifacts } from "../../engine/artifacts.ts";
import { Fitter } from "../../host/own-adapters/fitter.ts";
import { createTrunkRunner, type TrunkRunner } from "../../runtime/trunk-runner.ts";

export class OwnAdapters {
  readonly #fitter: Fitter;
  readonly #trunk: TrunkRunner;
  readonly #prefixTokens: number;

  private constructor(fitter: Fitter, trunk: TrunkRunner, prefixTokens: number) {
    this.#fitter = fitter;
    this.#trunk = trunk;
    this.#prefixTokens = prefixTokens;
  }

  static async open(artifacts: Artifacts, threads: number): Promise<OwnAdapters> {
    const fitter = await Fitter.open(artifacts, threads);
    const trunk = await createTrunkRunner({ ...artifacts.model, threads });
    return new OwnAdapters(fitter, trunk, artifacts.manifest.embedding.prefixTokens);
  }

  /** Returns null where the examples gain nothing: the base is served then. */
  async make(examples: readonly number[][], table: EdgeTable): Promise<Adapter | null> {
    if (examples.length < 2) return null;
    const sum = new Float32Array(table.dimensions);
    const observed = [];
    for (const ids of examples) {
      promptEmbedding(ids.slice(0, this.#prefixTokens), table).forEach((value, p) => {
        sum[p] += value;
      });
      const hidden = await this.#trunk.hidden(Int32Array.from(ids), 1, ids.length); // [T, D]
      const D = hidden.length / ids.length;
      observed.push({ hidden: hidden.slice(0, hidden.length - D), targets: Int32Array.from(ids.slice(1)) });
    }
    const length = Math.hypot(...sum);
    const centroid = sum.map((value) => value / length);
    const { fit, file } = await this.#fitter.fit({ examples: observed, centroid });
    if (!fit.gain) return null;
    const hash = createHash("sha256").update(file).digest("hex");
    return { hash, gates: fit.gates, bias: fit.bias, scale: 1, bytes: file.length };
  }

  async release(): Promise<void> {
    await this.#trunk.release();
    await this.#fitter.release();
  }
}
