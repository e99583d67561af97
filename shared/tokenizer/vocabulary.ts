/**
 * Reads and checks the vocabulary of tokenizer.safetensors: every id is a byte, a merge or the end of text, and every merge
 * joins earlier pieces, so that no piece contains itself. Not here: encoding and decoding (tokenizer.ts).
 */
import { setLimits } from "../artifacts/limits.ts";
import { tokenizerFile } from "../artifacts/manifest.ts";
import { alignedCopy, requireTensor, type TensorFile } from "../artifacts/tensor-file.ts";

export interface Vocabulary {
  size: number; // V
  byteIds: Uint16Array; // [256]
  /** Token ids of each pair, in order of rank. */
  pairs: Uint16Array; // [M, 2]
  /** Token id by rank. */
  mergedIds: Uint16Array; // [M]
  endOfTextId: number;
  endOfText: Uint8Array;
}

/** Throws an Error that names the tensor and the invalid id or rank. */
export function readVocabulary(file: TensorFile): Vocabulary {
  const byteIds = uint16Of(file, "byte_ids", [256]);
  const pairs = uint16Of(file, "merges", [null, 2]);
  const merges = pairs.length / 2;
  if (merges > setLimits.merges) throw refused(`${merges} merges, the limit merges is ${setLimits.merges}`);
  const mergedIds = file.has("merged_ids")
    ? uint16Of(file, "merged_ids", [merges])
    : new Uint16Array(merges).map((_, rank) => 256 + rank);
  const [endOfTextId] = uint16Of(file, "end_of_text_id", [1]);
  const endOfText = requireTensor(file, "end_of_text", "U8", [null], tokenizerFile).bytes;
  if (endOfText.length < 1 || endOfText.length > setLimits.pieceBytes) {
    throw refused(
      `end_of_text has ${endOfText.length} bytes; it must be 1 to ${setLimits.pieceBytes}, the limit pieceBytes`,
    );
  }
  const size = 1 + [byteIds, mergedIds].reduce(highest, endOfTextId);
  requirePieces({ size, byteIds, pairs, mergedIds, endOfTextId });
  return { size, byteIds, pairs, mergedIds, endOfTextId, endOfText };
}

function requirePieces({ size, byteIds, pairs, mergedIds, endOfTextId }: Omit<Vocabulary, "endOfText">): void {
  /** Bytes of each id's piece; 0 if not known yet. */
  const lengths = new Uint16Array(size);
  for (const id of byteIds) {
    if (lengths[id] > 0) throw refused(`byte_ids: id ${id} is that of two bytes`);
    lengths[id] = 1;
  }
  if (lengths[endOfTextId] > 0) throw refused(`end_of_text_id: id ${endOfTextId} is that of a byte`);
  for (let rank = 0; rank < mergedIds.length; rank++) {
    const [left, right, id] = [pairs[2 * rank], pairs[2 * rank + 1], mergedIds[rank]];
    const missing = lengths[left] > 0 ? right : left;
    if (!(lengths[missing] > 0)) throw refused(`merges: merge ${rank} joins id ${missing}, which no earlier one makes`);
    const length = lengths[left] + lengths[right];
    if (length > setLimits.pieceBytes) {
      throw refused(`merges: merge ${rank} makes ${length} bytes, the limit pieceBytes is ${setLimits.pieceBytes}`);
    }
    // Two merges of different parts may produce the same piece.
    if (id === endOfTextId || (lengths[id] > 0 && lengths[id] !== length)) {
      throw refused(`merged_ids: merge ${rank} makes id ${id}, which is something else`);
    }
    lengths[id] = length;
  }
  const unexplained = lengths.findIndex((length, id) => length === 0 && id !== endOfTextId);
  if (unexplained >= 0) throw refused(`id ${unexplained} of ${size} is neither a byte nor a merge nor the end of text`);
}

function highest(start: number, ids: Uint16Array): number {
  return ids.reduce((a, b) => Math.max(a, b), start);
}

function uint16Of(file: TensorFile, name: string, shape: (number | null)[]): Uint16Array {
  const { bytes } = requireTensor(file, name, "U16", shape, tokenizerFile);
  return new Uint16Array(alignedCopy(bytes));
}

function refused(why: string): Error {
  return new Error(`${tokenizerFile}: ${why}`);
}
