/**
 * Byte-level BPE as GPT-2 uses it: text ↔ token ids of any vocabulary made of the 256 bytes, merges and one
 * end-of-text token. Not here: reading vocab.json and merges.txt (pack.ts), decoding token by token (text-stream.ts).
 */
import type { TensorFile } from "../artifacts/tensor-file.ts";
import { MergeTable } from "./merge-table.ts";
import { Merger } from "./merger.ts";
import { isPairAt, preTokenEnd } from "./pre-tokens.ts";
import { readVocabulary } from "./vocabulary.ts";

/** Words repeat, so their ids are kept; at this many the memory starts afresh. */
const rememberedPreTokens = 8192;
/** A longer slice would be a view that keeps its whole text alive (V8 copies below 13 characters). */
const rememberedLength = 12;

export class Tokenizer {
  readonly vocabularySize: number;
  readonly endOfTextId: number;
  readonly #byteIds: Uint16Array; // [256]
  readonly #merger: Merger;
  readonly #remembered = new Map<string, readonly number[]>();
  /** Piece by token id, the longer ones made when first asked for. */
  readonly #pieces: Uint8Array[];
  readonly #pairs: Uint16Array; // [M, 2]
  readonly #rankById: Uint16Array; // [V], of merged ids
  #scratch = new Uint16Array(256);

  /** Reads what pack.ts wrote. Throws an Error that names the tensor that is missing, misshapen or inconsistent. */
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
    this.#pieces = new Array(size);
    for (let byte = 0; byte < 256; byte++) this.#pieces[byteIds[byte]] = Uint8Array.of(byte);
    this.#pieces[endOfTextId] = endOfText;
  }

  /** Token ids of a text. The end-of-text token's own spelling is text like any other. */
  encode(text: string): number[] {
    const ids: number[] = [];
    for (let start = 0; start < text.length; ) {
      const end = preTokenEnd(text, start);
      if (end - start > rememberedLength) this.#encodePreToken(text, start, end, ids);
      else for (const id of this.#recall(text.slice(start, end))) ids.push(id);
      start = end;
    }
    return ids;
  }

  /** Text of token ids; bytes that are not UTF-8 become U+FFFD. Throws a RangeError for an id out of the vocabulary. */
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

  /** The bytes of a token id; not to be changed. Throws a RangeError for an id out of the vocabulary. */
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

  #recall(preToken: string): readonly number[] {
    const known = this.#remembered.get(preToken);
    if (known) return known;
    const ids: number[] = [];
    this.#encodePreToken(preToken, 0, preToken.length, ids);
    if (this.#remembered.size >= rememberedPreTokens) this.#remembered.clear();
    this.#remembered.set(preToken, ids);
    return ids;
  }

  #encodePreToken(text: string, start: number, end: number, out: number[]): void {
    // No code unit needs more than 3 bytes; a pair needs 4.
    if (this.#scratch.length < 3 * (end - start)) this.#scratch = new Uint16Array(3 * (end - start));
    const length = this.#writeByteIds(text, start, end);
    this.#merger.merge(this.#scratch, length, out);
  }

  /** Writes the byte ids of text[start, end) in UTF-8, a lone surrogate as U+FFFD, and returns how many. */
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
