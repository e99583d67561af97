/**
 * Which tokens would complete one of a few strings in a text that grows token by token. Strings are compared as bytes, one
 * character a byte, so a token that ends amid a character counts, too.
 */

/** The pieces of a vocabulary, sorted for search. */
export class PieceIndex {
  readonly #pieces: readonly { id: number; text: string }[];

  constructor(vocabularySize: number, textPieceOf: (id: number) => Uint8Array) {
    const pieces = Array.from({ length: vocabularySize }, (_, id) => ({ id, text: latin1(textPieceOf(id)) }));
    this.#pieces = pieces.sort((a, b) => (a.text < b.text ? -1 : a.text > b.text ? 1 : a.id - b.id));
  }

  startingWith(text: string): number[] {
    let [low, high] = [0, this.#pieces.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#pieces[middle].text < text) low = middle + 1;
      else high = middle;
    }
    const ids: number[] = [];
    while (low < this.#pieces.length && this.#pieces[low].text.startsWith(text)) ids.push(this.#pieces[low++].id);
    return ids;
  }

  containing(text: string): number[] {
    return this.#pieces.filter((piece) => piece.text.includes(text)).map(({ id }) => id);
  }
}

export class StopGuard {
  readonly #stops: readonly string[];
  readonly #index: PieceIndex;
  /** Tokens that hold a whole stop. */
  readonly #whole: readonly number[];
  /** The end of the text, one character less than the longest stop at most. */
  #tail = "";

  constructor(stops: readonly string[], index: PieceIndex) {
    this.#stops = stops.map((stop) => latin1(Buffer.from(stop)));
    this.#index = index;
    this.#whole = this.#stops.flatMap((stop) => index.containing(stop));
  }

  push(piece: Uint8Array): void {
    const longest = Math.max(...this.#stops.map(({ length }) => length));
    this.#tail = longest > 1 ? (this.#tail + latin1(piece)).slice(1 - longest) : "";
  }

  /** Ids of the tokens that would complete a stop if they came next; some may be there twice. */
  completing(): number[] {
    const ids = [...this.#whole];
    for (const stop of this.#stops) {
      for (let begun = 1; begun < stop.length; begun++) {
        if (this.#tail.endsWith(stop.slice(0, begun))) ids.push(...this.#index.startingWith(stop.slice(begun)));
      }
    }
    return ids;
  }
}

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
}
