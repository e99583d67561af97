/** Makes own adapters of example texts for evaluation, by the code that makes a tenant's. */
import { createHash } from "node:crypto";
import { promptEmbedding } from "../../../shared/math/assignment.ts";
import type { Adapter } from "../../adapters/adapter.ts";
import { Fitter } from "../../host/own-adapters/fitter.ts";
import { createTrunkRunner, type TrunkRunner } from "../../runtime/trunk-runner.ts";
import type { Progress } from "../../training/progress.ts";
import type { EngineScorer } from "./engine-scorer.ts";
import type { Placement } from "./serving.ts";
import type { Source } from "./shipped.ts";

/** Adds an own adapter of each source's examples to the scorer. Returns their ids; a source without one is served by the base. */
export async function addOwnAdapters(
  sources: readonly Source[],
  scorer: EngineScorer,
  placement: Placement,
  threads: number,
  progress: Progress,
): Promise<Map<Source, string>> {
  const ids = new Map<Source, string>();
  const fitter = await Fitter.open(scorer.artifacts, threads);
  const trunk = await createTrunkRunner({ ...scorer.artifacts.model, threads });
  try {
    progress.stage("own adapters", sources.length);
    for (const [done, source] of sources.entries()) {
      const adapter = await makeAdapter(source.examples, placement, fitter, trunk);
      if (adapter) {
        scorer.add(adapter);
        ids.set(source, adapter.hash);
      }
      progress.advance(done + 1, source.name);
    }
  } finally {
    await trunk.release();
    await fitter.release();
  }
  return ids;
}

/** Returns null where the examples gain nothing: the base is served then. */
async function makeAdapter(
  examples: readonly number[][],
  { table, prefixTokens }: Placement,
  fitter: Fitter,
  trunk: TrunkRunner,
): Promise<Adapter | null> {
  if (examples.length < 2) return null;
  const sum = new Float32Array(table.dimensions);
  const observed = [];
  for (const ids of examples) {
    for (const [p, value] of promptEmbedding(ids.slice(0, prefixTokens), table).entries()) sum[p] += value;
    const hidden = await trunk.hidden(Int32Array.from(ids), 1, ids.length); // [T, D]
    const D = hidden.length / ids.length;
    observed.push({ hidden: hidden.slice(0, hidden.length - D), targets: Int32Array.from(ids.slice(1)) });
  }
  const length = Math.hypot(...sum);
  const centroid = sum.map((value) => value / length);
  const { fit, file } = await fitter.fit({ examples: observed, centroid });
  if (!fit.gain) return null;
  const hash = createHash("sha256").update(file).digest("hex");
  return { hash, gates: fit.gates, bias: fit.bias, scale: 1, bytes: file.length };
}
