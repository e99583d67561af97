/**
 * GPT-2's vocabulary and a larger one, recovered from tiktoken's ranks: a token's id is its rank. The pieces of a token's merge are found
 * by merging its bytes with lower ranks.
 */
import { get_encoding, Tiktoken, type TiktokenEncoding } from "tiktoken";
import { byteAlphabet, packTokenizer } from "../../shared/tokenizer/pack.ts";
import type { PreTokenizerName } from "../../shared/tokenizer/pre-tokens.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { packGpt2 } from "./gpt2-tokenizer.ts";

const gpt2EndOfTextId = 50256;
/** tiktoken's spelling of GPT-2's pattern; its \s is Unicode's White_Space. */
const gpt2Pattern = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

/** An encoding's first `size` pieces with their ranks, spelled in `byteAlphabet`, and its merges. */
function recovered(name: TiktokenEncoding, size: number): { ranks: Map<string, number>; merges: string[] } {
  const encoding = get_encoding(name);
  const alphabet = byteAlphabet();
  const spellings: string[] = [];
  for (let id = 0; id < size; id++) {
    spellings.push(Array.from(encoding.decode_single_token_bytes(id), (byte) => alphabet[byte]).join(""));
  }
  encoding.free();
  const ranks = new Map(spellings.map((spelling, id) => [spelling, id]));
  return { ranks, merges: spellings.slice(256).map((spelling, i) => partsOf(spelling, 256 + i, ranks).join(" ")) };
}

/** 100,256 pieces. The first 100,000 are also the first of Llama 3's. */
export function cl100kTokenizer(preTokenizer: PreTokenizerName): Tokenizer {
  const endOfTextId = 100_257;
  const { ranks: ids, merges } = recovered("cl100k_base", 100_256);
  const specials = [100_256, endOfTextId].map((id) => ({ id, text: `<${id}>`, isShown: false }));
  const roles = { endOfTextId, eosId: endOfTextId, bosId: null, addsBos: false };
  return Tokenizer.fromTensors(packTokenizer({ preTokenizer, ids, merges, specials, roles, looksUpWhole: false }));
}

export function gpt2Tokenizer(): Tokenizer {
  const { ranks, merges } = recovered("gpt2", gpt2EndOfTextId);
  return Tokenizer.fromTensors(
    packGpt2({ pieces: [...ranks.keys(), "<|endoftext|>"], merges, endOfTextId: gpt2EndOfTextId }),
  );
}

/** The two pieces that merge into `spelling`. */
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

/** tiktoken with another vocabulary, whose ids must be in order of rank. */
export function tiktokenOver(pieces: readonly Uint8Array[], pattern = gpt2Pattern): Tiktoken {
  const ranks = pieces.map((piece) => Buffer.from(piece).toString("base64")).join(" ");
  return new Tiktoken(`! 0 ${ranks}`, {}, pattern);
}
