export interface Vocabulary {
  contextTokens: number;
  stopIds: readonly number[];
  /** A special token adds no bytes. */
  textPieceOf(id: number): Uint8Array;
}

/** The bytes are in memory that threads share. */
export function sharedPieces(vocabularySize: number, textPieceOf: Vocabulary["textPieceOf"]) {
  const pieces = Array.from({ length: vocabularySize }, (_, id) => textPieceOf(id));
  const ends = new Uint32Array(new SharedArrayBuffer(4 * vocabularySize));
  const total = pieces.reduce((sum, { length }, id) => (ends[id] = sum + length), 0);
  const bytes = new Uint8Array(new SharedArrayBuffer(total));
  for (const [id, piece] of pieces.entries()) bytes.set(piece, ends[id] - piece.length);
  return { bytes, ends };
}
