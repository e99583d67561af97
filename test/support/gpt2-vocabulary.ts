/**
 * GPT-2's vocabulary, recovered from the ranks that tiktoken ships: there a token's id is its rank, and what a token
 * was merged from is what its bytes merge into with lower ranks alone.
 */
import { get_encoding, Tiktoken } from "tiktoken";
import { byteAlphabet, packTokenizer } from "../../shared/tokenizer/pack.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";

export const gpt2EndOfTextId = 50256;
/** tiktoken's spelling of GPT-2's pattern; its \s is Unicode's White_Space. */
const gpt2Pattern = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

export interface VocabularyFiles {
  vocabJson: string;
  mergesTxt: string;
}

/** vocab.json and merges.txt of GPT-2. */
export function gpt2VocabularyFiles(): VocabularyFiles {
  const encoding = get_encoding("gpt2");
  const alphabet = byteAlphabet();
  const spellings: string[] = [];
  for (let id = 0; id < gpt2EndOfTextId; id++) {
    spellings.push(Array.from(encoding.decode_single_token_bytes(id), (byte) => alphabet[byte]).join(""));
  }
  encoding.free();
  const ranks = new Map(spellings.map((spelling, id) => [spelling, id]));
  const merges = spellings.slice(256).map((spelling, i) => partsOf(spelling, 256 + i, ranks).join(" "));
  const vocabulary = Object.fromEntries([...ranks, ["<|endoftext|>", gpt2EndOfTextId]]);
  return { vocabJson: JSON.stringify(vocabulary), mergesTxt: `#version: 0.2\n${merges.join("\n")}\n` };
}

export function gpt2Tokenizer(): Tokenizer {
  const { vocabJson, mergesTxt } = gpt2VocabularyFiles();
  return Tokenizer.fromTensors(packTokenizer(vocabJson, mergesTxt, gpt2EndOfTextId));
}

/** The two pieces that merge into `spelling`: greedy merging, lowest rank first, below `limit`. */
function partsOf(spelling: string, limit: number, ranks: Map<string, number>): string[] {
  const parts = [...spelling];
  while (parts.length > 2) {
    let best = 0;
    let bestRank = limit;
    for (let i = 0; i + 1 < parts.length; i++) {
      const rank = ranks.get(parts[i] + parts[i + 1]) ?? limit;
      if (rank < bestRank) [best, bestRank] = [i, rank];
    }
    if (bestRank === limit) throw new Error(`no merges lead to ${spelling}`);
    parts.splice(best, 2, parts[best] + parts[best + 1]);
  }
  return parts;
}

/** tiktoken over another vocabulary with GPT-2's pattern. Needs ids in order of rank. */
export function tiktokenOver(pieces: readonly Uint8Array[]): Tiktoken {
  const ranks = pieces.map((piece) => Buffer.from(piece).toString("base64")).join(" ");
  return new Tiktoken(`! 0 ${ranks}`, {}, gpt2Pattern);
}
