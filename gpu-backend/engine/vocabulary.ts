/** What a sequence must know of the model: its vocabulary and its context. */
import type { ModelShape } from "../runtime/step.ts";
import { PieceIndex } from "./stop-guard.ts";

export interface Vocabulary {
  contextTokens: number;
  stopIds: readonly number[];
  /** The bytes that a token id adds to a text; none for a special token. */
  textPieceOf(id: number): Uint8Array;
  pieceIndex(): PieceIndex;
}

/** Builds the index of pieces when the first sequence needs it. */
export function vocabularyOf(config: ModelShape, textPieceOf: Vocabulary["textPieceOf"]): Vocabulary {
  let index: PieceIndex | null = null;
  return { ...config, textPieceOf, pieceIndex: () => (index ??= new PieceIndex(config.vocabularySize, textPieceOf)) };
}

/** The pieces as threads share them. */
export function sharedPieces(vocabularySize: number, textPieceOf: Vocabulary["textPieceOf"]) {
  const pieces = Array.from({ length: vocabularySize }, (_, id) => textPieceOf(id));
  const ends = new Uint32Array(new SharedArrayBuffer(4 * vocabularySize));
  const total = pieces.reduce((sum, { length }, id) => (ends[id] = sum + length), 0);
  const bytes = new Uint8Array(new SharedArrayBuffer(total));
  for (const [id, piece] of pieces.entries()) bytes.set(piece, ends[id] - piece.length);
  return { bytes, ends };
}
