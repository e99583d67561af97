import { expect, test } from "vitest";
import { centroidLines } from "../../../gpu-backend/training/centroid-lines.ts";
import type { CentroidRecord } from "../../../shared/artifacts/manifest.ts";

const centroid = (id: string, scale: number, gain: CentroidRecord["gain"]): CentroidRecord => ({
  ...{ id, scale, gain, hash: "0".repeat(64), label: ["word"], size: 7, position: [0, 0] },
});
const gain = (nats: number): CentroidRecord["gain"] => ({ nats, ci95: [nats - 0.1, nats + 0.1], tokens: 100 });

test("a gain that is negative or none says that the static adapter alone is served, and one that was not measured how much text it takes", () => {
  const lines = centroidLines([
    centroid("c0", 0.5, gain(0.4)),
    centroid("c1", 0.75, gain(-0.2)),
    centroid("c2", 0, { nats: 0, ci95: [0, 0], tokens: 100 }),
    centroid("c3", 0, null),
  ]);
  expect(lines.slice(0, 4)).toEqual([
    expect.stringMatching(/^c0 +scale 0.50 +gain 0.400 \[/),
    expect.stringMatching(/^c1 +off +gain -0.200 \[/),
    expect.stringMatching(/^c2 +off +gain 0.000 /),
    expect.stringMatching(/^c3 +off +not measured /),
  ]);
  expect(lines.slice(4)).toEqual([
    expect.stringContaining("2 off: the adapter did not gain"),
    expect.stringMatching(/^1 not measured: .*20 documents a centroid/),
  ]);
});
