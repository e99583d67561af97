/** The plans of evaluated methods: the mixture is the one that the edge asks for. */
import { expect, test } from "vitest";
import { automaticMixture } from "../../../edge/plan/mixture.ts";
import {
  controls,
  mainMethods,
  type Placement,
  Prompt,
  staticHeadPlan,
} from "../../../gpu-backend/research/evaluation/serving.ts";
import { promptEmbedding, rankCentroids } from "../../../shared/math/assignment.ts";
import { defaultCalibration } from "../../../shared/math/evidence.ts";

/** Four centroids along the axes of two dimensions; token 0 lies on the first, token 1 on the second. */
const placement: Placement = {
  table: { vocabularySize: 2, dimensions: 2, rows: Int8Array.of(1, 0, 0, 1), rowScales: Float32Array.of(1, 1) },
  centroids: { count: 4, dimensions: 2, vectors: Float32Array.of(1, 0, 0, 1, -1, 0, 0, -1) },
  ids: ["east", "north", "west", "south"],
  isOff: [false, false, false, false],
  prefixTokens: 4,
  calibration: { ...defaultCalibration, adapters: 2 },
};

test("the mixture is the edge's, with adapters that are off left out", () => {
  const evidence = { ...defaultCalibration, adapters: 2, base: 0.8 };
  for (const isOff of [placement.isOff, [true, false, false, false], [true, true, true, true]]) {
    for (const ids of [[0], [0, 1, 0, 0, 1], [0, 1]]) {
      const prompt = new Prompt(ids, { ...placement, isOff, calibration: evidence });
      const candidates = rankCentroids(promptEmbedding(ids.slice(0, 4), placement.table), placement.centroids).map(
        ({ index, similarity }) => {
          return { id: placement.ids[index], similarity, ownHash: null, gain: null, isOff: isOff[index] };
        },
      );
      const { request } = automaticMixture(candidates, { evidence }, { tokens: ids.length });
      expect(mainMethods.mixture(prompt, 0).mixture).toEqual(request);
      expect(staticHeadPlan(ids.length, "c0", evidence).mixture!.base).toBe(0.8);
    }
  }
});

test("controls change the part that their name says", () => {
  const ids = [0, 0, 0, 1, 1, 1, 1, 1, 1, 1];
  const prompt = new Prompt(ids, placement);
  expect(mainMethods.base(prompt, 0)).toEqual({ adapterId: null });
  // Four tokens assign.
  expect(mainMethods.nearest(prompt, 0)).toEqual({ adapterId: "east" });
  const served = mainMethods.mixture(prompt, 0).mixture!;
  const equal = controls["equal weights"](prompt, 0).mixture!;
  expect([equal.base, ...equal.adapters.map(({ weight }) => weight)]).toEqual([1 / 3, 1 / 3, 1 / 3]);
  expect(equal.evidence).toBeUndefined();
  const random = controls["random centroids"](prompt, 0).mixture!;
  expect(random.adapters.map((one) => "centroidId" in one && one.centroidId).sort()).toEqual(["south", "west"]);
  expect(random.adapters.map(({ weight }) => weight)).toEqual(served.adapters.map(({ weight }) => weight));
});
