/**
 * Decodes token ids one by one. Holds back incomplete characters and stop strings. Edge and backend use this class, to stop at the same
 * token.
 */

export class TextStream {
  readonly #textPieceOf: (id: number) => Uint8Array;
  readonly #stops: readonly string[];
  readonly #minTokens: number;
  readonly #decoder = new TextDecoder("utf-8", { fatal: false, ignoreBOM: true });
  /** Decoded text that begins a stop string, and is not emitted yet. */
  #held = "";
  #stopped = false;
  #tokens = 0;
  #emittedCharacters = 0;

  /** `textPieceOf`: bytes of a token id. `stops`: no empty strings. A stop string within the first `minTokens` tokens is ordinary text. */
  constructor(textPieceOf: (id: number) => Uint8Array, stops: readonly string[], minTokens = 0) {
    this.#textPieceOf = textPieceOf;
    this.#minTokens = minTokens;
    // Decoded text is well-formed, so a lone surrogate in a stop string would never match.
    this.#stops = stops.map((stop) => stop.toWellFormed());
  }

  get emittedCharacters(): number {
    return this.#emittedCharacters;
  }

  /**
   * Returns the text that is certain after this token. The stop string that is complete first ends the text; of two at once, the longer one
   * does.
   */
  push(id: number): { text: string; stopped: boolean } {
    if (this.#stopped) return { text: "", stopped: true };
    this.#tokens++;
    return this.#take(this.#decoder.decode(this.#textPieceOf(id), { stream: true }));
  }

  /** Returns the text held back, with U+FFFD for an incomplete character. */
  end(): string {
    if (this.#stopped) return "";
    const { text } = this.#take(this.#decoder.decode());
    const rest = this.#emit(this.#held);
    this.#held = "";
    this.#stopped = true;
    return text + rest;
  }

  #take(decoded: string): { text: string; stopped: boolean } {
    const text = this.#held + decoded;
    const match = this.#tokens < this.#minTokens ? null : firstCompleted(text, this.#stops, this.#held.length);
    if (match !== null) {
      this.#stopped = true;
      this.#held = "";
      return { text: this.#emit(text.slice(0, match)), stopped: true };
    }
    const certain = text.length - longestBeginning(text, this.#stops);
    this.#held = text.slice(certain);
    return { text: this.#emit(text.slice(0, certain)), stopped: false };
  }

  #emit(text: string): string {
    for (const _ of text) this.#emittedCharacters++;
    return text;
  }
}

/** Start of the stop string that is complete first after `known` characters; of several, the longest. null without a stop string. */
function firstCompleted(text: string, stops: readonly string[], known: number): number | null {
  let start: number | null = null;
  let end = Number.POSITIVE_INFINITY;
  for (const stop of stops) {
    const found = text.indexOf(stop, Math.max(0, known - stop.length + 1));
    if (found < 0) continue;
    if (found + stop.length < end || (found + stop.length === end && found < start!)) {
      start = found;
      end = found + stop.length;
    }
  }
  return start;
}

export function longestBeginning(text: string, stops: readonly string[]): number {
  let longest = 0;
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
      if (text.endsWith(stop.slice(0, length))) {
        longest = length;
        break;
      }
    }
  }
  return longest;
}
