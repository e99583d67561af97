import fc from "fast-check";
import { expect, it } from "vitest";
import { TextStream } from "../../../shared/tokenizer/text-stream.ts";

/** A stream over a vocabulary in which token id n is the n-th piece. */
function streamOf(pieces: readonly Uint8Array[], stops: readonly string[] = [], minTokens = 0) {
  return new TextStream((id) => pieces[id], stops, minTokens);
}

/** Pushes every piece. Returns the text that came out, up to a stop if there was one. */
function run(pieces: readonly Uint8Array[], stops: readonly string[]) {
  const stream = streamOf(pieces, stops);
  const texts: string[] = [];
  let stopped = false;
  for (let id = 0; id < pieces.length && !stopped; id++) {
    const result = stream.push(id);
    texts.push(result.text);
    stopped = result.stopped;
  }
  texts.push(stream.end());
  return { texts, text: texts.join(""), stopped, emitted: stream.emittedCharacters };
}

function cut(bytes: Uint8Array, at: readonly number[]): Uint8Array[] {
  const edges = [0, ...at.map((x) => x % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
  return edges.slice(1).map((end, i) => bytes.subarray(edges[i], end));
}

const utf8 = new TextEncoder();
const wholeText = (bytes: Uint8Array) => new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
const seed = 7;
const cuts = fc.array(fc.nat(), { maxLength: 12 });
const anyBytes = fc.oneof(
  fc.uint8Array({ maxLength: 40 }),
  fc.string({ unit: "binary", maxLength: 20 }).map((text) => utf8.encode(text)),
  // Bytes that begin or continue a character of UTF-8, in any order.
  fc
    .array(fc.constantFrom(0x41, 0x80, 0xbf, 0xc3, 0xe2, 0x82, 0xac, 0xf0, 0x9f, 0xa6, 0xef, 0xbb), { maxLength: 20 })
    .map((b) => Uint8Array.from(b)),
);

it("decoding token by token gives the text of the whole, wherever the pieces are cut", () => {
  fc.assert(
    fc.property(anyBytes, cuts, (bytes, at) => {
      const { text, emitted } = run(cut(bytes, at), []);
      expect(text).toBe(wholeText(bytes));
      expect(emitted).toBe([...text].length);
    }),
    { seed, numRuns: 2000, verbose: 1 },
  );
});

it("decoding token by token never emits U+FFFD for a character that is not complete yet", () => {
  fc.assert(
    fc.property(fc.string({ unit: "grapheme", maxLength: 20 }), cuts, (text, at) => {
      fc.pre(!text.includes("\ufffd"));
      expect(run(cut(utf8.encode(text), at), []).texts.join("|")).not.toContain("\ufffd");
    }),
    { seed, numRuns: 1000, verbose: 1 },
  );
});

// Few letters, so that stops overlap the text, each other and the cuts.
const letters = fc.constantFrom("a", "b", "é", "🦎");
const texts = fc.string({ unit: letters, maxLength: 24 });
const stopLists = fc.array(fc.string({ unit: letters, minLength: 1, maxLength: 5 }), { maxLength: 4 });

it("stop strings stop where one is first complete in the whole text, wherever the pieces are cut", () => {
  let stops = 0;
  fc.assert(
    fc.property(texts, cuts, stopLists, (text, at, wanted) => {
      const found = wanted
        .filter((stop) => text.includes(stop))
        .map((stop) => ({ start: text.indexOf(stop), end: text.indexOf(stop) + stop.length }))
        .sort((a, b) => a.end - b.end || a.start - b.start)
        .at(0);
      const result = run(cut(utf8.encode(text), at), wanted);
      expect(result.text).toBe(found ? text.slice(0, found.start) : text);
      expect(result.stopped).toBe(found !== undefined);
      if (found) stops++;
    }),
    { seed, numRuns: 3000, verbose: 1 },
  );
  expect(stops).toBeGreaterThan(500);
});

it("stop strings hold back only what may begin one", () => {
  fc.assert(
    fc.property(texts, cuts, stopLists, (text, at, wanted) => {
      const pieces = cut(utf8.encode(text), at);
      const stream = streamOf(pieces, wanted);
      let emitted = "";
      let bytes = 0;
      for (let id = 0; id < pieces.length; id++) {
        const result = stream.push(id);
        if (result.stopped) return;
        emitted += result.text;
        bytes += pieces[id].length;
        const complete = new TextDecoder().decode(utf8.encode(text).subarray(0, bytes), { stream: true });
        const held = complete.slice(emitted.length);
        expect(complete.startsWith(emitted)).toBe(true);
        expect(held === "" || wanted.some((stop) => stop.startsWith(held))).toBe(true);
      }
    }),
    { seed, numRuns: 1000, verbose: 1 },
  );
});

it("stop strings with half a surrogate pair in them never cut a character in two", () => {
  const result = run([utf8.encode("x🦎y")], ["\ud83e", "\udd8e"]);
  expect(result.text).toBe("x🦎y");
});

/** The number of pieces up to a stop, or null without one, and the text. */
function stoppedAfter(pieces: readonly string[], stops: readonly string[], minTokens: number) {
  const bytes = pieces.map((piece) => utf8.encode(piece));
  const stream = streamOf(bytes, stops, minTokens);
  let text = "";
  const at = bytes.findIndex((_, id) => {
    const pushed = stream.push(id);
    text += pushed.text;
    return pushed.stopped;
  });
  return [at < 0 ? null : at + 1, text + stream.end()];
}

it.each<[string, string[], string[], number, (number | string | null)[]]>([
  ["is text, and stops where it comes again", ["a", "b", "c", "a", "b", "d"], ["ab"], 3, [5, "abc"]],
  ["is text", ["a", "b", "c"], ["ab"], 3, [null, "abc"]],
  ["may begin that ends with the last of them", ["a", "b", "c"], ["ab"], 2, [2, ""]],
  ["may begin that ends after the last of them", ["x", "a", "bc", "d"], ["abcd"], 3, [4, "x"]],
  ["is text though it begins a longer one", ["ab", "x", "ab"], ["ab", "abc"], 2, [3, "abx"]],
  ["may begin a longer one that ends later", ["ab", "c"], ["ab", "abc"], 2, [2, ""]],
])("before a text has its least tokens a stop string %s", (_, pieces, stops, minTokens, expected) => {
  expect(stoppedAfter(pieces, stops, minTokens)).toEqual(expected);
});

it("an id without bytes has no text, and counts as a token", () => {
  const stream = new TextStream((id) => utf8.encode(id === 7 ? "" : "é!"), ["!é"], 2);
  expect([7, 1, 7, 2].map((id) => stream.push(id))).toEqual([
    { text: "", stopped: false },
    { text: "é", stopped: false },
    { text: "", stopped: false },
    { text: "", stopped: true },
  ]);
});
