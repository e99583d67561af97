import { expect, test } from "vitest";
import type { Artifacts } from "../../../edge/artifacts/artifacts.ts";
import { assign } from "../../../edge/plan/assign.ts";
import type { CentroidRecord } from "../../../shared/artifacts/manifest.ts";

const gain = (nats: number) => ({ nats, ci95: [nats - 0.01, nats + 0.01] as [number, number], tokens: 1000 });

/** Artifacts with a single centroid, to which every prompt is assigned. */
function artifacts(centroid: Pick<CentroidRecord, "scale" | "gain" | "memory">): Artifacts {
  return {
    manifest: { centroids: [{ id: "c0", ...centroid }], embedding: { dimensions: 1, prefixTokens: 64 } },
    table: { vocabularySize: 2, dimensions: 1, rows: Int8Array.of(1, 1), rowScales: Float32Array.of(1, 1) },
    centroids: { count: 1, dimensions: 1, vectors: Float32Array.of(1) },
  } as unknown as Artifacts;
}

test.each<[string, Parameters<typeof artifacts>[0], string]>([
  ["that gains", { scale: 0.5, gain: gain(0.02) }, "adapted"],
  ["that was not measured", { scale: 1, gain: null }, "adapted"],
  ["that validation found no scale for", { scale: 0, gain: gain(0) }, "auto-off"],
  ["that lost on held-out text", { scale: 0.5, gain: gain(-0.003) }, "auto-off"],
  ["that won nothing there", { scale: 0.25, gain: gain(0) }, "auto-off"],
])("a centroid %s", (_, centroid, mode) => {
  for (const wish of ["nearest", 0] as const) expect(assign([0, 1], wish, artifacts(centroid)).mode).toBe(mode);
  expect(assign([0], "off", artifacts(centroid)).mode).toBe("off");
});

test("auto reads the nearest centroid's memory, except in a chat; other modes do not", () => {
  const set = artifacts({ scale: 0.5, gain: null, memory: { tokens: 1000, gain: null } });
  const memories = [{ id: "c0", hash: null }];
  expect(assign([0, 1], "auto", set).memories).toEqual(memories);
  expect(assign([0, 1], "auto", set, { tokens: 2, spans: [[0, 2]] }).memories).toEqual([]);
  for (const wish of ["nearest", "off", 0] as const) expect(assign([0, 1], wish, set).memories).toEqual([]);
  expect(assign([0, 1], "auto", artifacts({ scale: 0.5, gain: null })).memories).toEqual([]);
});
