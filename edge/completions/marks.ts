/**
 * Marks in an answer on its way from a cell to the Worker, which takes them out. A mark is a NUL byte, some text and a line
 * feed; an answer has no NUL byte of its own, as JSON escapes it. Pure.
 *
 * In a stream each write ends with a mark. The Worker passes a write on only when its mark has come, so it knows exactly what
 * the client has; when the cell is lost, the last cursor tells another cell where to go on (stream-cursor.ts).
 * A whole answer has only one kind: `failedMark`.
 */

/** The stream is complete. */
export const endMark = "end";
/** The Worker drops what has come since the last mark: the write was cut off. */
export const cutMark = "cut";
/** Nothing of the answer, such as a heartbeat. */
export const noMark = "";
/** A whole answer that has begun has failed, and its client must not take what it has for the answer. */
export const failedMark = "failed";
/** Any other text is a cursor: how far the stream has come. */

/** Set by a cell on answers that have marks. Cells of the release before set none. */
export const marksHeader = "x-chameleon-marks";

export function mark(text: string): string {
  return `\0${text}\n`;
}

/** Bytes of the answer, and the mark behind them. */
export interface MarkedBytes {
  bytes: Uint8Array;
  mark: string;
}

const [nul, lineFeed] = [0, 10];

/** Parts a stream at its marks, however it is cut into chunks. */
export class MarkReader {
  readonly #decoder = new TextDecoder();
  /** What no mark has come for. */
  #rest: Uint8Array[] = [];
  /** `#rest` ends within a mark. */
  #isInMark = false;

  /** What this chunk completes. */
  push(chunk: Uint8Array): MarkedBytes[] {
    this.#rest.push(chunk);
    if (!this.#isInMark && !chunk.includes(nul)) return [];
    const bytes = joined(this.#rest);
    const parts: MarkedBytes[] = [];
    let from = 0;
    for (;;) {
      const start = bytes.indexOf(nul, from);
      const end = start < 0 ? -1 : bytes.indexOf(lineFeed, start);
      this.#isInMark = start >= 0 && end < 0;
      if (end < 0) break;
      parts.push({ bytes: bytes.subarray(from, start), mark: this.#decoder.decode(bytes.subarray(start + 1, end)) });
      from = end + 1;
    }
    this.#rest = from < bytes.length ? [bytes.subarray(from)] : [];
    return parts;
  }
}

export function joined(parts: readonly Uint8Array[]): Uint8Array {
  if (parts.length === 1) return parts[0];
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let length = 0;
  for (const part of parts) {
    whole.set(part, length);
    length += part.length;
  }
  return whole;
}
