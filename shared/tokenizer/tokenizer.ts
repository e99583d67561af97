/**
 * Byte-level BPE as GPT-2 uses it: text ↔ token ids of any vocabulary made of the 256 bytes, merges and one
 * end-of-text token. Not here: reading vocab.json and merges.txt (pack.ts), decoding token by token (text-stream.ts).
 */
import { tokenizerFile } from "../artifacts/manifest.ts";
import type { TensorFile } from "../artifacts/tensor-file.ts";
import { MergeTable } from "./merge-table.ts";
import { Merger } from "./merger.ts";
import { isPairAt, preTokenEnd } from "./pre-tokens.ts";
import { readVocabulary } from "./vocabulary.ts";

/** Cached pre-tokens, since words repeat. The cache is cleared when it is full. */
const maxCachedPreTokens = 8192;
/** Longest cached pre-token. A longer slice is a view that keeps its whole text in memory (V8 copies below 13 characters). */
const maxCachedLength = 12;

const noBytes = new Uint8Array(0);

export class Tokenizer {
  readonly vocabularySize: number;
  readonly endOfTextId: number;
  readonly #byteIds: Uint16Array; // [256]
  readonly #merger: Merger;
  readonly #cache = new Map<string, readonly number[]>();
  /** Piece by token id; merged ones are created on first use. */
  readonly #pieces: Uint8Array[];
  readonly #pairs: Uint16Array; // [M, 2]
  readonly #rankById: Uint16Array; // [V], of merged ids
  /** [V] Bytes of the longest piece that contains an id, its own included; Infinity beyond float32. */
  readonly #longestWith: Float32Array;
  /** Bytes of the longest piece. */
  readonly #longestPiece: number;
  #scratch = new Uint16Array(256);

  /** Reads the tensors of pack.ts. Throws an Error that names a tensor that is missing, misshapen or inconsistent. */
  static fromTensors(file: TensorFile): Tokenizer {
    return new Tokenizer(file);
  }

  private constructor(file: TensorFile) {
    const { size, byteIds, pairs, mergedIds, endOfTextId, endOfText } = readVocabulary(file);
    this.vocabularySize = size;
    this.endOfTextId = endOfTextId;
    this.#byteIds = byteIds;
    this.#pairs = pairs;
    this.#merger = new Merger(new MergeTable(pairs), mergedIds);
    this.#rankById = new Uint16Array(size);
    mergedIds.forEach((id, rank) => {
      this.#rankById[id] = rank;
    });
    this.#longestWith = longestPieces(pairs, mergedIds, size);
    this.#longestPiece = this.#longestWith.reduce((longest, bytes) => Math.max(longest, bytes), 1);
    this.#pieces = new Array(size);
    for (let byte = 0; byte < 256; byte++) this.#pieces[byteIds[byte]] = Uint8Array.of(byte);
    this.#pieces[endOfTextId] = endOfText;
  }

  /**
   * Token ids of a text. The spelling of the end-of-text token is ordinary text. If the text has more than `maxTokens` tokens,
   * returns `maxTokens + 1` ids of its beginning, at a cost that depends on `maxTokens` and not on the length of the text. These are
   * the first ids of the whole text, except in a pre-token that crosses the limit.
   */
  encode(text: string, maxTokens = Number.POSITIVE_INFINITY): number[] {
    const ids: number[] = [];
    // A code unit is at least one byte, so this many code units make more than `maxTokens` tokens.
    const length = Math.min(text.length, (maxTokens + 1) * this.#longestPiece);
    const read = length < text.length ? text.slice(0, length) : text;
    for (let start = 0; start < length && ids.length <= maxTokens; ) {
      const end = preTokenEnd(read, start);
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

  /** The text of token ids; invalid UTF-8 becomes U+FFFD. Throws a RangeError for an id outside the vocabulary. */
  decode(ids: readonly number[]): string {
    const pieces = ids.map((id) => this.pieceOf(id));
    const bytes = new Uint8Array(pieces.reduce((total, piece) => total + piece.length, 0));
    let length = 0;
    for (const piece of pieces) {
      bytes.set(piece, length);
      length += piece.length;
    }
    return new TextDecoder("utf-8", { fatal: false, ignoreBOM: true }).decode(bytes);
  }

  /** The bytes of a token id; do not modify them. Throws a RangeError for an id outside the vocabulary. */
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

  /** Whether an id is a special token, which no text spells. Only a chat template and the model write one. */
  isSpecial(id: number): boolean {
    return id === this.endOfTextId;
  }

  /** Throws an Error that names the first of a model's stop ids that is no special token. */
  requireSpecial(stopIds: readonly number[]): void {
    const other = stopIds.find((id) => !this.isSpecial(id));
    if (other !== undefined) throw new Error(`${tokenizerFile}: the stop id ${other} is no special token`);
  }

  /** The bytes that a token id adds to a text: its piece, or none for a special token. Throws a RangeError as `pieceOf`. */
  textPieceOf(id: number): Uint8Array {
    return this.isSpecial(id) ? noBytes : this.pieceOf(id);
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

  /** Appends the ids of a pre-token. If it has more than `maxTokens`, appends more than `maxTokens` ids of its beginning. */
  #encodePreToken(text: string, start: number, end: number, out: number[], maxTokens: number): void {
    // A code unit needs at most 3 bytes, a surrogate pair 4.
    if (this.#scratch.length < 3 * (end - start)) this.#scratch = new Uint16Array(3 * (end - start));
    const length = this.#writeByteIds(text, start, end);
    this.#merger.merge(this.#scratch, length > maxTokens ? this.#lengthExceeding(maxTokens, length) : length, out);
  }

  /**
   * The smallest n so that the first n byte ids in scratch make more than `maxTokens` tokens however they merge; `length` if no
   * n up to `length` is known to. Lower bound of the tokens of n bytes: Σ 1 / longest(byte), where longest(byte) is the
   * length of the longest piece that contains the byte ("a": 32 bytes, "z": 17).
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

  /** Writes the byte ids of text[start, end) in UTF-8, a lone surrogate as U+FFFD, and returns their number. */
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
    return length;
  }
}

/**
 * Strings of digits are not cached: V8 hashes them by their value, without a seed, so that a caller can choose ones that all
 * collide in a Map.
 */
function isDigit(codeUnit: number): boolean {
  return codeUnit >= 0x30 && codeUnit <= 0x39;
}

/** By id, the bytes of the longest piece that contains it, itself included. */
function longestPieces(pairs: Uint16Array, mergedIds: Uint16Array, vocabularySize: number): Float32Array {
  const longest = new Float32Array(vocabularySize).fill(1);
  // Parts have lower ranks than their merge: lengths propagate by rising rank, maxima by falling rank.
  for (let rank = 0; rank < mergedIds.length; rank++) {
    longest[mergedIds[rank]] = longest[pairs[2 * rank]] + longest[pairs[2 * rank + 1]];
  }
  for (let rank = mergedIds.length - 1; rank >= 0; rank--) {
    const whole = longest[mergedIds[rank]];
    for (const part of [pairs[2 * rank], pairs[2 * rank + 1]]) longest[part] = Math.max(longest[part], whole);
  }
  return longest;
}
