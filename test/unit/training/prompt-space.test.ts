import { Matrix, solve } from "ml-matrix";
import { expect, test } from "vitest";
import { placeText, quantised } from "../../../gpu-backend/training/clustering/placement.ts";
import { fitPromptRows, symmetricEigen } from "../../../gpu-backend/training/clustering/prompt-space.ts";
import { Random } from "../../../gpu-backend/training/random.ts";
import { promptEmbedding, rankCentroids } from "../../../shared/math/assignment.ts";

const seed = 11;
const [V, D, P] = [50, 12, 5];
const random = new Random(seed, 0);
/** Some directions are much stronger than others, as in a real embedding. */
const tokenEmbedding = Float32Array.from({ length: V * D }, (_, i) => random.normal() / (1 + (i % D)));
const prefixes = Array.from({ length: 200 }, () => Int32Array.from({ length: 8 }, () => random.integer(V)));
const ofOwnDocuments = prefixes.map((tokenIds, i) => ({ tokenIds, document: String(i) }));

const meanOf = (rows: Float32Array, width: number, ids: Int32Array) =>
  Array.from({ length: width }, (_, i) => ids.reduce((sum, id) => sum + rows[id * width + i], 0) / ids.length);

test("without documents, projected prefixes have mean 0 and variances √λ: half-whitened", () => {
  const rows = fitPromptRows(tokenEmbedding, D, ofOwnDocuments, P);
  const projected = prefixes.map((ids) => meanOf(rows, P, ids));
  const points = new Matrix(prefixes.map((ids) => meanOf(tokenEmbedding, D, ids)));
  const centred = points.subRowVector(points.mean("column"));
  const { values } = symmetricEigen(centred.transpose().mmul(centred).div(prefixes.length));
  for (let p = 0; p < P; p++) {
    const lambda = values[p];
    const variance = projected.reduce((sum, x) => sum + x[p] ** 2, 0) / projected.length;
    const mean = projected.reduce((sum, x) => sum + x[p], 0) / projected.length;
    expect(Math.abs(mean)).toBeLessThan(1e-6);
    expect(variance / Math.sqrt(lambda)).toBeCloseTo(1, 4);
    for (let q = 0; q < p; q++) {
      const covariance = projected.reduce((sum, x) => sum + x[p] * x[q], 0) / projected.length;
      expect(Math.abs(covariance)).toBeLessThan(1e-6);
    }
  }
});

test("the int8 table embeds a prompt as the unrounded one does", () => {
  const rows = fitPromptRows(tokenEmbedding, D, ofOwnDocuments, P);
  const table = quantised(rows, P);
  let lowest = 1;
  for (const ids of prefixes.slice(0, 50)) {
    const direct = meanOf(rows, P, ids);
    const embedding = promptEmbedding(ids, table);
    const cosine = direct.reduce((sum, x, p) => sum + x * embedding[p], 0) / Math.hypot(...direct);
    lowest = Math.min(lowest, cosine);
  }
  expect(lowest).toBeGreaterThan(0.9995);
});

test("with documents, differences between them count and variation within them does not", () => {
  // Rows differ in two directions. Along the first, tokens of both kinds vary widely; along the second, the two kinds differ a little.
  const rows = new Float32Array(V * D);
  for (let v = 0; v < V; v++) {
    rows[v * D] = 10 * random.normal();
    rows[v * D + 1] = v < V / 2 ? 1 : -1;
    for (let d = 2; d < D; d++) rows[v * D + d] = 0.01 * random.normal();
  }
  const texts = Array.from({ length: 200 }, (_, i) => {
    const document = Math.floor(i / 4); // even documents are of one kind, odd ones of the other
    return {
      tokenIds: Int32Array.from({ length: 8 }, () => random.integer(V / 2) + (document % 2) * (V / 2)),
      document: String(document),
    };
  });
  const embedding = Matrix.from1DArray(V, D, rows).addColumn(new Array(V).fill(1));
  const weights = (prefixTexts: typeof texts) => {
    const table = fitPromptRows(rows, D, prefixTexts, 1);
    const direction = solve(embedding, Matrix.columnVector(table), true); // the table is the projection on it
    return [Math.abs(direction.get(0, 0)), Math.abs(direction.get(1, 0))];
  };
  const [noise, kind] = weights(texts);
  expect(kind).toBeGreaterThan(20 * noise);
  const [variance, ignored] = weights(texts.map((text, i) => ({ ...text, document: String(i) })));
  expect(variance).toBeGreaterThan(ignored);
});

test("prefixes lie near their own documents", () => {
  // Documents of one kind contain token 0, those of the other kind token 1; all other tokens are in both. The rows are random.
  const rows = Float32Array.from({ length: V * P }, () => random.normal());
  const windows = Array.from({ length: 300 }, (_, i) => ({
    corpus: 0,
    document: Math.floor(i / 3),
    tokenIds: Int32Array.from({ length: 128 }, () =>
      random.uniform() < 0.2 ? Math.floor(i / 3) % 2 : 2 + random.integer(V - 2),
    ),
  }));
  const placement = placeText(rows, windows, { dimensions: P, clusters: 2, seed });
  expect(placeText(rows, windows, { dimensions: P, clusters: 2, seed })).toEqual(placement);
  for (const [i, member] of placement.memberOf.entries()) expect(member).toBe(placement.memberOf[i - (i % 3)]);
  const landed = windows.filter(({ tokenIds }, i) => {
    const embedding = promptEmbedding(tokenIds.subarray(0, 64), placement.table);
    return rankCentroids(embedding, placement.centroids)[0].index === placement.memberOf[i];
  });
  expect(landed.length).toBeGreaterThanOrEqual(285);
});
