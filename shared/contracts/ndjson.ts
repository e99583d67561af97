/** The stream between backend and edge: one JSON value on each line, in UTF-8. Pure. */
import { joinArrays } from "../bytes.ts";
import { type Frame, frameSchema, plainTokenFrame } from "./inference.ts";

const newline = 0x0a;
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
/** Longer than any valid frame, and short enough that a faulty peer cannot fill the RAM. */
export const maximumLineBytes = 8 * 2 ** 20;

export function frameLine(frame: Frame): string {
  return `${JSON.stringify(frame)}\n`;
}

/** Cuts a byte stream into lines. Chunks may end anywhere, even within a character. */
export class LineSplitter {
  #pending: Uint8Array[] = [];
  #pendingBytes = 0;

  /** Returns completed lines, without newline. Throws an Error for an overlong line or bad UTF-8. */
  push(chunk: Uint8Array): string[] {
    const lines: string[] = [];
    let start = 0;
    for (let end = chunk.indexOf(newline); end >= 0; end = chunk.indexOf(newline, start)) {
      const part = chunk.subarray(start, end);
      if (this.#pendingBytes === 0) lines.push(decoder.decode(this.#bounded(part)));
      else {
        this.#append(part);
        lines.push(this.#flush());
      }
      start = end + 1;
    }
    // A copy is kept, because the caller may reuse its buffer.
    if (start < chunk.length) this.#append(new Uint8Array(chunk.subarray(start)));
    return lines;
  }

  end(): string {
    return this.#flush();
  }

  #append(part: Uint8Array): void {
    this.#pending.push(this.#bounded(part));
    this.#pendingBytes += part.length;
  }

  #bounded(part: Uint8Array): Uint8Array {
    const bytes = this.#pendingBytes + part.length;
    if (bytes <= maximumLineBytes) return part;
    throw new Error(`NDJSON: a line of more than ${maximumLineBytes} bytes (${bytes} so far)`);
  }

  #flush(): string {
    const line = joinArrays(Uint8Array, this.#pending);
    this.#pending = [];
    this.#pendingBytes = 0;
    return decoder.decode(line);
  }
}

/** Reads frames from a byte stream. Errors are logged, so they never repeat the text of a line. */
export class FrameReader {
  readonly #lines = new LineSplitter();

  push(chunk: Uint8Array): Frame[] {
    return this.#lines
      .push(chunk)
      .filter(isNotBlank)
      .map((line) => parseFrame(line));
  }

  end(): void {
    const rest = this.#lines.end();
    if (isNotBlank(rest)) throw new Error(`NDJSON: the stream ended inside a line, after ${rest.length} characters`);
  }
}

function parseFrame(line: string): Frame {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw new Error(`NDJSON: a line of ${line.length} characters is not JSON`);
  }
  const token = plainTokenFrame(value);
  if (token) return token;
  const parsed = frameSchema.safeParse(value);
  if (!parsed.success) {
    const [{ path, message }] = parsed.error.issues;
    throw new Error(`NDJSON: a line of ${line.length} characters is not a frame: ${path.join(".")}: ${message}`);
  }
  return parsed.data;
}

function isNotBlank(line: string): boolean {
  return line.trim() !== "";
}
