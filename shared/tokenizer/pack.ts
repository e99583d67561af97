/**
 * Packs a vocabulary into the tensors that Tokenizer reads:
 *   pre_tokenizer   U8  [n]      name of the pre-tokeniser (pre-tokens.ts)
 *   byte_ids        I32 [256]    token id of each byte; -1 for a byte without one, which encoding drops
 *   merges          ids [M, 2]   token ids of each pair, in order of rank
 *   merged_ids      ids [M]      token id of each merge; left out if all are the highest byte's id + 1 + rank
 *   whole_ids       ids [W]      pieces that merging does not make (`looksUpWhole`); left out if there are none
 *   special_ids     ids [S]      special tokens
 *   special_texts   U8  [n]      their spellings, NUL between them
 *   special_shown   U8  [S]      1 if an answer's text includes the token when it is generated
 *   end_of_text_id, eos_id, bos_id  ids [1]; bos_id is left out if the model has none
 *   adds_bos        U8  [1]      1 if prompts that are no conversation begin with bos_id
 * Ids are U16 if all are below 65,536, else U32.
 */
import { setLimits } from "../artifacts/limits.ts";
import { type TensorFile, tensorFrom } from "../artifacts/tensor-file.ts";
import { type PreTokenizer, type PreTokenizerName, preTokenizers } from "./pre-tokens.ts";
import { Tokenizer } from "./tokenizer.ts";
import { noToken, type SpecialRoles, type SpecialToken } from "./vocabulary.ts";

export interface VocabularySource {
  preTokenizer: PreTokenizerName;
  /** Token ids of pieces, spelled in `byteAlphabet`, and of special tokens, spelled as they are. */
  ids: ReadonlyMap<string, number>;
  /** Two pieces with a space between them, in order of rank. */
  merges: readonly string[];
  specials: readonly SpecialToken[];
  roles: SpecialRoles;
  /** Whether a pre-token that is a piece is encoded as this piece, even if merging would not make the piece. */
  looksUpWhole: boolean;
}

/** Returns the tensors of tokenizer.safetensors. Throws an Error that names a missing or invalid entry. */
export function packTokenizer(source: VocabularySource): TensorFile {
  const { preTokenizer, ids, merges, specials, roles, looksUpWhole } = source;
  const unexplained = new Map([...ids].map(([spelling, id]) => [id, spelling]));
  for (const { id } of specials) unexplained.delete(id);
  const size = 1 + [...ids.values(), ...specials.map(({ id }) => id)].reduce((a, b) => Math.max(a, b));
  if (size > setLimits.vocabulary) {
    throw new Error(`the vocabulary has ${size} ids, the limit vocabulary is ${setLimits.vocabulary}`);
  }
  const take = (spelling: string): number => {
    const id = ids.get(spelling);
    if (id === undefined) throw new Error(`the vocabulary has no entry for ${JSON.stringify(spelling)}`);
    unexplained.delete(id);
    return id;
  };
  const byteIds = Int32Array.from(byteAlphabet(), (spelling) => (ids.has(spelling) ? take(spelling) : noToken));
  const pairs: number[] = [];
  const mergedIds: number[] = [];
  for (const merge of merges) {
    const [left, right, ...rest] = merge.split(" ");
    if (!left || !right || rest.length > 0) throw new Error(`the merge ${JSON.stringify(merge)} is not a pair`);
    pairs.push(take(left), take(right));
    mergedIds.push(take(left + right));
  }
  if (unexplained.size > 0) {
    const [[id, spelling]] = unexplained;
    throw new Error(
      `${unexplained.size} entries of the vocabulary are no byte, merge or special token, among them ${JSON.stringify(spelling)} (${id})`,
    );
  }

  const idTensor = (values: readonly number[], shape = [values.length]) =>
    tensorFrom(size > 2 ** 16 ? Uint32Array.from(values) : Uint16Array.from(values), shape);
  const bytesOf = (text: string) => {
    const bytes = new TextEncoder().encode(text);
    return tensorFrom(bytes, [bytes.length]);
  };
  const shown = Uint8Array.from(specials, ({ isShown }) => Number(isShown));
  const file: TensorFile = new Map([
    ["pre_tokenizer", bytesOf(preTokenizer)],
    ["byte_ids", tensorFrom(byteIds, [256])],
    ["merges", idTensor(pairs, [mergedIds.length, 2])],
    ["special_ids", idTensor(specials.map(({ id }) => id))],
    ["special_texts", bytesOf(specials.map(({ text }) => text).join("\0"))],
    ["special_shown", tensorFrom(shown, [shown.length])],
    ["end_of_text_id", idTensor([roles.endOfTextId])],
    ["eos_id", idTensor([roles.eosId])],
    ["adds_bos", tensorFrom(Uint8Array.of(Number(roles.addsBos)), [1])],
  ]);
  if (roles.bosId !== null) file.set("bos_id", idTensor([roles.bosId]));
  const first = 1 + Math.max(...byteIds);
  if (mergedIds.some((id, rank) => id !== first + rank)) file.set("merged_ids", idTensor(mergedIds));
  if (looksUpWhole) {
    const wholeIds = unreachable(Tokenizer.fromTensors(file), preTokenizers[preTokenizer], mergedIds);
    if (wholeIds.length > 0) file.set("whole_ids", idTensor(wholeIds));
  }
  return file;
}

/** Ids of pieces that can be a whole pre-token, but are not made by merging their bytes. */
function unreachable(tokenizer: Tokenizer, { endOf }: PreTokenizer, mergedIds: readonly number[]): number[] {
  return [...new Set(mergedIds)].filter((id) => {
    const text = tokenizer.decode([id]);
    return !text.includes("\ufffd") && endOf(text, 0) === text.length && tokenizer.encode(text).length > 1;
  });
}

/** vocab.json's character of each byte: printable Latin-1 as itself, the other 68 as U+0100 and up (`bytes_to_unicode` in GPT-2's code). */
export function byteAlphabet(): string[] {
  let nextStandIn = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCharCode(printable ? byte : nextStandIn++);
  });
}
