/** What a sequence must know of the model: its vocabulary and its context. */

export interface Vocabulary {
  contextTokens: number;
  stopIds: readonly number[];
  /** The bytes that a token id adds to a text; none for a special token. */
  textPieceOf(id: number): Uint8Array;
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
