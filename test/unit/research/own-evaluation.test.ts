/** Which documents a measurement of memories knows, and on which it measures. */
import { expect, test } from "vitest";
import { kindOf, promptTokens, scoredTokens } from "../../../gpu-backend/research/own/kinds.ts";

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
