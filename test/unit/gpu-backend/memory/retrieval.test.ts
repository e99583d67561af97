/** Passages found in memories made by hand: each token is a letter or a line's end, and each key points along an axis. */
import { expect, test } from "vitest";
import type { Memory } from "../../../../gpu-backend/memory/memory.ts";
import { indexPassages, passageTokens, retrievePassages } from "../../../../gpu-backend/memory/retrieval.ts";
import type { Retrieval } from "../../../../shared/contracts/retrieval.ts";

const D = 4;
const lineEnd = 10;
const textPieceOf = (id: number) => Uint8Array.of(id);

/** Documents as token ids, each token one byte long. The key of every token with id `x` points along axis `x % D`. */
function memoryOf(documents: readonly number[][]): Memory {
  const next = documents.flatMap((ids) => ids.slice(1));
  const keys = documents
    .flatMap((ids) => ids.slice(0, -1))
    .flatMap((id) => Array.from({ length: D }, (_, d) => (d === id % D ? 127 : 0)));
  const starts = documents.flatMap((ids) => ids.slice(1).map((_, i) => i + 1));
  const ends = documents.map((_, i) => documents.slice(0, i + 1).flatMap((ids) => ids.slice(1)).length);
  return {
    ...{ keys: Int8Array.from(keys), nextIds: Int32Array.from(next) },
    ...{ starts: Int32Array.from(starts), ends: Int32Array.from(starts, (start) => start + 1) },
    documents: documents.map((ids, i) => ({ name: `d${i}`, firstId: ids[0], end: ends[i] })),
  };
}
const many = (id: number, count: number) => new Array<number>(count).fill(id);
const along = (axis: number) => Float32Array.from({ length: D }, (_, d) => (d === axis ? 3 : 0.01 * d));
const wanted: Retrieval = {
  ...{ passages: 2, tokens: 1000, query: [0, 1], at: 0, prefixIds: [200], separatorIds: [201, 202] },
};
async function found(documents: readonly number[][], axis: number, room = 1000, passages = 2) {
  const memory = memoryOf(documents);
  const index = await indexPassages(memory, textPieceOf);
  return retrievePassages([{ memory, index }], along(axis), { ...wanted, passages }, room);
}

test("a passage's vector is the mean of its keys, of length 1; a document of one token has none", async () => {
  const { places, vectors } = await indexPassages(memoryOf([[64], [65, 65, 66, 66], [67, 0]]), textPieceOf);
  expect(places).toEqual([
    { document: 1, from: 0, to: 4 },
    { document: 2, from: 0, to: 2 },
  ]);
  const [two, one] = [2, 1].map((x) => Math.round((127 * x) / Math.sqrt(5)));
  expect([...vectors]).toEqual([0, two, one, 0, 0, 0, 0, 127]);
});

test("long documents are cut after the last line that ends in the second half of a passage, else where it is full", async () => {
  const early = Math.floor(passageTokens / 2) - 1;
  const late = passageTokens - 20;
  const ids = [...many(65, early), lineEnd, ...many(65, late - early), lineEnd, ...many(65, 2 * passageTokens)];
  const { places } = await indexPassages(memoryOf([ids]), textPieceOf);
  const first = late + 2;
  expect(places.map(({ from, to }) => [from, to])).toEqual([
    [0, first],
    [first, first + passageTokens],
    [first + passageTokens, ids.length],
  ]);
});

test("the nearest passages come first, with separators around them, and are reported with their places in bytes", async () => {
  const documents = [many(65, 5), [66, 66, 67, 66], many(67, 3)];
  const { ids, passages } = await found(documents, 2);
  expect(ids).toEqual([200, 66, 66, 67, 66, 201, 202, 67, 67, 67, 201, 202]);
  expect(passages).toMatchObject([
    { memory: 0, document: "d1", start: 0, end: 4, tokens: 4 },
    { memory: 0, document: "d2", start: 0, end: 3, tokens: 3 },
  ]);
  expect(passages[0].similarity).toBeCloseTo(2 / Math.sqrt(5), 1);
});

test.each([0, 1, 3, 4, 5, 7, 8, 9, 10, 100])("passages take %i tokens at most; the last one is cut", async (room) => {
  const { ids, passages } = await found([many(65, 4), many(66, 4)], 1, room);
  expect(ids.length).toBeLessThanOrEqual(room);
  const taken = Math.max(0, Math.min(4, room - 3));
  const second = Math.max(0, Math.min(4, room - 3 - 4 - 2));
  const expected = [taken, second].filter((tokens) => tokens > 0).map((tokens) => [tokens, tokens]);
  expect(passages.map(({ tokens, end }) => [tokens, end])).toEqual(expected);
  expect(ids.length > 0).toBe(taken > 0);
});
