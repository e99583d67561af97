/** Byte-level BPE as in GPT-2, Llama 3 and Qwen. Shapes: V ids, M merges. */
import { setLimits } from "../artifacts/limits.ts";
import { tokenizerFile } from "../artifacts/manifest.ts";
import type { TensorFile } from "../artifacts/tensor-file.ts";
import { joinArrays } from "../bytes.ts";
import { MergeTable } from "./merge-table.ts";
import { Merger } from "./merger.ts";
import { isPairAt, type PreTokenizer, preTokenizers } from "./pre-tokens.ts";
import { noToken, readVocabulary, type SpecialRoles, type SpecialToken, type Vocabulary } from "./vocabulary.ts";

/** Maximum entries of the cache. A full cache is cleared. */
const maxCachedPreTokens = 8192;
/** Maximum characters of a cached pre-token. From 13 on, V8's slices are views that keep the whole text alive. */
const maxCachedLength = 12;

const noBytes = new Uint8Array(0);

export class Tokenizer {
  readonly vocabularySize: number;
  readonly specials: readonly SpecialToken[];
  readonly roles: SpecialRoles;
  readonly #preTokenizer: PreTokenizer;
  readonly #byteIds: Int32Array; // [256]
  readonly #merger: Merger;
  readonly #cache = new Map<string, readonly number[]>();
  /** Pieces by token id. Merged pieces are made on first use. */
  readonly #pieces: Uint8Array[];
  readonly #pairs: Uint32Array; // [M, 2]
  readonly #rankById: Uint32Array; // [V], for merged ids
  readonly #specialById: ReadonlyMap<number, SpecialToken>;
  /** Ids of pre-tokens that merging does not make (`wholeIds`), by text. */
  readonly #wholes: ReadonlyMap<string, number>;
  /** For each id, the bytes of the longest piece that contains the id's piece, [V]. */
  readonly #longestWith: Uint16Array;
  readonly #longestPiece: number;
  readonly #losesBytes: boolean;
  #scratch = new Int32Array(256);

  static fromTensors(file: TensorFile): Tokenizer {
    return new Tokenizer(readVocabulary(file));
  }

  private constructor(vocabulary: Vocabulary) {
    const { size, byteIds, pairs, mergedIds, specials, wholeIds } = vocabulary;
    this.vocabularySize = size;
    this.specials = specials;
    this.roles = vocabulary.roles;
    this.#preTokenizer = preTokenizers[vocabulary.preTokenizer];
    this.#byteIds = byteIds;
    this.#losesBytes = byteIds.includes(noToken);
    this.#pairs = pairs;
    this.#merger = new Merger(new MergeTable(pairs), mergedIds);
    this.#rankById = vocabulary.rankById;
    this.#longestWith = longestPieces(vocabulary);
    this.#longestPiece = this.#longestWith.reduce((longest, bytes) => Math.max(longest, bytes), 1);
    this.#pieces = new Array(size);
    for (let byte = 0; byte < 256; byte++)
      if (byteIds[byte] !== noToken) this.#pieces[byteIds[byte]] = Uint8Array.of(byte);
    this.#specialById = new Map(specials.map((special) => [special.id, special]));
    for (const { id, text } of specials) this.#pieces[id] = new TextEncoder().encode(text);
    this.#wholes = new Map(Array.from(wholeIds, (id) => [this.decode([id]), id]));
  }

  /** Ids before a prompt that is no conversation. */
  get textStart(): readonly number[] {
    const { bosId, addsBos } = this.roles;
    return addsBos && bosId !== null ? [bosId] : [];
  }

  /**
   * Encodes spellings of special tokens as ordinary text. Drops bytes that the vocabulary lacks. Of a text with more than `maxTokens`
   * tokens, encodes only the beginning: the result has `maxTokens + 1` ids, the last of which may be wrong.
   */
  encode(text: string, maxTokens = Number.POSITIVE_INFINITY): number[] {
    // `length` code units make more than `maxTokens` tokens, unless bytes are dropped or NFC shortens the text.
    for (let length = (maxTokens + 1) * this.#longestPiece; ; length *= 2) {
      const ids = this.#encodeBeginning(length < text.length ? text.slice(0, length) : text, maxTokens);
      if (ids.length > maxTokens || length >= text.length) return ids;
    }
  }

  #encodeBeginning(text: string, maxTokens: number): number[] {
    const ids: number[] = [];
    const read = this.#preTokenizer.isNormalised ? text.normalize("NFC") : text;
    for (let start = 0; start < read.length && ids.length <= maxTokens; ) {
      const end = this.#preTokenizer.endOf(read, start);
      if (end - start > maxCachedLength || isDigit(read.charCodeAt(start))) {
        this.#encodePreToken(read, start, end, ids, maxTokens - ids.length);
      } else {
        for (const id of this.#cachedIds(read.slice(start, end))) ids.push(id);
      }
      start = end;
    }
    if (ids.length > maxTokens) ids.length = maxTokens + 1;
    return ids;
  }

  /** Invalid UTF-8 becomes U+FFFD. Throws a RangeError for an id outside the vocabulary. */
  decode(ids: readonly number[]): string {
    return decoded(ids.map((id) => this.pieceOf(id)));
  }

  /** Leaves out special tokens that are not shown. Throws a RangeError as `decode` does. */
  decodeText(ids: readonly number[]): string {
    return decoded(ids.map((id) => this.textPieceOf(id)));
  }

