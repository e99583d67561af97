/** Reads tokenizer.safetensors. Every id must be a byte, a merge or a special token, and no piece may contain itself. */
import { setLimits } from "../artifacts/limits.ts";
import { tokenizerFile } from "../artifacts/manifest.ts";
import { alignedCopy, requireTensor, type Tensor, type TensorFile } from "../artifacts/tensor-file.ts";
import { type PreTokenizerName, preTokenizers } from "./pre-tokens.ts";

/** Text is never encoded to a special token. Only chat templates and the model write special tokens. */
export interface SpecialToken {
  id: number;
  text: string;
  isShown: boolean;
}

export interface Vocabulary {
  size: number; // V
  preTokenizer: PreTokenizerName;
  /** Token id of each byte, [256]; `noToken` for a byte that encoding drops. */
  byteIds: Int32Array;
  pairs: Uint32Array; // [M, 2], token ids of each pair, in order of rank
  mergedIds: Uint32Array; // [M], token id that each pair makes
  /** Bytes of each id's piece; 0 for a special token. */
  lengths: Uint16Array; // [V]
  /** Rank of the first merge that makes the id from bytes or from pieces of lower merges. */
  rankById: Uint32Array; // [V]
  /** Pieces that merging does not make. Whole pre-tokens are looked up among these pieces. */
  wholeIds: Uint32Array;
  specials: readonly SpecialToken[];
  roles: SpecialRoles;
}

export interface SpecialRoles {
  /** Separates documents, and stands for an empty prompt. */
  endOfTextId: number;
  eosId: number;
  bosId: number | null;
  /** Whether a prompt that is no conversation begins with `bosId`. */
  addsBos: boolean;
}

export const noToken = -1;

export function readVocabulary(file: TensorFile): Vocabulary {
  const preTokenizer = preTokenizerOf(file);
  const byteIds = new Int32Array(alignedCopy(requireTensor(file, "byte_ids", "I32", [256], tokenizerFile).bytes));
  const pairs = idsOf(file, "merges", [null, 2]);
  const merges = pairs.length / 2;
  if (merges > setLimits.merges) throw refused(`${merges} merges, the limit merges is ${setLimits.merges}`);
  const firstMerged = 1 + highest(byteIds);
  const mergedIds = file.has("merged_ids")
    ? idsOf(file, "merged_ids", [merges])
    : new Uint32Array(merges).map((_, rank) => firstMerged + rank);
  const specials = specialsOf(file);
  const special = specials.map(({ id }) => id);
  const size = 1 + Math.max(highest(byteIds), highest(mergedIds), highest(special));
  if (size > setLimits.vocabulary) throw refused(`${size} ids, the limit vocabulary is ${setLimits.vocabulary}`);
  const wholeIds = wholeIdsOf(file, size, special);
  const roles = rolesOf(file, special);
  const pieces = explainedPieces({ size, byteIds, pairs, mergedIds, special });
  return { size, preTokenizer, byteIds, pairs, mergedIds, ...pieces, wholeIds, specials, roles };
}

function explainedPieces(parts: Pick<Vocabulary, "size" | "byteIds" | "pairs" | "mergedIds"> & { special: number[] }) {
  const { size, byteIds, pairs, mergedIds, special } = parts;
  const lengths = new Uint16Array(size);
  const rankById = new Uint32Array(size);
  for (const id of byteIds) {
    if (id === noToken) continue;
    if (id < 0) throw refused(`byte_ids holds ${id}`);
    if (lengths[id] > 0) throw refused(`byte_ids: id ${id} is that of two bytes`);
    lengths[id] = 1;
  }
  const isSpecial = new Uint8Array(size);
  for (const id of special) {
    if (lengths[id] > 0) throw refused(`special_ids: id ${id} is that of a byte`);
    if (isSpecial[id]) throw refused(`special_ids: id ${id} is there twice`);
    isSpecial[id] = 1;
  }
  const sum = (rank: number) => {
    const [left, right] = [lengths[pairs[2 * rank]] || 0, lengths[pairs[2 * rank + 1]] || 0];
    return left > 0 && right > 0 ? left + right : 0;
  };
  for (const [rank, id] of mergedIds.entries()) {
    if (isSpecial[id]) throw refused(`merged_ids: merge ${rank} makes id ${id}, which is a special token`);
    const length = sum(rank);
    if (length > setLimits.pieceBytes) {
      throw refused(`merges: merge ${rank} makes ${length} bytes, the limit pieceBytes is ${setLimits.pieceBytes}`);
    }
    if (lengths[id] > 0 || length === 0) continue;
    lengths[id] = length;
    rankById[id] = rank;
  }
  // A second pass, because a merge may join pieces that later merges make.
  for (const [rank, id] of mergedIds.entries()) {
    const length = sum(rank);
    const [left, right] = [pairs[2 * rank], pairs[2 * rank + 1]];
    const missing = lengths[left] > 0 ? right : left;
    if (length === 0) throw refused(`merges: merge ${rank} joins id ${missing}, which nothing makes`);
    if (length !== lengths[id]) throw refused(`merged_ids: merge ${rank} makes id ${id}, which is something else`);
  }
  const unexplained = lengths.findIndex((length, id) => length === 0 && !isSpecial[id]);
  if (unexplained >= 0) throw refused(`id ${unexplained} of ${size} is neither a byte nor a merge nor a special token`);
  return { lengths, rankById };
}

