/** Which documents a measurement of memories knows, and that its experts have the priors that the edge gives them. */
import { expect, test } from "vitest";
import { automaticMixture } from "../../../edge/plan/mixture.ts";
import { artifactsOf } from "../../../gpu-backend/engine/artifacts.ts";
import { expertsOf } from "../../../gpu-backend/research/mixtures.ts";
import { kindOf, promptTokens, scoredTokens } from "../../../gpu-backend/research/own/kinds.ts";
import { readServedBank } from "../../../gpu-backend/training/bank/served-bank.ts";
import { isAutoOff } from "../../../shared/artifacts/manifest.ts";
import { promptEmbedding, rankCentroids } from "../../../shared/math/assignment.ts";
import { embeddedBase } from "../../support/embedded-base.ts";

const letters = {
  encode: (written: string) => [...written].map((letter) => letter.charCodeAt(0)),
  pieceOf: (id: number) => Uint8Array.of(id),
};

test("no document is both known and measured, and documents with which adapters were chosen are neither", () => {
  const documents = Array.from({ length: 100 }, (_, i) => ({ name: `${i}`, text: `${100 + i} `.repeat(192) }));
  const namesOf = (isTrained: boolean) => {
    const kind = kindOf("fresh", "a", documents, { isTrained, tokenizer: letters, texts: 40 });
    expect(kind.texts.every(({ ids }) => ids.length === promptTokens + scoredTokens)).toBe(true);
    expect(kind.known.reduce((sum, { ids }) => sum + ids.length, 0)).toBe(6000);
    const [known, measured] = [kind.known, kind.texts].map((texts) => new Set(texts.map(({ document }) => document)));
    expect(known.intersection(measured).size).toBe(0);
    return { known: known.size, measured: measured.size };
  };
  // The 6,000 known tokens are 23 excerpts of 256 tokens and one of 112, each from a document of its own.
  expect(namesOf(false)).toEqual({ known: 24, measured: 20 });
  expect(namesOf(true).measured).toBe(10);
  const short = documents.slice(0, 5);
  const options = { isTrained: false, tokenizer: letters, texts: 1 };
  expect(() => kindOf("fresh", "short", short, options)).toThrow(/short has \d+ tokens to know; 6000/);
});

test("the adapter among a prompt's experts has the prior that the edge gives it, in place of the farthest centroid", async () => {
  const served = await readServedBank(artifactsOf(embeddedBase));
  const promptIds = Array.from({ length: 64 }, (_, i) => 40 * i + 300);
  const embedding = promptEmbedding(promptIds, served.table);
  const D = served.manifest.model.hiddenSize;
  const delta = { a: new Float32Array(8 * D), b: new Float32Array(8 * D), c: new Float32Array(D) };
  const { all, priors } = expertsOf(promptIds, served, { delta, centroid: embedding });
  const nearest = rankCentroids(embedding, served.adapters.centroids).map(({ index, similarity }) => {
    const centroid = served.manifest.centroids[index];
    return { id: centroid.id, ownHash: null, similarity, gain: null, isOff: isAutoOff(centroid) };
  });
  const similarity = embedding.reduce((sum, x) => sum + x * x, 0);
  const own = { id: "own", ownHash: "hash", similarity, gain: null, isOff: false };
  const { request, experts } = automaticMixture(nearest, served.manifest, { tokens: promptIds.length }, [own]);
  expect(priors[0]).toBeCloseTo(request.base, 12);
  const planned = new Map(experts.map(({ id }, e) => [id, request.adapters[e].weight]));
  expect(priors[1]).toBeCloseTo(planned.get("static")!, 12);
  expect(priors[all.findIndex((expert) => expert.own === 1)]).toBeCloseTo(planned.get("own")!, 12);
  expect(priors).toHaveLength(1 + experts.length);
});
