/** Tokenizers of GPT-2's kind, from pieces and merges. */
import { tokenizerOfJson } from "../../gpu-backend/models/tokenizer-source.ts";
import type { TensorFile } from "../../shared/artifacts/tensor-file.ts";
import { packTokenizer } from "../../shared/tokenizer/pack.ts";

export interface Gpt2Vocabulary {
  /** In order of their ids. */
  pieces: readonly string[];
  /** Each pair is two pieces with a space between them. */
  merges: readonly string[];
  endOfTextId: number;
}

export function gpt2TokenizerJson({ pieces, merges, endOfTextId }: Gpt2Vocabulary) {
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, use_regex: true };
  const vocab: Record<string, number> = Object.fromEntries(pieces.map((piece, id) => [piece, id]));
  return {
    ...{ normalizer: null, pre_tokenizer: byteLevel, post_processor: null, decoder: byteLevel },
    added_tokens: [{ id: endOfTextId, content: pieces[endOfTextId], special: true }],
    model: { type: "BPE", vocab, merges: [...merges] },
  };
}

export function packGpt2(vocabulary: Gpt2Vocabulary): TensorFile {
  const { endOfTextId } = vocabulary;
  const model = { vocabularySize: 0, eosIds: [endOfTextId], bosId: endOfTextId };
  return packTokenizer(tokenizerOfJson(JSON.stringify(gpt2TokenizerJson(vocabulary)), model).vocabulary);
}