  /** Do not modify the result. Throws a RangeError for an id outside the vocabulary. */
  pieceOf(id: number): Uint8Array {
    if (!(Number.isInteger(id) && id >= 0 && id < this.vocabularySize)) {
      throw new RangeError(`token id ${id} is not in the vocabulary of ${this.vocabularySize}`);
    }
    let piece = this.#pieces[id];
    if (piece === undefined) {
      const rank = this.#rankById[id];
      const left = this.pieceOf(this.#pairs[2 * rank]);
      const right = this.pieceOf(this.#pairs[2 * rank + 1]);
      piece = new Uint8Array(left.length + right.length);
      piece.set(left);
      piece.set(right, left.length);
      this.#pieces[id] = piece;
    }
    return piece;
  }

  isSpecial(id: number): boolean {
    return this.#specialById.has(id);
  }

  requireSpecial(stopIds: readonly number[]): void {
    const other = stopIds.find((id) => !this.isSpecial(id));
    if (other !== undefined) throw new Error(`${tokenizerFile}: the stop id ${other} is no special token`);
  }

  /** Bytes of a token in an answer; none for a special token that is not shown. Throws a RangeError as `pieceOf` does. */
  textPieceOf(id: number): Uint8Array {
    return this.#specialById.get(id)?.isShown === false ? noBytes : this.pieceOf(id);
  }

  #cachedIds(preToken: string): readonly number[] {
    const known = this.#cache.get(preToken);
    if (known) return known;
    const ids: number[] = [];
    this.#encodePreToken(preToken, 0, preToken.length, ids, Number.POSITIVE_INFINITY);
    if (this.#cache.size >= maxCachedPreTokens) this.#cache.clear();
    this.#cache.set(preToken, ids);
    return ids;
  }

  /** Appends the ids of a pre-token, or of a beginning that has more than `maxTokens` ids. */
  #encodePreToken(text: string, start: number, end: number, out: number[], maxTokens: number): void {
    if (this.#wholes.size > 0 && end - start <= setLimits.pieceBytes) {
      const whole = this.#wholes.get(text.slice(start, end));
      if (whole !== undefined) {
        out.push(whole);
        return;
      }
    }
    // UTF-8 has at most 3 bytes per code unit.
    if (this.#scratch.length < 3 * (end - start)) this.#scratch = new Int32Array(3 * (end - start));
    const length = this.#writeByteIds(text, start, end);
    if (length === 0) return;
    this.#merger.merge(this.#scratch, length > maxTokens ? this.#lengthExceeding(maxTokens, length) : length, out);
  }

  /**
   * The smallest n such that the first n bytes make more than `maxTokens` tokens, however they merge; at most `length`. n bytes make at
   * least Σ 1 / longest(byte) tokens, where longest(byte) is the length of the longest piece with this byte.
   */
  #lengthExceeding(maxTokens: number, length: number): number {
    let tokens = 0;
    for (let i = 0; i < length; i++) {
      tokens += 1 / this.#longestWith[this.#scratch[i]];
      // The margin covers rounding errors.
      if (tokens > maxTokens + 1e-3) return i + 1;
    }
    return length;
  }

  /** Writes the byte ids of text[start, end) in UTF-8, a lone surrogate as U+FFFD. Returns their number. */
  #writeByteIds(text: string, start: number, end: number): number {
    const ids = this.#byteIds;
    const target = this.#scratch;
    let length = 0;
    for (let i = start; i < end; i++) {
      let point = text.charCodeAt(i);
      if (point < 0x80) {
        target[length++] = ids[point];
        continue;
      }
      if (isPairAt(text, i)) point = text.codePointAt(i++)!;
      else if ((point & 0xf800) === 0xd800) point = 0xfffd;
      if (point < 0x800) target[length++] = ids[0xc0 | (point >> 6)];
      else {
        if (point < 0x10000) target[length++] = ids[0xe0 | (point >> 12)];
        else {
          target[length++] = ids[0xf0 | (point >> 18)];
          target[length++] = ids[0x80 | ((point >> 12) & 0x3f)];
        }
        target[length++] = ids[0x80 | ((point >> 6) & 0x3f)];
      }
      target[length++] = ids[0x80 | (point & 0x3f)];
    }
    return this.#losesBytes ? withoutLost(target, length) : length;
  }
}

/** Digits are not cached: V8 hashes strings of digits without a seed, so a caller could choose many that collide. */
function isDigit(codeUnit: number): boolean {
  return codeUnit >= 0x30 && codeUnit <= 0x39;
}

function decoded(pieces: readonly Uint8Array[]): string {
  return new TextDecoder("utf-8", { fatal: false, ignoreBOM: true }).decode(joinArrays(Uint8Array, pieces));
}

function withoutLost(ids: Int32Array, length: number): number {
  let kept = 0;
  for (let i = 0; i < length; i++) if (ids[i] !== noToken) ids[kept++] = ids[i];
  return kept;
}

/** For each id, the bytes of the longest piece that contains the id's piece, [V]. */
function longestPieces({ pairs, mergedIds, lengths }: Vocabulary): Uint16Array {
  const longest = lengths.slice();
  // Longest pieces first, so that a piece's maximum is final before its parts take it over.
  const byLength: number[][] = Array.from({ length: setLimits.pieceBytes + 1 }, () => []);
  for (let rank = 0; rank < mergedIds.length; rank++) byLength[lengths[mergedIds[rank]]].push(rank);
  for (const rank of byLength.reverse().flat()) {
    const whole = longest[mergedIds[rank]];
    for (const part of [pairs[2 * rank], pairs[2 * rank + 1]]) longest[part] = Math.max(longest[part], whole);
  }
  return longest;
}