function wholeIdsOf(file: TensorFile, size: number, special: readonly number[]): Uint32Array {
  if (!file.has("whole_ids")) return new Uint32Array(0);
  const ids = idsOf(file, "whole_ids", [null]);
  if (ids.length > size) throw refused(`whole_ids has ${ids.length} ids, the vocabulary has ${size}`);
  const isSpecial = new Uint8Array(size);
  for (const id of special) isSpecial[id] = 1;
  const isThere = new Uint8Array(size);
  for (const id of ids) {
    if (id >= size || isSpecial[id]) throw refused(`whole_ids: id ${id} is no piece of text`);
    if (isThere[id]) throw refused(`whole_ids: id ${id} is there twice`);
    isThere[id] = 1;
  }
  return ids;
}

function specialsOf(file: TensorFile): SpecialToken[] {
  const ids = idsOf(file, "special_ids", [null]);
  if (ids.length > setLimits.specialTokens) {
    throw refused(`${ids.length} special tokens, the limit specialTokens is ${setLimits.specialTokens}`);
  }
  const shown = requireTensor(file, "special_shown", "U8", [ids.length], tokenizerFile).bytes;
  const texts = textOf(requireTensor(file, "special_texts", "U8", [null], tokenizerFile)).split("\0");
  if (texts.length !== ids.length) throw refused(`special_texts has ${texts.length} texts for ${ids.length} ids`);
  for (const text of texts) {
    if (text.length >= 1 && text.length <= setLimits.pieceBytes) continue;
    throw refused(`special_texts has a text of ${text.length} characters; it must have 1 to ${setLimits.pieceBytes}`);
  }
  return Array.from(ids, (id, i) => ({ id, text: texts[i], isShown: shown[i] !== 0 }));
}

function rolesOf(file: TensorFile, special: readonly number[]): SpecialRoles {
  const idOf = (name: string) => {
    const [id] = idsOf(file, name, [1]);
    if (!special.includes(id)) throw refused(`${name}: id ${id} is no special token`);
    return id;
  };
  const bosId = file.has("bos_id") ? idOf("bos_id") : null;
  const [addsBos] = requireTensor(file, "adds_bos", "U8", [1], tokenizerFile).bytes;
  if (addsBos !== 0 && bosId === null) throw refused("adds_bos is set and there is no bos_id");
  return { endOfTextId: idOf("end_of_text_id"), eosId: idOf("eos_id"), bosId, addsBos: addsBos !== 0 };
}

function preTokenizerOf(file: TensorFile): PreTokenizerName {
  const name = textOf(requireTensor(file, "pre_tokenizer", "U8", [null], tokenizerFile));
  if (Object.hasOwn(preTokenizers, name)) return name as PreTokenizerName;
  const known = Object.keys(preTokenizers).join(", ");
  throw refused(`pre_tokenizer is ${JSON.stringify(name.slice(0, 40))}; there are ${known}`);
}

function highest(ids: Int32Array | Uint32Array | readonly number[]): number {
  let most = -1;
  for (const id of ids) if (id > most) most = id;
  return most;
}

function textOf({ bytes }: Tensor): string {
  return new TextDecoder().decode(bytes);
}

/** Ids have 16 bits if all fit, else 32. */
function idsOf(file: TensorFile, name: string, shape: (number | null)[]): Uint32Array {
  const dtype = file.get(name)?.dtype === "U32" ? "U32" : "U16";
  const { bytes } = requireTensor(file, name, dtype, shape, tokenizerFile);
  const copy = alignedCopy(bytes);
  return dtype === "U32" ? new Uint32Array(copy) : Uint32Array.from(new Uint16Array(copy));
}

function refused(why: string): Error {
  return new Error(`${tokenizerFile}: ${why}`);
}
