import { expect, test } from "vitest";
import { keyScale, writeKey } from "../../../../gpu-backend/memory/keys.ts";
import { packMemoryHead, unpackMemory } from "../../../../gpu-backend/memory/memory.ts";

const manifestHash = "ab".repeat(32);
const shape = { manifestHash, hiddenSize: 4, vocabularySize: 100 };
/** A document of these ids, three bytes each. */
const documentOf = (name: string, ...ids: number[]) => ({
  name,
  ids: Int32Array.from(ids),
  ends: Int32Array.from(ids, (_, i) => 3 * (i + 1)),
});
const documents = [documentOf("a \u0000 ü", 5, 6, 7), documentOf("one", 8), documentOf("b", 9, 1)];
const keys = Int8Array.of(1, 2, 3, 4, 5, 6, 7, 8, -1, -2, -3, -4);
const fileOf = (some = documents) => Buffer.concat([packMemoryHead(some, 4, manifestHash), Buffer.from(keys.buffer)]);

test("a memory has a key for each token that follows another, and its place in its document", () => {
  expect(unpackMemory(fileOf(), shape)).toEqual({
    keys,
    nextIds: Int32Array.of(6, 7, 1),
    starts: Int32Array.of(3, 6, 3),
    ends: Int32Array.of(6, 9, 6),
    documents: [
      { name: "a \u0000 ü", firstId: 5, end: 2 },
      { name: "one", firstId: 8, end: 2 },
      { name: "b", firstId: 9, end: 3 },
    ],
  });
  const alone = unpackMemory(packMemoryHead([documents[1]], 4, manifestHash), shape);
  expect(alone).toMatchObject({ keys: new Int8Array(0), documents: [{ name: "one", end: 0 }] });
});

test.each([
  ["another manifest", { ...shape, manifestHash: "cd".repeat(32) }, "made for manifest abab"],
  ["another width", { ...shape, hiddenSize: 8 }, "keys is I8 [3,4], expected I8 [3,8]"],
  ["another vocabulary", { ...shape, vocabularySize: 9 }, "a token id is not below 9"],
])("a memory is refused for %s", (_, wanted, message) => {
  expect(() => unpackMemory(fileOf(), wanted)).toThrow(message);
});

test("a memory is refused with keys missing, and with a token that ends before it starts", () => {
  expect(() => unpackMemory(fileOf().subarray(0, -4), shape)).toThrow("keys ends at");
  const bad = { ...documents[0], ends: Int32Array.of(3, 2, 9) };
  expect(() => unpackMemory(fileOf([bad, ...documents.slice(1)]), shape)).toThrow("ends before it starts");
});

test("a key has the direction of its state, also where one element is most of it", () => {
  const key = new Int8Array(100);
  for (const most of [0, -30, 3000]) {
    const state = Float32Array.from(key, (_, d) => (d === 7 ? most : d % 3));
    writeKey(state, key);
    const factor = keyScale / Math.hypot(...state);
    expect([...key]).toEqual(Array.from(state, (x) => Math.round(x * factor)));
  }
  expect(key[7]).toBe(127);
  writeKey(new Float32Array(100), key);
  expect(key).toEqual(new Int8Array(100));
});
