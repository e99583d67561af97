/** Tokens as OpenAI's logprobs show them: each as a string, and where in the text it starts. */

/** A token's text; one that is not whole characters is spelled out as `bytes:\xe2\x80`, as OpenAI does. */
export function tokenText(piece: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(piece);
  } catch {
    return `bytes:${Array.from(piece, (byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("")}`;
  }
}

/**
 * Offsets of consecutive tokens in their text, in Unicode code points (as Python counts, and OpenAI with it). A token
 * that goes on with a character begun before it starts where that character starts.
 */
export class OffsetCounter {
  /** Made for the first token: most completions ask for no offsets. */
  #decoder: TextDecoder | null = null;
  #characters: number;

  /** `start`: characters before the first token. */
  constructor(start = 0) {
    this.#characters = start;
  }

  /** The offset of the next token, whose bytes are `piece`. */
  next(piece: Uint8Array): number {
    this.#decoder ??= new TextDecoder("utf-8", { fatal: false, ignoreBOM: true });
    const offset = this.#characters;
    for (const _ of this.#decoder.decode(piece, { stream: true })) this.#characters++;
    return offset;
  }
}
