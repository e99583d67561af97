/** What `chameleon train` prints about each centroid: its gain, or why it is off, and its memory. */
import { type CentroidRecord, isAutoOff } from "../../shared/artifacts/manifest.ts";
import type { Gain } from "../adapters/own/held-out-gain.ts";
import { documentsPerCentroid, minMeasuredDocuments } from "./bank/gain.ts";

export function centroidLines(centroids: readonly CentroidRecord[]): string[] {
  const lines = centroids.map((centroid) => {
    const { id, label, size, scale, gain, memory } = centroid;
    const served = isAutoOff(centroid) ? "off       " : `scale ${scale.toFixed(2)}`;
    const remembered = memory ? `memory ${memory.tokens} tokens, ${gainText(memory.gain)}` : "no memory";
    return `${id.padEnd(4)} ${served}  ${gainText(gain)}  ${size} windows  ${remembered}  ${label.join(" ")}`;
  });
  const off = centroids.filter((centroid) => centroid.gain && isAutoOff(centroid)).length;
  const unmeasured = centroids.filter(({ gain }) => !gain).length;
  if (off > 0)
    lines.push(`${off} off: the adapter did not gain on held-out text, so the static adapter alone is served`);
  if (unmeasured > 0) {
    lines.push(
      `${unmeasured} not measured: fewer than ${minMeasuredDocuments} documents that were held out for test fell to it, so the static adapter alone is served. ` +
        `Add text, about ${documentsPerCentroid} documents a centroid, or take fewer --centroids`,
    );
  }
  return lines;
}

export function gainText(gain: Gain | null): string {
  return gain ? `gain ${gain.nats.toFixed(3)} [${gain.ci95.map((end) => end.toFixed(3)).join(", ")}]` : "not measured";
}
