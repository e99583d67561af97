/**
 * The paper's recipe as it would be served: a batch of windows of one centroid gets the pair that the hyper-network
 * makes of the mean of their prompt embeddings. Their prefixes alone are used, never the text that is scored.
 */
import type { CentroidVectors } from "../../../shared/math/assignment.ts";
import type { FullNetwork } from "../../adapters/full-network.ts";
import type { PlacedSet } from "../bank/batches.ts";
import type { LossMeter } from "../bank/loss.ts";
import { wholePair } from "../bank/measure.ts";
import { meanDirection } from "../bank/trainer.ts";
import { assignAll } from "../embed.ts";

/** As many windows as training draws of a cluster. */
const batchWindows = 5;

/** Summed losses of windows of `set`, in nats, [indexes]. */
export async function batchMeanLosses(
  meter: LossMeter,
  set: PlacedSet,
  indexes: readonly number[],
  network: FullNetwork,
  centroids: CentroidVectors,
): Promise<Float64Array> {
  const P = centroids.dimensions;
  const memberOf = assignAll(set.embeddings, centroids);
  const sums = new Float64Array(indexes.length);
  const open = new Float32Array(network.rank).fill(1);
  for (let k = 0; k < centroids.count; k++) {
    const members = [...indexes.keys()].filter((at) => memberOf[indexes[at]] === k);
    for (let from = 0; from < members.length; from += batchWindows) {
      const places = members.slice(from, from + batchWindows);
      const batch = places.map((at) => indexes[at]);
      const mean = meanDirection(batch.map((i) => set.embeddings.subarray(i * P, (i + 1) * P)));
      const { a, b } = wholePair(network, mean);
      const losses = await meter.measure(
        set,
        batch,
        new Map([
          ["a", a],
          ["b", b],
        ]),
        () => open,
      );
      for (const [position, at] of places.entries()) sums[at] = losses[position];
    }
  }
  return sums;
}
