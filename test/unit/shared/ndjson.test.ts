import fc from "fast-check";
import { expect, it } from "vitest";
import type { Frame } from "../../../shared/contracts/inference.ts";
import { FrameReader, frameLine, LineSplitter, maximumLineBytes } from "../../../shared/contracts/ndjson.ts";

const utf8 = new TextEncoder();
const seed = 3;

function chunksOf(bytes: Uint8Array, sizes: readonly number[]): Uint8Array[] {
  const chunks: Uint8Array[] = [];
  let start = 0;
  for (const size of sizes) {
    chunks.push(bytes.slice(start, start + size));
    start += size;
  }
  return [...chunks, bytes.slice(start)];
}

it("LineSplitter gives the same lines wherever the chunks are cut", () => {
  const line = fc.string({ unit: "grapheme", maxLength: 10 }).filter((text) => !text.includes("\n"));
  fc.assert(
    fc.property(fc.array(line, { maxLength: 8 }), line, fc.array(fc.nat({ max: 7 })), (lines, rest, sizes) => {
      const splitter = new LineSplitter();
      const bytes = utf8.encode([...lines, rest].join("\n"));
      const found = chunksOf(bytes, sizes).flatMap((chunk) => splitter.push(chunk));
      expect(found).toEqual(lines);
      expect(splitter.end()).toBe(rest);
    }),
    { seed, numRuns: 1000, verbose: 1 },
  );
});

it("LineSplitter takes a line of the greatest length and names the limit for a longer one", () => {
  const splitter = new LineSplitter();
  const longest = "a".repeat(maximumLineBytes);
  const lines = splitter.push(utf8.encode(`${longest}\n${longest.slice(1)}`));
  expect(lines.map(({ length }) => length)).toEqual([maximumLineBytes]);
  expect(splitter.push(utf8.encode("b"))).toEqual([]);
  expect(() => splitter.push(utf8.encode("c"))).toThrow(`more than ${maximumLineBytes} bytes`);
});

it("LineSplitter refuses bytes that are not UTF-8", () => {
  expect(() => new LineSplitter().push(Uint8Array.of(0x22, 0xc3, 0x22, 0x0a))).toThrow(TypeError);
});

const token: Frame = { type: "token", id: "s1", index: 0, tokenId: 7, logprob: -0.25 };
const error: Frame = { type: "error", id: "s1", kind: "internal", message: "säge\n2", retryAfterSeconds: null };
const bytes = utf8.encode(`${frameLine(token)}\n${frameLine(error)}`);

it("FrameReader reads what frameLine wrote, byte by byte, and skips blank lines", () => {
  const reader = new FrameReader();
  expect([...bytes].flatMap((byte) => reader.push(Uint8Array.of(byte)))).toEqual([token, error]);
  expect(() => reader.end()).not.toThrow();
});

it("FrameReader refuses a stream that ends inside a line", () => {
  const reader = new FrameReader();
  reader.push(bytes.subarray(0, bytes.length - 3));
  expect(() => reader.end()).toThrow("inside a line");
});

const invalid = ["{", '{"type":"token","id":"secret"}', "[]", "null", "secret"];
it.each(invalid)("FrameReader refuses %s by its length, and repeats nothing of it", (line) => {
  const push = () => new FrameReader().push(utf8.encode(`${line}\n`));
  expect(push).toThrow(`a line of ${line.length} characters`);
  expect(push).not.toThrow("secret");
});
