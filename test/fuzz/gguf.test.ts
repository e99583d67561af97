/**
 * Damaged and hostile GGUF files, made by changes of a valid header. Reading one throws an Error of one line that names the file, or
 * returns a header whose tensors lie within the file without overlap. The number of bytes that are read is bounded in both cases.
 * Another seed, or more files: FUZZ_SEED=7 FUZZ_FILES=100000 npm test -- test/fuzz/gguf.test.ts
 */
import fc from "fast-check";
import { expect, test } from "vitest";
import { GgufHeader, ggufLimits } from "../../gpu-backend/models/gguf/header.ts";
import { fileOf } from "../support/gguf-bytes.ts";
import { writeGguf } from "../support/gguf-writer.ts";

const seed = Number(process.env.FUZZ_SEED) || (Date.now() % 1_000_000) + 1;
const runs = Number(process.env.FUZZ_FILES) || 3000;

const valid = writeGguf(
  {
    "general.architecture": { text: "llama" },
    "general.alignment": { u32: 32 },
    "llama.epsilon": { f32: 1e-5 },
    "tokenizer.tokens": { texts: ["a", "b", "ab"] },
    "tokenizer.types": { i32s: [1, 1, 3] },
  },
  [
    { name: "token_embd.weight", shape: [3, 32], values: new Float32Array(96), format: "q8_0" },
    { name: "blk.0.attn_q.weight", shape: [4, 64], values: new Float32Array(256), format: "q8_0" },
    { name: "output_norm.weight", shape: [32], values: new Float32Array(32), format: "f32" },
  ],
);
const headerBytes = new GgufHeader(fileOf(valid).file).tensors.get("token_embd.weight")!.at;

/** Values at which computed sizes overflow, for integers of each width. */
const extremes = [0n, 1n, 31n, 32n, 255n, 2n ** 16n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n];
const change = fc.oneof(
  fc.record({ at: fc.nat(headerBytes - 1), byte: fc.nat(255) }),
  fc.record({ at: fc.nat(headerBytes - 8), wide: fc.constantFrom(...extremes) }),
  fc.record({ at: fc.nat(headerBytes - 4), word: fc.constantFrom(...extremes.filter((value) => value < 2n ** 32n)) }),
  fc.record({ at: fc.nat(headerBytes), cut: fc.integer({ min: 1, max: 64 }) }),
  fc.record({ at: fc.nat(headerBytes), copy: fc.nat(headerBytes), length: fc.nat(64) }),
);
type Change = typeof change extends fc.Arbitrary<infer T> ? T : never;

function changed(bytes: Uint8Array, one: Change): Uint8Array {
  if ("cut" in one) return new Uint8Array(Buffer.concat([bytes.subarray(0, one.at), bytes.subarray(one.at + one.cut)]));
  const copy = bytes.slice();
  const view = new DataView(copy.buffer);
  if ("byte" in one) view.setUint8(one.at, one.byte);
  else if ("wide" in one) view.setBigUint64(one.at, one.wide, true);
  else if ("word" in one) view.setUint32(one.at, Number(one.word), true);
  else copy.copyWithin(one.at, one.copy, one.copy + one.length);
  return copy;
}

test("a damaged file is refused in one line, or read within bounds", { timeout: 60_000 }, () => {
  const outcomes = { read: 0, refused: 0 };
  fc.assert(
    fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), fc.boolean(), (changes, isVast) => {
      const bytes = changes.reduce<Uint8Array>(
        (all, one) => (all.length > headerBytes ? changed(all, one) : all),
        valid,
      );
      const { file, read } = fileOf(bytes, isVast ? 2 ** 45 : bytes.length);
      try {
        const header = new GgufHeader(file);
        outcomes.read++;
        let end = 0;
        for (const { at, bytes: length } of [...header.tensors.values()].sort((a, b) => a.at - b.at)) {
          expect(at).toBeGreaterThanOrEqual(end);
          end = at + length;
          expect(end).toBeLessThanOrEqual(file.bytes);
        }
      } catch (error) {
        outcomes.refused++;
        expect(error).toBeInstanceOf(Error);
        expect((error as Error).message).toMatch(/^model\.gguf[^\n]{1,300}$/);
      }
      // The header is read in windows, never the whole file, however large it claims to be.
      expect(read.bytes).toBeLessThanOrEqual(2 * ggufLimits.headerBytes);
      expect(read.largest).toBeLessThanOrEqual(ggufLimits.textBytes);
    }),
    { seed, numRuns: runs },
  );
  console.log(`seed ${seed}:`, outcomes);
  expect(outcomes.refused).toBeGreaterThan(outcomes.read / 100);
});
